"""Pose sequences in memory and in files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hvmodels.pose_sequences import PoseSequence, PoseTrack


NAMES = ("nose", "left_wrist", "right_wrist")


def keypoints(frames, dims=2, seed=0):
    return np.random.default_rng(seed).uniform(0, 500, (frames, 3, dims)).astype(np.float32)


@pytest.fixture
def sequence():
    first = keypoints(4)
    first[2] = np.nan
    first[1, 1, 0] = np.nan
    scores = np.array([[0.9, 0.8, 0.7]] * 4, dtype=np.float32)
    boxes = np.array([[0, 1, 20, 30]] * 4, dtype=np.float32)
    boxes[2] = np.nan
    tracks = [
        PoseTrack(7, 1, first, scores, boxes, np.array([0.5, 0.6, np.nan, 0.8])),
        PoseTrack(3, 0, keypoints(2, seed=1)),
    ]
    return PoseSequence(tracks, 6, NAMES, 25, (640, 360), "pixel")


def assert_same(first, second):
    for name in ("num_frames", "keypoint_names", "frame_rate", "image_size", "unit", "track_ids"):
        assert getattr(first, name) == getattr(second, name), name
    for one, other in zip(first.tracks, second.tracks, strict=True):
        assert one.start == other.start
        for name in ("keypoints", "scores", "boxes", "person_scores"):
            if getattr(one, name) is None:
                assert getattr(other, name) is None
            else:
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_fields(sequence):
    track = sequence[7]
    assert (track.start, track.end, len(track), len(sequence), sequence.track_ids) == (1, 5, 4, 6, [7, 3])
    assert track.keypoints.dtype == np.float32
    expected = np.zeros((4, 3), dtype=bool)
    expected[2], expected[1, 1] = True, True
    np.testing.assert_array_equal(track.missing, expected)
    assert np.isnan(track.keypoints[1, 1]).all()  # one coordinate missing, the joint is missing
    with pytest.raises(KeyError, match=r"no track 1; the sequence has \[7, 3\]"):
        sequence[1]


@pytest.mark.parametrize("suffix", [".npz", ".json", ".JSON"])
def test_files(sequence, suffix, tmp_path):
    sequence.save(tmp_path / f"poses{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"poses{suffix}"]
    assert_same(PoseSequence.load(tmp_path / f"poses{suffix}"), sequence)


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize(
    "bare",
    [
        PoseSequence([]),
        PoseSequence([], 5, NAMES),
        PoseSequence([PoseTrack("anna", 0, keypoints(1, 6)), PoseTrack("ben", 2, keypoints(2, 6))]),
    ],
    ids=["nothing", "no track", "names, rotations"],
)
def test_files_of_little(bare, suffix, tmp_path):
    bare.save(tmp_path / f"poses{suffix}")
    assert_same(PoseSequence.load(tmp_path / f"poses{suffix}"), bare)


def test_npz_layout(sequence, tmp_path):
    sequence.save(tmp_path / "poses.npz")
    with np.load(tmp_path / "poses.npz", allow_pickle=False) as arrays:
        shapes = {name: arrays[name].shape for name in arrays}
        assert arrays["offsets"].tolist() == [0, 4, 6]
        assert arrays["starts"].tolist() == [1, 0]
        np.testing.assert_array_equal(arrays["keypoints"][4:], sequence[3].keypoints)
        assert np.isnan(arrays["scores"][4:]).all()
    assert shapes == {
        **dict.fromkeys(("format", "version", "num_frames", "frame_rate", "unit"), ()),
        **dict.fromkeys(("track_ids", "starts", "image_size"), (2,)),
        **dict.fromkeys(("keypoint_names", "offsets"), (3,)),
        "keypoints": (6, 3, 2),
        "scores": (6, 3),
        "boxes": (6, 4),
        "person_scores": (6,),
    }


def test_json_is_standard_and_short(sequence, tmp_path):
    sequence.save(tmp_path / "poses.json")
    values = json.loads((tmp_path / "poses.json").read_text(), parse_constant=pytest.fail)
    track = values["tracks"][0]
    assert track["keypoints"][1][1] == [None, None]
    assert track["scores"][0] == [0.9, 0.8, 0.7]


def test_frames(sequence):
    frames = list(sequence.frames())
    assert [[person["track_id"] for person in persons] for persons in frames] == [[3], [7, 3], [7], [], [7], []]
    person = frames[1][0]
    assert (person["label"], person["score"]) == ("person", 0.5)
    assert person["box"] == {"xmin": 0, "ymin": 1, "xmax": 20, "ymax": 30}
    x, y = sequence[7].keypoints[0, 2].tolist()
    assert person["keypoints"][2] == {"label": "right_wrist", "x": x, "y": y, "score": pytest.approx(0.7)}
    hidden = frames[2][0]["keypoints"][1]
    assert np.isnan([hidden["x"], hidden["y"]]).all()
    assert hidden["score"] == 0
    bare, points = frames[0][0], sequence[3].keypoints[0]
    assert bare["score"] == 1
    assert list(bare["box"].values()) == [*points.min(axis=0), *points.max(axis=0)]


def test_frames_and_back(sequence):
    frames = list(sequence.frames())
    again = PoseSequence.from_frames(iter(frames), frame_rate=25, image_size=(640, 360))
    first, second = again[7], again[3]
    assert again.track_ids == [3, 7]
    np.testing.assert_array_equal(first.keypoints, sequence[7].keypoints)
    np.testing.assert_array_equal(first.boxes, sequence[7].boxes)
    np.testing.assert_array_equal(first.person_scores, sequence[7].person_scores)
    np.testing.assert_array_equal(second.keypoints, sequence[3].keypoints)
    assert (again.num_frames, again.keypoint_names, again.unit) == (6, NAMES, "pixel")
    np.testing.assert_equal(list(replace(again, tracks=[first, second]).frames()), frames)


def test_frames_in_3d_without_names():
    sequence = PoseSequence([PoseTrack(0, 0, keypoints(2, 3))], unit="metre")
    frames = list(sequence.frames())
    assert set(frames[0][0]["keypoints"][0]) == {"label", "x", "y", "z", "score"}
    again = PoseSequence.from_frames(frames, unit="metre")
    np.testing.assert_array_equal(again[0].keypoints, sequence[0].keypoints)
    assert again.keypoint_names is None


def test_no_frames():
    assert_same(PoseSequence.from_frames([]), PoseSequence([], 0, unit="pixel"))
    assert len(PoseSequence.from_frames([[], []])) == 2


POINT = {"label": "nose", "x": 1.0, "y": 2.0, "score": 0.5}


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        ([[{"keypoints": [POINT]}]], ValueError, "without `track_id` at frame 0; .*tracker"),
        ([[{"keypoints": [POINT], "track_id": 1}] * 2], ValueError, "two persons of track 1 in frame 0"),
        (
            [[{"keypoints": [POINT], "track_id": 1}], [{"keypoints": [POINT, POINT], "track_id": 1}]],
            ValueError,
            "same key",
        ),
        (
            [[{"keypoints": [{"label": "nose", "x": 1}], "track_id": 1}]],
            ValueError,
            "of `label`, `x`, `y`.*KeyError 'y'",
        ),
        ([[{"keypoints": [{**POINT, "x": "left"}], "track_id": 1}]], ValueError, "has none such"),
        ([[{"track_id": 1}]], ValueError, "KeyError 'keypoints'"),
        ([[{"keypoints": [], "track_id": 1}]], ValueError, "IndexError"),
        ([[{"keypoints": [POINT], "track_id": 1, "box": [0, 0, 1, 1]}]], ValueError, "dict of xmin, ymin"),
        (
            [[{"keypoints": [POINT], "track_id": 1}], [{"keypoints": [{**POINT, "z": 0}], "track_id": 1}]],
            ValueError,
            "mixes",
        ),
        ([["person"]], TypeError, "persons that are dicts, got str"),
        ([{"track_id": 1}], TypeError, "a list of persons for each frame"),
        (
            [[{"keypoints": [POINT], "track_id": 1}, {"keypoints": [POINT], "track_id": "a"}]],
            TypeError,
            "all integers or",
        ),
    ],
)
def test_bad_frames(frames, error, message):
    with pytest.raises(error, match=message):
        PoseSequence.from_frames(frames)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"track_id": 1.5}, TypeError, "`track_id` must be an integer or a string, got 1.5"),
        ({"start": -1}, ValueError, "`start` must not be negative"),
        ({"start": 0.0}, TypeError, "`start` must be an integer"),
        ({"keypoints": keypoints(2)[0]}, ValueError, r"\(frames, joints, dims\).*got shape \(3, 2\)"),
        ({"keypoints": keypoints(0)}, ValueError, "at least one frame"),
        ({"keypoints": keypoints(2, dims=5)}, ValueError, r"got shape \(2, 3, 5\)"),
        ({"keypoints": [[[1, 2]], [[1, 2], [3, 4]]]}, ValueError, "`keypoints` must be an array"),
        ({"keypoints": np.full((2, 3, 2), np.inf)}, ValueError, "`keypoints` must be finite"),
        ({"keypoints": "poses"}, ValueError, "`keypoints` must be an array"),
        ({"scores": np.ones((2, 4))}, ValueError, r"`scores` of track 1 must have shape \(2, 3\)"),
        ({"boxes": np.ones((3, 4))}, ValueError, r"`boxes` of track 1 must have shape \(2, 4\)"),
        ({"person_scores": np.ones(3)}, ValueError, r"`person_scores` of track 1 must have shape \(2,\)"),
    ],
)
def test_bad_tracks(arguments, error, message):
    with pytest.raises(error, match=message):
        PoseTrack(**{"track_id": 1, "start": 0, "keypoints": keypoints(2), **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tracks": [keypoints(2)]}, TypeError, "`tracks` must hold PoseTrack objects, got ndarray"),
        ({"tracks": [PoseTrack(1, 0, keypoints(2))] * 2}, ValueError, "different identifiers"),
        ({"tracks": [PoseTrack(i, 0, keypoints(2, i)) for i in (2, 3)]}, ValueError, r"same \(joints, dims\)"),
        ({"num_frames": 3}, ValueError, "`num_frames` must be at least 4"),
        ({"keypoint_names": ["nose"]}, ValueError, "`keypoint_names` must be 3 names, one a joint, got 1"),
        ({"keypoint_names": ["nose", "nose", "neck"]}, ValueError, "different strings"),
        ({"frame_rate": 0}, ValueError, "`frame_rate` must be a positive number"),
        ({"frame_rate": float("nan")}, ValueError, "`frame_rate` must be a positive number"),
        ({"image_size": 640}, ValueError, "`image_size` must be a positive width and height"),
        ({"image_size": (640, 0)}, ValueError, "`image_size` must be a positive width and height"),
        ({"unit": "inch"}, ValueError, r"`unit` must be one of \['pixel', 'metre', 'millimetre'\]"),
    ],
)
def test_bad_sequences(arguments, error, message):
    with pytest.raises(error, match=message):
        PoseSequence(**{"tracks": [PoseTrack(1, 2, keypoints(2))], **arguments})


def test_rotations_have_no_frames():
    with pytest.raises(ValueError, match="rotations"):
        list(PoseSequence([PoseTrack(1, 0, keypoints(2, 6))]).frames())


def write_npz(path, sequence, **changes):
    sequence.save(path)
    with np.load(path) as arrays:
        values = {**arrays, **changes}
    np.savez(path, **{name: value for name, value in values.items() if value is not None})


def test_bad_files(sequence, tmp_path):
    def refused(path, message):
        with pytest.raises(ValueError, match=message):
            PoseSequence.load(path)

    npz, text = tmp_path / "poses.npz", tmp_path / "poses.json"
    refused(npz, "does not exist")
    refused(tmp_path / "poses.csv", "must end in .npz or .json")
    with pytest.raises(ValueError, match=r"must end in \.npz or \.json"):
        sequence.save(tmp_path / "poses.pkl")
    npz.write_bytes(b"nothing of the kind")
    refused(npz, "cannot be read")
    npz.write_bytes(b"")
    refused(npz, "cannot be read")
    write_npz(npz, sequence)
    npz.write_bytes(npz.read_bytes()[:-100])
    refused(npz, "cannot be read")
    write_npz(npz, sequence, keypoints=np.array([{}], dtype=object))
    refused(npz, "cannot be read: Object arrays")
    write_npz(npz, sequence, format=None)
    refused(npz, "no pose sequence of this package.*read_poses")
    write_npz(npz, sequence, version=2)
    refused(npz, "of version 2")
    write_npz(npz, sequence, starts=None)
    refused(npz, "lacks 'starts'")
    write_npz(npz, sequence, offsets=np.array([0, 9, 6]))
    refused(npz, "damaged")
    write_npz(npz, sequence, num_frames=1)
    refused(npz, "damaged pose sequence: `num_frames` must be at least 5")
    with npz.open("wb") as file:
        np.save(file, np.zeros(3))
    refused(npz, "cannot be read: it is no .npz archive")

    text.write_text('{"format": ')
    refused(text, "cannot be read: Expecting value")
    text.write_bytes(b"\xff\xfe\x00")
    refused(text, "cannot be read")
    text.write_text("[]")
    refused(text, "no pose sequence")
    sequence.save(text)
    values = json.loads(text.read_text())
    values["tracks"][0]["keypoints"][1].append([1, 2])
    text.write_text(json.dumps(values))
    refused(text, "damaged pose sequence: `keypoints` must be an array")
    values["tracks"] = 3
    text.write_text(json.dumps(values))
    refused(text, "damaged pose sequence")
    del values["tracks"]
    text.write_text(json.dumps(values))
    refused(text, "lacks 'track_ids'")
