import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor
from transformers.utils import ModelOutput

from hvmodels import SkeletonActionFeatureExtractor
from hvmodels.datasets.skeleton_actions import mirror
from hvmodels.keypoint_sets import HUMAN36M17, HUMAN36M17_LEFT_FIRST, NTU25, SMPL24
from hvmodels.models.pose_sequence.skeleton_streams_skeletal_gnn import (
    agcn_normalize,
    ctr_crop_resize,
    ctr_translate,
    make_streams,
    resize_frames,
    view_normalize,
)
from tests.modeling_checks import ProcessorChecks
from tests.models.pose_sequence.test_skeleton_streams_skeletal_gnn import BONES, HIPS, SHOULDERS, moving, ntu_person


H36M = list(HUMAN36M17.keypoints)
VIEW = {"keypoint_names": H36M, "normalization": "view", "sampling": "resize", "num_frames": 12, "num_persons": 1}


class TestSkeletonActionFeatureExtractor(ProcessorChecks):
    processor_class = SkeletonActionFeatureExtractor
    auto_class = AutoFeatureExtractor
    processor_arguments = {
        **VIEW,
        "crop_share": 0.95,
        "streams": ["joint", "bone_motion"],
        "window_seconds": 3.0,
        "mirrored_labels": [1, 0, -1],
    }


def extract(poses, *, extractor=None, return_tensors="np", **options):
    extractor = extractor or SkeletonActionFeatureExtractor(**VIEW)
    return extractor(poses, return_tensors=return_tensors, **options)["skeleton_values"]


def test_view():
    extractor = SkeletonActionFeatureExtractor(**VIEW, streams=["joint", "bone", "joint_motion"])
    values = extract(moving(), extractor=extractor)
    assert values.shape == (1, 9, 12, 17, 1)
    assert values.dtype == np.float32
    view = view_normalize(moving(), BONES, HIPS, SHOULDERS).transpose(2, 0, 1)[..., None]
    expected = make_streams(resize_frames(view, 12), extractor.streams, BONES)
    np.testing.assert_allclose(values[0], expected, atol=1e-5)


def test_view_does_not_depend_on_unit_axis_or_kind():
    expected = extract(moving())
    millimetres = extract(moving() * 1000, unit="millimetre")
    of_camera = extract(np.stack([moving()[..., 0], -moving()[..., 2], moving()[..., 1]], axis=-1))
    told = extract(np.stack([moving()[..., 0], -moving()[..., 2], moving()[..., 1]], axis=-1), up="-y")
    tensor = extract(torch.from_numpy(moving()), return_tensors="pt")
    assert torch.is_tensor(tensor)
    for values in (millimetres, of_camera, told, tensor.numpy(), extract([moving()]), extract(moving()[None])):
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_missing_joints_are_drawn_between():
    poses = moving()
    poses[5:9, 13] = np.nan
    np.testing.assert_allclose(extract(poses), extract(moving()), atol=1e-5)  # the hand moves evenly


def test_joints_of_another_set():
    left_first = moving()[:, [H36M.index(name) for name in HUMAN36M17_LEFT_FIRST.keypoints]]
    for names in ("human36m17_left_first", HUMAN36M17_LEFT_FIRST, list(HUMAN36M17_LEFT_FIRST.keypoints)):
        np.testing.assert_allclose(extract(left_first, keypoint_names=names), extract(moving()), atol=1e-5)
    np.testing.assert_allclose(extract(moving(), keypoint_names="human36m17"), extract(moving()), atol=0)
    body = np.random.default_rng(0).normal(size=(6, 24, 3)) * 0.05
    body[:, [16, 17], 2] += 1  # shoulders above hips
    assert extract(body, keypoint_names=SMPL24, up="z").shape == (1, 3, 12, 17, 1)


def test_sequences_of_any_length():
    values = extract([moving(30), moving(1), moving(200)])
    assert values.shape == (3, 3, 12, 17, 1)
    assert np.isfinite(values).all()


def test_agcn():
    person = ntu_person(8)
    extractor = SkeletonActionFeatureExtractor(num_frames=10)
    values = extract(person, extractor=extractor)
    padded = np.zeros((3, 10, 25, 2), np.float32)
    padded[:, :8, :, 0] = person.transpose(2, 0, 1)
    np.testing.assert_allclose(values[0], agcn_normalize(padded), atol=1e-6)
    assert values[0, :, 8:, :, 0].any()  # repeated
    both = extract(np.stack([person, person + 1]), extractor=extractor)
    assert both[0, ..., 1].any()
    longer = extract(ntu_person(25), extractor=extractor)
    assert longer.shape == (1, 3, 10, 25, 2)


def test_ctr():
    person = ntu_person(40)
    person[30:, 3] = np.nan
    extractor = SkeletonActionFeatureExtractor(normalization="ctr", sampling="resize", crop_share=0.95, num_frames=64)
    values = extract(person, extractor=extractor)
    data = np.zeros((3, 40, 25, 2), np.float32)
    data[..., 0] = np.nan_to_num(person).transpose(2, 0, 1)
    np.testing.assert_allclose(values[0], ctr_crop_resize(ctr_translate(data), 64), atol=1e-6)
    in_millimetres = extract(1000 * person, extractor=extractor, unit="millimetre")
    np.testing.assert_allclose(in_millimetres, values, atol=1e-5)


def test_post_processing():
    outputs = ModelOutput(logits=torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]))
    names = {0: "walk", 1: "run", 2: "bow"}
    first, second = SkeletonActionFeatureExtractor().post_process_action_recognition(outputs, names)
    assert [entry["label"] for entry in first] == ["run", "bow", "walk"]
    assert sum(entry["score"] for entry in first) == pytest.approx(1)
    assert second[0]["label"] == "walk"
    short = SkeletonActionFeatureExtractor().post_process_action_recognition(outputs, names, top_k=1)
    assert short == [first[:1], second[:1]]


def test_flip_test():
    extractor = SkeletonActionFeatureExtractor(**VIEW, streams=["joint", "bone"], mirrored_labels=[1, 0, -1])
    values = extract(moving(), extractor=extractor)
    assert values.shape == (2, 6, 12, 17, 1)
    mirrored = mirror(moving(), HUMAN36M17)
    np.testing.assert_allclose(values[1:], extract(mirrored, extractor=extractor, flip_test=False), atol=1e-5)
    np.testing.assert_allclose(values[:1], extract(moving(), extractor=extractor, flip_test=False), atol=0)
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.4, 0.4]])
    outputs, names = ModelOutput(logits=probabilities.log()), {0: "left", 1: "right", 2: "bye"}
    (found,) = extractor.post_process_action_recognition(outputs, names)
    expected = np.sqrt([0.6 * 0.4, 0.3 * 0.2, 0.1 * 0.1])
    assert {entry["label"]: pytest.approx(entry["score"]) for entry in found} == dict(
        zip(names.values(), expected / expected.sum(), strict=True)
    )
    assert len(extractor.post_process_action_recognition(outputs, names, flip_test=False)) == 2
    for logits in (torch.zeros(3, 3), torch.zeros(2, 4)):
        with pytest.raises(ValueError, match="`outputs` must have logits of 3 actions"):
            extractor.post_process_action_recognition(ModelOutput(logits=logits), names)
    with pytest.raises(ValueError, match="`flip_test` needs `mirrored_labels`"):
        extract(moving(), flip_test=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mirrored_labels": [0]}, "`mirrored_labels` must be integers"),
        ({"normalization": "none"}, "`normalization` must be one of"),
        ({"sampling": "crop"}, "`sampling` must be one of"),
        ({"num_frames": 0}, "`num_frames` must be a positive integer"),
        ({"num_persons": 1.5}, "`num_persons` must be a positive integer"),
        ({"crop_share": 0}, r"`crop_share` must be in \(0, 1\]"),
        ({"window_seconds": -1}, "`window_seconds` must be a positive number"),
        ({"streams": []}, "`streams` must be different ones of"),
        ({"streams": ["joint", "joint"]}, "`streams` must be different ones of"),
        ({"streams": "velocity"}, "`streams` must be different ones of"),
        ({"keypoint_names": ["a", "b"]}, "of a set with a skeleton"),
        ({"keypoint_names": H36M}, "'agcn' is for the 25 joints of NTU"),
        ({"normalization": "view"}, "`num_persons` must be 1"),
    ],
    ids=str,
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        SkeletonActionFeatureExtractor(**options)


LOST = moving()
LOST[:, 13] = np.nan


@pytest.mark.parametrize(
    ("poses", "options", "error", "message"),
    [
        ([], {}, ValueError, "at least one sequence"),
        ("walk", {}, TypeError, "`poses` must be an array of real numbers"),
        (moving()[..., :2], {}, ValueError, "these are 2D poses, lift them first"),
        (moving()[0], {}, ValueError, r"must have shape \(frames, joints, 3\)"),
        (np.zeros((0, 17, 3)), {}, ValueError, r"must have shape \(frames, joints, 3\)"),
        (
            [moving(), moving()[:, :16]],
            {},
            ValueError,
            r"`poses\[1\]` must have the 17 joints of 'human36m17', got 16",
        ),
        (np.stack([moving(), moving()]), {}, ValueError, "at most 1 persons, got 2"),
        (np.full((4, 17, 3), np.inf), {}, ValueError, "must be finite"),
        (LOST, {}, ValueError, r"\['left_wrist'\] are never seen"),
        (moving()[..., [2, 0, 1]], {}, ValueError, "give `up`, one of"),
        (np.ones((5, 17, 3)), {"up": "z"}, ValueError, "all bones have length 0"),
        (moving(), {"up": "x"}, ValueError, "`up` must be one of"),
        (moving(), {"unit": "pixel"}, ValueError, "`unit` must be one of"),
        (moving(), {"keypoint_names": "coco"}, ValueError, "`keypoint_names` must be one of"),
        (moving(), {"keypoint_names": [f"j{index}" for index in range(17)]}, ValueError, "do not tell"),
    ],
    ids=lambda value: "",
)
def test_bad_poses(poses, options, error, message):
    with pytest.raises(error, match=message):
        extract(poses, **options)


@pytest.mark.parametrize(
    ("poses", "message"),
    [
        (1000 * ntu_person(5), "must be in metres"),
        (np.full((5, 25, 3), np.nan), "must have a frame with a person"),
        (np.zeros((3, 5, 25, 3)), "at most 2 persons, got 3"),
    ],
    ids=["millimetres", "nobody", "crowd"],
)
def test_bad_ntu_poses(poses, message):
    with pytest.raises(ValueError, match=message):
        extract(poses, extractor=SkeletonActionFeatureExtractor(num_frames=10))


def test_ntu_is_the_default():
    assert SkeletonActionFeatureExtractor().keypoint_names == list(NTU25.keypoints)
