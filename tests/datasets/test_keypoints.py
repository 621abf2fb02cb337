import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
from torch.utils.data import ConcatDataset, DataLoader, Subset

from hvmodels.datasets.keypoints import (
    AspectRatioBatchSampler,
    EpochCallback,
    KeypointAugmentation,
    KeypointCollator,
    KeypointDataset,
    crop,
    flip,
    resize,
)
from hvmodels.keypoint_sets import COCO17, CROWDPOSE14, KeypointSet
from hvmodels.models.ed_pose.image_processing_ed_pose import EDPoseImageProcessor


NAMES = ["head", "left_hand", "right_hand"]
SMALL = {"sizes": (40, 56), "max_size": 90, "crop_resize_sizes": (36, 50), "crop_range": (24, 44)}


def make_coordinate_image(height, width):
    """Red is x and green is y, so that a pixel tells where it came from."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8))


def make_annotation(image_id, **changes):
    return {
        "id": 10 * image_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [5, 6, 30, 20],
        "keypoints": [10, 8, 2, 30, 20, 1, 12, 24, 2],
        "num_keypoints": 3,
        "iscrowd": 0,
        "area": 400.5,
        **changes,
    }


def make_data(num_images=4):
    images = [
        {"id": i, "file_name": f"{i}.png", "width": 60 + 10 * (i % 3), "height": 70 - 10 * (i % 3)}
        for i in range(num_images, 0, -1)
    ]
    annotations = [make_annotation(image["id"]) for image in images]
    annotations[0]["bbox"] = [1.25, 2, 3.5, 4]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "robot", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}],
    }


@pytest.fixture
def write(tmp_path):
    def write(data, name="keypoints.json"):
        for image in data.get("images", []):
            if isinstance(image, dict) and "file_name" in image:
                make_coordinate_image(image["height"], image["width"]).save(tmp_path / image["file_name"])
        (tmp_path / name).write_text(json.dumps(data))
        return tmp_path / name, tmp_path

    return write


# The original


@pytest.fixture(params=["processing_coco17", "processing_crowdpose14"])
def case(request, fixtures):
    folder = fixtures / "edpose" / request.param
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "io.safetensors")
    samples = [
        (Image.fromarray(tensors[f"input.image.{index}"].numpy()), {"annotations": image["annotations"]}, image)
        for index, image in enumerate(config["images"])
    ]
    size = {"shortest_edge": config["size"], "longest_edge": config["max_size"]}
    processor = EDPoseImageProcessor(size=size, num_keypoints=config["K"])
    return SimpleNamespace(
        samples=samples,
        tensors=tensors,
        processor=processor,
        keypoint_set={17: COCO17, 14: CROWDPOSE14}[config["K"]],
    )


def check_labels(label, tensors, prefix):
    num_keypoints = label["keypoints"].shape[1]
    coordinates, visible = tensors[f"{prefix}.keypoints"].split([2 * num_keypoints, num_keypoints], dim=1)
    assert_close(label["boxes"], tensors[f"{prefix}.boxes"], atol=2e-6, rtol=0)
    assert_close(label["area"], tensors[f"{prefix}.area"], atol=2e-6, rtol=0)
    assert_close(label["keypoints"].flatten(1), coordinates, atol=2e-6, rtol=0)
    assert_close(label["keypoints_visible"], visible, atol=0, rtol=0)


def test_flip_equals_the_original(case):
    for index, (image, annotations, _) in enumerate(case.samples):
        flipped, annotations = flip(image, annotations, case.keypoint_set.flip_pairs)
        np.testing.assert_array_equal(np.asarray(flipped), np.asarray(image)[:, ::-1])
        (label,) = case.processor(flipped, annotations, return_tensors="pt")["labels"]
        check_labels(label, case.tensors, f"output.flip.target.{index}")


def test_crop_equals_the_original(case):
    for index, (image, annotations, config) in enumerate(case.samples):
        image, annotations = crop(image, annotations, *config["crop_region_top_left_height_width"])
        batch = case.processor(image, annotations, return_tensors="pt")
        expected = case.tensors[f"output.crop.pixel_values.{index}"]
        assert_close(batch["pixel_values"][0], expected, atol=0, rtol=0)
        check_labels(batch["labels"][0], case.tensors, f"output.crop.target.{index}")


def test_resize_changes_no_relative_label(case):
    for index, (image, annotations, _) in enumerate(case.samples):
        resized, annotations = resize(image, annotations, 77, 123)
        assert resized.size == (123, 77)
        (label,) = case.processor(resized, annotations, do_resize=False, return_tensors="pt")["labels"]
        check_labels(label, case.tensors, f"output.target.{index}")


# Reading


def test_items(write):
    dataset = KeypointDataset(*write(make_data()))
    assert (len(dataset), dataset.image_ids) == (4, [1, 2, 3, 4])
    item = dataset[3]
    assert item["image"].size == (70, 60)
    assert item["do_resize"]
    expected = make_annotation(4, bbox=[1.25, 2, 3.5, 4])
    expected.pop("image_id")
    assert item["annotations"] == {"image_id": 4, "annotations": [expected]}
    assert dataset[-1]["annotations"] == item["annotations"]
    with pytest.raises(IndexError):
        dataset[4]


def test_keypoint_set_of_the_file(write):
    dataset = KeypointDataset(*write(make_data()))
    assert dataset.keypoint_set == KeypointSet("robot", NAMES, ((1, 2),), ((0, 1), (0, 2)))
    assert dataset.category_ids == [1]
    assert dataset.id2label == {0: "N/A", 1: "robot"}


def test_known_keypoint_sets_are_recognised(write):
    """CrowdPose's files carry COCO's skeleton, whose indices its 14 keypoints do not have."""
    data = make_data()
    data["categories"] = [
        {"id": 1, "name": "person", "keypoints": list(CROWDPOSE14.keypoints), "skeleton": [[16, 14]]}
    ]
    data["annotations"] = []
    assert KeypointDataset(*write(data)).keypoint_set is CROWDPOSE14


def test_other_categories_are_left_out(write):
    data = make_data()
    data["categories"].append({"id": 2, "name": "ball"})
    data["annotations"].insert(0, {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]})
    dataset = KeypointDataset(*write(data))
    assert dataset.category_ids == [1]
    assert len(dataset[0]["annotations"]["annotations"]) == 1

    data["categories"][1]["keypoints"] = NAMES
    data["annotations"][0] = make_annotation(1, category_id=2)
    path = write(data)
    dataset = KeypointDataset(*path)
    assert dataset.id2label == {0: "N/A", 1: "robot", 2: "ball"}
    processor = EDPoseImageProcessor(num_keypoints=3, category_ids=dataset.category_ids)
    (label,) = KeypointCollator(processor)([dataset[0]])["labels"]
    assert label["class_labels"].tolist() == [2, 1]
    assert KeypointDataset(*path, categories=["ball"]).category_ids == [2]
    assert KeypointDataset(*path, categories=[2]).category_ids == [2]


def test_a_file_without_names_needs_a_keypoint_set(write):
    data = make_data()
    keypoint_set = KeypointSet.from_names(NAMES)
    del data["categories"][0]["keypoints"]
    with pytest.raises(ValueError, match="`keypoint_set`"):
        KeypointDataset(*write(data))
    assert len(KeypointDataset(*write(data), keypoint_set)[0]["annotations"]["annotations"]) == 1
    del data["categories"]
    assert len(KeypointDataset(*write(data), keypoint_set)[0]["annotations"]["annotations"]) == 1
    del data["annotations"]
    assert KeypointDataset(*write(data), keypoint_set)[0]["annotations"]["annotations"] == []


def test_images_without_keypoints(write):
    data = make_data()
    data["annotations"] = [
        make_annotation(1, num_keypoints=0, keypoints=[0] * 9),
        make_annotation(2),
        make_annotation(2, num_keypoints=0, keypoints=None),
        make_annotation(4, iscrowd=1, num_keypoints=0, keypoints=None),
    ]
    path = write(data)
    assert KeypointDataset(*path).image_ids == [1, 2, 3, 4]
    dataset = KeypointDataset(*path, skip_without_keypoints=True)
    assert dataset.image_ids == [2]
    assert [annotation["num_keypoints"] for annotation in dataset[0]["annotations"]["annotations"]] == [3, 0]
    # Crowd regions reach the processor, which leaves them out.
    batch = KeypointCollator(EDPoseImageProcessor(size=30, num_keypoints=3))([KeypointDataset(*path)[3]])
    assert batch["labels"][0]["boxes"].shape == (0, 4)


def test_annotations_without_optional_fields(write):
    data = make_data()
    data["annotations"] = [
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "keypoints": [1, 2, 2, 3, 4, 1, 0, 0, 0]}
    ]
    (annotation,) = KeypointDataset(*write(data))[0]["annotations"]["annotations"]
    assert (annotation["num_keypoints"], annotation["iscrowd"]) == (2, 0)
    assert "area" not in annotation


def test_images_of_any_mode(write, tmp_path):
    data = make_data()
    path = write(data)
    image = make_coordinate_image(60, 70)
    image.convert("L").save(tmp_path / "1.png")
    image.convert("RGBA").save(tmp_path / "2.png")
    image.convert("P").save(tmp_path / "3.png")
    Image.fromarray(np.full((60, 70), 25700, np.uint16)).save(tmp_path / "4.png")
    for entry in data["images"]:
        entry.update(width=70, height=60)
    path[0].write_text(json.dumps(data))
    images = [KeypointDataset(*path)[index]["image"] for index in range(4)]
    assert {image.mode for image in images} == {"RGB"}
    assert images[1].getpixel((20, 30)) == (20, 30, 0)
    assert images[3].getpixel((20, 30)) == (100, 100, 100)


@pytest.mark.parametrize("annotated_upright", [False, True])
def test_orientation_follows_the_annotations(write, annotated_upright):
    """The size in the JSON file tells whether the annotations are of the stored or of the upright image."""
    data = make_data(1)
    data["images"][0].update(width=50, height=40)
    path = write(data)
    exif = Image.Exif()
    exif[0x0112] = 6
    make_coordinate_image(40, 50).save(path[1] / "1.png", exif=exif)
    if annotated_upright:
        data["images"][0].update(width=40, height=50)
        path[0].write_text(json.dumps(data))
    item = KeypointDataset(*path)[0]
    assert item["image"].size == ((40, 50) if annotated_upright else (50, 40))
    corner = (0, 39) if annotated_upright else (0, 0)
    assert item["image"].getpixel((0, 0))[:2] == corner
    plain = EDPoseImageProcessor(do_resize=False, do_rescale=False, do_normalize=False, num_keypoints=3)
    pixel_values = KeypointCollator(plain)([item])["pixel_values"]
    assert pixel_values[0, :2, 0, 0].tolist() == list(corner)


def test_sizes_are_optional(write):
    data = make_data()
    path = write(data)
    expected = KeypointDataset(*path).aspect_ratios
    for image in data["images"]:
        del image["width"], image["height"]
    path[0].write_text(json.dumps(data))
    dataset = KeypointDataset(*path)
    np.testing.assert_allclose(dataset.aspect_ratios, expected)
    assert dataset[0]["image"].size == (70, 60)


def changed(place, value):
    """Test data with one change; `place` is a path of keys."""
    data = make_data()
    part = data
    for key in place[:-1]:
        part = part[key]
    if value is ...:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return data


ANNOTATION = ("annotations", 1)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images",), ..., "list 'images'"),
        (("images", 0), 5, r"`images\[0\]` of `annotation_file`"),
        (("images", 1, "id"), "a", r"`images\[1\]` of"),
        (("images", 1, "id"), 1, "different ids"),
        (("images", 1, "file_name"), ..., r"`images\[1\]` of"),
        (("categories", 0, "skeleton"), [[0, 1]], "`links`"),
        (("categories", 0, "keypoints"), ["a", "a", "b"], "`keypoints`"),
        (ANNOTATION, "x", r"`annotations\[1\]`.* must be an object"),
        ((*ANNOTATION, "category_id"), 9, r"`annotations\[1\]\['category_id'\]`.*\[1\].*got 9"),
        ((*ANNOTATION, "category_id"), ..., r"`annotations\[1\]\['category_id'\]`"),
        ((*ANNOTATION, "image_id"), 99, r"`annotations\[1\]\['image_id'\]`"),
        ((*ANNOTATION, "bbox"), ..., r"`annotations\[1\]\['bbox'\]`.*list of 4 numbers, got None"),
        ((*ANNOTATION, "bbox"), [1, 2, 3], r"`annotations\[1\]\['bbox'\]`.*got 3 numbers"),
        ((*ANNOTATION, "bbox"), [1, 2, -3, 4], r"`annotations\[1\]\['bbox'\]`.*negative"),
        ((*ANNOTATION, "bbox"), [1, 2, "3", 4], r"`annotations\[1\]\['bbox'\]`.*numbers"),
        ((*ANNOTATION, "bbox"), [1, 2, [3], 4], r"`annotations\[1\]\['bbox'\]`.*numbers"),
        ((*ANNOTATION, "bbox"), [1, 2, None, 4], r"`annotations\[1\]\['bbox'\]`.*numbers"),
        ((*ANNOTATION, "keypoints"), ..., r"`annotations\[1\]\['keypoints'\]`.*9 numbers"),
        ((*ANNOTATION, "keypoints"), [1] * 51, r"`annotations\[1\]\['keypoints'\]`.*9 numbers, got 51"),
        ((*ANNOTATION, "keypoints"), [float("nan")] * 9, r"`annotations\[1\]\['keypoints'\]`.*finite"),
        ((*ANNOTATION, "keypoints"), [3] * 9, r"`annotations\[1\]\['keypoints'\]`.*v = 0"),
        ((*ANNOTATION, "area"), -1, r"`annotations\[1\]\['area'\]`"),
        ((*ANNOTATION, "area"), "big", r"`annotations\[1\]\['area'\]`"),
        ((*ANNOTATION, "num_keypoints"), "two", r"`annotations\[1\]\['num_keypoints'\]`"),
    ],
)
def test_bad_files_are_refused(write, place, value, message):
    with pytest.raises(ValueError, match=message):
        KeypointDataset(*write(changed(place, value)))


def test_bad_arguments_are_refused(write):
    path, folder = write(make_data())
    with pytest.raises(ValueError, match=r"`annotation_file` names .* does not exist"):
        KeypointDataset(folder / "absent.json", folder)
    with pytest.raises(ValueError, match="`image_folder` names"):
        KeypointDataset(path, folder / "absent")
    with pytest.raises(ValueError, match="`categories` must be among"):
        KeypointDataset(path, folder, categories=["person"])
    (folder / "text.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        KeypointDataset(folder / "text.json", folder)


def test_bad_images_are_refused(write):
    path, folder = write(make_data())
    dataset = KeypointDataset(path, folder)
    (folder / "1.png").unlink()
    with pytest.raises(ValueError, match=r"`image_folder` lacks '1.png' \(image 1\)"):
        dataset[0]
    make_coordinate_image(10, 10).save(folder / "2.png")
    with pytest.raises(ValueError, match=r"2.png' has \(width, height\) \(10, 10\), but"):
        dataset[1]
    data = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"3\.png' cannot be decoded"):
        dataset[2]
    (folder / "4.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"4\.png' cannot be read"):
        dataset[3]


# Augmentation


def augment(seed, image=None, annotation=None, **options):
    augmentation = KeypointAugmentation(((1, 2),), **{**SMALL, **options})
    image = make_coordinate_image(60, 90) if image is None else image
    annotations = {"image_id": 1, "annotations": [make_annotation(1) if annotation is None else annotation]}
    before = copy.deepcopy(annotations)
    result = augmentation(image, annotations, np.random.default_rng(seed))
    assert annotations == before
    return result


def test_augmented_keypoints_stay_on_their_pixels():
    """The picture's colours are coordinates: where a keypoint ends up, it must find those it started from."""
    start = np.array(make_annotation(1)["keypoints"]).reshape(3, 3)
    checked = 0
    for seed in range(40):
        image, annotations = augment(seed)
        pixels = np.asarray(image)
        mirrored = pixels[0, 0, 0] > pixels[0, -1, 0]
        expected = start[[0, 2, 1]] if mirrored else start
        for annotation in annotations["annotations"]:
            keypoints = np.array(annotation["keypoints"]).reshape(3, 3)
            np.testing.assert_array_equal(keypoints[:, 2], expected[:, 2])
            for (x, y, _), origin in zip(keypoints, expected, strict=True):
                if 0 < x < image.width - 1 and 0 < y < image.height - 1:
                    np.testing.assert_allclose(pixels[round(y), round(x), :2].astype(int), origin[:2], atol=2)
                    checked += 1
    assert checked > 60


def test_augmented_boxes_and_areas_stay_on_their_pixels():
    for seed in range(40):
        image, annotations = augment(seed)
        pixels = np.asarray(image).astype(int)
        for annotation in annotations["annotations"]:
            x, y, width, height = annotation["bbox"]
            assert min(x, y, image.width - x - width, image.height - y - height) > -1e-9
            pixels_inside = pixels[round(y) : round(y + height), round(x) : round(x + width), :2].reshape(-1, 2)
            assert (pixels_inside >= [3, 4]).all()
            assert (pixels_inside <= [37, 28]).all()
            whole = np.ptp(pixels[..., 0]) == 89 and np.ptp(pixels[..., 1]) == 59
            share = 400.5 / (30 * 20) if whole else 1
            assert annotation["area"] == pytest.approx(share * width * height)


def test_crop_replaces_the_area_and_drops_persons_outside():
    image = make_coordinate_image(60, 90)
    persons = [make_annotation(1), make_annotation(1, bbox=[70, 40, 10, 10]), make_annotation(1, bbox=[20, 20, 5, 0])]
    image, annotations = crop(image, {"image_id": 1, "annotations": persons}, 10, 20, 30, 25)
    assert image.size == (25, 30)
    (person,) = annotations["annotations"]
    assert person["bbox"] == [0, 0, 15, 16]
    assert person["area"] == 240
    assert person["keypoints"] == [0, 0, 2, 10, 10, 1, 0, 14, 2]


def test_sizes_and_frequencies_of_the_augmentation():
    sides, mirrored, uncut = [], 0, 0
    for seed in range(200):
        image, _ = augment(seed)
        sides.append(min(image.size))
        assert max(image.size) <= SMALL["max_size"]
        pixels = np.asarray(image)
        mirrored += pixels[0, 0, 0] > pixels[0, -1, 0]
        uncut += pixels[..., 0].min() == 0 and pixels[..., 0].max() == 89 and pixels[..., 1].max() == 59
    assert 70 < mirrored < 130
    assert 70 < uncut < 130
    assert set(SMALL["sizes"]) < set(sides)
    assert all(side <= 56 for side in sides)


def test_small_images_can_be_cropped():
    image, _ = augment(0, make_coordinate_image(5, 7), crop_probability=1.0, crop_resize_sizes=(5,))
    assert min(image.size) in (40, 56) or max(image.size) >= 89


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip_probability": 2}, "`flip_probability`"),
        ({"crop_probability": -1}, "`crop_probability`"),
        ({"sizes": ()}, "`sizes`"),
        ({"crop_resize_sizes": (0,)}, "`crop_resize_sizes`"),
        ({"crop_range": (5, 4)}, "`crop_range`"),
    ],
)
def test_bad_augmentations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KeypointAugmentation(((1, 2),), **options)


# Batches


@pytest.fixture
def training_set(write):
    data = make_data(8)
    return KeypointDataset(*write(data), transform=KeypointAugmentation(((1, 2),), **SMALL), seed=5)


@pytest.fixture
def collator():
    return KeypointCollator(EDPoseImageProcessor(size={"shortest_edge": 30, "longest_edge": 60}, num_keypoints=3))


def test_samples_repeat_and_change_with_the_epoch(training_set, collator):
    first = [training_set[index]["image"] for index in range(8)]
    assert [training_set[index]["image"] for index in (7, 0)] == [first[7], first[0]]
    training_set.set_epoch(1)
    second = [training_set[index]["image"] for index in range(8)]
    assert all(a != b for a, b in zip(first, second, strict=True))
    training_set.set_epoch(0)
    assert [training_set[index]["image"] for index in range(8)] == first


def test_workers_give_the_samples_of_the_main_process(training_set, collator):
    """Also when the workers live on between epochs."""
    options = {"batch_size": 2, "collate_fn": collator}
    alone = DataLoader(training_set, **options)
    workers = DataLoader(training_set, num_workers=2, persistent_workers=True, **options)
    for epoch in (0, 3):
        training_set.set_epoch(epoch)
        for batch, expected in zip(workers, alone, strict=True):
            assert_close(batch, expected, atol=0, rtol=0)


def test_collator(training_set, collator, write):
    batch = collator([training_set[0], training_set[1]])
    assert type(batch) is dict
    sizes = [training_set[index]["image"].size[::-1] for index in (0, 1)]
    assert batch["pixel_values"].shape == (2, 3, *np.max(sizes, axis=0))
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [height * width for height, width in sizes]
    assert [tuple(label["orig_size"].tolist()) for label in batch["labels"]] == sizes
    assert [label["image_id"].item() for label in batch["labels"]] == [1, 2]

    plain = KeypointDataset(*write(make_data()))
    batch = collator([plain[0], plain[1]])
    assert batch["labels"][0]["size"].tolist() == [30, 35]
    with pytest.raises(ValueError, match="`items`"):
        collator([plain[0], training_set[0]])
    fixed = KeypointCollator(collator.image_processor, pad_size={"height": 64, "width": 72})
    assert fixed([plain[0]])["pixel_values"].shape == (1, 3, 64, 72)
    unchanged = EDPoseImageProcessor(do_resize=False, num_keypoints=3)
    assert KeypointCollator(unchanged)([plain[0]])["pixel_values"].shape == (1, 3, 60, 70)


def test_joint_data_sets(training_set, collator):
    joint = ConcatDataset([training_set, Subset(training_set, [3])])
    EpochCallback(joint).on_epoch_begin(None, SimpleNamespace(epoch=2.0), None)
    assert int(training_set._epoch) == 2
    assert len(collator([joint[0], joint[8]])["labels"]) == 2


def make_ratios(count=47):
    return np.exp(np.random.default_rng(1).normal(size=count))


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_hold_each_image_once(shuffle):
    ratios = make_ratios()
    sampler = AspectRatioBatchSampler(ratios, 4, shuffle=shuffle)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 12
    assert sorted(index for batch in batches for index in batch) == list(range(47))
    assert [len(batch) for batch in batches] == [4] * 11 + [3]

    def spread(groups):
        return np.mean([np.ptp(np.log(ratios[group])) for group in groups])

    assert spread(batches) < spread(np.arange(44).reshape(11, 4)) / 5


def test_order_changes_with_the_epoch_only():
    sampler = AspectRatioBatchSampler(make_ratios(), 4, seed=3, chunk_size=2)
    first = list(sampler)
    assert first == list(sampler) == list(AspectRatioBatchSampler(make_ratios(), 4, seed=3, chunk_size=2))
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(AspectRatioBatchSampler(make_ratios(), 4, seed=4, chunk_size=2)) != first


def test_every_image_is_trained_on_in_some_epoch():
    sampler, seen = AspectRatioBatchSampler(make_ratios()[:11], 4, drop_last=True), set()
    for epoch in range(10):
        sampler.set_epoch(epoch)
        seen |= {index for batch in sampler for index in batch}
    assert seen == set(range(11))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("num_replicas", [2, 5, 13])
def test_processes_share_the_batches(drop_last, num_replicas):
    def sampler(rank, num_replicas=num_replicas):
        return AspectRatioBatchSampler(make_ratios(), 4, drop_last=drop_last, num_replicas=num_replicas, rank=rank)

    parts = [list(sampler(rank)) for rank in range(num_replicas)]
    assert {len(part) for part in parts} == {len(sampler(0))}
    together = [batch for step in zip(*parts, strict=True) for batch in step]
    expected = list(sampler(0, num_replicas=1))
    if drop_last:
        assert all(len(batch) == 4 for batch in together)
        assert together == expected[: len(expected) // num_replicas * num_replicas]
    else:
        assert together[: len(expected)] == expected
        assert together[len(expected) :] == expected[: len(together) - len(expected)]


def test_few_images():
    assert list(AspectRatioBatchSampler([1.0], 4)) == [[0]]
    assert list(AspectRatioBatchSampler([1.0], 4, drop_last=True)) == []
    assert list(AspectRatioBatchSampler([], 4)) == []
    assert list(AspectRatioBatchSampler([1.0], 4, num_replicas=3, rank=2)) == [[0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size`"),
        ({"batch_size": 2, "rank": 1}, "`rank`"),
        ({"batch_size": 2, "num_replicas": 0}, "`num_replicas`"),
        ({"batch_size": 2, "chunk_size": 0}, "`chunk_size`"),
    ],
)
def test_bad_samplers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AspectRatioBatchSampler([1.0], **options)


def test_accelerate_passes_on_the_epoch(training_set, collator):
    accelerate = pytest.importorskip("accelerate")
    sampler = AspectRatioBatchSampler(training_set.aspect_ratios, 2)
    loader = DataLoader(training_set, batch_sampler=sampler, collate_fn=collator)
    prepared = accelerate.Accelerator(cpu=True).prepare(loader)
    prepared.set_epoch(4)
    assert (sampler.epoch, int(training_set._epoch)) == (4, 4)
    for batch, expected in zip(prepared, loader, strict=True):
        assert_close(batch, expected, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("file", "keypoint_set"), [("coco17_keypoints.json", COCO17), ("crowdpose14_keypoints.json", CROWDPOSE14)]
)
def test_pictures_of_people(shared_data, file, keypoint_set):
    folder = shared_data / "data" / "pose_images"
    if not folder.is_dir():
        pytest.skip("needs `shared/data/pose_images`")
    dataset = KeypointDataset(folder / file, folder / "images", skip_without_keypoints=True)
    assert dataset.keypoint_set is keypoint_set
    assert dataset.category_ids == [1]
    dataset.transform = KeypointAugmentation(keypoint_set.flip_pairs)
    processor = EDPoseImageProcessor(num_keypoints=len(keypoint_set))
    batch = KeypointCollator(processor)([dataset[0], dataset[1]])
    assert min(batch["pixel_values"].shape[2:]) >= 384
    assert torch.isfinite(batch["pixel_values"]).all()
    for label in batch["labels"]:
        assert (label["boxes"] >= 0).all() and (label["boxes"] <= 1).all()
