"""Estimated poses of a track and the true ones beside them, and windows of them to train SmoothNet and DeciWatch on.

Read are the released archives of SmoothNet (arXiv 2112.13715) and DeciWatch (arXiv 2203.08713), and motion-capture archives
with simulated detections (`cmu_*.npz`). `PoseWindows` takes every window once, or those that the originals' code takes,
which leaves some windows out and takes others several times.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from ..cameras import PinholeCamera
from .sequence_archives import read_sequence_archive


KEYS = {"2D": ("joints_2d", 2), "3D": ("joints_3d", 3), "smpl": ("pose", 3)}
"""Name and numbers a joint of each representation in the released archives."""
UNITS = {"2D": "pixel", "3D": "metre", "smpl": "axis_angle"}
NETWORK_UNIT = "network"
"""Unit of poses as a network reads them, see `prepare_pair`."""
HUMAN36M_TO_LSP14 = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)
"""Joint of the released 17 (left first) for each of the 14 that 3DPW is measured on."""
HUMAN36M_IMAGE_SIZE = (1000, 1000)
DATASETS = ("aist", "h36m", "jhmdb", "mpiinf3dhp", "mupots", "pw3d")
PHASES = ("train", "test")


@dataclass(frozen=True)
class PosePair:
    """Poses of one track as an estimator gave them, and the true ones.

    Args:
        name: Name of the sequence.
        poses: (frames, joints, dims) estimates.
        targets: Same shape.
        unit: `"pixel"`, `"metre"`, `"millimetre"`, `"axis_angle"` (radians), or `NETWORK_UNIT`.
        scores: (frames, joints) confidences, if known.
        image_size: Width and height in pixels, if known.
        boxes: (frames, 4) corners of the person's box in pixels, if known.
        frame_rate: Frames a second, if known.
        valid_joints: (joints,) where `targets` can be trusted; None for everywhere.

    Raises:
        ValueError: If shapes do not fit.
    """

    name: str
    poses: np.ndarray
    targets: np.ndarray
    unit: str
    scores: np.ndarray | None = None
    image_size: tuple[int, int] | None = None
    boxes: np.ndarray | None = None
    frame_rate: float | None = None
    valid_joints: np.ndarray | None = None

    def __post_init__(self):
        for name in ("poses", "targets"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        if self.poses.ndim != 3 or self.poses.size == 0 or self.poses.shape != self.targets.shape:
            raise ValueError(
                f"`poses` and `targets` of {self.name!r} must have one shape (frames, joints, dims), "
                f"got {self.poses.shape} and {self.targets.shape}."
            )
        frames, joints, _ = self.poses.shape
        shapes = {"scores": (frames, joints), "boxes": (frames, 4), "valid_joints": (joints,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise ValueError(f"`{name}` of {self.name!r} must have shape {shape}, got {np.shape(value)}.")


def root_joints(dataset: str, estimator: str) -> tuple[int, ...]:
    """Joints whose mean is the root of 3-D poses of a released data set.

    Raises:
        ValueError: If the data set has no 3-D poses.
    """
    if dataset in ("mpiinf3dhp", "mupots"):
        return (14,)
    if dataset == "h36m" and not estimator.startswith(("vibe", "tcmr")):
        return (0,)
    if dataset in ("aist", "pw3d", "h36m"):
        return (2, 3)
    raise ValueError(f"`dataset` must be one with 3-D poses, got {dataset!r}.")


def released_files(
    folder: str | PathLike,
    release: Literal["smoothnet", "deciwatch"],
    dataset: str,
    estimator: str,
    representation: Literal["2D", "3D", "smpl"],
    phase: Literal["train", "test"],
) -> tuple[Path, Path]:
    """Archives of the estimates and of the true poses.

    Args:
        folder: Where the release was unpacked: SmoothNet's `data/poses`, DeciWatch's `data`.
        release: Whose folders.
        dataset: One of `DATASETS`.
        estimator: Pose estimator in lower case, such as `"spin"`.
        representation: Joints in the picture, joints in space, or SMPL's rotations.
        phase: Training or test data.

    Raises:
        ValueError: If an argument is unknown, or a file is absent.
    """
    for name, value, known in (
        ("release", release, ("smoothnet", "deciwatch")),
        ("dataset", dataset, DATASETS),
        ("representation", representation, tuple(KEYS)),
        ("phase", phase, PHASES),
    ):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {known}, got {value!r}.")
    folder = Path(folder)
    if release == "smoothnet":
        folder /= f"{dataset}_{estimator}_{representation}"
        files = (
            folder / "detected" / f"{dataset}_{estimator}_{representation}_{phase}.npz",
            folder / "groundtruth" / f"{dataset}_gt_{representation}_{phase}.npz",
        )
    else:
        files = (
            folder / "detected_poses" / dataset / estimator / f"{dataset}_{estimator}_{phase}.npz",
            folder / "groundtruth_poses" / dataset / f"{dataset}_gt_{phase}.npz",
        )
    for path in files:
        if not path.is_file():
            raise ValueError(f"`folder` must hold the released file {str(path)!r}, which is absent.")
    return files


def read_released(
    folder: str | PathLike,
    release: Literal["smoothnet", "deciwatch"],
    dataset: str,
    estimator: str,
    representation: Literal["2D", "3D", "smpl"],
    phase: Literal["train", "test"],
) -> list[PosePair]:
    """Sequences of a released data set as its own code gives them to the network, but for units and rotations.

    3DPW's 17 joints become the 14 it is measured on. DeciWatch takes the root off 3-D poses. 2-D poses stay in pixels, and
    SMPL's rotations (frames, 24, 3) are axis and angle.

    Args:
        folder: See `released_files`, as for the other arguments.
        release: Whose folders.
        dataset: One of `DATASETS`.
        estimator: Pose estimator.
        representation: Kind of poses.
        phase: Training or test data.

    Raises:
        ValueError: If a file is absent, cannot be read, or the two do not fit each other.
    """
    files = released_files(folder, release, dataset, estimator, representation, phase)
    estimates, truth = (read_sequence_archive(path) for path in files)
    key, dims = KEYS[representation]
    for path, entries in zip(files, (estimates, truth), strict=True):
        if key not in entries:
            raise ValueError(f"{str(path)!r} must hold {key!r}, and holds {sorted(entries)}.")
    if len(estimates[key]) != len(truth[key]):
        raise ValueError(
            f"{str(files[0])!r} and {str(files[1])!r} must hold the same sequences, got {len(estimates[key])} and "
            f"{len(truth[key])}."
        )
    extra = {name: truth.get(name, estimates.get(name)) for name in ("imgname", "imgshape", "bbox")}
    pairs = []
    for index, poses in enumerate(zip(estimates[key], truth[key], strict=True)):
        name = str(index)
        if extra["imgname"] is not None and extra["imgname"][index].size:
            name = str(extra["imgname"][index].flat[0]).rpartition("/")[0] or name
        poses = [
            _as_joints(values, dims, f"{key!r} of sequence {index} of {files[0].parent.name!r}") for values in poses
        ]
        if dataset == "pw3d" and representation == "3D":
            poses = [values[:, HUMAN36M_TO_LSP14] if values.shape[1] == 17 else values for values in poses]
        if release == "deciwatch" and representation == "3D":
            roots = list(root_joints(dataset, estimator))
            poses = [values - values[:, roots].mean(axis=1, keepdims=True) for values in poses]
        image_size = HUMAN36M_IMAGE_SIZE if (dataset, representation) == ("h36m", "2D") else None
        boxes = None
        if representation == "2D" and extra["imgshape"] is not None:
            height, width = extra["imgshape"][index].ravel()[:2].tolist()
            image_size = (int(width), int(height))
        if representation == "2D" and extra["bbox"] is not None:
            boxes = extra["bbox"][index]
        pairs.append(PosePair(name, *poses, UNITS[representation], image_size=image_size, boxes=boxes))
    return pairs


def _as_joints(values: np.ndarray, dims: int, where: str) -> np.ndarray:
    """(frames, joints, dims) float32."""
    if values.ndim < 2 or values.dtype.kind not in "biuf" or values[0].size % dims:
        raise ValueError(f"{where} must have shape (frames, joints * {dims}), got {values.shape}.")
    return values.reshape(len(values), -1, dims).astype(np.float32)


def read_motion(path: str | PathLike, representation: Literal["2D", "3D"]) -> list[PosePair]:
    """Sequences of a motion-capture archive with simulated estimates.

    Args:
        path: `.npz` file with `joints3d` (frames, joints, 3) in the world, millimetres, first joint the pelvis; `det2d`
            (frames, joints, 3) x, y in pixels and confidence; `pred3d` (frames, joints, 3) in the camera's axes,
            millimetres, relative to the pelvis; `K`, `R`, `t` (sequences, ...) of a camera each; `seq_id`, `seq_start`,
            `seq_len`, `fps`, `image_size`.
        representation: `"2D"`, pixels; or `"3D"`, millimetres relative to the pelvis.

    Raises:
        ValueError: If the file is not of this kind.
    """
    if representation not in ("2D", "3D"):
        raise ValueError(f"`representation` must be '2D' or '3D', got {representation!r}.")
    names = ("joints3d", "det2d", "pred3d", "K", "R", "t", "seq_id", "seq_start", "seq_len", "fps", "image_size")
    data = _read_plain(path, names)
    width, height = data["image_size"].tolist()
    pairs = []
    for index, (first, length) in enumerate(zip(data["seq_start"], data["seq_len"], strict=True)):
        rows = slice(int(first), int(first + length))
        intrinsics, rotation = data["K"][index], data["R"][index]
        camera = PinholeCamera(
            intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2], rotation, position=-rotation.T @ data["t"][index]
        )
        joints = camera.to_camera(data["joints3d"][rows])
        common = {"name": str(data["seq_id"][index]), "frame_rate": float(data["fps"].flat[0])}
        if representation == "2D":
            poses, targets, scores = data["det2d"][rows, :, :2], camera.project(joints), data["det2d"][rows, :, 2]
            pair = PosePair(
                poses=poses, targets=targets, unit="pixel", scores=scores, image_size=(width, height), **common
            )
        else:
            targets = joints - joints[:, :1]
            pair = PosePair(poses=data["pred3d"][rows], targets=targets, unit="millimetre", **common)
        pairs.append(pair)
    return pairs


def read_detections(path: str | PathLike, detectors: Sequence[str] = ("openpose", "mediapipe")) -> list[PosePair]:
    """Tracks of real detectors in several views, with reference places in the picture.

    Args:
        path: `.npz` file with an array (views, frames, joints, 3) of x, y and score of each detector, `gt2d` (views,
            frames, joints, 2), `gt_valid` (joints,), `camera` (views,), `image_size` (views, 2) and `fps`.
        detectors: Arrays to read.

    Returns:
        One pair for each detector and view, named `detector/camera`.

    Raises:
        ValueError: If the file is not of this kind.
    """
    data = _read_plain(path, (*detectors, "gt2d", "gt_valid", "camera", "image_size", "fps"))
    return [
        PosePair(
            f"{detector}/{camera}",
            data[detector][view, ..., :2],
            data["gt2d"][view],
            "pixel",
            scores=data[detector][view, ..., 2],
            image_size=tuple(data["image_size"][view].tolist()),
            frame_rate=float(data["fps"].flat[0]),
            valid_joints=data["gt_valid"],
        )
        for detector in detectors
        for view, camera in enumerate(data["camera"])
    ]


def _read_plain(path: str | PathLike, names: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"`path` {str(path)!r} must be an npz archive without pickles that holds {list(names)}: {error}"
        ) from error


def prepare_pair(pair: PosePair, extractor: Callable[..., Mapping]) -> PosePair:
    """The pair as a network reads it: units, picture, root and rotations by its feature extractor.

    Args:
        pair: Poses in their own unit.
        extractor: A `PoseSequenceFeatureExtractor`; it fills missing joints, too.
    """
    poses, targets = (
        np.asarray(extractor(values, **extractor_options(pair))["pose_values"])[0]
        for values in (pair.poses, pair.targets)
    )
    return replace(pair, poses=poses, targets=targets, unit=NETWORK_UNIT, scores=None)


def extractor_options(pair: PosePair) -> dict[str, Any]:
    """What a `PoseSequenceFeatureExtractor` has to be told of the poses, as its keyword arguments."""
    if pair.unit == "axis_angle":
        return {"rotation_format": "axis_angle"}
    return {"unit": pair.unit, "image_size": pair.image_size}


def all_windows(lengths: Sequence[int], window_size: int) -> np.ndarray:
    """Sequence and first frame of every window, (windows, 2); a shorter sequence has one."""
    counts = np.maximum(np.asarray(lengths) - window_size + 1, 1)
    sequences = np.repeat(np.arange(len(counts)), counts)
    return np.stack([sequences, np.arange(len(sequences)) - (counts.cumsum() - counts)[sequences]], axis=1)


def smoothnet_windows(lengths: Sequence[int], window_size: int, num_windows: int | None = None) -> np.ndarray:
    """Windows that SmoothNet's code trains on, (windows, 2).

    It counts one window too few a sequence, so that short sequences are left out; of the surplus all fall to the last
    sequence, whose windows come again and again.

    Args:
        lengths: Frames of each sequence.
        window_size: Frames of a window.
        num_windows: Windows of an epoch; None for the number of frames. For 3DPW it is the sum of length minus window
            size.
    """
    lengths = np.asarray(lengths)
    counts = np.maximum(lengths - window_size, 0)
    firsts = counts.cumsum() - counts
    index = np.arange(lengths.sum() if num_windows is None else num_windows)
    sequences = np.searchsorted(firsts, index, side="right") - 1
    starts = (index - firsts[sequences]) % np.maximum(lengths - window_size + 1, 1)[sequences]
    return np.stack([sequences, starts], axis=1)


def deciwatch_windows(lengths: Sequence[int], window_size: int) -> np.ndarray:
    """Windows that DeciWatch's code trains on, (frames, 2): as many as a sequence has frames, from its start on again."""
    lengths = np.asarray(lengths)
    sequences = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.arange(len(sequences)) - (lengths.cumsum() - lengths)[sequences]
    return np.stack([sequences, starts % np.maximum(lengths - window_size + 1, 1)[sequences]], axis=1)


class PoseWindows(Dataset):
    """Windows of sequences, as `pose_values` and `labels` of one shape (window_size, joints, dims).

    A list of indices gives a whole batch by one gather, which `DataLoader` uses if
    `collate_fn=hvmodels.datasets.forecasting.collate_windows`.

    Args:
        pairs: Sequences with the same joints; without missing joints.
        window_size: Frames of a window.
        sampler: `"all"`, every window once; or the windows of the originals' code: `"smoothnet"`, `"smoothnet_pw3d"`
            (its count for 3DPW), `"deciwatch"`.
        short_sequence: What follows the last frame of a sequence shorter than the window: its last pose, or zeros.

    Attributes:
        index: (windows, 2), sequence and first frame of each window.

    Raises:
        ValueError: If sequences differ in joints, hold NaN, or none gives a window.
    """

    def __init__(
        self,
        pairs: Sequence[PosePair],
        window_size: int,
        sampler: Literal["all", "smoothnet", "smoothnet_pw3d", "deciwatch"] = "all",
        short_sequence: Literal["replicate", "zeros"] = "replicate",
    ):
        if not isinstance(window_size, int) or window_size < 1:
            raise ValueError(f"`window_size` must be a positive integer, got {window_size!r}.")
        if short_sequence not in ("replicate", "zeros"):
            raise ValueError(f"`short_sequence` must be 'replicate' or 'zeros', got {short_sequence!r}.")
        shapes = {pair.poses.shape[1:] for pair in pairs}
        if len(shapes) != 1:
            raise ValueError(f"`pairs` must have poses of one shape (joints, dims), got {sorted(shapes)}.")
        for pair in pairs:
            if not (np.isfinite(pair.poses).all() and np.isfinite(pair.targets).all()):
                raise ValueError(f"`pairs` must be finite, got NaN in {pair.name!r}; fill missing joints first.")
        lengths = np.array([len(pair.poses) for pair in pairs])
        if sampler == "all":
            self.index = all_windows(lengths, window_size)
        elif sampler == "smoothnet":
            self.index = smoothnet_windows(lengths, window_size)
        elif sampler == "smoothnet_pw3d":
            self.index = smoothnet_windows(lengths, window_size, np.maximum(lengths - window_size, 0).sum())
        elif sampler == "deciwatch":
            self.index = deciwatch_windows(lengths, window_size)
        else:
            raise ValueError(
                f"`sampler` must be 'all', 'smoothnet', 'smoothnet_pw3d' or 'deciwatch', got {sampler!r}."
            )
        if len(self.index) == 0:
            raise ValueError(f"`pairs` must have sequences longer than `window_size`, got {window_size}.")
        self.window_size = window_size
        mode = {"mode": "edge"} if short_sequence == "replicate" else {}
        padding = [((0, max(window_size - length, 0)), (0, 0), (0, 0)) for length in lengths]
        self._values = {
            name: torch.from_numpy(
                np.concatenate(
                    [np.pad(getattr(pair, source), pad, **mode) for pair, pad in zip(pairs, padding, strict=True)]
                )
            )
            for name, source in (("pose_values", "poses"), ("labels", "targets"))
        }
        stored = np.maximum(lengths, window_size)
        self._firsts = torch.from_numpy((stored.cumsum() - stored)[self.index[:, 0]] + self.index[:, 1])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in self.__getitems__([range(len(self))[index]]).items()}

    def __getitems__(self, indices: Any) -> dict[str, torch.Tensor]:
        """The windows of several indices from 0 on, with a leading batch axis."""
        firsts = self._firsts[torch.as_tensor(indices, dtype=torch.int64)]
        frames = (firsts[:, None] + torch.arange(self.window_size)).flatten()
        return {
            name: values.index_select(0, frames).unflatten(0, (len(firsts), self.window_size))
            for name, values in self._values.items()
        }


__all__ = [
    "PosePair",
    "PoseWindows",
    "all_windows",
    "deciwatch_windows",
    "extractor_options",
    "prepare_pair",
    "read_detections",
    "read_motion",
    "read_released",
    "released_files",
    "root_joints",
    "smoothnet_windows",
]
