import numpy as np
import pytest
import torch

from hvmodels import DeciWatchConfig, DeciWatchForPoseRecovery, SmoothNetConfig, SmoothNetForPoseRefinement
from hvmodels.smoothing.filters import GaussianFilter, OneEuroFilter, SavitzkyGolayFilter
from hvmodels.smoothing.streaming import PoseStream


JOINTS, DIMS = 5, 2


def smoothnet(**config):
    torch.manual_seed(0)
    sizes = {"window_size": 8, "hidden_size": 16, "intermediate_size": 4, "num_hidden_layers": 2}
    return SmoothNetForPoseRefinement(SmoothNetConfig(**sizes | config)).eval()


def deciwatch(**config):
    torch.manual_seed(0)
    sizes = {"num_joints": JOINTS, "joint_dim": DIMS, "sample_interval": 3, "num_intervals": 4, "hidden_size": 8}
    sizes |= {"encoder_layers": 1, "decoder_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return DeciWatchForPoseRecovery(DeciWatchConfig(**sizes | config)).eval()


DECIWATCHES = {
    "deciwatch": deciwatch(),
    "deciwatch of persons": deciwatch(window_normalization="person"),
    "deciwatch with stride": deciwatch(window_stride_intervals=3, window_normalization="person"),
    "deciwatch of one interval": deciwatch(num_intervals=1, sample_interval=4),
    "deciwatch of every frame": deciwatch(sample_interval=1),
}
SMOOTHERS = DECIWATCHES | {
    "smoothnet": smoothnet(),
    "smoothnet of persons": smoothnet(window_normalization="person"),
    "smoothnet with stride": smoothnet(window_stride=3),
    "smoothnet of short outputs": smoothnet(output_size=5, window_stride=2),
    "one-euro": OneEuroFilter(0.3, 0.2),
    "savitzky-golay": SavitzkyGolayFilter(7, 2),
    "gaussian": GaussianFilter(1.0),
    "median": GaussianFilter(1.0, median_size=5),
}


def make_track(length, seed=0, joints=JOINTS, dims=DIMS):
    """A random walk of a person about one unit tall."""
    random = np.random.default_rng(seed)
    steps, places = random.normal(size=(length, joints, dims)), random.normal(size=(joints, dims))
    return (0.05 * steps.cumsum(axis=0) + 0.3 * places).astype(np.float32)


def offline(smoother, track):
    if isinstance(smoother, torch.nn.Module):
        with torch.no_grad():
            outputs = smoother(torch.tensor(track)[None])
        name = "refined_poses" if "refined_poses" in outputs else "recovered_poses"
        return outputs[name][0].numpy()
    return smoother.filter(track)


def run(stream, frames):
    """Push frames, check that they come out one by one after the delay, and give what came out."""
    results = []
    for number, poses in enumerate(frames):
        given = stream.push(poses)
        assert [frame for frame, _ in given] == ([number - stream.delay] if number >= stream.delay else [])
        results += given
    results += stream.flush()
    assert [frame for frame, _ in results] == list(range(len(frames)))
    return [poses for _, poses in results]


def frames_of(tracks, length):
    """Frames of tracks {track_id: (first frame, poses)}."""
    frames = [{} for _ in range(length)]
    for track_id, (start, poses) in tracks.items():
        for offset, pose in enumerate(poses):
            frames[start + offset][track_id] = pose
    return frames


@pytest.mark.parametrize("name", SMOOTHERS)
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 30])
def test_equals_the_whole_track_at_full_delay(name, length):
    smoother, track = SMOOTHERS[name], make_track(length)
    results = run(PoseStream(smoother), [{"a": pose} for pose in track])
    results = np.stack([poses["a"] for poses in results])
    assert results.dtype == np.float32 and results.shape == track.shape
    np.testing.assert_allclose(results, offline(smoother, track), atol=1e-6, rtol=1e-6)


def test_delay_is_as_stated():
    delays = {name: PoseStream(smoother).delay for name, smoother in SMOOTHERS.items()}
    assert [delay for name, delay in delays.items() if "smoothnet" in name] == [7, 7, 8, 8]
    assert {name: delay for name, delay in delays.items() if "net" not in name and "watch" not in name} == {
        "one-euro": 0,
        "savitzky-golay": 6,
        "gaussian": 4,
        "median": 6,
    }
    assert [delays[name] for name in DECIWATCHES] == [12, 12, 15, 4, 4]
    assert PoseStream(SMOOTHERS["smoothnet"], max_gap=3).delay == 10
    assert PoseStream(SMOOTHERS["smoothnet"], delay=4, max_gap=3).delay == 4


@pytest.mark.parametrize("name", SMOOTHERS)
def test_tracks_that_come_and_go(name):
    """Each comes out as it would alone, beside any number of others; a name that comes again is a new track."""
    smoother = SMOOTHERS[name]
    tracks = {
        f"track {index}": (start, make_track(length, index))
        for index, (start, length) in enumerate(
            [(0, 40), (3, 1), (5, 9), (5, 20), (12, 6), (13, 27), (30, 2), (39, 1), (14, 8), (14, 26), (2, 11)]
        )
    }
    frames = frames_of(tracks, 50)
    again = make_track(9, 99)
    for offset, pose in enumerate(again):
        frames[20 + offset]["track 2"] = pose
    results = run(PoseStream(smoother), frames)
    assert [set(poses) for poses in results] == [set(poses) for poses in frames]
    for track_id, (start, track) in [*tracks.items(), ("track 2", (20, again))]:
        values = np.stack([results[start + offset][track_id] for offset in range(len(track))])
        np.testing.assert_allclose(values, offline(smoother, track), atol=2e-6, rtol=1e-6, err_msg=track_id)


@pytest.mark.parametrize("delay", range(7))
def test_shorter_delay_is_the_mean_of_the_windows_seen(delay):
    model, track = SMOOTHERS["smoothnet of persons"], make_track(40)
    results = run(PoseStream(model, delay=delay), [{0: pose} for pose in track])
    results, whole = np.stack([poses[0] for poses in results]), offline(model, track)
    windows = torch.tensor(np.stack([track[start : start + 8] for start in range(33)]))
    with torch.no_grad():
        refined = model.refine_windows(windows).numpy()
    for frame in range(7, 40):
        seen = [refined[last - 7][7 - (last - frame)] for last in range(frame, min(frame + delay, 39) + 1)]
        np.testing.assert_allclose(results[frame], np.mean(seen, axis=0), atol=2e-6, err_msg=str(frame))
    # At the end no window is left to come.
    np.testing.assert_allclose(results[39 - delay :], whole[39 - delay :], atol=2e-6)
    # Before the first whole window it is filled up with the last pose.
    for frame in range(7 - delay):
        filled = torch.tensor(
            np.concatenate(
                [track[: frame + delay + 1], np.repeat(track[frame + delay][None], 7 - frame - delay, axis=0)]
            )
        )
        with torch.no_grad():
            expected = model.refine_windows(filled[None])[0, frame].numpy()
        np.testing.assert_allclose(results[frame], expected, atol=2e-6, err_msg=str(frame))


@pytest.mark.parametrize("name", [name for name in SMOOTHERS if name != "one-euro"])
def test_any_delay_gives_every_frame(name):
    smoother, track = SMOOTHERS[name], make_track(25)
    whole = offline(smoother, track)
    errors = []
    full = PoseStream(smoother).delay
    for delay in (0, 1, full // 2, full - 1, full):
        results = run(PoseStream(smoother, delay=delay), [{0: pose} for pose in track])
        results = np.stack([poses[0] for poses in results])
        assert np.isfinite(results).all()
        errors.append(np.abs(results - whole).max())
    assert errors[-1] < 2e-6 < errors[0]


@pytest.mark.parametrize("name", [name for name in SMOOTHERS if name not in DECIWATCHES])
def test_pauses_are_filled_by_lines(name):
    smoother, track = SMOOTHERS[name], make_track(30)
    filled = track.copy()
    frames = [{0: pose} for pose in track]
    for first, last in ((4, 4), (10, 12), (14, 15)):
        for frame in range(first, last + 1):
            share = (frame - first + 1) / (last - first + 2)
            filled[frame] = (1 - share) * track[first - 1] + share * track[last + 1]
            frames[frame] = {}
    stream = PoseStream(smoother, max_gap=3)
    assert stream.delay == PoseStream(smoother).delay + 3
    results = np.stack([poses[0] for poses in run(stream, frames)])
    np.testing.assert_allclose(results, offline(smoother, filled), atol=2e-6, rtol=1e-6)
    # The same pause is too long for less patience.
    results = run(PoseStream(smoother, max_gap=2), frames)
    assert [frame for frame, poses in enumerate(results) if not poses] == [10, 11, 12]
    np.testing.assert_allclose(
        np.stack([poses[0] for poses in results[:10]]), offline(smoother, filled[:10]), atol=2e-6, rtol=1e-6
    )
    np.testing.assert_allclose(
        np.stack([poses[0] for poses in results[13:]]), offline(smoother, filled[13:]), atol=2e-6, rtol=1e-6
    )


def test_missing_joints_are_filled():
    smoother, track = SMOOTHERS["smoothnet"], make_track(20)
    broken, filled = track.copy(), track.copy()
    broken[5, 1] = np.nan
    filled[5, 1] = (track[4, 1] + track[6, 1]) / 2
    broken[7:9, 2, 0] = np.nan  # one coordinate
    filled[7], filled[8] = filled[7], filled[8]
    filled[7, 2], filled[8, 2] = (2 * track[6, 2] + track[9, 2]) / 3, (track[6, 2] + 2 * track[9, 2]) / 3
    broken[12:, 3] = np.nan  # for good
    filled[12:, 3] = track[11, 3]
    broken[:2, 0] = np.nan  # at the beginning
    filled[:2, 0] = track[2, 0]
    broken[:9, 4] = np.nan  # too long: in the middle of the others, until it is near
    for frame in range(9):
        filled[frame, 4] = track[9, 4] if frame >= 7 else filled[frame, :4].mean(axis=0)
    broken[15] = np.nan  # a pose without any joint is a pause
    filled[15, :3] = (track[14, :3] + track[16, :3]) / 2
    filled[15, 4] = (track[14, 4] + track[16, 4]) / 2
    frames = [{"a": pose, "b": other} for pose, other in zip(broken, make_track(20, 1), strict=True)]
    results = run(PoseStream(smoother, max_gap=2), frames)
    values = np.stack([poses["a"] for poses in results])
    np.testing.assert_allclose(values, offline(smoother, filled), atol=2e-6, rtol=1e-6)
    values = np.stack([poses["b"] for poses in results])
    np.testing.assert_allclose(values, offline(smoother, make_track(20, 1)), atol=2e-6, rtol=1e-6)


def test_memory_is_bounded():
    stream = PoseStream(SMOOTHERS["smoothnet"], max_gap=2)
    track, sizes = make_track(300), []
    for number, pose in enumerate(track):
        # Always three at once, but a hundred in all.
        stream.push({number // 9: pose, "always": pose, (number + 4) // 9 + 1000: pose})
        sizes.append(sum(buffer.nbytes for buffer in stream._engine.buffers.values()))
        assert len(stream._tracks) <= 5 and len(stream._ended) <= 6 and len(stream._queue) <= 2
    assert sizes[-1] == sizes[40]


def test_stream_is_as_new_after_its_end():
    stream, track = PoseStream(SMOOTHERS["smoothnet"]), make_track(12)
    first = run(stream, [{0: pose} for pose in track])
    second = run(stream, [{0: pose} for pose in track])
    np.testing.assert_array_equal([poses[0] for poses in first], [poses[0] for poses in second])
    other = run(stream, [{0: pose} for pose in make_track(12, joints=3, dims=3)])
    assert other[0][0].shape == (3, 3)
    assert stream.flush() == []


def test_frames_without_persons_come_out_empty():
    assert run(PoseStream(SMOOTHERS["gaussian"]), [{} for _ in range(9)]) == [{} for _ in range(9)]


def test_types_of_poses():
    track = make_track(9).astype(np.float64)
    for poses, dtype in (
        (track, np.float64),
        (torch.tensor(track, dtype=torch.float32), np.float32),
        (track.tolist(), np.float64),
    ):
        results = run(PoseStream(SMOOTHERS["savitzky-golay"]), [{0: pose} for pose in poses])
        assert results[0][0].dtype == dtype
        np.testing.assert_allclose(
            [poses[0] for poses in results], offline(SMOOTHERS["savitzky-golay"], track), atol=1e-5
        )


def test_stride_of_ones_own():
    track = make_track(26)
    results = run(PoseStream(SMOOTHERS["smoothnet"], stride=3), [{0: pose} for pose in track])
    whole = offline(SMOOTHERS["smoothnet with stride"], track)
    np.testing.assert_allclose([poses[0] for poses in results], whole, atol=2e-6, rtol=1e-6)


def test_what_a_stream_refuses():
    model, pose = SMOOTHERS["smoothnet"], np.zeros((JOINTS, DIMS), np.float32)
    with pytest.raises(TypeError, match="`smoother` must be a model of pose refinement"):
        PoseStream(torch.nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"call `model.eval\(\)` first"):
        PoseStream(smoothnet().train())
    with pytest.raises(ValueError, match="`smoother` must not filter in blocks"):
        PoseStream(GaussianFilter(3, block_size=31))
    with pytest.raises(ValueError, match=r"`delay` must be from 0 .* to 7"):
        PoseStream(model, delay=8)
    with pytest.raises(ValueError, match=r"`delay` must be from 3 .* to 10"):
        PoseStream(model, delay=2, max_gap=3)
    with pytest.raises(ValueError, match="`max_gap` must be 0 or more"):
        PoseStream(model, max_gap=-1)
    for stride in (0, 9):
        with pytest.raises(ValueError, match="`stride` must be from 1 to 8"):
            PoseStream(model, stride=stride)
    with pytest.raises(ValueError, match="`stride` is for models"):
        PoseStream(OneEuroFilter(), stride=2)
    stream = PoseStream(model)
    with pytest.raises(TypeError, match="`poses` must be a dict of poses by track id, got list"):
        stream.push([pose])
    with pytest.raises(ValueError, match=r"`poses` must hold poses of shape \(joints, dims\)"):
        stream.push({0: np.zeros(10)})
    stream.push({0: pose})
    with pytest.raises(ValueError, match=r"first pose, \(5, 2\), got \(5, 3\) for track 'b'"):
        stream.push({0: pose, "b": np.zeros((5, 3))})
    with pytest.raises(ValueError, match="infinite"):
        stream.push({0: np.full_like(pose, np.inf)})


@pytest.mark.parametrize("name", DECIWATCHES)
@pytest.mark.parametrize("length", [1, 3, 4, 13, 14, 31, 32])
def test_deciwatch_needs_only_the_sampled_poses(name, length):
    model, track = DECIWATCHES[name], make_track(length)
    step = model.config.sample_interval
    given = {*range(0, length, step), length - 1}
    frames = [{0: pose} if frame in given else {} for frame, pose in enumerate(track)]
    results = np.stack([poses[0] for poses in run(PoseStream(model), frames)])
    np.testing.assert_allclose(results, offline(model, track), atol=2e-6, rtol=1e-6)


def test_deciwatch_goes_on_until_a_sampled_pose_is_missing():
    model, track = DECIWATCHES["deciwatch"], make_track(40)
    frames = [{0: pose} if frame % 3 == 0 and frame not in (9, 21, 24) else {} for frame, pose in enumerate(track)]
    results = run(PoseStream(model, max_gap=3), frames)
    assert [frame for frame, poses in enumerate(results) if not poses] == list(range(19, 27))
    filled = track.copy()
    filled[9] = (track[6] + track[12]) / 2
    np.testing.assert_allclose([poses[0] for poses in results[:19]], offline(model, filled[:19]), atol=2e-6)
    np.testing.assert_allclose([poses[0] for poses in results[27:]], offline(model, filled[27:]), atol=2e-6)
    # With the stream a track ends only where it is over, even if its next pose would have been due later.
    assert set(run(PoseStream(model), frames[:38])[-1]) == {0}
    assert run(PoseStream(model), [*frames[:38], {}, {}])[-1] == {}


def test_deciwatch_refuses_other_poses():
    with pytest.raises(ValueError, match=r"the model is made for, \(5, 2\), got \(5, 3\)"):
        PoseStream(DECIWATCHES["deciwatch"]).push({0: np.zeros((5, 3))})
    with pytest.raises(ValueError, match="a multiple of `sample_interval`, 3, got 4"):
        PoseStream(DECIWATCHES["deciwatch"], stride=4)
