import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hvmodels.metrics.pose_sequence import (
    acceleration_error,
    acceleration_errors,
    align_poses,
    hardest_mpjpe,
    joint_errors,
    mean_over_actions,
    mpjpe,
    mpjve,
    mpvpe,
    n_mpjpe,
    pa_mpjpe,
    root_relative,
    scale_poses,
    sequence_pck,
    summarize_pose_sequences,
    velocity_errors,
    weighted_mpjpe,
)
from tests.reference_cases import reference_case, reference_folder


def random_rotation(random, dims):
    matrix = np.linalg.qr(random.normal(size=(dims, dims)))[0]
    matrix[:, 0] *= np.linalg.det(matrix)
    return matrix


@pytest.mark.parametrize("dims", [2, 3])
def test_similarity_transforms_are_undone(dims):
    random = np.random.default_rng(0)
    targets = random.normal(size=(4, 5, 17, dims)) * 300
    moved = targets @ random_rotation(random, dims) * 0.3 + random.normal(size=(4, 5, 1, dims)) * 1000
    np.testing.assert_allclose(align_poses(moved, targets), targets, atol=1e-9)
    assert pa_mpjpe(moved, targets) < 1e-9 < mpjpe(moved, targets)


def test_mirrored_poses_are_not_turned_over():
    targets = np.random.default_rng(0).normal(size=(3, 17, 3))
    mirrored = targets * [-1, 1, 1]
    assert (joint_errors(mirrored, targets, align=True).mean(axis=-1) > 0.1).all()
    flat = targets * [1, 1, 0]  # a plane can be turned over
    assert pa_mpjpe(flat * [-1, 1, 1], flat) < 1e-9


def test_alignment_is_the_best_one():
    """No other rotation, scale or translation near it has a smaller squared error."""
    random = np.random.default_rng(1)
    predictions, targets = random.normal(size=(2, 1, 17, 3))
    aligned = align_poses(predictions, targets)
    best = np.square(aligned - targets).sum()
    for _ in range(50):
        angles = random.normal(size=(3, 3)) * 1e-3
        turn = np.linalg.qr(np.eye(3) + angles - angles.T)[0]
        turn *= np.sign(np.diag(turn))
        other = aligned @ turn * (1 + random.normal() * 1e-3) + random.normal(size=3) * 1e-3
        assert np.square(other - targets).sum() > best


def test_degenerate_poses():
    random = np.random.default_rng(2)
    targets = random.normal(size=(17, 3))
    spread = np.linalg.norm(targets - targets.mean(axis=0), axis=-1).mean()
    for point in ([0.0, 0.0, 0.0], [0.1, 1e6, -3.3]):  # every joint in one place: no turn and no scale are known
        assert pa_mpjpe(np.broadcast_to(point, (17, 3)), targets) == pytest.approx(spread)
    assert pa_mpjpe(targets, np.full((17, 3), 2.5)) == pytest.approx(0, abs=1e-12)  # shrinks to the point
    line = np.linspace(-1, 1, 17)[:, None] * [1.0, 2.0, 3.0]
    assert pa_mpjpe(line @ random_rotation(random, 3), line) < 1e-12
    for factor in (1e-200, 1e-12, 1e150):
        assert pa_mpjpe(targets * factor, targets) < 1e-9


def test_errors_are_distances():
    targets = np.zeros((2, 3, 3))
    predictions = np.zeros((2, 3, 3))
    predictions[0, 1] = 3, 4, 0
    predictions[1, 2] = 0, 0, 12
    np.testing.assert_array_equal(joint_errors(predictions, targets), [[0, 5, 0], [0, 0, 12]])
    assert mpjpe(torch.tensor(predictions), torch.tensor(targets)) == pytest.approx(17 / 6)
    np.testing.assert_array_equal(root_relative(predictions, 1)[0], predictions[0] - [3, 4, 0])


@pytest.mark.parametrize("metric", [mpjpe, pa_mpjpe])
def test_refuses(metric):
    poses = np.zeros((2, 17, 3))
    for wrong in (np.nan, np.inf):
        broken = poses.copy()
        broken[1, 3, 2] = wrong
        with pytest.raises(ValueError, match="`predictions` must be finite"):
            metric(broken, poses)
        with pytest.raises(ValueError, match="`targets` must be finite"):
            metric(poses, broken)
    with pytest.raises(ValueError, match="same shape"):
        metric(poses, poses[:1])
    with pytest.raises(ValueError, match=r"shape \(\.\.\., joints, dims\)"):
        metric(np.zeros(51), np.zeros(51))
    with pytest.raises(ValueError, match="one pose at least"):
        metric(poses[:0], poses[:0])
    for wrong in (17, [], [0, 17], -1):
        with pytest.raises(ValueError, match="`root_index` must be one or more of the 17"):
            root_relative(poses, wrong)


def test_root_may_be_the_mean_of_several_joints():
    poses = np.random.default_rng(0).normal(size=(4, 17, 3))
    np.testing.assert_allclose(root_relative(poses, [2, 3]), poses - (poses[:, 2:3] + poses[:, 3:4]) / 2)
    np.testing.assert_array_equal(root_relative(poses, [2]), root_relative(poses, 2))


@pytest.mark.parametrize("dims", [2, 3])
def test_alignment_is_that_of_each_pose_whatever_the_number_of_frames(dims):
    predictions, targets = np.random.default_rng(0).normal(size=(2, 7, 17, dims))
    alone = [joint_errors(*pair, align=True) for pair in zip(predictions, targets, strict=True)]
    for frames in range(1, 8):
        errors = joint_errors(predictions[:frames], targets[:frames], align=True)
        np.testing.assert_allclose(errors, alone[:frames], rtol=1e-12)


def test_acceleration_errors_count_second_differences():
    times = np.arange(6.0)
    targets = np.zeros((6, 2, 3))
    predictions = np.zeros((6, 2, 3))
    predictions[:, 0, 1] = 5 + 3 * times  # no acceleration
    predictions[:, 1, 0], predictions[:, 1, 2] = 3 * times**2 / 2, -4 * times**2 / 2  # 3 and 4 a frame squared
    np.testing.assert_allclose(acceleration_errors(predictions, targets), [[0, 5]] * 4, atol=1e-12)
    assert acceleration_error(torch.tensor(predictions), targets) == pytest.approx(2.5)
    assert acceleration_error(predictions, targets, zero_ends=True) == pytest.approx(2.5 * 4 / 6)
    assert acceleration_errors(np.stack([predictions] * 3), np.stack([targets] * 3)).shape == (3, 4, 2)
    for frames in (1, 2):
        assert acceleration_error(predictions[:frames], targets[:frames], zero_ends=True) == 0
        with pytest.raises(ValueError, match="an acceleration three frames"):
            acceleration_error(predictions[:frames], targets[:frames])
    with pytest.raises(ValueError, match=r"shape \(\.\.\., frames, joints, dims\)"):
        acceleration_error(predictions[0], targets[0])


def test_vertices_count_as_they_stand():
    targets = np.random.default_rng(0).normal(size=(3, 100, 3))
    assert mpvpe(targets + np.array([0, 3, 4]), targets) == pytest.approx(5)


def test_sequences_weigh_the_same_in_pck():
    targets = [np.zeros((8, 2, 2)), np.zeros((2, 2, 2))]
    predictions = [sequence.copy() for sequence in targets]
    predictions[0][:, 1] = 20.1, 0  # just outside a fifth of 100
    predictions[1][0] = 0, 10
    boxes = [np.tile([0, 0, 30, 100], (8, 1)), np.tile([50, 20, 150, 40], (2, 1))]
    assert sequence_pck(predictions, targets, boxes) == pytest.approx((0.5 + 1) / 2)
    assert sequence_pck(predictions, targets, boxes, threshold=0.05) == pytest.approx((0.5 + 0.5) / 2)
    assert sequence_pck(predictions, targets, boxes, threshold=0.1) == pytest.approx((0.5 + 1) / 2)
    with pytest.raises(ValueError, match=r"`boxes` must have shape \(8, 4\)"):
        sequence_pck(predictions, targets, [boxes[0][:-1], boxes[1]])
    with pytest.raises(ValueError, match="`boxes` must have 2 sequences"):
        sequence_pck(predictions, targets, boxes[:1])
    with pytest.raises(ValueError, match="positive sizes"):
        sequence_pck(predictions, targets, [boxes[0] * 0 + 5, boxes[1]])
    boxes[1] *= 0  # padding: only the very place counts
    assert sequence_pck(predictions, targets, boxes) == pytest.approx((0.5 + 0.5) / 2)


def test_hardest_frames():
    targets = [np.zeros((150, 2, 3)), np.zeros((50, 2, 3))]
    predictions = [np.random.default_rng(0).uniform(0, 1, size=sequence.shape) for sequence in targets]
    inputs = [sequence.copy() for sequence in predictions]
    inputs[1][7], inputs[0][3] = 10, 20
    figures = summarize_pose_sequences(predictions, targets, inputs, root_index=None, zero_ends=True)
    assert figures["input_MPJPE_top1"] == pytest.approx(15 * 3**0.5)
    expected = [
        joint_errors(predictions[1][7], targets[1][7]).mean(),
        joint_errors(predictions[0][3], targets[0][3]).mean(),
    ]
    assert figures["MPJPE_top1"] == pytest.approx(np.mean(expected))
    alone = summarize_pose_sequences(predictions, targets, root_index=None)
    assert set(alone) == {"MPJPE", "MPJPE_top1", "PA-MPJPE", "ACCEL"}
    assert alone["MPJPE"] == figures["MPJPE"] < alone["MPJPE_top1"]
    assert alone["ACCEL"] == pytest.approx(figures["ACCEL"] * 200 / 196)


def test_summary_refuses():
    poses = [np.zeros((5, 17, 3))]
    with pytest.raises(ValueError, match="`predictions` must be a list of one or more sequences"):
        summarize_pose_sequences([], [])
    with pytest.raises(ValueError, match="`targets` must have 1 sequences"):
        summarize_pose_sequences(poses, poses * 2)
    with pytest.raises(ValueError, match="`sample_interval` must be a positive number, and needs `inputs`"):
        summarize_pose_sequences(poses, poses, sample_interval=10)


def fill_to(poses, frames):
    """A sequence with zeros at its end, as the originals score short ones."""
    return np.concatenate([poses, np.zeros((max(frames - len(poses), 0), *poses.shape[1:]), poses.dtype)])


@pytest.mark.parametrize(
    ("case", "step", "root_index"),
    [
        reference_case("smoothnet", "h36m_3d_w32", "", 0),
        reference_case("smoothnet", "h36m_3d_w32", "step8.", 0),
        ("h36m_2d_w8", "", None),
        ("h36m_2d_w8", "step3.", None),
    ],
)
def test_evaluation_of_smoothnet(case, step, root_index):
    values = load_file(reference_folder("smoothnet", case) / "io.safetensors")
    dims, unit, outputs = (3, 1000, "sequence") if "3d" in case else (2, 1, "sequence_pixels")
    lists = {name: [] for name in ("predictions", "targets", "inputs")}
    for index in range(3):
        refined = values[f"output.{outputs}.{step}{index}"].reshape(-1, 17, dims)
        lists["predictions"].append(refined * unit)
        for name, source in (("inputs", "pred"), ("targets", "gt")):
            poses = values[f"input.{source}.{index}"].reshape(-1, 17, dims)
            # Padding is zeros as the network sees them: in 2-D the middle of the picture.
            middle = 500 if dims == 2 else 0
            lists[name].append((fill_to(poses - middle, len(refined)) + middle)[: len(refined)] * unit)
    figures = summarize_pose_sequences(**lists, root_index=root_index, zero_ends=True)
    names = {
        "MPJPE": "mpjpe",
        "PA-MPJPE": "pampjpe",
        "ACCEL": "accel",
        "MPJPE_top1": "mpjpe_top1",
        "ACCEL_top1": "accel_top1",
    }
    assert set(figures) == {prefix + name for prefix in ("", "input_") for name in names}
    for name, original in names.items():
        expected, expected_input = (
            values[f"output.eval.{step}{source}_{original}"] for source in ("smoothnet", "input")
        )
        assert figures[name] == pytest.approx(expected, rel=1e-5), name
        assert figures["input_" + name] == pytest.approx(expected_input, rel=1e-5), name
        if "top1" not in name:
            improvement = values[f"output.eval.{step}improvement_{original}"]
            assert figures[name] - figures["input_" + name] == pytest.approx(improvement, rel=1e-4), name


def deciwatch_sequences(values, dims, interval, step="", scale=1.0):
    """Refined, true and given poses, and the denoised ones at the sampled frames, as far as windows cover them."""
    lists = {name: [] for name in ("predictions", "targets", "inputs", "denoised")}
    for index in range(3):
        refined = values[f"output.recover_sequence.{step}{index}"].reshape(
            len(values[f"output.recover_sequence.{step}{index}"]), -1, dims
        )
        lists["predictions"].append(refined * scale)
        denoised = values[f"output.denoise_sequence.{index}"].reshape(-1, *refined.shape[1:])
        lists["denoised"].append(denoised[::interval] * scale)
        for name, source in (("inputs", "pred"), ("targets", "gt")):
            poses = values[f"input.{source}.{index}"].reshape(-1, *refined.shape[1:])
            poses = root_relative(poses) * scale if dims == 3 else poses
            lists[name].append(fill_to(poses, len(refined))[: len(refined)])
    return lists


def test_evaluation_of_deciwatch(fixtures):
    values = load_file(fixtures / "deciwatch" / "h36m_3d_n10_q2" / "io.safetensors")
    lists = deciwatch_sequences(values, 3, interval=10, scale=1000.0)
    denoised = lists.pop("denoised")
    figures = summarize_pose_sequences(**lists, sample_interval=10)
    names = {"MPJPE": "mpjpe", "PA-MPJPE": "pampjpe", "ACCEL": "accel"}
    for name, original in names.items():
        assert figures[name] == pytest.approx(values[f"output.eval.output_{original}"], rel=1e-5), name
        assert figures["input_" + name] == pytest.approx(values[f"output.eval.input_{original}"], rel=1e-5), name
    assert figures["relative_MPJPE"] == pytest.approx(values["output.eval.relative_improvement_mpjpe"], rel=1e-5)

    sampled = [target[::10] for target in lists["targets"]]
    figures = summarize_pose_sequences(denoised, sampled)
    assert figures["MPJPE"] == pytest.approx(values["output.eval.denoise_mpjpe"], rel=1e-5)
    # Two of the sequences have three sampled frames, so that the original aligns joints in place of axes.
    errors = [
        joint_errors(root_relative(poses), true, align=True).mean(axis=-1)
        for poses, true in zip(denoised, sampled, strict=True)
    ]
    assert figures["PA-MPJPE"] == pytest.approx(np.concatenate(errors).mean(), rel=1e-9)
    for index in (1, 2):
        swapped = align_poses(root_relative(denoised[index]).swapaxes(1, 2), sampled[index].swapaxes(1, 2)).swapaxes(
            1, 2
        )
        errors[index] = joint_errors(swapped, sampled[index]).mean(axis=-1)
    original = values["output.eval.denoise_interp_pampjpe"]
    assert np.concatenate(errors).mean() == pytest.approx(original, rel=1e-5) != figures["PA-MPJPE"]


@pytest.mark.parametrize("step", ["", "stepq3."])
def test_pck_of_deciwatch(fixtures, step):
    values = load_file(fixtures / "deciwatch" / "jhmdb_2d_n5_q3" / "io.safetensors")
    size = np.array([320.0, 240.0])
    lists = deciwatch_sequences(values, 2, interval=5, step=step, scale=size)
    boxes = [
        fill_to(values[f"input.bbox.{index}"].astype(float), len(true))[: len(true)]
        for index, true in enumerate(lists["targets"])
    ]
    for name, threshold in (("005", 0.05), ("01", 0.1), ("02", 0.2)):
        for source, key in (("predictions", "output"), ("inputs", "input")):
            result = sequence_pck(lists[source], lists["targets"], boxes, threshold)
            assert result == pytest.approx(values[f"output.eval.{step}{key}_pck_{name}"], abs=1e-6), (key, name)
        if not step:
            sampled = (
                lists["denoised"],
                [true[::5] for true in lists["targets"]],
                [corners[::5] for corners in boxes],
            )
            assert sequence_pck(*sampled, threshold) == pytest.approx(
                values[f"output.eval.denosie_pck_{name}"], abs=1e-6
            )


def test_metrics_of_every_frame(fixtures):
    values = load_file(fixtures / "smoothnet" / "metrics_filters_rotations" / "io.safetensors")
    for name, source, true in (("3d", "3d", "3d"), ("3d_mirrored", "3d_mirrored", "3d"), ("2d", "2d_norm", "2d_norm")):
        predictions, targets = values[f"input.pred_{source}"], values[f"input.gt_{true}"]
        aligned = joint_errors(predictions, targets, align=True).mean(axis=-1)
        np.testing.assert_allclose(aligned, values[f"output.pampjpe_{name}"], rtol=1e-5)
        if name != "3d_mirrored":
            errors = joint_errors(predictions, targets).mean(axis=-1)
            np.testing.assert_allclose(errors, values[f"output.mpjpe_{name}"], rtol=1e-5)
            original = values[f"output.accel_error_{name}"]
            errors = acceleration_errors(predictions, targets).mean(axis=-1)
            np.testing.assert_allclose(errors, original[1:-1], rtol=1e-5)
            assert original[0] == original[-1] == 0
            assert acceleration_error(predictions, targets, zero_ends=True) == pytest.approx(original.mean(), rel=1e-5)
    aligned = align_poses(values["input.pred_3d"], values["input.gt_3d"])
    np.testing.assert_allclose(aligned, values["output.procrustes_aligned_3d"], atol=2e-6)


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.2])
def test_pck_of_every_joint(fixtures, threshold):
    values = load_file(fixtures / "smoothnet" / "metrics_filters_rotations" / "io.safetensors")
    height, width, _ = values["input.pck_imgshape"][0]
    predictions, targets = ((values[f"input.pck_{kind}"] + 0.5) * [width, height] for kind in ("pred", "gt"))
    boxes, expected = values["input.pck_bbox"], values[f"output.pck.{threshold}"]
    assert sequence_pck([predictions], [targets], [boxes], threshold) == pytest.approx(expected.mean(), abs=1e-6)
    for joint in range(15):
        one = sequence_pck([predictions[:, [joint]]], [targets[:, [joint]]], [boxes], threshold)
        assert one == pytest.approx(expected[joint], abs=1e-6)


# Lifting

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def reference_values(method, case):
    return load_file(reference_folder(method, case) / "io.safetensors")


@pytest.mark.parametrize("poses", ["near", "similar", "mirrored"])
def test_metrics_of_videopose3d(poses):
    """Mirrored poses, whose best orthogonal map is a reflection, among them."""
    values = reference_values("videopose3d", "geometry_metrics")
    predictions, targets = values[f"input.pred.{poses}"], values["input.target"]
    for name, metric in {"mpjpe": mpjpe, "p_mpjpe": pa_mpjpe, "n_mpjpe": n_mpjpe, "mpjve": mpjve}.items():
        np.testing.assert_allclose(metric(predictions, targets), values[f"output.{name}.{poses}"], **EXACT)
        tensors = torch.from_numpy(predictions), torch.from_numpy(targets)
        np.testing.assert_allclose(metric(*tensors), values[f"output.{name}.{poses}"], **EXACT)
    if poses == "near":
        weights = values["input.weights"][..., 0]  # (frames, 1), one a pose
        weighted = weighted_mpjpe(predictions, targets, weights)
        np.testing.assert_allclose(weighted, values["output.weighted_mpjpe"], **EXACT)
        np.testing.assert_allclose(weighted_mpjpe(predictions, targets, torch.from_numpy(weights)), weighted)


@pytest.mark.parametrize("case", [reference_case("skeletal_gnn", "metrics")])
def test_metrics_of_skeletal_gnn(case):
    values = reference_values("skeletal_gnn", case)
    predictions, targets = values["input.pred"], values["input.target"]
    ours = {
        "mpjpe": mpjpe(predictions, targets),
        "pa_mpjpe": pa_mpjpe(predictions, targets),
        "n_mpjpe": n_mpjpe(predictions, targets),
        "mpjve": mpjve(predictions, targets),
        "hard5_mpjpe": hardest_mpjpe(predictions, targets),
        "hard10_mpjpe": hardest_mpjpe(predictions, targets, 0.1),
        "mpjpe_mean_over_actions": mean_over_actions(joint_errors(predictions, targets), values["input.action_ids"]),
    }
    assert {f"output.{name}" for name in ours} | {"output.pa_aligned"} == {key for key in values if "output" in key}
    for name, value in ours.items():
        np.testing.assert_allclose(value, values[f"output.{name}"][0], **EXACT)
    np.testing.assert_allclose(align_poses(predictions, targets), values["output.pa_aligned"], **EXACT)


def test_metrics_of_the_fully_connected_baseline():
    """In millimetres, with the disparity that Procrustes alignment leaves."""
    values = reference_values("martinez_fcn", "postprocess")
    predictions, targets = values["input.pred_mm"], values["input.gt_mm"]
    aligned = align_poses(predictions, targets)
    np.testing.assert_allclose(mpjpe(predictions, targets), values["output.mpjpe_mm"], **EXACT)
    np.testing.assert_allclose(pa_mpjpe(predictions, targets), values["output.pa_mpjpe_mm"], **EXACT)
    np.testing.assert_allclose(aligned, values["output.aligned_mm"], **EXACT)
    spread = np.square(targets - targets.mean(axis=1, keepdims=True)).sum(axis=(1, 2))
    np.testing.assert_allclose(
        np.square(aligned - targets).sum(axis=(1, 2)) / spread, values["output.procrustes_d"], **EXACT
    )


def test_scale():
    random = np.random.default_rng(0)
    targets = random.normal(size=(2, 5, 17, 3))
    np.testing.assert_allclose(scale_poses(targets * random.uniform(0.1, 9, size=(2, 5, 1, 1)), targets), targets)
    assert n_mpjpe(3 * targets, targets) < 1e-12
    assert not scale_poses(np.zeros((17, 3)), targets[0, 0]).any()


def test_velocity():
    targets = np.random.default_rng(0).normal(size=(4, 6, 5, 3))
    predictions = targets + np.arange(6)[:, None, None] * np.array([3.0, 0, 4])  # 5 a frame faster
    np.testing.assert_allclose(velocity_errors(predictions, targets), np.full((4, 5, 5), 5.0))
    assert mpjve(targets + 7, targets) < 1e-12
    with pytest.raises(ValueError, match="a velocity two"):
        mpjve(targets[:, :1], targets[:, :1])


@pytest.mark.parametrize(
    ("poses", "share", "count"), [(40, 0.05, 2), (41, 0.05, 3), (3, 0.05, 1), (20, 0.15, 3), (7, 1, 7)]
)
def test_hardest_poses(poses, share, count):
    """The top ceil(share of the poses), although 0.15 * 20 is above 3 in binary."""
    errors = np.random.default_rng(0).permutation(poses) + 1.0
    targets = np.zeros((poses, 17, 3))
    predictions = targets + errors[:, None, None] * [1, 0, 0]
    assert hardest_mpjpe(predictions, targets, share) == pytest.approx(np.arange(poses - count + 1, poses + 1).mean())


def test_actions_weigh_alike():
    assert mean_over_actions([1, 1, 1, 5], ["walk", "walk", "walk", "sit"]) == 3
    assert mean_over_actions([[1, 3], [5, 7]], [0, 1]) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda poses: mean_over_actions([1, 2], ["walk"]), "`actions` must be one for each of the poses"),
        (lambda poses: mean_over_actions([], []), "one pose at least"),
        (lambda poses: hardest_mpjpe(poses, poses, 0), r"`share` must be in \(0, 1\]"),
        (lambda poses: hardest_mpjpe(poses[:0], poses[:0]), "one pose at least"),
        (lambda poses: weighted_mpjpe(poses, poses, np.ones((2, 1, 1, 1))), "`weights` must broadcast"),
        (lambda poses: weighted_mpjpe(poses, poses, np.nan), "`weights` must be finite"),
        (lambda poses: mpjve(poses[0], poses[0]), r"must have shape \(..., frames, joints, dims\)"),
        (lambda poses: n_mpjpe(poses * np.nan, poses), "must be finite"),
    ],
    ids=range(8),
)
def test_bad_lifting_metrics(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((4, 5, 3)))
