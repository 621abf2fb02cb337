"""Pose sequences to train on, made from a motion-capture archive with simulated estimates (`cmu_train.npz`).

The motion of one sequence, turned about the vertical, mirrored, slowed down or sped up and seen by its camera, meets the
errors of another. Errors are kept in sizes of the person (the longest side of the box around the joints), so that those of
one person fit another.
"""

from collections.abc import Collection
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch

from hvmodels.keypoint_sets import HUMAN36M17


MIRRORED = torch.from_numpy(HUMAN36M17.flip_permutation)
LEGS, ARMS = slice(1, 7), slice(11, 17)
NEAREST = 1000.0  # mm; a turned person may come close to the camera


@dataclass(frozen=True)
class Augmentation:
    """Shares of the samples, and ranges.

    Args:
        stored: Share of stored pairs of estimate and truth, taken as they are.
        clean: Share without errors, of the other ones.
        errors: Least and greatest factor of the errors.
        speeds: Least and greatest speed, for 60 % of the samples.
        swaps: Share with both arms or both legs swapped for up to ten frames.
        short: Share of sequences that end early, and are lengthened by their last pose as the models do it.
    """

    stored: float = 0.3
    clean: float = 0.1
    errors: tuple[float, float] = (0.6, 1.5)
    speeds: tuple[float, float] = (0.5, 2.0)
    swaps: float = 0.05
    short: float = 0.05


def extent(poses: torch.Tensor) -> torch.Tensor:
    """Longest side of the box around the joints, (..., joints, dims) to (...)."""
    return (poses.amax(-2) - poses.amin(-2)).amax(-1)


class MotionWindows:
    """Motion and errors of the sequences of an archive.

    Args:
        path: `.npz` file as `hvmodels.datasets.read_motion` reads it.
        sequences: Which to use; None for all.
    """

    def __init__(self, path: str | PathLike, sequences: Collection[int] | None = None):
        with np.load(path, allow_pickle=False) as archive:
            data = {name: archive[name] for name in archive.files}
        # One lens for all.
        self.focal, self.centre = float(data["K"][0, 0, 0]), torch.tensor(data["K"][0, :2, 2], dtype=torch.float32)
        chosen = range(len(data["seq_len"])) if sequences is None else sorted(sequences)
        parts = {name: [] for name in ("world", "truth2", "truth3", "estimate2", "estimate3")}
        for index in chosen:
            rows = slice(data["seq_start"][index], data["seq_start"][index] + data["seq_len"][index])
            world = torch.from_numpy(data["joints3d"][rows])
            camera = world @ torch.tensor(data["R"][index].T, dtype=torch.float32)
            camera = camera + torch.tensor(data["t"][index], dtype=torch.float32)
            parts["world"].append(world)
            parts["truth3"].append(camera - camera[:, :1])
            parts["truth2"].append(self._project(camera) + self.centre)
            parts["estimate3"].append(torch.from_numpy(data["pred3d"][rows]))
            parts["estimate2"].append(torch.from_numpy(data["det2d"][rows, :, :2]))
        self.world = torch.cat(parts["world"])
        self.truth = {dims: torch.cat(parts[f"truth{dims}"]) for dims in (2, 3)}
        self.estimates = {dims: torch.cat(parts[f"estimate{dims}"]) for dims in (2, 3)}
        self.errors = {
            dims: (self.estimates[dims] - truth) / extent(truth)[:, None, None] for dims, truth in self.truth.items()
        }
        self.lengths = torch.tensor([len(part) for part in parts["world"]])
        self.firsts = self.lengths.cumsum(0) - self.lengths
        self.rotations, self.translations = (
            torch.tensor(data[name][list(chosen)], dtype=torch.float32) for name in ("R", "t")
        )
        self.weights = self.lengths.clamp(max=300).float()  # long sequences do not drown the others

    def _project(self, camera: torch.Tensor) -> torch.Tensor:
        """Pixels from the middle of the picture, (..., 3) to (..., 2)."""
        return camera[..., :2] / camera[..., 2:].clamp(min=NEAREST) * self.focal

    def remove_offsets(self):
        """Take the mean error of each joint off each sequence: no model that sees coordinates alone can know it."""
        for dims, errors in self.errors.items():
            for first, length in zip(self.firsts.tolist(), self.lengths.tolist(), strict=True):
                rows = slice(first, first + length)
                offset = errors[rows].mean(0)
                errors[rows] -= offset
                self.estimates[dims][rows] -= offset * extent(self.truth[dims][rows])[:, None, None]

    def sample(
        self, count: int, frames: int, dims: int, augmentation: Augmentation, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Random sequences.

        Args:
            count: How many.
            frames: Their length.
            dims: 2 for pixels, 3 for millimetres relative to the pelvis in the camera's axes.
            augmentation: What happens to them.
            generator: Source of randomness.

        Returns:
            Estimates and true poses, (count, frames, 17, dims) each.
        """

        def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
            return torch.rand(*shape, generator=generator) * (high - low) + low

        def chance(share: float) -> torch.Tensor:
            return uniform(count) < share

        def where(condition: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
            return torch.where(condition[:, None, None, None], yes, no)

        sequences = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        lengths, firsts = self.lengths[sequences], self.firsts[sequences]
        stored = chance(augmentation.stored)
        low, high = np.log(augmentation.speeds)
        speeds = torch.where(chance(0.4) | stored, 1.0, uniform(count, low=low, high=high).exp())
        fitting = ((lengths - 1).float() / (frames - 1)).clamp(min=0.4)
        speeds = torch.where(stored, speeds, torch.minimum(speeds, fitting))
        starts = uniform(count) * (lengths - 1 - speeds * (frames - 1)).clamp(min=0)
        starts = torch.where(speeds == 1, starts.floor(), starts)
        present = (((lengths - 1) - starts) / speeds + 1.001).long().clamp(max=frames)
        cut = (present * uniform(count, low=0.2)).long().clamp(min=2)
        present = torch.where(chance(augmentation.short), cut, present)
        steps = torch.minimum(torch.arange(frames), present[:, None] - 1)

        world = self._interpolate(firsts, lengths, starts[:, None] + steps * speeds[:, None])
        middle = world[:, :, :1].mean(1, keepdim=True)
        angles = uniform(count, high=2 * np.pi)
        turned = _rotate(world - middle, angles) + middle
        camera = turned @ self.rotations[sequences].transpose(1, 2)[:, None] + self.translations[sequences, None, None]
        if dims == 3:
            truth = camera - camera[:, :, :1]
        else:
            truth = _rotate(self._project(camera), uniform(count, low=-0.35, high=0.35))
            followed = uniform(count) * chance(0.3)  # a camera that turns with the person
            truth = truth - followed[:, None, None, None] * truth[:, :, :1]
        mirror = torch.ones(dims)
        mirror[0] = -1
        truth = where(chance(0.5), truth[:, :, MIRRORED] * mirror, truth)

        errors = self._sample_errors(count, frames, dims, generator)
        low, high = np.log(augmentation.errors)
        errors = errors * uniform(count, 1, 1, 1, low=low, high=high).exp()
        errors = where(chance(augmentation.clean), torch.zeros(()), errors)
        estimates = truth + errors * extent(truth)[:, :, None, None]
        begins, durations = uniform(count, 1) * frames, uniform(count, 1, low=1, high=10)
        during = (torch.arange(frames) >= begins) & (torch.arange(frames) < begins + durations)
        swapped = torch.zeros(count, frames, 17, dtype=torch.bool)
        limbs = chance(0.5)
        swapped[limbs, :, ARMS] = True
        swapped[~limbs, :, LEGS] = True
        swapped &= (during & chance(augmentation.swaps)[:, None])[:, :, None]
        estimates = torch.where(swapped[..., None], estimates[:, :, MIRRORED], estimates)

        rows = firsts[:, None] + torch.minimum(starts.long()[:, None] + steps, lengths[:, None] - 1)
        estimates = where(stored, self.estimates[dims][rows], estimates)
        truth = where(stored, self.truth[dims][rows], truth)
        # Past its end a sequence stands still, errors included.
        estimates = estimates.gather(1, steps[..., None, None].expand(-1, -1, 17, dims))
        reverse = chance(0.5) & (present == frames)
        return where(reverse, estimates.flip(1), estimates), where(reverse, truth.flip(1), truth)

    def _interpolate(self, firsts: torch.Tensor, lengths: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """World poses at real times (count, frames) after the first frame of sequences, by Catmull-Rom splines."""
        before = times.floor()
        part = (times - before)[..., None, None]
        a, b, c, d = (
            self.world[firsts[:, None] + torch.minimum((before.long() + step).clamp(min=0), lengths[:, None] - 1)]
            for step in (-1, 0, 1, 2)
        )
        cubic = (2 * a - 5 * b + 4 * c - d) * part**2 + (3 * b - a - 3 * c + d) * part**3
        return b + 0.5 * ((c - a) * part + cubic)

    def _sample_errors(self, count: int, frames: int, dims: int, generator: torch.Generator) -> torch.Tensor:
        """(count, frames, 17, dims) errors of random sequences, which run to and fro where they are too short."""
        sequences = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        lengths = self.lengths[sequences]
        starts = torch.rand(count, generator=generator) * (lengths - 0.6 * frames).clamp(min=1)
        steps = (starts.long()[:, None] + torch.arange(frames)) % (2 * (lengths[:, None] - 1))
        steps = torch.where(steps >= lengths[:, None], 2 * (lengths[:, None] - 1) - steps, steps)
        errors = self.errors[dims][self.firsts[sequences, None] + steps]
        reverse, mirror = (torch.rand(2, count, 1, 1, 1, generator=generator) < 0.5).unbind()
        errors = torch.where(reverse, errors.flip(1), errors)
        errors = torch.where(mirror, errors[:, :, MIRRORED], errors)
        return errors * torch.where(torch.rand(count, 1, 1, dims, generator=generator) < 0.5, -1.0, 1.0)


def _rotate(poses: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn poses (count, frames, joints, dims) in the plane of the first two axes by angles (count,)."""
    cos, sin = (function(angles)[:, None, None] for function in (torch.cos, torch.sin))
    first, second = poses[..., 0], poses[..., 1]
    return torch.stack([cos * first - sin * second, sin * first + cos * second, *poses[..., 2:].unbind(-1)], dim=-1)
