"""A training run of SmoothNet or DeciWatch: its settings, the data and model they describe, evaluation and results."""

import math
import sys
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader


sys.path.append(str(Path(__file__).parents[1] / "pose_estimation"))  # what training runs of poses share

from pose_recipe import (
    LastWeightsRun,
    ShuffledShare,
    option,
    read_json_option,
    write_json,
)

from hvmodels.datasets.forecasting import collate_windows
from hvmodels.datasets.pose_sequence import (
    PosePair,
    PoseWindows,
    extractor_options,
    prepare_pair,
    read_motion,
    read_released,
    root_joints,
)
from hvmodels.metrics.pose_sequence import acceleration_errors, joint_errors
from hvmodels.models.pose_sequence import (
    DeciWatchConfig,
    DeciWatchFeatureExtractor,
    DeciWatchForPoseRecovery,
    PoseSequenceFeatureExtractor,
    SmoothNetConfig,
    SmoothNetFeatureExtractor,
    SmoothNetForPoseRefinement,
)
from hvmodels.models.pose_sequence.rotations_pose_sequence import convert_rotations


METHODS = {
    "smoothnet": (SmoothNetConfig, SmoothNetForPoseRefinement, SmoothNetFeatureExtractor),
    "deciwatch": (DeciWatchConfig, DeciWatchForPoseRecovery, DeciWatchFeatureExtractor),
}
# Fields of the configuration that are options of their own, since the settings of a recipe differ in them.
WINDOW_FIELDS = ("window_size", "sample_interval", "num_intervals", "window_stride_intervals")
# How the released models read pictures, `pixel / size * scale + offset`.
IMAGE_SCALES = {
    ("smoothnet", "h36m"): (2.0, -1.0),
    ("smoothnet", "jhmdb"): (1.0, -0.5),
    ("deciwatch", "jhmdb"): (1.0, 0.0),
}


def released_options(release: str, dataset: str, estimator: str, representation: str) -> dict[str, Any]:
    """Arguments of the feature extractor that does what the loader of a released data set does."""
    if representation == "2D":
        scale, offset = IMAGE_SCALES.get((release, dataset), (2.0, -1.0))
        return {"normalization": "image", "image_scale": scale, "image_offset": offset}
    if representation == "smpl":
        return {}
    roots = {"root_indices": list(root_joints(dataset, estimator))} if release == "deciwatch" else {}
    return {"unit": "metre", **roots}


@dataclass
class PoseSequenceRecipe:
    """Settings of one run; each is a key of a recipe file and a command-line option, which wins."""

    method: Literal["smoothnet", "deciwatch"] = option("smoothnet", "Model.")
    release: Literal["motion", "smoothnet", "deciwatch"] = option(
        "motion", "Layout of the data: archives of motion capture, or a folder as SmoothNet or DeciWatch publish it."
    )
    train_data: str | None = option(None, "Archive of motion capture, or the folder of the release.")
    validation_data: str | None = option(
        None, "Archive to evaluate on, or the folder of the release, whose test files are taken; none trains without."
    )
    dataset: str | None = option(None, "Data set of a release: aist, h36m, jhmdb, mpiinf3dhp, mupots, pw3d.")
    estimator: str | None = option(None, "Pose estimator of a release, e.g. spin.")
    representation: Literal["2D", "3D", "smpl"] = option("3D", "Kind of poses.")
    model: str | None = option(None, "Pretrained model to start from: a folder or a Hub repository.")
    config: str | None = option(None, "Fields of the configuration of a model from scratch: JSON text or file.")
    window_size: int | None = option(None, "Frames of SmoothNet's window.")
    sample_interval: int | None = option(None, "Frames from one pose that DeciWatch sees to the next.")
    num_intervals: int | None = option(None, "Intervals of DeciWatch's window.")
    window_stride_intervals: int | None = option(None, "Intervals from one window to the next, in evaluation.")
    sampler: Literal["all", "original"] = option("all", "Every window once, or the windows of the method's own code.")
    batch_size: int = option(128, "Windows a step, over all processes together.")
    learning_rate: float = option(1e-3, "Of Adam with amsgrad.")
    learning_rate_decay: float = option(0.95, "Factor of the learning rate after each epoch.")
    epochs: int = option(70, "Passes over the training windows.")
    evaluate_every: int = option(1, "Epochs from one evaluation and saved state to the next.")
    log_every: int = option(100, "Steps from one printed training loss to the next.")
    seed: int = option(4321, "Of weights, order and dropout.")

    def __post_init__(self):
        if isinstance(self.config, str):
            self.config = read_json_option(self.config, "config")
        for name in ("batch_size", "epochs", "evaluate_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"`learning_rate` must be positive, got {self.learning_rate}.")
        if not 0 < self.learning_rate_decay <= 1:
            raise ValueError(f"`learning_rate_decay` must be above 0 and at most 1, got {self.learning_rate_decay}.")
        if self.release == "motion" and (self.dataset or self.estimator or self.representation == "smpl"):
            raise ValueError("`dataset`, `estimator` and smpl belong to a `release`; archives of motion have none.")
        if self.release != "motion" and not (self.dataset and self.estimator):
            raise ValueError("`dataset` and `estimator` must name the files of the `release`.")
        if self.model is not None and self.config is not None:
            raise ValueError("`model` brings its configuration; leave out `config`.")

    def read_pairs(self, phase: Literal["train", "test"]) -> list[PosePair]:
        """Sequences of training or of the evaluation, in their own units."""
        path = self.train_data if phase == "train" else self.validation_data
        if self.release == "motion":
            return read_motion(path, self.representation)
        return read_released(path, self.release, self.dataset, self.estimator, self.representation, phase)

    def load_data(self) -> "PoseSequenceData":
        """Read the sequences.

        Raises:
            ValueError: If files are missing or do not fit.
        """
        if self.train_data is None:
            raise ValueError("`train_data` must name the data to train on.")
        train = self.read_pairs("train")
        extractor = self.build_extractor(train[0])
        config = self.model_config(train[0])
        original = self.sampler == "original"
        count = "smoothnet_pw3d" if self.dataset == "pw3d" else "smoothnet"
        windows = PoseWindows(
            [prepare_pair(pair, extractor) for pair in train],
            config.window_size,
            sampler=(count if self.method == "smoothnet" else "deciwatch") if original else "all",
            short_sequence="zeros" if original else "replicate",
        )
        if len(windows) < self.batch_size:
            raise ValueError(
                f"`batch_size` must be at most the number of training windows, {len(windows)}, got {self.batch_size}."
            )
        validation = None if self.validation_data is None else self.read_pairs("test")
        return PoseSequenceData(windows, train[0], extractor, validation)

    def build_extractor(self, pair: PosePair) -> PoseSequenceFeatureExtractor:
        """What brings poses into the units of the network and back."""
        extractor_class = METHODS[self.method][2]
        if self.model is not None:
            return extractor_class.from_pretrained(self.model)
        options = {}
        if self.release != "motion":
            options = released_options(self.release, self.dataset, self.estimator, self.representation)
        if self.method == "deciwatch":
            joint_dim = 6 if self.representation == "smpl" else pair.poses.shape[2]
            options |= {"num_joints": pair.poses.shape[1], "joint_dim": joint_dim}
            options["sample_interval"] = self.model_config(pair).sample_interval
        return extractor_class(**options)

    def model_config(self, pair: PosePair) -> SmoothNetConfig | DeciWatchConfig:
        """Configuration of the model, for the joints of the data."""
        config_class = METHODS[self.method][0]
        if self.model is not None:
            return config_class.from_pretrained(self.model)
        values = dict(self.config or {})
        values |= {name: getattr(self, name) for name in WINDOW_FIELDS if getattr(self, name) is not None}
        if self.method == "deciwatch":
            values.setdefault("num_joints", pair.poses.shape[1])
            values.setdefault("joint_dim", 6 if self.representation == "smpl" else pair.poses.shape[2])
        if unknown := set(values) - {entry.name for entry in fields(config_class)}:
            raise ValueError(f"`config` and window options have fields that {self.method} lacks: {sorted(unknown)}.")
        return config_class(**values)

    def build_model(self, data: "PoseSequenceData") -> SmoothNetForPoseRefinement | DeciWatchForPoseRecovery:
        torch.manual_seed(self.seed)
        model_class = METHODS[self.method][1]
        if self.model is not None:
            return model_class.from_pretrained(self.model)
        return model_class(self.model_config(data.example))

    def steps_per_epoch(self, data: "PoseSequenceData") -> int:
        return len(data.train) // self.batch_size

    def make_optimizer(self, model: torch.nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(model.parameters(), self.learning_rate, amsgrad=True, fused=True)

    def make_scheduler(self, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: self.learning_rate_decay ** (step // steps_per_epoch))

    def training_loader(self, data: "PoseSequenceData", num_processes: int, process_index: int) -> DataLoader:
        """Batches of one process: those of an epoch hold the same windows for any number of processes."""
        share = ShuffledShare(len(data.train), self.batch_size, self.seed, num_processes, process_index)
        return DataLoader(data.train, batch_sampler=share, collate_fn=collate_windows)

    def make_run(self, data: "PoseSequenceData", output_dir: Path) -> LastWeightsRun:
        measure = None if data.validation is None else partial(evaluate, data)
        return LastWeightsRun(self, data.extractor, output_dir, measure)


@dataclass
class PoseSequenceData:
    """What is trained and evaluated on.

    Args:
        train: Windows in the units of the network.
        example: A sequence in its own units.
        extractor: What leads from one to the other.
        validation: Sequences to evaluate on, if any, in their own units.
    """

    train: PoseWindows
    example: PosePair
    extractor: PoseSequenceFeatureExtractor
    validation: list[PosePair] | None


@torch.inference_mode()
def refine_pair(
    pair: PosePair,
    model: SmoothNetForPoseRefinement | DeciWatchForPoseRecovery,
    extractor: PoseSequenceFeatureExtractor,
    poses: np.ndarray | None = None,
) -> np.ndarray:
    """Refined poses in the unit of the pair; DeciWatch gets the poses of the frames it asks for and no others.

    Args:
        pair: What is known of the poses.
        model: In evaluation mode.
        extractor: The model's.
        poses: Poses to refine in place of the pair's.
    """
    poses = pair.poses if poses is None else poses
    options = {**extractor_options(pair), "frame_rate": pair.frame_rate}
    if isinstance(extractor, DeciWatchFeatureExtractor):
        indices = extractor.frame_indices(len(poses), pair.frame_rate)
        options |= {"frame_indices": indices, "num_frames": len(poses)}
        poses = poses[indices]
    features = extractor(poses, **options)
    outputs = model(features["pose_values"].to(model.device), features["pose_mask"].to(model.device))
    return extractor.post_process_pose_refinement(outputs, features)[0]["poses"]


def pair_errors(pair: PosePair, poses: np.ndarray) -> dict[str, np.ndarray]:
    """Errors (frames,) and acceleration errors (frames - 2,): millimetres in 3-D, else pixels; rotations in degrees."""
    targets, scale = pair.targets, 1000.0 if pair.unit == "metre" else 1.0
    if pair.unit == "axis_angle":
        poses, targets = (convert_rotations(values, "axis_angle", "matrix") for values in (poses, targets))
        cosine = (np.einsum("fjab,fjab->fj", poses, targets) - 1) / 2
        errors = np.degrees(np.arccos(cosine.clip(-1, 1)))
        # Of the matrices, whose distance is the angle in radians times the root of 2 for small angles.
        scale = np.degrees(1) / np.sqrt(2)
        poses, targets = poses.reshape(*poses.shape[:2], 9), targets.reshape(*targets.shape[:2], 9)
    else:
        errors = scale * joint_errors(poses, targets)
    return {"error": errors.mean(-1), "acceleration error": scale * acceleration_errors(poses, targets).mean(-1)}


def evaluate(
    data: PoseSequenceData, model: SmoothNetForPoseRefinement | DeciWatchForPoseRecovery, accelerator: Accelerator
) -> dict[str, float]:
    """Mean errors over all sequences; each is refined by one process."""
    was_training = model.training
    model.eval()
    found = []
    for index in range(accelerator.process_index, len(data.validation), accelerator.num_processes):
        pair = data.validation[index]
        errors = pair_errors(pair, refine_pair(pair, model, data.extractor))
        found.append((index, {name: (float(values.sum()), values.size) for name, values in errors.items()}))
    model.train(was_training)
    found = [sums for _, sums in sorted(gather_object(found), key=lambda entry: entry[0])]
    names = ("error", "acceleration error")
    return {name: sum(sums[name][0] for sums in found) / sum(sums[name][1] for sums in found) for name in names}


__all__ = [
    "LastWeightsRun",
    "PoseSequenceData",
    "PoseSequenceRecipe",
    "pair_errors",
    "refine_pair",
    "released_options",
    "write_json",
]
