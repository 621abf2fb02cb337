"""The training of the embedded models of pose sequences, on a small archive: it runs, repeats itself, and begins sensibly."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction


EXAMPLES = Path(__file__).parents[2] / "examples" / "pose_sequence"
NAMES = ["motion_windows", "train_default_poses"]


@pytest.fixture(scope="module")
def scripts():
    """The modules of the examples by their names."""
    path = list(sys.path)
    sys.path.insert(0, str(EXAMPLES))
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path[:] = path
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Four sequences of 17 joints that swing about a place, with white noise in the estimates."""
    rng = np.random.default_rng(0)
    lengths = (70, 160, 41, 90)
    frames, starts = sum(lengths), np.cumsum([0, *lengths[:-1]])
    rest = rng.uniform([-400, -400, 500], [400, 400, 1300], size=(1, 17, 3))
    joints = rest + 100 * np.sin(rng.uniform(0, 6, size=(1, 17, 3)) + np.arange(frames)[:, None, None] / 8)
    rotation = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    camera = joints @ rotation.T + [0, 900, 5000]
    pixels = camera[..., :2] / camera[..., 2:] * 1145 + 500
    noise = rng.normal(size=(frames, 17, 3))
    path = tmp_path_factory.mktemp("motion") / "train.npz"
    np.savez(
        path,
        joints3d=joints.astype(np.float32),
        det2d=np.concatenate([pixels + 2 * noise[..., :2], np.ones((frames, 17, 1))], axis=2).astype(np.float32),
        pred3d=(camera - camera[:, :1] + 20 * noise).astype(np.float32),
        K=np.tile([[1145.0, 0, 500], [0, 1145, 500], [0, 0, 1]], (4, 1, 1)),
        R=np.tile(rotation, (4, 1, 1)),
        t=np.tile([0.0, 900, 5000], (4, 1)),
        seq_id=np.array(["a", "b", "c", "d"]),
        seq_start=starts,
        seq_len=np.array(lengths),
        fps=np.array(30),
        image_size=np.array([1000, 1000]),
    )
    return path


@pytest.mark.parametrize(
    ("name", "shape"),
    [("smoothnet-any-pose", (1, 70, 5, 2)), ("deciwatch-2d", (1, 70, 17, 2)), ("deciwatch-3d", (1, 70, 17, 3))],
)
def test_training_gives_a_model_and_repeats_itself(name, shape, scripts, archive, tmp_path):
    for folder in ("first", "second"):
        scripts["train_default_poses"].main([name, str(archive), str(tmp_path / folder), "--steps", "2"])
    first, second = (load_file(tmp_path / folder / "model.safetensors") for folder in ("first", "second"))
    assert all(torch.equal(first[key], second[key]) for key in first)

    model = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / "first").eval()
    poses = torch.randn(shape).cumsum(1)
    features = AutoFeatureExtractor.from_pretrained(tmp_path / "first")(poses[0].numpy())
    with torch.inference_mode():
        refined = model(features["pose_values"])[0]
    assert refined.shape == shape
    # Before much training already nearer to the input than its mean is.
    assert (refined - poses).abs().mean() < (poses - poses.mean(1, keepdim=True)).abs().mean()


def test_samples_are_pairs_of_one_motion(scripts, archive):
    windows = scripts["motion_windows"]
    motion = windows.MotionWindows(archive)
    plain = windows.Augmentation(stored=0.0, clean=1.0, swaps=0.0)
    for dims in (2, 3):
        noisy, clean = motion.sample(64, 50, dims, plain, torch.Generator().manual_seed(0))
        torch.testing.assert_close(noisy, clean)
        assert noisy.shape == (64, 50, 17, dims)
    # Stored pairs are the archive's own: every frame is found in it.
    stored = windows.Augmentation(stored=1.0, short=0.0, swaps=0.0)
    noisy, clean = motion.sample(8, 40, 3, stored, torch.Generator().manual_seed(0))
    for pose, truth in zip(noisy[:, 7], clean[:, 7], strict=True):
        row = (motion.estimates[3] - pose).abs().amax((1, 2)).argmin()
        torch.testing.assert_close(motion.estimates[3][row], pose)
        torch.testing.assert_close(motion.truth[3][row], truth)


def test_offsets_are_removed_from_both(scripts, archive):
    motion = scripts["motion_windows"].MotionWindows(archive, [1, 3])
    assert len(motion.lengths) == 2
    motion.remove_offsets()
    for dims in (2, 3):
        errors = motion.errors[dims][: motion.lengths[0]]
        torch.testing.assert_close(errors.mean(0), torch.zeros(17, dims), atol=1e-6, rtol=0)
        size = scripts["motion_windows"].extent(motion.truth[dims])[:, None, None]
        torch.testing.assert_close(motion.truth[dims] + motion.errors[dims] * size, motion.estimates[dims])
