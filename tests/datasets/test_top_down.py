"""Top-down data: reading from folders and archives, crops, labels, and augmentations that move picture and labels alike."""

import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hvmodels.datasets.top_down import (
    Background,
    Color,
    Erase,
    PersonSample,
    TopDownAugmentation,
    TopDownCollator,
    TopDownDataset,
    crop_sample,
    mirror_sample,
)
from hvmodels.keypoint_sets import COCO17, CROWDPOSE14, HALPE19
from hvmodels.models.rle.cropping_rle import decode_keypoints


FACE = list(HALPE19.keypoints[:5])
COLORS = np.random.default_rng(7).integers(60, 256, (19, 3)).astype(np.uint8)
# A person of 19 keypoints in a picture of 200 x 240.
POINTS = np.array(
    [
        (100, 40), (105, 35), (95, 35), (112, 38), (88, 38), (125, 70), (75, 70), (140, 100), (60, 100), (150, 130),
        (50, 130), (115, 140), (85, 140), (120, 180), (80, 180), (125, 220), (75, 220), (100, 20), (100, 60),
    ],
    dtype=np.float64,
)  # fmt: skip


def spots(points=POINTS, size=(240, 200)):
    """A grey picture with a disc of its own colour at each keypoint."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.full((*size, 3), 30, np.uint8)
    for color, (x, y) in zip(COLORS, points, strict=True):
        image[(rows - y) ** 2 + (columns - x) ** 2 <= 2.5**2] = color
    return image


def person(**changes):
    sample = PersonSample(
        image=spots(),
        center=np.array([100, 120], np.float32),
        scale=np.array([260, 260], np.float32),
        keypoints=POINTS.copy(),
        weights=np.ones((19, 2)),
    )
    return replace(sample, **changes)


@pytest.fixture
def files(tmp_path):
    """Two pictures as a folder and as an archive, and their annotations."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(folder / name)
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.add(folder / name, arcname=name)
    keypoints = np.zeros((14, 3))
    keypoints[:3] = [(20, 30, 2), (40, 10, 1), (25, 50, 2)]
    base = {"category_id": 1, "bbox": [10, 5, 40, 50], "area": 900, "iscrowd": 0}
    annotations = [
        {**base, "id": 1, "image_id": 1, "keypoints": keypoints.ravel().tolist(), "face": [18, 28, 2, 0, 0, 0]},
        {**base, "id": 2, "image_id": 1, "keypoints": [0] * 42},  # nothing labelled
        {**base, "id": 3, "image_id": 2, "keypoints": keypoints.ravel().tolist(), "iscrowd": 1},
        {**base, "id": 4, "image_id": 2, "keypoints": keypoints.ravel().tolist(), "bbox": [90, 5, 40, 50]},  # outside
        {**base, "id": 5, "image_id": 2, "keypoints": keypoints.ravel().tolist(), "face": [0] * 6},
    ]
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE14.keypoints), "face": ["nose", "left_eye"]}
    images = [{"id": i + 1, "file_name": n, "width": 80, "height": 60} for i, n in enumerate(("a.png", "b.png"))]
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return tmp_path


def change_annotation(files, index, **values):
    content = json.loads((files / "annotations.json").read_text())
    content["annotations"][index].update(values)
    (files / "annotations.json").write_text(json.dumps(content))


def test_folder_and_archive_give_the_same_persons(files):
    datasets = [
        TopDownDataset(files / "annotations.json", files / images, size=(64, 48), keep_images=images == "images")
        for images in ("images", "images.tar")
    ]
    assert [a["id"] for a in datasets[0].annotations] == [1, 5]  # the others have no keypoint, are a crowd or outside
    assert datasets[0].keypoint_set == CROWDPOSE14
    for index in range(2):
        first, again, second = datasets[0][index], datasets[0][index], datasets[1][index]
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
            np.testing.assert_array_equal(first[name], again[name])
    assert first["crop"].shape == (64, 48, 3) and first["crop"].dtype == np.uint8 and first["crop"].any()


def test_labels_lead_back_to_the_picture(files):
    dataset = TopDownDataset(files / "annotations.json", files / "images", size=(64, 48))
    item = dataset[0]
    np.testing.assert_allclose(item["box"], [10, 5, 49, 54])  # one pixel smaller, as published
    half_width, half_height = 39 * 1.25 / 2, 39 * 1.25 / 2 * 64 / 48  # the box is wider than the crop
    np.testing.assert_allclose(
        item["crop_box"], [29.5 - half_width, 29.5 - half_height, 29.5 + half_width, 29.5 + half_height]
    )
    pixels = decode_keypoints(item["labels"][None], item["crop_box"][None], (64, 48))[0]
    np.testing.assert_allclose(pixels[:3], [(20, 30), (40, 10), (25, 50)], atol=1e-4)
    np.testing.assert_array_equal(item["label_weights"], np.repeat(np.arange(14)[:, None] < 3, 2, axis=1))
    assert not item["labels"][3:].any()


def test_keypoints_are_found_by_their_names(files):
    dataset = TopDownDataset(files / "annotations.json", files / "images", HALPE19, extra_fields=["face"])
    expected = np.zeros((19, 3))
    expected[[5, 6, 7]] = [(20, 30, 2), (40, 10, 1), (25, 50, 2)]
    np.testing.assert_array_equal(dataset.keypoints[1], expected)
    expected[0] = (18, 28, 2)  # the nose
    np.testing.assert_array_equal(dataset.keypoints[0], expected)
    assert dataset[0]["label_weights"].sum() == 8
    coco = TopDownDataset(files / "annotations.json", files / "images", COCO17)
    assert coco[0]["labels"].shape == (17, 2) and coco[0]["label_weights"].sum() == 6  # no head, no neck


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": [1, 2, 2]}, "42 numbers in 'keypoints'"),
        ({"keypoints": [float("nan"), 1, 2] + [0] * 39}, "finite x and y"),
        ({"keypoints": [1, 1, 3] + [0] * 39}, "v = 0, 1 or 2"),
        ({"bbox": [1, 2, 3]}, "'bbox'"),
        ({"bbox": None}, "'bbox'"),
        ({"image_id": 9}, "'image_id'"),
    ],
)
def test_bad_annotations_are_named(files, changes, message):
    change_annotation(files, 0, **changes)
    with pytest.raises(ValueError, match=rf"annotations\[0\].*{message}"):
        TopDownDataset(files / "annotations.json", files / "images")


def test_bad_files_are_named(files):
    with pytest.raises(ValueError, match=r"`images` must name a folder or a \.tar file"):
        TopDownDataset(files / "annotations.json", files / "annotations.json")
    with pytest.raises(ValueError, match="must name the keypoints of 'hands'"):
        TopDownDataset(files / "annotations.json", files / "images", extra_fields=["hands"])
    dataset = TopDownDataset(files / "annotations.json", files / "images")
    (files / "images" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"`images` lacks 'b\.png'"):
        dataset[1]
    Image.new("RGB", (20, 20)).save(files / "images" / "a.png")
    with pytest.raises(ValueError, match=r"'a.png' has \(width, height\) \(20, 20\)"):
        dataset[0]
    (files / "images" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"'a\.png' cannot be read as an image"):
        dataset[0]
    for index in (0, 4):
        change_annotation(files, index, keypoints=[0] * 42)
    with pytest.raises(ValueError, match="no person with labelled keypoints"):
        TopDownDataset(files / "annotations.json", files / "images")


def test_picture_is_turned_as_it_was_annotated(files):
    upright = np.asarray(Image.open(files / "images" / "a.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(np.rot90(upright).copy()).save(files / "images" / "a.png", exif=exif)
    dataset = TopDownDataset(files / "annotations.json", files / "images")
    np.testing.assert_array_equal(dataset.picture(0), upright)


def presets():
    plain = {"erase_probability": 0.0, "background_probability": 0.0, "color_probability": 0.0}
    plain["cut_probability"] = 0.0  # discs at the edge are cut
    coco = TopDownAugmentation.coco(HALPE19)
    return {
        "coco": coco,
        "half bodies": replace(coco, half_body_probability=1.0, truncation_probability=0.5),
        "mmpose": TopDownAugmentation.mmpose(HALPE19),
        "full rotation": replace(TopDownAugmentation.full_rotation(HALPE19), **plain),
    }


@pytest.mark.parametrize("name", presets())
def test_labels_move_with_the_picture(name):
    """At the label of every keypoint the crop has the colour of its disc, of the other side's in a mirrored crop."""
    augmentation, size = presets()[name], (192, 192)
    seen, mirrored, angles, widths = 0, 0, [], []
    for seed in range(40):
        sample = augmentation(person(), np.random.default_rng(seed))
        item = crop_sample(sample, size)
        pixels = np.rint((item["labels"] + 0.5) * size[::-1]).astype(int)
        flipped = bool((sample.image != spots()).any())
        colors = COLORS[HALPE19.flip_permutation] if flipped else COLORS
        inside = ((pixels >= 2) & (pixels < 190)).all(axis=1) & (item["label_weights"][:, 0] > 0)
        found = item["crop"][pixels[inside, 1], pixels[inside, 0]]
        assert np.abs(found.astype(int) - colors[inside].astype(int)).max(initial=0) <= 60
        assert np.abs(found.astype(int) - colors[inside].astype(int)).mean() < 8
        seen, mirrored = seen + inside.sum(), mirrored + flipped
        angles.append(sample.rotation)
        widths.append(sample.scale[0] / 260)
    assert seen > 200 and 8 <= mirrored <= 32
    _, greatest = augmentation.scale_range
    if augmentation.half_body_probability < 1:
        assert max(widths) <= greatest + 1e-6 and np.ptp(widths) > 0.3
    if augmentation.any_rotation_probability:
        assert max(np.abs(angles)) > 120
    else:
        assert augmentation.rotation_limit * 0.6 < max(np.abs(angles)) <= augmentation.rotation_limit
    assert 0.0 in angles


def test_half_body_looks_at_one_half():
    augmentation = TopDownAugmentation(
        HALPE19, flip_probability=0, half_body_probability=1.0, scale_probability=0, rotation_probability=0,
        truncation_probability=1.0,
    )  # fmt: skip
    lower = np.array([any(part in name for part in ("hip", "knee", "ankle")) for name in HALPE19.keypoints])
    halves = {"upper": ~lower, "lower": lower}
    counts = dict.fromkeys(halves, 0)
    for seed in range(60):
        sample = augmentation(person(), np.random.default_rng(seed))
        for name, members in halves.items():
            if np.allclose(sample.center, POINTS[members].mean(axis=0), atol=1e-3):
                counts[name] += 1
                assert sample.scale[0] == pytest.approx(1.5 * np.ptp(POINTS[members], axis=0).max())
                assert sample.weights[members].all() and not sample.weights[~members].all()
                left, top, right, bottom = sample.visible_box.astype(int)
                crop = crop_sample(sample, (96, 96))["crop"]
                hidden = spots()
                hidden[top:bottom, left:right] = 0
                assert hidden.any()
                shown = crop_sample(replace(sample, image=spots() - hidden, visible_box=None), (96, 96))["crop"]
                np.testing.assert_array_equal(crop, shown)
    assert counts["upper"] + counts["lower"] == 60 and 30 <= counts["upper"] <= 52
    few = person(weights=np.where(np.arange(19)[:, None] < 3, 1.0, np.zeros((19, 2))))
    np.testing.assert_array_equal(augmentation(few, np.random.default_rng(0)).center, few.center)


def test_pictures_that_end_within_the_person():
    augmentation = TopDownAugmentation(
        HALPE19,
        flip_probability=0,
        half_body_probability=0,
        scale_probability=0,
        rotation_probability=0,
        cut_probability=1,
    )
    lower = cut = 0
    for seed in range(60):
        sample = augmentation(person(), np.random.default_rng(seed))
        if sample.visible_box is None:  # too few would be left
            continue
        first, last = sample.visible_box.reshape(2, 2)
        shown = ~((first > POINTS) | (last <= POINTS)).any(axis=1)
        np.testing.assert_array_equal(sample.weights[:, 0] > 0, shown)
        assert 4 <= shown.sum() < 19 and (first == 0).sum() + (last == (200, 240)).sum() == 3
        lower, cut = lower + (last[1] < 240), cut + 1
        # The crop goes around what is seen, and everything beyond the edge is black.
        corners = np.stack([sample.center - sample.scale / 2.5, sample.center + sample.scale / 2.5])
        assert ((POINTS[shown] >= corners[0] - 1e-3) & (POINTS[shown] <= corners[1] + 1e-3)).all()
        item = crop_sample(sample, (96, 96))
        assert (item["crop"] == 0).all(axis=-1).any() and (item["label_weights"][:, 0] > 0).sum() == shown.sum()
    assert cut > 50 and 0.4 < lower / cut < 0.8
    few = person(weights=np.where(np.arange(19)[:, None] < 4, 1.0, np.zeros((19, 2))))
    np.testing.assert_array_equal(augmentation(few, np.random.default_rng(0)).center, few.center)


def test_mirroring_twice_changes_nothing():
    sample = person(visible_box=np.array([10.0, 20, 150, 200]), weights=np.random.default_rng(0).random((19, 2)))
    once = mirror_sample(sample, HALPE19.flip_pairs)
    np.testing.assert_array_equal(once.keypoints[1], [199 - POINTS[2, 0], POINTS[2, 1]])
    np.testing.assert_array_equal(once.visible_box, [50, 20, 190, 200])
    twice = mirror_sample(once, HALPE19.flip_pairs)
    for name in ("image", "center", "keypoints", "weights", "visible_box"):
        np.testing.assert_array_equal(getattr(twice, name), getattr(sample, name))


def test_truncated_normal_draws_stay_within_limits():
    augmentation = TopDownAugmentation.mmpose(HALPE19)
    values = augmentation._draw(np.random.default_rng(0), 4000)
    assert np.abs(values).max() <= 1 and np.std(values) == pytest.approx(0.54, abs=0.02)  # of a normal cut at +-1


@pytest.mark.parametrize("kind", range(4))
def test_background_fills_outside_of_the_picture_only(kind):
    sample = person(image=np.full((240, 200, 3), 99, np.uint8), rotation=30.0, scale=np.array([500, 500], np.float32))
    plain = crop_sample(sample, (96, 96))["crop"]
    background = Background(sample, np.random.default_rng(0))
    background.kind, background.color = kind, np.array([9, 8, 7], np.float32)
    filled = crop_sample(replace(sample, after_crop=[background]), (96, 96))["crop"]
    inner = plain == 99
    np.testing.assert_array_equal(filled[inner], plain[inner])
    outside = (plain == 0).all(axis=-1)
    assert outside.sum() > 2000
    if kind < 2:
        assert (filled[outside] == 99).all()
    elif kind == 2:
        assert (filled[outside] == [9, 8, 7]).all()
    else:
        assert filled[outside].std() > 20


def test_erased_rectangle_and_colours():
    crop = np.full((80, 60, 3), 128, np.uint8)
    areas = []
    for seed in range(50):
        erased = Erase(0.2, np.random.default_rng(seed))(crop, None)
        changed = (erased != crop).any(axis=-1)
        areas.append(changed.mean())
        rows, columns = np.nonzero(changed)
        if len(rows):  # it is one rectangle: nearly all of its pixels have changed
            assert changed.sum() > 0.9 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert 0.05 < np.mean(areas) < 0.15 and max(areas) < 0.23 and (crop == 128).all()
    results = np.stack([Color(np.random.default_rng(seed))(crop, None)[0, 0] for seed in range(50)])
    assert results.std() > 10 and (results > 20).all() and results.max() < 255
    ramp = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, 2)
    assert (np.diff(Color(np.random.default_rng(3))(ramp, None)[:, 0].astype(int), axis=0) >= 0).all()


def test_samples_depend_on_seed_and_epoch_alone(files):
    augmentation = TopDownAugmentation.full_rotation(HALPE19)
    dataset = TopDownDataset(files / "annotations.json", files / "images", HALPE19, (32, 32), transform=augmentation)
    dataset.set_epoch(3)
    first = dataset[1]
    (loaded,) = next(iter(DataLoader(dataset, sampler=[1], num_workers=1, collate_fn=lambda items: items)))
    for name in first:
        np.testing.assert_array_equal(first[name], loaded[name])
    dataset.set_epoch(4)
    assert (dataset[1]["labels"] != first["labels"]).any()


def test_labels_outside_the_crop(files):
    sample = person(scale=np.array([100, 100], np.float32))
    everywhere, inside = (crop_sample(sample, (64, 64), drop) for drop in (False, True))
    assert everywhere["label_weights"].all()
    in_crop = ((POINTS >= [50, 70]) & (POINTS <= [150 - 100 / 64, 170 - 100 / 64])).all(axis=1)
    np.testing.assert_array_equal(inside["label_weights"][:, 0] > 0, in_crop)
    assert 0 < in_crop.sum() < 19


def test_collator_normalises():
    items = [{**crop_sample(person(), (64, 48)), "box": np.zeros(4)} for _ in range(2)]
    batch = TopDownCollator((0.1, 0.2, 0.3), (1.0, 2.0, 0.5))(items)
    expected = (items[0]["crop"] / 255 - np.array([0.1, 0.2, 0.3])) / np.array([1.0, 2.0, 0.5])
    torch.testing.assert_close(batch["pixel_values"][1], torch.tensor(expected).permute(2, 0, 1).float())
    assert batch["labels"].shape == batch["label_weights"].shape == (2, 19, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip_probability": 1.5}, "`flip_probability` must be from 0 to 1"),
        ({"distribution": "cauchy"}, "`distribution` must be"),
        ({"scale_range": (1.2, 0.8)}, "`scale_range` must be"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TopDownAugmentation(HALPE19, **options)
