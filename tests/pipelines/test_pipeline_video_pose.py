"""Poses in videos, with a stand-in for a pose model that finds the red in a crop, so that every pose is known."""

import json
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BatchFeature
from transformers.utils import ModelOutput

from hvmodels import DeciWatchConfig, PoseEstimationPipeline, SmoothNetConfig, VideoPoseEstimationPipeline
from hvmodels.keypoint_sets import COCO17
from hvmodels.models.pose_sequence import (
    DeciWatchFeatureExtractor,
    DeciWatchForPoseRecovery,
    SmoothNetFeatureExtractor,
    SmoothNetForPoseRefinement,
)
from hvmodels.pipelines.person_search import MotionMap, search_boxes
from hvmodels.pipelines.track_refinement import recover_sequence, smooth_sequence
from hvmodels.pose_sequences import PoseSequence, PoseTrack
from hvmodels.smoothing.filters import GaussianFilter
from hvmodels.video import VideoWriter, read_video


NAMES = ["nose", "left_shoulder", "right_shoulder", "left_ankle", "right_ankle"]
PLACES = torch.tensor([[0.0, -1.5], [1.5, -1.5], [-1.5, -1.5], [1.5, 1.5], [-1.5, 1.5]])  # in deviations of the red
SIZE, PERSON = (120, 90), (12, 30)


class RedConfig(PreTrainedConfig):
    model_type = "red_pose"
    keypoint_names: list[str] | None = None
    keypoint_sigmas: list[float] | None = None
    keypoint_links: list | None = None


@dataclass
class RedOutput(ModelOutput):
    keypoints: torch.Tensor | None = None
    scores: torch.Tensor | None = None


class RedModel(PreTrainedModel):
    """Keypoints about the middle of the red of a crop, in shares of the crop; the score is 1 if there is any."""

    config: RedConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.unused = nn.Parameter(torch.zeros(1))
        self.crops = 0
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, pixel_values):
        self.crops += len(pixel_values)
        red = pixel_values[:, 0].clamp(min=0) + 1e-9
        mass = red.sum(dim=(1, 2))
        moments = []
        for axis, length in ((2, red.shape[2]), (1, red.shape[1])):
            line = red.sum(dim=3 - axis)
            at = (torch.arange(length) + 0.5) / length
            mean = (line * at).sum(dim=1) / mass
            moments.append((mean, ((line * (at - mean[:, None]) ** 2).sum(dim=1) / mass).sqrt()))
        means, deviations = (torch.stack(values, dim=1)[:, None] for values in zip(*moments, strict=True))
        scores = (mass / red[0].numel() * 20).clamp(max=1)[:, None].expand(-1, len(NAMES))
        return RedOutput(means + PLACES * deviations, scores)


class RedProcessor:
    """Crops scaled by Pillow."""

    size = {"height": 32, "width": 32}

    def __call__(self, images, boxes, return_tensors):
        crops = []
        for image, image_boxes in zip(images, boxes, strict=True):
            for x, y, width, height in image_boxes:
                crop = image.resize((32, 32), Image.Resampling.BOX, box=(x, y, x + width, y + height))
                crop = np.asarray(crop, dtype=np.float32)
                crops.append(torch.tensor(crop[..., :1] - crop[..., 1:2]).permute(2, 0, 1) / 255)
        return BatchFeature({"pixel_values": torch.stack(crops)})

    def post_process_pose_estimation(self, outputs, boxes, threshold=None, target_sizes=None):
        rows = iter(zip(outputs.keypoints, outputs.scores, strict=True))
        results = []
        for image_boxes in boxes:
            persons = []
            for x, y, width, height in image_boxes:
                keypoints, scores = next(rows)
                points = keypoints * torch.tensor([width, height]) + torch.tensor([x, y])
                persons.append({"keypoints": points, "scores": scores})
            results.append(persons)
        return results


def make_pipeline(**options):
    config = RedConfig(keypoint_names=NAMES, keypoint_sigmas=[0.1] * 5, keypoint_links=[[1, 2], [1, 3], [2, 4]])
    options = {"smooth": None, "recover": None, **options}
    return VideoPoseEstimationPipeline(model=RedModel(config).eval(), image_processor=RedProcessor(), **options)


@pytest.fixture
def estimator():
    return make_pipeline()


def frame(*centres, size=SIZE):
    """Red persons about (x, y) on black."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y in centres:
        left, top = int(x) - PERSON[0] // 2, int(y) - PERSON[1] // 2
        image[max(top, 0) : max(top + PERSON[1], 0), max(left, 0) : max(left + PERSON[0], 0), 0] = 255
    return image


def walk(count=24, step=2):
    """One walks to the right."""
    return [frame((20 + step * t, 45)) for t in range(count)]


def box_of(x, y):
    return (x - 10, y - 18, 20, 36)


def middles(track):
    """(frames, 2)"""
    return track.keypoints.mean(axis=1) - (0, -0.3 * 1.0 * PERSON[1] / np.sqrt(12))


def detector(image):
    """Boxes of the red rectangles, by their columns."""
    columns = np.flatnonzero((np.asarray(image)[..., 0] > 128).any(axis=0))
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1) if len(columns) else []
    return [(float(group[0]) - 4, 25.0, len(group) + 8.0, 40.0) for group in groups]


def test_follows_the_person_of_a_box(estimator):
    frames = walk()
    sequence = estimator(frames, boxes=[box_of(20, 45)], frame_rate=10)
    assert (sequence.num_frames, sequence.num_detected_frames, sequence.frame_rate) == (24, 24, 10.0)
    assert sequence.image_size == SIZE and sequence.keypoint_names == tuple(NAMES) and sequence.unit == "pixel"
    (track,) = sequence.tracks
    assert (track.track_id, track.start, len(track)) == (1, 0, 24) and not track.missing.any()
    expected = np.array([(20 + 2 * t, 45) for t in range(24)])
    np.testing.assert_allclose(middles(track), expected, atol=1.0)
    width, height = (track.boxes[-1, 2:] - track.boxes[-1, :2]).tolist()
    assert 15 < width < 40 and 30 < height < 50  # the box fits, with a margin
    assert estimator.model.crops == 24


def test_follows_persons_through_a_gap(estimator):
    """One stands, one walks and is hidden for five frames; both keep their number, and the gap has no poses."""
    frames = [frame((20 + 2 * t, 45), (100, 45)) for t in range(20)]
    for t in range(8, 13):
        frames[t] = frame((100, 45))
    sequence = estimator(frames, boxes=[box_of(20, 45), box_of(100, 45)], frame_rate=10)
    walks, stands = sequence.tracks
    assert stands.missing.sum() == 0 and walks.missing.all(axis=1).nonzero()[0].tolist() == [8, 9, 10, 11, 12]
    np.testing.assert_allclose(middles(walks)[-1], (58, 45), atol=1.0)
    assert len(estimator(frames, boxes=[box_of(20, 45), box_of(100, 45)], max_gap=2)[1]) == 8


def test_gives_up_who_leaves_the_picture(estimator):
    sequence = estimator(walk(80), boxes=[box_of(20, 45)], frame_rate=30)
    (track,) = sequence.tracks
    assert 48 <= track.end <= 56 and sequence.num_frames == sequence.num_detected_frames == 80


def test_two_boxes_that_come_upon_one_person_are_one(estimator):
    frames = [frame((60, 45)) for _ in range(6)]
    sequence = estimator(frames, boxes=[box_of(60, 45), box_of(58, 45)], frame_rate=3)
    assert [len(track) for track in sequence.tracks] == [6]


def test_finds_a_person_without_a_box():
    """A red thing stands at the left, a person walks at the right."""
    estimator = make_pipeline()
    frames = [frame((20, 45), (80 + t, 50)) for t in range(24)]
    sequence = estimator(frames, frame_rate=12)
    (track,) = sequence.tracks
    assert len(track) == 24
    np.testing.assert_allclose(middles(track)[3:], [(80 + t, 50) for t in range(3, 24)], atol=1.5)


def test_searches_again_once_a_second(estimator):
    """Nobody is there for two seconds; an iterator cannot be looked ahead into."""
    frames = [frame() for _ in range(21)] + walk(20)
    sequence = estimator(iter(frames), frame_rate=10)
    (track,) = sequence.tracks
    assert track.start == 30 and track.end == 41
    assert estimator.model.crops <= 4 * (len(search_boxes(SIZE)) + 8) + 11
    assert estimator([frame()] * 3).tracks == ()


def test_detector_and_tracker(estimator):
    """Two cross; both come and go as the detector sees them."""
    frames = [frame((20 + 2 * t, 45), (100 - 2 * t, 45)) for t in range(40)]
    sequence = estimator(frames, detector=detector, frame_rate=10)
    assert {track.track_id for track in sequence.tracks} == {1, 2}
    first, second = sequence[1], sequence[2]
    np.testing.assert_allclose(middles(first)[[0, -1]], [(20, 45), (98, 45)], atol=1)
    np.testing.assert_allclose(middles(second)[[0, -1]], [(100, 45), (22, 45)], atol=1)
    assert sequence.num_detected_frames == 40 and make_pipeline(detector=detector)(frames[:3]).track_ids == [1, 2]


def test_every_nth_frame(estimator):
    """Only frames 0, 10, 20 and the last are looked at; between them the person moves on straight lines."""
    seen = []

    def watched(image):
        seen.append(detector(image))
        return seen[-1]

    sequence = estimator(iter(walk(24)), detector=watched, interval=10, frame_rate=10)
    assert len(seen) == sequence.num_detected_frames == 4 and sequence.num_frames == 24
    (track,) = sequence.tracks
    np.testing.assert_allclose(middles(track), [(20 + 2 * t, 45) for t in range(24)], atol=0.5)
    assert not track.missing.any() and np.isfinite(track.boxes).all() and np.isfinite(track.person_scores).all()
    followed = estimator(walk(21, step=1), boxes=[box_of(20, 45)], interval=10, frame_rate=10)
    assert followed.num_detected_frames == 3
    np.testing.assert_allclose(middles(followed[1]), [(20 + t, 45) for t in range(21)], atol=1.5)


def test_scores_fall_where_nobody_was_found():
    keypoints = np.full((31, 5, 2), np.nan, np.float32)
    keypoints[[0, 10, 30]] = np.array([0.0, 10.0, 30.0])[:, None, None]
    scores = np.where(np.isnan(keypoints[..., 0]), np.nan, 0.8)
    track = PoseTrack(1, 0, keypoints, scores, None, scores[:, 0])
    (track,) = recover_sequence(PoseSequence([track], 31), None, 10).tracks
    np.testing.assert_allclose(track.keypoints[:, 2, 1], np.arange(31))
    np.testing.assert_allclose(track.person_scores[[0, 5, 10, 15, 20, 25, 30]], [0.8, 0.8, 0.8, 0.4, 0, 0.4, 0.8])


def person(x, y=45.0, score=0.9, **more):
    points = [(x, y), (x + 5, y - 12), (x - 5, y - 12), (x + 5, y + 12), (x - 5, y + 12)]
    keypoints = [{"label": name, "x": px, "y": py, "score": 0.8} for name, (px, py) in zip(NAMES, points, strict=True)]
    box = {"xmin": x - 8, "ymin": y - 16, "xmax": x + 8, "ymax": y + 16}
    return {"score": score, "label": "person", "box": box, "keypoints": keypoints, **more}


def test_given_poses(estimator):
    """Are tracked, unless they say who is who; the model rests. A sequence goes in as it came out."""
    frames, poses = [frame()] * 12, [[person(20 + t), person(90 - t)] for t in range(12)]
    sequence = estimator(frames, poses=poses)
    assert sequence.track_ids == [1, 2] and estimator.model.crops == 0 and sequence.num_detected_frames == 12
    np.testing.assert_allclose(sequence[2].keypoints[:, 0, 0], 90 - np.arange(12))
    again = estimator(frames, poses=sequence)
    np.testing.assert_array_equal(again[2].keypoints, sequence[2].keypoints)
    named = [[person(20 + t, track_id="b"), person(90 - t, track_id="a")] for t in range(12)]
    assert estimator(frames, poses=iter(named)).track_ids == ["b", "a"]
    sparse = estimator(frames, poses=poses, interval=4)
    assert sparse.num_detected_frames == 4
    np.testing.assert_allclose(sparse[2].keypoints, sequence[2].keypoints, atol=1e-4)


def test_smoothing(estimator):
    random = np.random.default_rng(0)
    poses = [[person(20 + t + random.normal(0, 2))] for t in range(40)]
    poses[10], poses[11] = [], []
    raw = estimator([frame()] * 40, poses=poses)[1]
    assert raw.missing[[10, 11]].all() and raw.missing.sum() == 10
    for smooth in (GaussianFilter(2.0), "gaussian", "savitzky-golay", "one-euro"):
        track = estimator([frame()] * 40, poses=poses, smooth=smooth)[1]
        assert not track.missing.any() and (track.scores[[10, 11]] == 0).all() and track.scores[12, 0] > 0
        jitter = [np.abs(np.diff(values, 2, axis=0))[15:].mean() for values in (track.keypoints, raw.keypoints)]
        assert jitter[0] < 0.6 * jitter[1]
    twice = smooth_sequence(PoseSequence([PoseTrack(1, 0, 2 * raw.keypoints)]), OneEuro())
    once = smooth_sequence(PoseSequence([PoseTrack(1, 0, raw.keypoints)]), OneEuro())
    np.testing.assert_allclose(twice[1].keypoints, 2 * once[1].keypoints, rtol=1e-5)  # whatever the person's size


def OneEuro():  # noqa: N802
    from hvmodels.smoothing.filters import OneEuroFilter

    return OneEuroFilter()


def test_a_joint_that_is_never_there_stays_away(estimator):
    poses = [[person(20 + t)] for t in range(8)]
    for (entry,) in poses:
        entry["keypoints"][1] |= {"x": 0.0, "y": 0.0, "score": 0.0}
    track = estimator([frame()] * 8, poses=poses, smooth="gaussian")[1]
    assert track.missing[:, 1].all() and not track.missing[:, [0, 2, 3, 4]].any()


@pytest.mark.parametrize(
    ("smooth", "interval", "delay"), [(None, 1, 0), (None, 4, 3), ("gaussian", 1, 8), ("gaussian", 4, 11)], ids=str
)
def test_stream_equals_the_call(estimator, smooth, interval, delay):
    """At the full delay, where nothing is missed; scores of the frames between are those of the last one looked at."""
    random = np.random.default_rng(0)
    poses = [[person(20 + t + random.normal(0, 2))] for t in range(25)]
    for t in range(12, 25):
        poses[t] = [person(70 - t), *poses[t]]
    options = {"poses": poses, "smooth": smooth, "interval": interval}
    expected = estimator([frame()] * 25, **options)
    taken = []
    stream = estimator.stream((taken.append(t) or frame() for t in range(25)), **options)
    assert stream.delay == delay
    found = []
    for persons in stream:
        found.append(persons)
        assert len(taken) <= min(len(found) + delay + 1, 25)
    streamed = PoseSequence.from_frames(found)
    assert streamed.num_frames == 25 and set(streamed.track_ids) == set(expected.track_ids) == {1, 2}
    for track_id in streamed.track_ids:
        first, second = streamed[track_id], expected[track_id]
        assert first.start == second.start
        np.testing.assert_allclose(first.keypoints, second.keypoints, atol=1e-3)
        np.testing.assert_allclose(first.boxes[::interval], second.boxes[::interval])
        np.testing.assert_allclose(first.scores, second.scores)


def test_stream_marks_who_is_missed(estimator):
    poses = [[person(20.0 + t)] for t in range(12)]
    poses[4] = []
    found = list(estimator.stream([frame()] * 12, poses=poses, interval=2))
    assert [persons[0]["keypoints"][0]["score"] for persons in found[:3]] == [0.8] * 3
    assert found[4] == found[3] == []  # a gap of three frames is more than `interval` bridges
    assert found[9][0]["keypoints"][0]["x"] == pytest.approx(29)
    assert found[9][0]["box"]["xmin"] == pytest.approx(21)


def test_stream_by_a_model(estimator):
    config = SmoothNetConfig(window_size=4, hidden_size=8, intermediate_size=4, num_hidden_layers=1)
    pair = (SmoothNetForPoseRefinement(config).eval(), SmoothNetFeatureExtractor())
    poses = [[person(20.0 + t)] for t in range(12)]
    stream = estimator.stream([frame()] * 12, poses=poses, smooth=pair)
    assert stream.delay == 3 and estimator.stream([frame()] * 12, poses=poses, smooth=pair, delay=1).delay == 1
    streamed = PoseSequence.from_frames(stream)
    expected = estimator([frame()] * 12, poses=poses, smooth=pair)
    np.testing.assert_allclose(streamed[1].keypoints, expected[1].keypoints, rtol=1e-4)
    assert np.abs(expected[1].keypoints[:, 0, 0] - 20 - np.arange(12)).max() > 0.1
    for name, value in (("output", "a.npz"), ("output_video", "a.mp4"), ("recover", "deciwatch-2d")):
        with pytest.raises(ValueError, match=f"`{name}` cannot be used with `stream`"):
            estimator.stream([frame()], **{name: value})


def deciwatch(interval=4):
    """A DeciWatch that draws straight lines: all it adds to them is 0."""
    config = DeciWatchConfig(
        num_joints=5, joint_dim=2, sample_interval=interval, num_intervals=2, hidden_size=8, intermediate_size=8,
        encoder_layers=1, decoder_layers=1, num_attention_heads=2,
    )  # fmt: skip
    model = DeciWatchForPoseRecovery(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "coder_head" in name:
                parameter.zero_()
    return model, DeciWatchFeatureExtractor(sample_interval=interval, keypoint_names=NAMES)


@pytest.mark.parametrize("interval", [4, 2, 8])
def test_recovery_by_deciwatch(estimator, interval):
    """Also where its own interval is another."""
    poses = [[person(20.0 + t, track_id="a")] for t in range(26)]
    poses[8] = []
    sequence = estimator([frame()] * 26, poses=poses, interval=interval, recover=deciwatch())
    expected = 20 + np.arange(26)
    np.testing.assert_allclose(sequence["a"].keypoints[:, 0, 0], expected, atol=0.3)
    assert sequence.num_detected_frames == len({*range(0, 26, interval), 25})
    assert sequence["a"].scores[8, 0] == 0 and sequence["a"].scores[0, 0] == pytest.approx(0.8)


def test_writes_poses_and_video(estimator, tmp_path):
    frames, video = walk(12), tmp_path / "walk.mp4"
    with VideoWriter(video, 12) as writer:
        for image in frames:
            writer.write(image)
    for source, name in ((str(video), "file"), (iter(frames), "iterator"), (frames, "list")):
        out = {"output": tmp_path / name / "poses.npz", "output_video": tmp_path / name / "poses.mp4"}
        sequence = estimator(source, boxes=[box_of(20, 45)], frame_rate=12, trails=5, **out)
        loaded = PoseSequence.load(out["output"])
        np.testing.assert_array_equal(loaded[1].keypoints, sequence[1].keypoints)
        drawn = read_video(out["output_video"])
        assert drawn.size == SIZE and drawn.frame_rate == 12
        images = [item.image for item in drawn]
        assert len(images) == 12 and all(image[..., 1:].max() > 100 for image in images)  # no longer black and red
    out = tmp_path / "both.mp4"
    estimator(video, boxes=[box_of(20, 45)], output_video=out, layout="side_by_side", output=tmp_path / "poses.json")
    assert read_video(out).size == (240, 90) and json.loads((tmp_path / "poses.json").read_text())["num_frames"] == 12
    left = next(iter(read_video(out))).image[:, :120]
    assert np.abs(left.astype(int) - frames[0]).mean() < 8


def test_of_one_frame_and_nobody(estimator, tmp_path):
    sequence = estimator([frame((60, 45))], boxes=[box_of(60, 45)], interval=10, smooth="gaussian")
    assert sequence.num_frames == len(sequence[1]) == 1
    empty = estimator([frame()] * 3, poses=[[], [], []], output=tmp_path / "a.npz", output_video=tmp_path / "a.mp4")
    assert empty.tracks == () and empty.keypoint_names == tuple(NAMES) and len(list(empty.frames())) == 3


def test_options_once_and_for_all():
    estimator = make_pipeline(interval=5, boxes=[box_of(20, 45)], threshold=0.2)
    assert estimator(walk(11)).num_detected_frames == 3
    assert estimator(walk(11), interval=1).num_detected_frames == 11


def test_refuses(estimator, tmp_path):
    frames = walk(3)
    refused = [
        ({"interval": 0}, "`interval` must be an integer from 1 on, got 0"),
        ({"interval": 2.5}, "`interval` must be an integer"),
        ({"max_gap": -1}, "`max_gap` must be an integer from 0 on"),
        ({"layout": "above"}, "`layout` must be one of"),
        ({"output": tmp_path / "a.txt"}, r"`output` must end in \.npz or \.json"),
        ({"output_video": tmp_path / "a.gif"}, r"must be named \.mp4"),
        ({"boxes": [(0, 0, 5, 5)], "poses": [[]] * 3}, "`boxes` and `poses` were both given"),
        ({"boxes": [(0, 0, 5, 5)], "detector": detector}, "`boxes` and `detector` were both given"),
        ({"boxes": [(500, 0, 5, 5)]}, "`boxes` must not lie outside"),
        ({"poses": [[]]}, r"`poses` must have a list of persons for each frame; there are 1 only"),
        ({"poses": [[{"keypoints": 3}]] * 3}, "`poses` must have for each frame a list of persons"),
        ({"frame_rate": 0}, "`frame_rate` must be a positive number"),
        ({"smooth": "no/such"}, "`smooth` must be one-euro, savitzky-golay, gaussian, a model's folder"),
        ({"recover": "no/such"}, "`recover` must be a model's folder"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            estimator(frames, **options)
    for options, message in [
        ({"poses": "poses.json"}, "`poses` must be a PoseSequence"),
        ({"smooth": 3}, "`smooth` must be a name or folder"),
        ({"recover": GaussianFilter()}, "`recover` must be a name or folder"),
        ({"colour": "red"}, r"Unknown arguments \['colour'\]"),
    ]:
        with pytest.raises(TypeError, match=message):
            estimator(frames, **options)
    with pytest.raises(ValueError, match="`interval`"):
        make_pipeline(interval=0)
    assert isinstance(estimator, PoseEstimationPipeline)


def test_refuses_to_write_over_the_video(estimator, tmp_path):
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(frame((60, 45)))
    with pytest.raises(ValueError, match="`output_video` must be another file"):
        estimator(tmp_path / "a.mp4", boxes=[box_of(60, 45)], output_video=tmp_path / "a.mp4")


def test_motion_tells_the_boxes():
    motion = MotionMap()
    boxes = [(0.0, 0.0, 40.0, 90.0), (80.0, 0.0, 40.0, 90.0), (0.0, 0.0, 120.0, 90.0)]
    assert motion.weights(boxes).tolist() == [1, 1, 1]
    for t in range(5):
        motion.add(
            np.roll(
                np.full((90, 120, 3), 200, np.uint8) * (np.arange(120) > 100)[None, :, None], -4 * t, axis=1
            ).astype(np.uint8)
        )
    weights = motion.weights(boxes)
    assert weights[1] > weights[2] > weights[0]


def test_memory_holds_a_few_frames(estimator):
    """Frames of an iterator are let go: never more than a handful are alive."""
    held, most = [], 0

    def frames():
        nonlocal most
        for _ in range(60):
            image = frame((30, 45))
            held.append(weakref.ref(image))
            most = max(most, sum(reference() is not None for reference in held))
            yield image

    estimator(frames(), boxes=[box_of(30, 45)], interval=4)
    assert most <= 4


@pytest.mark.parametrize(
    "names", [COCO17.keypoints, [f"marker {index}" for index in range(17)]], ids=["coco", "foreign"]
)
def test_given_poses_may_have_other_keypoints(estimator, tmp_path, names):
    """Than the model: their own spread and links are taken where they are known."""
    poses = []
    for t in range(6):
        points = [{"label": name, "x": 30.0 + t + i, "y": 20.0 + 2 * i, "score": 0.9} for i, name in enumerate(names)]
        poses.append([{"score": 0.9, "keypoints": points}])
    sequence = estimator([frame()] * 6, poses=poses, output_video=tmp_path / "a.mp4")
    assert sequence.track_ids == [1] and sequence.keypoint_names == tuple(names)
    np.testing.assert_allclose(sequence[1].keypoints[2:4, 0, 0], [32, 33], atol=1e-4)
