"""Poses of other software, made by hand as that software gives them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hvmodels.datasets.pose_formats import (
    HALPE26,
    OPENPOSE15,
    OPENPOSE18,
    WHOLE_BODY133,
    convert_sequence,
    from_mediapipe,
    from_pipeline,
    from_rtmlib,
    from_transformers,
    from_ultralytics,
    read_alphapose,
    read_coco,
    read_openpose,
    read_poses,
    write_alphapose,
    write_coco,
    write_openpose,
)
from hvmodels.keypoint_sets import COCO17, CROWDPOSE14, OPENPOSE25
from hvmodels.pose_sequences import PoseSequence, PoseTrack


def person(left=100.0, count=17, seed=0):
    """(count, 2) pixels of a person about 50 wide and 200 high."""
    points = np.random.default_rng(seed).uniform((0, 0), (50, 200), (count, 2)) + np.array([left, 50])
    return points.astype(np.float32)


def two_walk(frames=6):
    """(frames, 2, 17, 2): one goes right, one left, far from each other; the order changes from frame to frame."""
    first = np.stack([person(100 + 5 * frame) for frame in range(frames)])
    second = np.stack([person(600 - 5 * frame, seed=1) for frame in range(frames)])
    return first, second


def flat(points, score=0.5):
    return np.concatenate([points, np.full((len(points), 1), score)], axis=1).ravel().tolist()


def ultralytics_result(points, ids=None, conf=0.5):
    points = torch.as_tensor(np.array(points, dtype=np.float32).reshape(-1, 17, 2))
    boxes = torch.cat([points.amin(1), points.amax(1)], 1) if len(points) else torch.zeros(0, 4)
    scores = None if conf is None else torch.full(points.shape[:2], conf)
    return SimpleNamespace(
        orig_shape=(480, 640),
        keypoints=SimpleNamespace(xy=points, conf=scores),
        boxes=SimpleNamespace(
            xyxy=boxes, conf=torch.full((len(points),), 0.9), id=None if ids is None else torch.tensor(ids).float()
        ),
    )


def test_ultralytics_with_its_tracks():
    first, second = two_walk(3)
    hidden = first.copy()
    hidden[1, 4] = 0  # what ultralytics does not see lies at the corner
    results = [
        ultralytics_result([hidden[0], second[0]], [5, 2]),
        ultralytics_result([second[1], hidden[1]], [2, 5]),
        ultralytics_result([]),
        ultralytics_result([hidden[2]]),  # not confirmed by its tracker
    ]
    sequence = from_ultralytics(iter(results), frame_rate=30)
    assert (sequence.track_ids, len(sequence), sequence.keypoint_names) == ([5, 2], 4, COCO17.keypoints)
    assert (sequence.image_size, sequence.frame_rate, sequence.unit) == ((640, 480), 30, "pixel")
    hidden[1, 4] = np.nan
    np.testing.assert_array_equal(sequence[5].keypoints, hidden[:2])
    np.testing.assert_array_equal(sequence[2].keypoints, second[:2])
    np.testing.assert_array_equal(sequence[2].boxes[1], [*second[1].min(axis=0), *second[1].max(axis=0)])
    np.testing.assert_allclose(sequence[5].scores[0], 0.5)
    np.testing.assert_allclose(sequence[5].person_scores, 0.9)


def test_ultralytics_without_tracks_or_confidences():
    first, second = two_walk()
    results = [
        ultralytics_result([a, b] if index % 2 else [b, a], conf=None)
        for index, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    sequence = from_ultralytics(results)
    assert len(sequence.tracks) == 2
    for track, expected in zip(sequence.tracks, (second, first), strict=True):
        np.testing.assert_array_equal(track.keypoints, expected)
    np.testing.assert_array_equal(sequence.tracks[0].scores, 1)


def test_ultralytics_of_a_detector():
    with pytest.raises(TypeError, match="pose model of ultralytics, got SimpleNamespace without keypoints at frame 0"):
        from_ultralytics([SimpleNamespace(keypoints=None, boxes=None)])


def test_rtmlib():
    first, second = two_walk()
    scores = np.full((2, 17), 0.7)
    results = [(np.stack([a, b]), scores) for a, b in zip(first, second, strict=True)]
    results[3] = (np.zeros((0, 17, 2)), np.zeros((0, 17)))
    sequence = from_rtmlib(results, image_size=(1280, 720))
    first[3] = np.nan
    np.testing.assert_array_equal(sequence.tracks[0].keypoints, first)
    assert len(sequence.tracks) == 2
    single = from_rtmlib([(a[None], scores[:1]) for a in second], track="single")
    assert single.track_ids == [0]
    np.testing.assert_array_equal(single[0].keypoints, second)


@pytest.mark.parametrize(("count", "names"), [(26, HALPE26), (133, WHOLE_BODY133)])
def test_names_by_number(count, names):
    sequence = from_rtmlib([(person(count=count)[None], np.ones((1, count)))])
    assert sequence.keypoint_names == names
    assert len(set(names)) == count


def test_names_given():
    names = [f"marker_{index}" for index in range(5)]
    sequence = from_rtmlib([(person(count=5)[None], np.ones((1, 5)))], keypoint_names=names)
    assert sequence.keypoint_names == tuple(names)


@pytest.mark.parametrize(
    ("results", "options", "error", "message"),
    [
        (
            [(person(count=19)[None], np.ones((1, 19)))],
            {},
            ValueError,
            "has 19 keypoints a person.*pass `keypoint_names`",
        ),
        ([(person()[None], np.ones((1, 17)))], {"keypoint_names": ["nose"]}, ValueError, "`keypoint_names` has 1"),
        ([(person()[None], np.ones((1, 16)))], {}, ValueError, "as many scores as keypoints"),
        ([(person()[None], np.ones((2, 17)))], {}, ValueError, "as many scores as keypoints"),
        ([(person(), np.ones(17))], {}, ValueError, r"\(persons, keypoints, 2 or 3\), got shape \(17, 2\)"),
        (
            [([[[1, 2]], [[1, 2], [3, 4]]], None)],
            {},
            ValueError,
            "frame 0 of `results` must hold numbers of one shape",
        ),
        ([(np.full((1, 17, 2), np.inf), np.ones((1, 17)))], {}, ValueError, "finite"),
        ([person()], {}, TypeError, "pairs of keypoints and scores"),
        ([(np.stack([person()] * 2), np.ones((2, 17)))], {"track": "single"}, ValueError, "frame 0 has 2"),
        ([], {"track": "one"}, ValueError, r"`track` must be one of \[None, 'tracker', 'single'\], got 'one'"),
    ],
)
def test_bad_arrays(results, options, error, message):
    with pytest.raises(error, match=message):
        from_rtmlib(results, **options)


def marks(points, size):
    values = np.zeros((33, 3))
    indices = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
    values[indices, :2] = points / np.array(size)
    return [SimpleNamespace(x=x, y=y, z=z, visibility=0.25, presence=1.0) for x, y, z in values]


def test_mediapipe_of_both_kinds():
    size, points = (640, 480), person()
    solution = SimpleNamespace(pose_landmarks=SimpleNamespace(landmark=marks(points, size)))
    task = SimpleNamespace(pose_landmarks=[marks(points, size), marks(points + np.array([300, 0]), size)])
    nobody = [SimpleNamespace(pose_landmarks=None), SimpleNamespace(pose_landmarks=[]), None]
    array = np.array([[mark.x, mark.y, mark.z, mark.visibility] for mark in marks(points, size)])
    sequence = from_mediapipe([solution, *nobody, array, task], size)
    assert (len(sequence), len(sequence.tracks), sequence.keypoint_names) == (6, 2, COCO17.keypoints)
    track = sequence.tracks[0]
    np.testing.assert_allclose(track.keypoints[[0, 4, 5]], [points] * 3, rtol=1e-5)
    assert track.missing[1:4].all()
    np.testing.assert_array_equal(track.scores[0], 0.25)
    np.testing.assert_allclose(sequence.tracks[1].keypoints[0], points + np.array([300, 0]), rtol=1e-5)


def test_mediapipe_in_metres():
    landmarks = np.random.default_rng(0).normal(size=(2, 33, 5)).astype(np.float32)
    results = [SimpleNamespace(pose_landmarks=None, pose_world_landmarks=[frame]) for frame in landmarks]
    sequence = from_mediapipe(results, (640, 480), world=True, track="single")
    assert sequence.unit == "metre"
    np.testing.assert_array_equal(sequence[0].keypoints[:, 5], landmarks[:, 11, :3])
    np.testing.assert_array_equal(sequence[0].scores[:, 16], landmarks[:, 28, 3])


@pytest.mark.parametrize(
    ("results", "size", "error", "message"),
    [
        (
            [np.zeros((17, 3))],
            (640, 480),
            ValueError,
            r"MediaPipe's 33 landmarks a person, got an array of shape \(17, 3\)",
        ),
        ([np.full((33, 3), 200.0)], (640, 480), ValueError, "landmarks normalised by width and height.*got 200"),
        ([np.zeros((33, 3))], None, ValueError, "`image_size` must be the width and height"),
        (["landmarks"], (640, 480), TypeError, "results of MediaPipe"),
    ],
)
def test_bad_landmarks(results, size, error, message):
    with pytest.raises(error, match=message):
        from_mediapipe(results, size)


def test_transformers():
    points, keep = person(), torch.tensor([0, 5, 6, 11, 12])
    whole = {"keypoints": torch.tensor(points), "scores": torch.full((17, 1), 0.8), "labels": torch.arange(17)}
    partly = {"keypoints": torch.tensor(points)[keep], "scores": torch.full((5,), 0.8), "labels": keep}
    bare = {"keypoints": points, "scores": np.full(17, 0.8)}
    sequence = from_transformers([[whole], [partly], [], [bare]], track="single")
    np.testing.assert_array_equal(sequence[0].keypoints[[0, 3]], [points] * 2)
    assert sequence[0].missing[1].nonzero()[0].tolist() == sorted(set(range(17)) - set(keep.tolist()))
    assert sequence[0].missing[2].all()
    np.testing.assert_allclose(sequence[0].scores[1], np.where(np.isin(np.arange(17), keep), 0.8, 0))


def test_bad_results_of_transformers():
    points = torch.zeros(14, 2) + 1
    with pytest.raises(
        ValueError, match=r"of 17 keypoints \(see `keypoint_names`\), got ValueError: 14 keypoints without"
    ):
        from_transformers([[{"keypoints": points, "scores": torch.ones(14)}]])
    with pytest.raises(ValueError, match="IndexError"):
        from_transformers([[{"keypoints": points, "scores": torch.ones(14), "labels": torch.arange(14) + 9}]])
    with pytest.raises(ValueError, match="KeyError: 'scores'"):
        from_transformers([[{"keypoints": points}]])
    with pytest.raises(TypeError, match="frame 0 of `results` must be a list of persons, got dict"):
        from_transformers([{"keypoints": points}])


@pytest.fixture
def sequence():
    first, second = two_walk(5)
    first[2, 3] = np.nan
    scores = np.full((5, 17), 0.5, dtype=np.float32)
    scores[2, 3] = 0
    boxes = np.concatenate([np.nanmin(first, axis=1) - 5, np.nanmax(first, axis=1) + 5], axis=1)
    tracks = [
        PoseTrack(4, 0, first, scores, boxes, np.full(5, 0.75)),
        PoseTrack(9, 1, second[:3], scores[:3] * 0 + 0.5, person_scores=np.full(3, 0.25)),
    ]
    return PoseSequence(tracks, 5, COCO17.keypoints, unit="pixel")


def assert_same(found, expected, places=4):
    assert found.track_ids == expected.track_ids
    assert (found.keypoint_names, found.num_frames) == (expected.keypoint_names, expected.num_frames)
    for one, other in zip(found.tracks, expected.tracks, strict=True):
        assert one.start == other.start
        for name in ("keypoints", "scores", "person_scores"):
            if getattr(one, name) is None:
                assert getattr(other, name) is None
            else:
                np.testing.assert_array_almost_equal(getattr(one, name), getattr(other, name), places)


def test_pipeline_results(sequence):
    frames = list(sequence.frames())
    assert_same(from_pipeline(frames), sequence)
    for entry in (entry for persons in frames for entry in persons):
        del entry["track_id"]
    found = from_pipeline(frames, frame_rate=25)
    assert found.track_ids == [1, 2]
    np.testing.assert_array_equal(found[1].keypoints, sequence[4].keypoints)
    np.testing.assert_array_equal(found[2].keypoints, sequence[9].keypoints)


def test_coco_and_back(sequence, tmp_path):
    path = tmp_path / "results.json"
    write_coco(sequence, path)
    entry = json.loads(path.read_text())[4]
    assert set(entry) == {"image_id", "category_id", "keypoints", "score", "bbox", "track_id"}
    assert (entry["image_id"], entry["track_id"], len(entry["keypoints"])) == (2, 9, 51)
    assert_same(read_coco(path), sequence)
    np.testing.assert_allclose(read_coco(path)[4].boxes, sequence[4].boxes, rtol=1e-5)
    assert_same(read_poses(path), sequence)
    assert_same(read_poses(path, "coco"), sequence)

    write_coco(sequence, path, image_ids=[11, 5, 30, 2, 7])
    assert_same(read_coco(path, frame_ids=[11, 5, 30, 2, 7]), sequence)
    with pytest.raises(ValueError, match="`image_ids` must be 5 numbers, one a frame, got 2"):
        write_coco(sequence, path, image_ids=[1, 2])


def test_coco_without_tracks(tmp_path):
    path, (first, second) = tmp_path / "results.json", two_walk(3)
    entries = [
        {"image_id": index, "category_id": 1, "keypoints": flat(points), "score": 0.5}
        for index in range(3)
        for points in (first[index], second[index])
    ]
    path.write_text(json.dumps(entries))
    sequence = read_poses(path)
    np.testing.assert_allclose(sequence[1].keypoints, first)
    np.testing.assert_allclose(sequence[2].keypoints, second)
    path.write_text("[]")
    assert len(read_coco(path)) == 0
    assert len(read_coco(path, frame_ids=range(8))) == 8


def test_alphapose_and_back(sequence, tmp_path):
    path = tmp_path / "alphapose-results.json"
    write_alphapose(sequence, path)
    entry = json.loads(path.read_text())[0]
    assert set(entry) == {"image_id", "category_id", "keypoints", "score", "box", "idx"}
    assert (entry["image_id"], entry["idx"]) == ("0.jpg", 4)
    assert_same(read_alphapose(path), sequence)
    assert_same(read_poses(path), sequence)


def test_alphapose_images(tmp_path):
    path, names = tmp_path / "alphapose-results.json", ["b.png", "a.png"]
    entries = [{"image_id": name, "keypoints": flat(person()), "score": 2.5, "idx": [1.0]} for name in names]
    path.write_text(json.dumps(entries))
    sequence = read_alphapose(path, frame_ids=["c.png", "b.png", "a.png"])
    assert (sequence.track_ids, sequence[1].start, len(sequence)) == ([1], 1, 3)
    with pytest.raises(ValueError, match=r"that is or ends in the number of the frame, got 'b.png'.*`frame_ids`"):
        read_alphapose(path)
    with pytest.raises(ValueError, match=r"'b.png', which is not among `frame_ids`"):
        read_alphapose(path, frame_ids=["c.png"])


def test_openpose_and_back(sequence, tmp_path):
    write_openpose(sequence, tmp_path / "poses", "clip")
    files = sorted(path.name for path in (tmp_path / "poses").iterdir())
    assert files[0] == "clip_000000000000_keypoints.json"
    assert len(files) == 5
    found = read_poses(tmp_path / "poses", track=None)
    assert found.keypoint_names == OPENPOSE25.keypoints
    neck = found[9].keypoints[:, 1]
    np.testing.assert_allclose(neck, sequence[9].keypoints[:, 5:7].mean(axis=1), rtol=1e-5)
    assert found[9].missing[:, 19:].all()  # no feet
    np.testing.assert_allclose(found[9].scores[:, 1], 0.5)
    back = convert_sequence(found, COCO17)
    for track in sequence.tracks:
        np.testing.assert_array_almost_equal(back[track.track_id].keypoints, track.keypoints, 4)
    write_openpose(found, tmp_path / "again", "clip")  # BODY_25 as it is
    assert_same(read_openpose(tmp_path / "again"), found)


@pytest.mark.parametrize(("count", "names"), [(15, OPENPOSE15), (18, OPENPOSE18), (25, OPENPOSE25.keypoints)])
def test_openpose_models(count, names, tmp_path):
    for number in (7, 8, 10):  # the first frame that was asked for, and one without a file
        entry = {"person_id": [-1], "pose_keypoints_2d": flat(person(count=count)), "face_keypoints_2d": []}
        data = {"version": 1.3, "people": [entry, {"pose_keypoints_2d": []}]}
        (tmp_path / f"clip_{number:012d}_keypoints.json").write_text(json.dumps(data))
    (tmp_path / "settings_1.json").write_text("{}")
    sequence = read_openpose(tmp_path)
    assert (sequence.keypoint_names, sequence.track_ids, len(sequence)) == (names, [1], 4)
    assert sequence[1].missing.all(axis=1).tolist() == [False, False, True, False]
    assert len(read_poses(tmp_path / "clip_000000000008_keypoints.json")) == 1
    assert len({*names}) == count


def test_convert_sequence_needs_names_and_coordinates(sequence):
    with pytest.raises(ValueError, match="must have `keypoint_names`"):
        convert_sequence(PoseSequence(sequence.tracks), COCO17)
    rotations = PoseSequence([PoseTrack(0, 0, np.zeros((2, 17, 6)))], keypoint_names=COCO17.keypoints)
    with pytest.raises(ValueError, match="it holds rotations"):
        convert_sequence(rotations, COCO17)
    assert convert_sequence(sequence, CROWDPOSE14).keypoint_names == CROWDPOSE14.keypoints


def test_own_files(sequence, tmp_path):
    for name in ("poses.npz", "poses.json"):
        sequence.save(tmp_path / name)
        found = read_poses(tmp_path / name, frame_rate=50)
        assert_same(found, sequence)
        assert found.frame_rate == 50
    with pytest.raises(TypeError, match=r"'track'.* whose tracks are known"):
        read_poses(tmp_path / name, track="single")


@pytest.mark.parametrize("write", [write_coco, write_alphapose, write_openpose])
def test_what_cannot_be_written(write, tmp_path):
    deep = PoseSequence([PoseTrack(0, 0, np.zeros((2, 17, 3)))], keypoint_names=COCO17.keypoints)
    named = PoseSequence([PoseTrack("anna", 0, np.zeros((2, 17, 2)))], keypoint_names=COCO17.keypoints)
    with pytest.raises(ValueError, match="2 dims for this format"):
        write(deep, tmp_path / "poses")
    with pytest.raises(ValueError, match=r"integers for track identifiers in this format, got \['anna'\]"):
        write(named, tmp_path / "poses")
    assert not list(tmp_path.iterdir())


GOOD = {"image_id": 0, "keypoints": flat(person()), "score": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "cannot be read as JSON"),
        (b"\xff\xfe\x00\x01", "cannot be read as JSON"),
        ('{"annotations": [], "images": []}', "no format that the package knows: .*not annotations"),
        ("3", "no format that the package knows"),
        ([{"image_id": 0}], r"result 0 of .* lacks \['keypoints'\]"),
        ([GOOD, {**GOOD, "keypoints": GOOD["keypoints"][:-1]}], "'keypoints' of result 1 of .* no multiple of 3"),
        ([GOOD, {**GOOD, "keypoints": GOOD["keypoints"][:42]}], "same keypoints, but one of frame 0 has 14, "),
        ([{**GOOD, "keypoints": flat(person(count=20))}], "result 0 of .* has 20 keypoints a person"),
        ([{**GOOD, "keypoints": "1 2 3"}], "must be a list of numbers x, y, score, got str"),
        ([{**GOOD, "keypoints": [None, "a", 1]}], "must hold numbers"),
        ([{**GOOD, "image_id": None}], "an `image_id` that is or ends in the number"),
        ([{**GOOD, "image_id": -3}], "an `image_id` that is or ends in the number"),
        ([{**GOOD, "image_id": 397133}, {**GOOD, "image_id": 37777}], "no numbers of frames; pass `frame_ids`"),
        ([{**GOOD, "bbox": [1, 2, 3]}], "box of result 0 of .* must be x, y, width, height"),
        ([{**GOOD, "score": "high"}], "'score' of result 0 of .* must hold numbers"),
        ([{**GOOD, "track_id": 1}, {**GOOD, "track_id": 1}], "two persons of track 1 in frame 0"),
    ],
)
def test_bad_files(text, message, tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(
        text if isinstance(text, bytes) else (text if isinstance(text, str) else json.dumps(text)).encode()
    )
    with pytest.raises(ValueError, match=message):
        read_poses(path)


def test_bad_openpose_folders(tmp_path):
    def refused(message, name=None, people=None, **data):
        if name is not None:
            data = {"people": people, **data} if people is not None else data
            (tmp_path / name).write_text(json.dumps(data))
        with pytest.raises(ValueError, match=message):
            read_poses(tmp_path)
        for file in tmp_path.iterdir():
            file.unlink()

    good = {"pose_keypoints_2d": flat(person(count=25))}
    refused("has no .json file")
    refused(
        "'a_0_keypoints.json', which is no file of OpenPose: it has no list 'people'", "a_0_keypoints.json", bodies=[]
    )
    refused("has 24 keypoints a person", "a_0_keypoints.json", [{"pose_keypoints_2d": flat(person(count=24))}])
    refused("no multiple of 3", "a_0_keypoints.json", [{"pose_keypoints_2d": [1.0, 2.0]}])
    refused("must be a list of numbers x, y, score, got NoneType", "a_0_keypoints.json", [{}])
    refused("a list 'people' of objects, got list in it", "a_0_keypoints.json", [[1, 2]])
    small = {"pose_keypoints_2d": flat(person(count=25) / 1000)}
    refused(r"normalised coordinates \(--keypoint_scale 3 or 4\), at most 0.24", "a_0_keypoints.json", [small])
    (tmp_path / "first.json").write_text(json.dumps({"people": [good]}))
    refused("names end in the number of the frame.*got 'first.json'", "a_1.json", [good])
    (tmp_path / "b_0_keypoints.json").write_text(json.dumps({"people": [good]}))
    refused("several files of one frame", "a_0_keypoints.json", [good])
    (tmp_path / "a_0_keypoints.json").write_text("{")
    refused("cannot be read as JSON")
    (tmp_path / "a_0_keypoints.json").write_text(json.dumps({"people": [good]}))
    refused("file names give 5000001 frames", "a_5000000_keypoints.json", [good])


def test_bad_paths(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_poses(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="does not exist"):
        read_poses(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match=r"`format` must be one of \['coco', .*\] or None, got 'bvh'"):
        read_poses(tmp_path, "bvh")
    (tmp_path / "clip.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom\xff\xff")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read_poses(tmp_path / "clip.mp4")
