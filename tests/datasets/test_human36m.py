"""Human3.6M and MPII in 3-D: `h36m_eval` was recorded from RLE's code."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from hvmodels.datasets.human36m import (
    TEST_SUBJECTS,
    Human36MAugmentation,
    Human36MDataset,
    Human36MDraws,
    MixedPoseDataset,
    MPIIDataset,
)
from hvmodels.datasets.top_down import PersonSample, crop_sample
from hvmodels.keypoint_sets import HUMAN36M18, MPII16


SIZE = (128, 128)


@pytest.fixture(scope="module")
def case(request):
    folder = request.path.parents[1] / "fixtures" / "rle" / "h36m_eval"
    return load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory):
    """Both data sets as files, as the original reads them."""
    values, config = case
    folder = tmp_path_factory.mktemp("human36m")
    image = values["item0.input.image"]
    height, width = image.shape[:2]
    images, annotations = [], []
    for index, name in enumerate(config["file_names"]):
        parameters = {key: values[f"label{index}.input.cam_{key}"].tolist() for key in "Rtfc"}
        images.append({"id": index, "file_name": name, "width": width, "height": height, "cam_param": parameters})
        annotations.append(
            {
                "id": index,
                "image_id": index,
                "keypoints_world": values[f"label{index}.input.keypoints_world"].tolist(),
                "bbox": values[f"label{index}.input.bbox_xywh"].tolist(),
            }
        )
        (folder / name).parent.mkdir()
        Image.fromarray(image).save(folder / name)
    (folder / "human36m.json").write_text(json.dumps({"images": images, "annotations": annotations}))

    width, height = values["mpii.input.image_wh"].astype(int).tolist()
    Image.new("RGB", (width, height), "grey").save(folder / "mpii.png")
    person = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "keypoints": values["mpii.input.keypoints"].ravel().tolist(),
        "bbox": values["mpii.input.bbox_xywh"].tolist(),
    }
    mpii = {
        "images": [{"id": 1, "file_name": "mpii.png", "width": width, "height": height}],
        "annotations": [person],
        "categories": [{"id": 1, "name": "person"}],
    }
    (folder / "mpii.json").write_text(json.dumps(mpii))
    return folder


@pytest.fixture
def human36m(folder):
    return Human36MDataset(folder / "human36m.json", folder, subjects=TEST_SUBJECTS, size=SIZE)


@pytest.fixture
def mpii(folder):
    return MPIIDataset(folder / "mpii.json", folder, size=SIZE, weigh_unlabelled=True)


@pytest.mark.parametrize("index", range(4))
def test_labels_equal_the_original(human36m, case, index):
    values = {name.split(f"label{index}.output.")[-1]: value for name, value in case[0].items()}
    np.testing.assert_allclose(human36m.joints[index], values["joint_cam"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(human36m.joints[index, 0], values["root_cam"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(human36m.keypoints[index], values["joint_img"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(human36m.boxes[index], values["bbox_xyxy"])
    item = human36m[index]
    np.testing.assert_allclose(item["crop_box"], case[0][f"label{index}.input.crop_bbox_xyxy"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(item["box"], values["bbox_xyxy"].astype(np.float32))


def test_validation_item_equals_the_original(human36m, case):
    values, _ = case
    item = human36m[0]
    np.testing.assert_allclose(item["labels"].ravel(), values["item0.output.target_uvd"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(item["label_weights"].ravel(), values["item0.output.target_uvd_weight"])
    pixel_values = (item["crop"] / 255 - [0.406, 0.457, 0.480]) / [0.225, 0.224, 0.229]
    assert pixel_values.sum() == pytest.approx(values["item0.check.pixel_sum.opencv4"][0], abs=0.02)


@pytest.mark.parametrize("number", range(4))
def test_training_items_equal_the_original(human36m, mpii, case, number):
    values = {
        name.removeprefix(f"train_item{number}."): value
        for name, value in case[0].items()
        if name.startswith(f"train_item{number}.")
    }
    index = int(values["param.label_index"][0])
    sample = (mpii if values["param.is_mpii"][0] else human36m).sample(index)
    draws = Human36MDraws(
        scale=float(values["param.scale"][0]) / float(sample.scale[0]),
        rotation=float(values["param.rotation_deg"][0]),
        flip=bool(values["param.flip"][0]),
    )
    sample = Human36MAugmentation().apply(sample, draws)
    np.testing.assert_allclose(sample.center, values["param.center"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(sample.scale, values["param.scale"], rtol=1e-6)
    item = crop_sample(sample, SIZE)
    np.testing.assert_allclose(item["crop_box"], values["output.crop_bbox_xyxy"], rtol=0, atol=2e-5)
    weights = values["output.target_uvd_weight"].reshape(18, 3)
    np.testing.assert_array_equal(item["label_weights"], weights)
    # Where the weight is 0 the original keeps what the arithmetic gave.
    labels = np.where(weights > 0, values["output.target_uvd"].reshape(18, 3), 0)
    np.testing.assert_allclose(item["labels"], labels, rtol=0, atol=1e-6)


def test_unlabelled_joints_of_mpii_have_no_weight(folder, mpii):
    published, ours = mpii.sample(0), MPIIDataset(folder / "mpii.json", folder, size=SIZE).sample(0)
    assert published.weights[:, 0].sum() == 16
    unlabelled = np.flatnonzero(published.weights[:, 0] - ours.weights[:, 0])
    assert [HUMAN36M18.keypoints[index] for index in unlabelled] == ["left_knee"]
    np.testing.assert_array_equal(ours.weights[:, 2], 0)
    assert not ours.weights[[7, 9]].any()
    for index, name in enumerate(HUMAN36M18.keypoints):  # those that have the name of an MPII joint
        if name in MPII16.keypoints and name not in ("neck", "head"):
            source = json.loads((folder / "mpii.json").read_text())["annotations"][0]["keypoints"]
            place = MPII16.keypoints.index(name)
            assert ours.keypoints[index, :2].tolist() == source[3 * place : 3 * place + 2]


def test_mixed_epoch(human36m, mpii, case):
    mixed = MixedPoseDataset(human36m, mpii)
    assert (len(mixed), len(human36m)) == (case[1]["len_train"], case[1]["len_val"])
    assert [bool(mixed[index]["label_weights"][:, 2].any()) for index in range(8)] == [True] * 4 + [False] * 4
    mpii.boxes, mpii.keypoints = np.repeat(mpii.boxes, 50, axis=0), np.repeat(mpii.keypoints, 50, axis=0)
    mpii.file_names = mpii.file_names * 50
    mpii.boxes += np.arange(50)[:, None] / 100
    mixed.set_epoch(1)
    first = [mixed[index]["box"][0] for index in range(4, 8)]
    mixed.set_epoch(2)
    assert first != [mixed[index]["box"][0] for index in range(4, 8)]
    mixed.set_epoch(1)
    assert first == [mixed[index]["box"][0] for index in range(4, 8)]
    assert len(set(first)) > 1


def test_samples_are_drawn_anew_each_epoch(folder):
    data = Human36MDataset(folder / "human36m.json", folder, size=SIZE, transform=Human36MAugmentation())
    first = data[0]
    np.testing.assert_array_equal(first["crop"], data[0]["crop"])
    data.set_epoch(1)
    assert not np.array_equal(first["crop_box"], data[0]["crop_box"])


def blank_sample(size=400):
    image = np.full((size, size, 3), 100, dtype=np.uint8)
    joints = np.zeros((18, 3))
    return PersonSample(image, np.full(2, 200.0, np.float32), np.full(2, 200.0, np.float32), joints, np.ones((18, 3)))


def test_draws_follow_their_distributions():
    augmentation, sample = Human36MAugmentation(), blank_sample()
    generator = np.random.default_rng(0)
    draws = [augmentation.draw(sample, generator) for _ in range(2000)]
    scales, rotations = np.array([draw.scale for draw in draws]), np.array([draw.rotation for draw in draws])
    assert (scales.min(), scales.max()) == pytest.approx((0.7, 1.3))
    assert (np.isclose(scales, 0.7) | np.isclose(scales, 1.3)).mean() == pytest.approx(0.317, abs=0.03)
    assert (rotations == 0).mean() == pytest.approx(0.4, abs=0.03)
    assert np.abs(rotations).max() == 60
    assert (np.abs(rotations[rotations != 0]) < 30).mean() == pytest.approx(0.683, abs=0.03)
    assert np.mean([draw.flip for draw in draws]) == pytest.approx(0.5, abs=0.03)
    gains = np.array([draw.gains for draw in draws])
    assert (gains.min(), gains.max(), gains.mean()) == pytest.approx((0.8, 1.2, 1), abs=0.005)
    rectangles = np.array([draw.rectangle for draw in draws])
    left, top, width, height = rectangles.T
    assert (rectangles[:, :2] >= 100).all()
    assert (left + width <= 300).all()
    assert (top + height <= 300).all()
    assert (width * height).max() <= 0.7 * 200**2
    assert (height / width).max() < 4


def test_noise_and_colour_reach_the_crop():
    sample = blank_sample()
    draws = Human36MDraws(rectangle=(150, 120, 40, 60), gains=(0.5, 1.004, 3.0))
    changed = Human36MAugmentation().apply(sample, draws)
    assert (sample.image == 100).all()
    different = (changed.image != 100).any(axis=-1)
    assert different[120:180, 150:190].mean() > 0.99
    assert different.sum() == different[120:180, 150:190].sum()
    crop = crop_sample(replace(changed, image=sample.image), (64, 64))["crop"]
    assert np.unique(crop.reshape(-1, 3), axis=0).tolist() == [[50, 100, 255]]  # cut to whole numbers and to a byte


def test_a_box_outside_the_picture_gets_no_noise():
    sample = replace(blank_sample(), center=np.array([5000.0, 200.0], np.float32))
    assert Human36MAugmentation().draw(sample, np.random.default_rng(0)).rectangle is None


def test_choice_of_frames(folder, case, tmp_path):
    data = json.loads((folder / "human36m.json").read_text())
    frame, annotation = data["images"][0], data["annotations"][0]
    names = [f"s_09_act_02_subact_01_ca_01/{index}.png" for index in range(6)]
    names += [f"s_01_act_16_subact_02_ca_03/{index}.png" for index in range(3)]
    names += [
        "s_09_act_05_subact_02_ca_01/1.png",
        "s_09_act_10_subact_02_ca_02/1.png",
        "s_09_act_13_subact_01_ca_04/1.png",
    ]
    names += ["s_09_act_05_subact_01_ca_01/1.png", "s_11_act_05_subact_02_ca_01/1.png"]
    content = {"images": [{**frame, "file_name": name} for name in names], "annotations": [annotation] * len(names)}
    (tmp_path / "many.json").write_text(json.dumps(content))

    def read(**options):
        return Human36MDataset(tmp_path / "many.json", tmp_path, **options)

    assert len(read()) == 6 + 3 + 2
    assert read(every=4).file_names == [names[index] for index in (0, 4, 6, 12, 13)]
    assert read(subjects=(1,)).actions == ["WalkTogether"] * 3
    assert len({id(camera) for camera in read().cameras}) == 1  # equal cameras are one object
    with pytest.raises(ValueError, match=r"must hold frames of the subjects \(3,\)"):
        read(subjects=(3,))
    with pytest.raises(ValueError, match="`every` must be a positive integer"):
        read(every=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["annotations"].pop(), "one annotation an image"),
        (lambda data: data["images"][1].update(file_name="frame.png"), r"`images\[1\]\['file_name'\]`.*'frame.png'"),
        (lambda data: data["images"][1].update(file_name="s_01_act_17_subact_01_ca_01/1.png"), "action from 2 to 16"),
        (lambda data: data["images"][2].pop("cam_param"), r"`images\[2\]`.* must have R, t, f and c"),
        (lambda data: data["images"][2]["cam_param"].update(R=[1, 2]), r"shape \(3, 3\) in 'R'"),
        (lambda data: data["images"][2].pop("width"), "in 'width'"),
        (lambda data: data["annotations"][3].update(keypoints_world=[[1, 2, 3]]), r"`annotations\[3\]`.*'keypoints_world'"),
        (lambda data: data["annotations"][3]["keypoints_world"][0].__setitem__(0, float("nan")), "finite numbers"),
        (lambda data: data["annotations"][0].update(bbox=[5000, 0, 10, 10]), "must be a box within the picture"),
        (lambda data: data["annotations"][0].update(bbox="no"), "'bbox'"),
        (lambda data: data["images"][0]["cam_param"].update(R=[[1, 0, 0], [0, 1, 0], [0, 0, -1]], t=[0, 0, -9000]), "in front of the camera"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(folder, tmp_path, change, message):
    data = json.loads((folder / "human36m.json").read_text())
    change(data)
    (tmp_path / "broken.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message):
        Human36MDataset(tmp_path / "broken.json", tmp_path)


def test_pictures_that_are_absent_or_none(folder, tmp_path):
    data = Human36MDataset(folder / "human36m.json", tmp_path, size=SIZE)
    with pytest.raises(ValueError, match="`images` lacks 's_09_act_02"):
        data[0]
    path = tmp_path / data.file_names[1]
    path.parent.mkdir()
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        data[1]


def test_crops_of_two_sizes_cannot_be_mixed(folder, human36m):
    with pytest.raises(ValueError, match="crops of one size"):
        MixedPoseDataset(human36m, MPIIDataset(folder / "mpii.json", folder))
