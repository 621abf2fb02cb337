"""Reading labelled images, the augmentation, mixup and cutmix."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import ViTImageProcessorPil

from hvmodels.datasets import image_classification
from hvmodels.datasets.image_classification import (
    OPERATIONS,
    ImageAugmentation,
    ImageClassificationCollator,
    ImageClassificationDataset,
    LabelledImages,
    cutmix,
    cutmix_box,
    mixup,
    read_image_folder,
    read_labelled_images,
    read_parquet,
)
from tests.reference_cases import needs_reference, reference_folder


RECIPE = "recipe_deit3-small_to_deit-tiny"


def picture(value=0, size=(12, 8)):
    rng = np.random.default_rng(value)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def write_parquet(path, columns, features=None):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path)
    return path


FEATURES = {"photo": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["cat", "dog", "owl"]}}


def rows(count, start=0):
    return [{"bytes": encoded(picture(start + index)), "path": None} for index in range(count)]


def test_parquet_of_datasets(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", {"photo": rows(2), "kind": [2, 0]}, FEATURES)
    write_parquet(tmp_path / "train-1.parquet", {"photo": rows(1, 2), "kind": [1]}, FEATURES)
    images = read_labelled_images(tmp_path / "train-*.parquet")
    assert images.class_names == ("cat", "dog", "owl") and images.labels.tolist() == [2, 0, 1] and len(images) == 3
    for index in range(3):
        np.testing.assert_array_equal(np.asarray(images.image(index)), np.asarray(picture(index)))


def test_parquet_of_others(tmp_path):
    pixels = [encoded(picture(0)), encoded(picture(1))]
    path = write_parquet(tmp_path / "plain.parquet", {"image": pixels, "label": [1, 0], "fine": [0, 3]})
    assert read_labelled_images(path).class_names == ("0", "1")
    assert read_parquet(path, label_column="fine").class_names == ("0", "1", "2", "3")


def test_image_folder(tmp_path):
    for name, count in (("b", 2), ("a", 1)):
        (tmp_path / name / "deep").mkdir(parents=True)
        for index in range(count):
            picture(index).save(tmp_path / name / "deep" / f"{index}.png")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    images = read_labelled_images(tmp_path)
    assert images.class_names == ("a", "b") and images.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(np.asarray(images.image(2)), np.asarray(picture(1)))


def test_images_are_turned_and_in_colour():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    images = LabelledImages([encoded(picture(), exif=exif), encoded(picture().convert("L"))], np.array([0, 0]), ("a",))
    np.testing.assert_array_equal(np.asarray(images.image(0)), np.rot90(np.asarray(picture()), -1))
    assert images.image(1).mode == "RGB"


@pytest.mark.parametrize(
    ("columns", "features", "options", "message"),
    [
        ({"photo": [], "kind": []}, None, {"image_column": "photo", "label_column": "kind"}, "must hold integers"),
        ({"image": rows(1), "kind": [0]}, None, {}, "no column 'label', name one of .* by `label_column`"),
        ({"photo": rows(1), "kind": [3]}, FEATURES, {}, "Labels must be from 0 to 2, got 3 to 3"),
        ({"photo": rows(1), "kind": [None]}, FEATURES, {}, "must hold integers"),
        ({"photo": rows(2), "kind": [0, None]}, FEATURES, {}, "Image 1 of .* has no label"),
        ({"photo": [{"bytes": None, "path": "x.png"}], "kind": [0]}, FEATURES, {}, "Row 0 of column 'photo'"),
        ({"photo": rows(1), "kind": ["cat"]}, FEATURES, {}, "'kind' .* must hold integers"),
        (
            {"photo": rows(1), "kind": [0], "more": [0]},
            {**FEATURES, "more": FEATURES["kind"]},
            {},
            "has the columns .'kind', 'more'. of type ClassLabel",
        ),
    ],
)
def test_bad_parquet_is_named(columns, features, options, message, tmp_path):
    path = write_parquet(tmp_path / "bad.parquet", columns, features)
    with pytest.raises(ValueError, match=message):
        read_parquet(path, **options)


def test_damaged_and_missing_files_are_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    path = write_parquet(tmp_path / "whole.parquet", {"photo": rows(3), "kind": [0, 1, 2]}, FEATURES)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"cut.parquet' cannot be read as Parquet"):
        read_labelled_images(cut)
    empty = {"photo": pa.array([], pa.binary()), "kind": pa.array([], pa.int64())}
    with pytest.raises(ValueError, match="hold no images"):
        read_parquet(write_parquet(tmp_path / "empty.parquet", empty, FEATURES))
    other = {**FEATURES, "kind": {"_type": "ClassLabel", "names": ["x"]}}
    with pytest.raises(ValueError, match="names the classes"):
        read_parquet([path, write_parquet(tmp_path / "other.parquet", {"photo": rows(1), "kind": [0]}, other)])
    with pytest.raises(ValueError, match="at least one"):
        read_parquet([])
    (tmp_path / "notes.txt").write_text("x")
    for missing in (tmp_path / "absent", tmp_path / "absent-*.parquet", tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="`path` must name a folder of class folders"):
            read_labelled_images(missing)
    with pytest.raises(ValueError, match="must be a folder"):
        read_image_folder(path)
    with pytest.raises(ValueError, match="is a folder, which has no"):
        read_labelled_images(tmp_path, label_column="kind")
    with pytest.raises(ValueError, match="has no class folders"):
        read_image_folder(tmp_path)
    (tmp_path / "class").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        read_image_folder(tmp_path)
    (tmp_path / "class" / "half.jpg").write_bytes(encoded(picture(size=(64, 64)), "JPEG")[:300])
    with pytest.raises(ValueError, match=r"half.jpg' cannot be read as an image"):
        read_image_folder(tmp_path).image(0)
    with pytest.raises(ValueError, match="Image 0 cannot be read"):
        LabelledImages([b"text"], np.array([0]), ("a",)).image(0)


def test_pyarrow_is_asked_for(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"hvmodels\[train\]"):
        read_parquet("x.parquet")


def test_crops():
    augmentation, rng = ImageAugmentation(), np.random.default_rng(0)
    boxes = np.array([augmentation.crop_box((100, 80), rng) for _ in range(500)])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (100, 80)).all()
    share, ratio = sides.prod(1) / 8000, sides[:, 0] / sides[:, 1]
    assert (
        0.07 < share.min() < 0.12 and 0.85 < share.max() <= 1 and 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.4
    )
    # Nothing fits into these, so it is the middle.
    assert ImageAugmentation(area_range=(0.9, 1)).crop_box((100, 10), rng) == (43, 0, 56, 10)
    assert ImageAugmentation(area_range=(0.9, 1)).crop_box((10, 100), rng) == (0, 43, 10, 56)


def apply(name, image, value):
    return np.asarray(OPERATIONS[name][0](image, value, (124, 116, 104))).astype(int)


def test_operations():
    image = picture(size=(16, 16))
    pixels = np.asarray(image).astype(int)
    np.testing.assert_array_equal(apply("invert", image, None), 255 - pixels)
    np.testing.assert_array_equal(apply("posterize", image, 0.4), pixels // 128 * 128)
    np.testing.assert_array_equal(apply("posterize", image, 4), pixels // 16 * 16)
    np.testing.assert_array_equal(apply("solarize", image, 25.6), np.where(pixels < 25.6, pixels, 255 - pixels))
    added = np.where(pixels < 128, np.minimum(pixels + 99, 255), pixels)
    np.testing.assert_array_equal(apply("solarize_add", image, 99), added)
    np.testing.assert_allclose(apply("brightness", image, -0.5), pixels / 2, atol=1)
    np.testing.assert_array_equal(apply("translate_x", image, 0.25)[:, :12], pixels[:, 4:])
    assert (apply("translate_x", image, 0.25)[:, 12:] == (124, 116, 104)).all()
    np.testing.assert_array_equal(apply("translate_y", image, -0.25)[4:], pixels[:-4])
    edge = Image.fromarray(np.repeat(np.where(np.arange(16) < 12, 0, 255).astype(np.uint8)[None], 16, 0)).convert(
        "RGB"
    )
    crossings = (apply("shear_x", edge, 0.3)[:10, :13, 0] < 128).sum(1)
    np.testing.assert_allclose(crossings, 12 - 0.3 * (np.arange(10) + 0.5), atol=0.6)
    for name in ("color", "contrast", "sharpness", "shear_x", "shear_y"):
        np.testing.assert_allclose(apply(name, image, 0.0), pixels, atol=1)
    assert np.ptp(apply("color", image, -1.0), axis=2).max() == 0
    for name, (_, values, _) in OPERATIONS.items():
        changed = apply(name, image, None if values is None else 0.91 * values[1] + 0.09 * values[0])
        assert changed.shape == (16, 16, 3)
        if name != "auto_contrast":  # whose range is full already
            assert (changed != pixels).any()


def test_rand_augment_draws(monkeypatch):
    seen = []
    fake = {
        "signed": (lambda image, value, fill: seen.append(value) or image, (0, 10), True),
        "plain": (lambda image, value, fill: seen.append(value) or image, None, False),
    }
    monkeypatch.setattr(image_classification, "OPERATIONS", fake)
    rng, image = np.random.default_rng(0), picture()
    for _ in range(1000):
        ImageAugmentation().rand_augment(image, rng)
    assert 940 < len(seen) < 1060  # two of two, each by half
    values = np.array([value for value in seen if value is not None])
    assert 440 < len(values) < 560 and abs((values > 0).mean() - 0.5) < 0.07
    assert abs(np.abs(values).mean() - 9) < 0.1 and abs(np.abs(values).std() - 0.5) < 0.07 and values.max() <= 10


def test_erasing():
    augmentation = ImageAugmentation(size=(60, 60), num_operations=0, flip_probability=0, erase_probability=1.0)
    image = Image.new("RGB", (60, 60))
    rng = np.random.default_rng(0)
    erased = np.stack([(augmentation(image, rng) > 0).any(-1) for _ in range(100)])
    shares = erased.mean((1, 2))
    assert 0.015 < shares.min() < 0.06 and 0.25 < shares.max() < 0.34
    noise = augmentation(image, rng)
    assert abs(noise[(noise > 0).any(-1)].mean() / 255 - 0.45) < 0.06
    none = ImageAugmentation(size=(6, 6), num_operations=0, flip_probability=0, erase_probability=0, area_range=(1, 1),
                             ratio_range=(1, 1))  # fmt: skip
    np.testing.assert_array_equal(none(picture(size=(6, 6)), rng), np.asarray(picture(size=(6, 6))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 4)}, "`size` must be height and width"),
        ({"area_range": (0.5, 0.2)}, "`area_range` must be"),
        ({"erase_area_range": (0.5, 1.2)}, "`erase_area_range` must be"),
        ({"flip_probability": 1.5}, "`flip_probability` must be from 0 to 1"),
        ({"level": 11}, "`level` be from 0 to 10"),
    ],
)
def test_bad_augmentation_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        ImageAugmentation(**options)


@pytest.fixture
def dataset():
    images = LabelledImages([encoded(picture(index)) for index in range(6)], np.arange(6) % 3, ("a", "b", "c"))
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.4, 0.5, 0.6])
    return ImageClassificationDataset(images, processor, ImageAugmentation((8, 8)), keep_images=True, seed=3)


def test_items_depend_on_seed_epoch_and_index(dataset):
    first = [dataset[index] for index in range(6)]
    again = [dataset[index] for index in (5, 4, 3, 2, 1, 0)][::-1]
    dataset.set_epoch(1)
    later = [dataset[index] for index in range(6)]
    dataset.set_epoch(0)
    for item, same, other in zip(first, again, later, strict=True):
        assert item["seed"] == same["seed"] != other["seed"] and item["labels"] == same["labels"]
        torch.testing.assert_close(item["pixel_values"], same["pixel_values"], rtol=0, atol=0)
        assert not torch.equal(item["pixel_values"], other["pixel_values"])
    torch.testing.assert_close(dataset[-1]["pixel_values"], first[5]["pixel_values"], rtol=0, atol=0)
    with pytest.raises(IndexError):
        dataset[6]


def test_both_ways_normalise_alike(dataset):
    plain = ImageClassificationDataset(dataset.images, dataset.processor)
    resize = lambda image, generator: np.asarray(image.resize((8, 8), dataset.processor.resample))  # noqa: E731
    same = ImageClassificationDataset(dataset.images, dataset.processor, resize)
    assert "seed" not in plain[2] and plain[2]["labels"] == 2
    torch.testing.assert_close(plain[2]["pixel_values"], same[2]["pixel_values"], rtol=1e-5, atol=1e-5)


def test_batches(dataset):
    items = [dataset[index] for index in range(4)]
    batch = ImageClassificationCollator(3, num_mask_tokens=16)(items)
    assert batch["pixel_values"].shape == (4, 3, 8, 8) and batch["labels"].tolist() == [0, 1, 2, 0]
    assert batch["mask_noise"].shape == (4, 16) and batch["mask_noise"].dtype == torch.float32
    part = ImageClassificationCollator(3, num_mask_tokens=16)(items[2:])
    torch.testing.assert_close(part["mask_noise"], batch["mask_noise"][2:], rtol=0, atol=0)
    assert batch["mask_noise"].min() >= 0 and batch["mask_noise"].max() < 1
    plain = ImageClassificationCollator(3, 0.8, 1.0, 4)([{"pixel_values": torch.zeros(3, 8, 8), "labels": 1}])
    assert plain.keys() == {"pixel_values", "labels"} and plain["labels"].tolist() == [1]


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_mixed_batches(kind, dataset):
    collator = ImageClassificationCollator(3, **{kind: 0.8})
    kinds = set()
    for epoch in range(5):
        dataset.set_epoch(epoch)
        items = [dataset[index] for index in range(4)]
        batch, again = collator(items), collator(items)
        torch.testing.assert_close(batch, again, rtol=0, atol=0)
        scores = batch["labels"]
        assert scores.shape == (4, 3) and torch.allclose(scores.sum(1), torch.ones(4))
        kinds.add(float(scores.max(1).values.min()))
        pixels = torch.stack([item["pixel_values"] for item in items])
        assert (batch["pixel_values"] != pixels).any()
        torch.testing.assert_close(batch["pixel_values"].mean(0), pixels.mean(0), rtol=1e-4, atol=1e-5)
    assert len(kinds) > 2
    with pytest.raises(ValueError, match=f"`{kind}` must not be negative"):
        ImageClassificationCollator(3, **{kind: -1.0})


def test_cutmix_boxes():
    rng = np.random.default_rng(0)
    boxes = np.array([cutmix_box((40, 20), 0.75, rng) for _ in range(300)])
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    assert heights.max() == 20 and widths.max() == 10 and heights.min() >= 10 and widths.min() >= 5
    assert boxes.min() == 0 and boxes[:, 1].max() == 40 and boxes[:, 3].max() == 20


@needs_reference("vitkd", RECIPE)
def test_mixup_and_cutmix_equal_the_original():
    values = load_file(reference_folder("vitkd", RECIPE) / "io.safetensors")
    images, labels = values["input.images"], values["input.labels"]
    scores = torch.nn.functional.one_hot(labels, 6).float()
    found = mixup(images, scores, float(values["input.mixup_lambda"]), values["input.mixup_index"])
    torch.testing.assert_close(found[0], values["output.mixup_images"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], values["output.mixup_scores"], rtol=1e-5, atol=1e-5)
    box = tuple(values["input.cutmix_box_y1y2x1x2"].tolist())
    found = cutmix(images, scores, box, values["input.cutmix_index"])
    torch.testing.assert_close(found[0], values["output.cutmix_images"], rtol=0, atol=0)
    torch.testing.assert_close(found[1], values["output.cutmix_scores"], rtol=1e-5, atol=1e-5)
