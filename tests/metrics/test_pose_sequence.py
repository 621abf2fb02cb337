import numpy as np
import pytest
import torch

from hvmodels.metrics.pose_sequence import align_poses, joint_errors, mpjpe, pa_mpjpe, root_relative


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
    with pytest.raises(ValueError, match="`root_index` must be one of the 17"):
        root_relative(poses, 17)
