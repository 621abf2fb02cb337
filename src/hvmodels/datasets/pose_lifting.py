"""2D poses and the 3D ones behind them, to train and measure lifting on: motion capture seen by random cameras.

`read_lifting_sequences` reads archives of motion capture with one camera and simulated detections a sequence
(`cmu_*.npz`). `LiftingWindows` makes training samples of them: a window of frames, turned about the vertical, on a body of
other proportions, seen by another camera, with the errors of a detector (`DetectionNoise`), mirrored.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..cameras import PinholeCamera, normalize_screen_coordinates
from ..keypoint_sets import HUMAN36M17


METRE = 1000.0  # in millimetres, the unit of the archives
MIRRORED = torch.from_numpy(HUMAN36M17.flip_permutation)
LEGS, ARMS = slice(1, 7), slice(11, 17)
LEFT_HIP, RIGHT_HIP = (HUMAN36M17.keypoints.index(name) for name in ("left_hip", "right_hip"))
PAIRS = HUMAN36M17.flip_pairs
# Scores of the archives' detections: up to the first a joint is missed, to the second wild, to the third it may be swapped.
MISSED_SCORE, WILD_SCORE, RELIABLE_SCORE = 0.15, 0.5, 0.68


@dataclass(frozen=True)
class LiftingSequence:
    """Motion of one person and one camera's view of it.

    Args:
        name: Name of the sequence.
        action: What the person does.
        subject: Who it is.
        joints: (frames, 17, 3) joints of Human3.6M in the world, metres, z up.
        camera: Camera with its place in the world, metres.
        image_size: Width and height in pixels.
        frame_rate: Frames a second.
        detections: (frames, 17, 2) estimated joints in pixels, None if there are none.
        scores: (frames, 17) their confidences.
    """

    name: str
    action: str
    subject: str
    joints: np.ndarray
    camera: PinholeCamera
    image_size: tuple[int, int]
    frame_rate: float
    detections: np.ndarray | None = None
    scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def positions(self) -> np.ndarray:
        """(frames, 17, 3) joints relative to the pelvis, in the camera's axes, metres."""
        joints = self.camera.to_camera(self.joints)
        return joints - joints[:, :1]

    @property
    def keypoints(self) -> np.ndarray:
        """(frames, 17, 2) true joints in the picture, pixels."""
        return self.camera.project(self.camera.to_camera(self.joints))


def read_lifting_sequences(path: str | PathLike) -> list[LiftingSequence]:
    """Sequences of an archive of motion capture with cameras and simulated detections.

    Args:
        path: `.npz` file without pickles: `joints3d` (frames, 17, 3) in the world, millimetres, z up, in the order of
            `keypoint_sets.HUMAN36M17`; `det2d` (frames, 17, 3) x, y in pixels and confidence; `K`, `R`, `t` (sequences,
            ...) of a camera each; `seq_id`, `seq_start`, `seq_len`, `action`, `subject`, `fps`, `image_size`.

    Raises:
        ValueError: If the file is not of this kind.
    """
    names = (
        "joints3d", "det2d", "K", "R", "t", "seq_id", "seq_start", "seq_len", "action", "subject", "fps", "image_size",
    )  # fmt: skip
    try:
        with np.load(path, allow_pickle=False) as archive:
            data = {name: archive[name] for name in names}
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"`path` {str(path)!r} must be an npz archive without pickles that holds {list(names)}: {error}"
        ) from error
    if data["joints3d"].ndim != 3 or data["joints3d"].shape[1:] != (len(HUMAN36M17), 3):
        raise ValueError(
            f"`joints3d` of {str(path)!r} must have shape (frames, {len(HUMAN36M17)}, 3), got {data['joints3d'].shape}."
        )
    sequences = []
    for index, (first, length) in enumerate(zip(data["seq_start"].tolist(), data["seq_len"].tolist(), strict=True)):
        rows = slice(first, first + length)
        intrinsics, rotation = data["K"][index], data["R"][index]
        camera = PinholeCamera(
            intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2], rotation, position=-rotation.T @ data["t"][index] / METRE
        )
        sequences.append(
            LiftingSequence(
                name=str(data["seq_id"][index]),
                action=str(data["action"][index]),
                subject=str(data["subject"][index]),
                joints=(data["joints3d"][rows] / METRE).astype(np.float32),
                camera=camera,
                image_size=tuple(data["image_size"].tolist()),
                frame_rate=float(data["fps"]),
                detections=data["det2d"][rows, :, :2],
                scores=data["det2d"][rows, :, 2],
            )
        )
    return sequences


@dataclass(frozen=True)
class DetectionNoise:
    """How a detector errs, in sizes of the person: the longest side of the box around the joints.

    Args:
        jitter: (17,) deviation of the white part.
        drift: (17,) deviation of the slow part, whose correlation over k frames is `(1 + k / t) exp(-k / t)`.
        offset: (17,) deviation of the part that stays for a whole sequence.
        wild: (17,) share of frames in which a joint is somewhere else, in bursts.
        missed: (17,) share of frames in which the last place is kept.
        wild_distance: Least and greatest distance of a joint that is somewhere else.
        drift_time: t of the slow part, frames.
        burst: Frames that a joint is wild, missed or swapped for.
        arm_swaps: Share of frames in which left and right arm have changed places.
        leg_swaps: The same of the legs.
    """

    jitter: tuple[float, ...]
    drift: tuple[float, ...]
    offset: tuple[float, ...]
    wild: tuple[float, ...]
    missed: tuple[float, ...]
    wild_distance: tuple[float, float] = (0.04, 0.15)
    drift_time: float = 3.0
    burst: float = 6.0
    arm_swaps: float = 0.007
    leg_swaps: float = 0.010

    @classmethod
    def fit(cls, sequences: Sequence[LiftingSequence], drift_time: float = 3.0, **others: Any) -> "DetectionNoise":
        """Statistics of the detections of sequences.

        Args:
            sequences: With detections and scores.
            drift_time: See the class.
            others: Values of the other fields.

        Raises:
            ValueError: If a sequence has no detections.
        """
        lags = np.array([1, 2, 4, 8, 15])
        steps, offsets, counts = [[] for _ in lags], [], []
        for sequence in sequences:
            if sequence.detections is None or sequence.scores is None:
                raise ValueError(f"`sequences` must have detections and scores; {sequence.name!r} has none.")
            scores, truth = sequence.scores, sequence.keypoints
            size = np.ptp(truth, axis=1).max(axis=-1)[:, None, None]
            errors = (sequence.detections - truth) / size
            counts.append([(scores < MISSED_SCORE).sum(0), ((scores >= MISSED_SCORE) & (scores < WILD_SCORE)).sum(0)])
            errors[scores <= RELIABLE_SCORE] = np.nan
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of joints that are never reliable
                offsets.append(np.nanmedian(errors, axis=0))
            for place, lag in enumerate(lags):
                steps[place].append(np.abs(errors[lag:] - errors[: max(len(errors) - lag, 0)]))
        # Variance of differences over so many frames, by their median, which wild joints do not move much. Half of it is
        # that of the white part, plus that of the slow part times (1 - its correlation).
        variances = np.array([(np.nanmedian(np.concatenate(of_lag), axis=(0, 2)) / 0.6745) ** 2 for of_lag in steps])
        known = np.stack([np.ones(len(lags)), 1 - _correlation(lags, drift_time)], axis=1)
        jitter, drift = np.linalg.lstsq(known, variances / 2, rcond=None)[0].clip(min=0)
        missed, wild = np.sum(counts, axis=0) / sum(map(len, sequences))
        return cls(
            jitter=tuple(np.sqrt(jitter).tolist()),
            drift=tuple(np.sqrt(drift).tolist()),
            offset=tuple(np.nanstd(offsets, axis=(0, 2)).tolist()),
            wild=tuple(wild.tolist()),
            missed=tuple(missed.tolist()),
            drift_time=drift_time,
            **others,
        )

    def apply(self, keypoints: torch.Tensor, level: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Detections of windows.

        Args:
            keypoints: (windows, frames, 17, 2) true joints.
            level: (windows,) factor of the errors, 0 for none.
            generator: Source of randomness.
        """
        windows, frames, joints, _ = keypoints.shape

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        def scale(values: tuple[float, ...]) -> torch.Tensor:
            return torch.tensor(values)[:, None]

        apart = np.abs(np.subtract.outer(np.arange(frames), np.arange(frames)))
        factor = torch.from_numpy(np.linalg.cholesky(_correlation(apart, self.drift_time))).to(keypoints.dtype)
        drift = torch.einsum("ft,wtjd->wfjd", factor, normal(windows, frames, joints, 2))
        errors = drift * scale(self.drift) + normal(windows, frames, joints, 2) * scale(self.jitter)
        errors = errors + normal(windows, 1, joints, 2) * scale(self.offset)
        low, high = self.wild_distance
        direction = normal(windows, 1, joints, 2)
        distance = low + (high - low) * torch.rand(windows, 1, joints, 1, generator=generator)
        wild = self._events(torch.tensor(self.wild).expand(windows, joints), frames, generator)
        errors = errors + wild[..., None] * distance * direction / direction.norm(dim=-1, keepdim=True)
        size = (keypoints.amax(2) - keypoints.amin(2)).amax(-1)[..., None, None]
        level = level[:, None, None, None]
        result = keypoints + errors * size * level
        active = level[..., 0] > 0
        for limbs, share in ((ARMS, self.arm_swaps), (LEGS, self.leg_swaps)):
            swapped = torch.zeros(windows, frames, joints, dtype=torch.bool)
            swapped[:, :, limbs] = self._events(torch.full((windows, 1), share), frames, generator)
            result = torch.where((swapped & active)[..., None], result[:, :, MIRRORED], result)
        missed = self._events(torch.tensor(self.missed).expand(windows, joints), frames, generator) & active
        for frame in range(1, frames):
            result[:, frame] = torch.where(missed[:, frame, :, None], result[:, frame - 1], result[:, frame])
        return result

    def _events(self, shares: torch.Tensor, frames: int, generator: torch.Generator) -> torch.Tensor:
        """(windows, frames, n) where something happens for `burst` frames, for shares (windows, n) of the time."""
        begins = torch.rand(shares.shape, generator=generator) * (frames + self.burst) - self.burst
        happens = torch.rand(shares.shape, generator=generator) < shares * (frames + self.burst) / self.burst
        times = torch.arange(frames)[:, None]
        during = (times >= begins[:, None]) & (times < begins[:, None] + self.burst)
        return during & happens[:, None]


def _correlation(frames: np.ndarray, time: float) -> np.ndarray:
    """Of the slow part of a detector's errors, so many frames apart."""
    return (1 + frames / time) * np.exp(-frames / time)


@dataclass(frozen=True)
class LiftingAugmentation:
    """How a sample differs from the recording.

    Args:
        body_scale: Deviation of the logarithm of a person's size.
        bone_scale: The same of each bone's length, alike on both sides.
        distance: Least and greatest factor of the camera's distance.
        height: Least and greatest height of the camera, metres.
        aim: Deviation of the place in the picture that the camera's target is at, in widths of the picture.
        noise: Share of samples with the errors of a detector.
        noise_level: Least and greatest factor of these errors.
        speed: Least and greatest factor of the speed.
        mixed: Share of samples with the legs of one recording and all above of another.
    """

    body_scale: float = 0.03
    bone_scale: float = 0.04
    distance: tuple[float, float] = (0.8, 1.25)
    height: tuple[float, float] = (0.85, 2.05)
    aim: float = 0.015
    noise: float = 0.65
    noise_level: tuple[float, float] = (0.5, 1.4)
    speed: tuple[float, float] = (0.7, 1.4)
    mixed: float = 0.4


class LiftingWindows(Dataset):
    """Training samples: a window of every frame of the sequences, seen anew at every draw.

    A list of indices gives a whole batch at once, for `DataLoader` with
    `collate_fn=hvmodels.datasets.forecasting.collate_windows`. Draws follow from `seed`, the epoch and the indices.

    Args:
        sequences: Motion to take windows of.
        num_frames: Frames of a window.
        causal: Whether the pose of the last frame is asked for, else of the middle one.
        noise: Errors of detections; None for true joints only.
        augmentation: What is changed.
        seed: Of all draws.

    Raises:
        ValueError: If there is no sequence, or the window is no positive number of frames.
    """

    def __init__(
        self,
        sequences: Sequence[LiftingSequence],
        num_frames: int,
        causal: bool = False,
        noise: DetectionNoise | None = None,
        augmentation: LiftingAugmentation = LiftingAugmentation(),
        seed: int = 0,
    ):
        if not sequences:
            raise ValueError("`sequences` must hold at least one sequence, got none.")
        if not isinstance(num_frames, int) or isinstance(num_frames, bool) or num_frames < 1:
            raise ValueError(f"`num_frames` must be a positive integer, got {num_frames!r}.")
        self.num_frames, self.noise, self.augmentation, self.seed, self.epoch = (
            num_frames,
            noise,
            augmentation,
            seed,
            0,
        )
        self.before = num_frames - 1 if causal else num_frames // 2
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        self._joints = torch.from_numpy(np.concatenate([sequence.joints for sequence in sequences])).float()
        self._sequence = torch.repeat_interleave(torch.arange(len(sequences)), lengths)
        self._firsts, self._lasts = lengths.cumsum(0) - lengths, lengths.cumsum(0) - 1
        cameras = [sequence.camera for sequence in sequences]
        self._focal = torch.tensor(np.array([camera.focal_length for camera in cameras]))
        self._centre = torch.tensor(np.array([camera.principal_point for camera in cameras]))
        self._size = torch.tensor([sequence.image_size for sequence in sequences], dtype=torch.float32)
        # The camera looks at the middle of where the pelvis goes, from this distance.
        self._target = torch.stack(
            [torch.from_numpy((s.joints[:, 0].min(0) + s.joints[:, 0].max(0)) / 2) for s in sequences]
        ).float()
        middle = torch.stack([torch.from_numpy(s.joints[:, 0].mean(0)) for s in sequences]).float()
        position = torch.tensor(np.array([camera.position for camera in cameras]))
        self._target[:, 2] = middle[:, 2]
        self._distance = (position - middle)[:, :2].norm(dim=-1)

    def __len__(self) -> int:
        return len(self._joints)

    def set_epoch(self, epoch: int):
        """Make the draws those of an epoch."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([range(len(self))[index]]).items()}

    def __getitems__(self, indices: Any) -> dict[str, torch.Tensor]:
        """`keypoints_2d` (batch, num_frames, 17, 2), normalised, and `labels` (batch, 1, 17, 3) of several frames."""
        indices = torch.as_tensor(indices, dtype=torch.int64)
        entropy = np.random.SeedSequence((self.seed, self.epoch, len(indices), *indices[:4].tolist()))
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        sequence, options = self._sequence[indices], self.augmentation

        def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
            return low + (high - low) * torch.rand(*shape, generator=generator)

        count = len(indices)
        low, high = map(math.log, options.speed)
        speed = uniform(count, 1, low=low, high=high).exp()
        speed = torch.where(uniform(count, 1) < 0.4, 1.0, speed)
        times = indices[:, None] + (torch.arange(self.num_frames) - self.before) * speed
        world = self._interpolate(times, sequence)
        if options.mixed:
            world = self._mix(world, speed, options.mixed, generator)
        world, ground = self._other_body(world, generator)

        # A frame of the camera: x to the right, y down, z away.
        angle, height = uniform(count, high=2 * math.pi), uniform(count, low=options.height[0], high=options.height[1])
        low, high = map(math.log, options.distance)
        distance = self._distance[sequence] * uniform(count, low=low, high=high).exp()
        target = self._target[sequence] * ground
        turned = _rotate(world - target[:, None, None], angle)
        lift = target[:, 2] - height  # the target is above the camera by this
        away = torch.stack(
            [turned[..., 0], lift[:, None, None] + turned[..., 2], distance[:, None, None] + turned[..., 1]], -1
        )
        slant = distance.hypot(lift)
        cos, sin = (distance / slant)[:, None, None], (lift / slant)[:, None, None]
        x, up, forward = away.unbind(-1)
        depth = cos * forward + sin * up
        camera = torch.stack([x, sin * forward - cos * up, depth], dim=-1)
        # Whoever comes too near is moved away.
        nearest = camera[..., 2].amin((1, 2))
        camera[..., 2] += (2.0 - nearest).clamp(min=0)[:, None, None]
        size, focal = self._size[sequence, None, None], self._focal[sequence, None, None]
        shift = options.aim * torch.randn(count, 1, 1, 2, generator=generator) * size[..., :1]
        pixels = camera[..., :2] / camera[..., 2:] * focal + self._centre[sequence, None, None] + shift
        # Whoever would leave the picture is moved back into it.
        outside = (pixels.amax((1, 2)) - size[:, 0, 0]).clamp(min=0) + pixels.amin((1, 2)).clamp(max=0)
        camera[..., :2] -= (outside[:, None, None] / focal) * camera[..., 2:].mean((1, 2), keepdim=True)
        pixels = camera[..., :2] / camera[..., 2:] * focal + self._centre[sequence, None, None] + shift

        if self.noise is not None:
            level = uniform(count, low=options.noise_level[0], high=options.noise_level[1])
            level = torch.where(uniform(count) < options.noise, level, 0.0)
            pixels = self.noise.apply(pixels, level, generator)
        keypoints = normalize_screen_coordinates(pixels, size)
        labels = camera[:, self.before : self.before + 1]
        labels = labels - labels[:, :, :1]
        mirror = (uniform(count) < 0.5)[:, None, None, None]
        keypoints, labels = (
            torch.where(mirror, values[:, :, MIRRORED] * torch.tensor([-1.0, 1.0, 1.0][: values.shape[-1]]), values)
            for values in (keypoints, labels)
        )
        return {"keypoints_2d": keypoints, "labels": labels}

    def _mix(self, world: torch.Tensor, speed: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
        """The motion with all above the pelvis of other windows, turned so that both have their hips in line."""
        chosen = (torch.rand(len(world), generator=generator) < share).nonzero()[:, 0]
        others = torch.randint(len(self), (len(chosen),), generator=generator)
        times = others[:, None] + (torch.arange(self.num_frames) - self.before) * speed[chosen]
        other = self._interpolate(times, self._sequence[others])
        own = world[chosen]
        middle = self.before
        angles = [
            torch.atan2(hips[:, 1], hips[:, 0])
            for hips in (poses[:, middle, LEFT_HIP] - poses[:, middle, RIGHT_HIP] for poses in (own, other))
        ]
        turned = _rotate(other - other[:, :, :1], angles[0] - angles[1])
        own = torch.cat([own[:, :, : LEGS.stop], turned[:, :, LEGS.stop :] + own[:, :, :1]], dim=2)
        return world.index_copy(0, chosen, own)

    def _interpolate(self, times: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
        """World joints at real times, counted over all sequences, linearly; a sequence's ends stay."""
        times = torch.maximum(torch.minimum(times, self._lasts[sequence, None]), self._firsts[sequence, None])
        before = times.floor().long()
        after = torch.minimum(before + 1, self._lasts[sequence, None])
        part = (times - before)[..., None, None]
        return torch.lerp(self._joints[before], self._joints[after], part.expand(-1, -1, 17, 3))

    def _other_body(self, world: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The motion on a body of another size and other bones, on the same ground, and (windows, 1) how much larger."""
        count = len(world)
        bones = torch.randn(count, 17, generator=generator)
        for right, left in PAIRS:
            bones[:, left] = bones[:, right]
        bones = (self.augmentation.bone_scale * bones).exp()
        size = (self.augmentation.body_scale * torch.randn(count, 1, generator=generator)).exp()
        moved = [world[:, :, 0]]
        for joint, parent in enumerate(HUMAN36M17.parents):
            if parent >= 0:
                bone = world[:, :, joint] - world[:, :, parent]
                moved.append(moved[parent] + bones[:, joint, None, None] * bone)
        moved = torch.stack(moved, dim=2)
        moved[..., 2] += (world[..., 2].amin(2) - moved[..., 2].amin(2)).mean(1)[:, None, None]
        return moved * size[..., None, None], size


def _rotate(poses: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn poses (count, frames, joints, 3) about the vertical by angles (count,)."""
    cos, sin = (function(angles)[:, None, None] for function in (torch.cos, torch.sin))
    x, y, z = poses.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=-1)
