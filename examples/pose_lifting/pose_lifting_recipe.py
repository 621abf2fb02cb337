"""A training run of a model that lifts 2D poses: its settings, the data and model they describe, evaluation and results."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel


sys.path.append(str(Path(__file__).parents[1] / "pose_estimation"))  # what training runs of poses share

from pose_recipe import (
    LastWeightsRun,
    ShuffledShare,
    option,
    read_json_option,
    write_json,
)

from hvmodels.datasets.forecasting import collate_windows
from hvmodels.datasets.human36m import TEST_SUBJECTS, TRAIN_SUBJECTS
from hvmodels.datasets.human36m_archives import ClipWindows, read_human36m_archives
from hvmodels.datasets.pose_lifting import (
    DetectionNoise,
    LiftingAugmentation,
    LiftingSequence,
    LiftingWindows,
    read_lifting_sequences,
)
from hvmodels.keypoint_sets import HUMAN36M17
from hvmodels.metrics.pose_sequence import joint_errors
from hvmodels.models.pose_sequence import (
    MartinezFCNConfig,
    MartinezFCNFeatureExtractor,
    MartinezFCNForPoseLifting,
    PoseLiftingFeatureExtractor,
    SkeletalGNNConfig,
    SkeletalGNNFeatureExtractor,
    SkeletalGNNForPoseLifting,
    VideoPose3DConfig,
    VideoPose3DFeatureExtractor,
    VideoPose3DForPoseLifting,
)


METHODS = {
    "skeletal-gnn": (SkeletalGNNConfig, SkeletalGNNForPoseLifting, SkeletalGNNFeatureExtractor),
    "videopose3d": (VideoPose3DConfig, VideoPose3DForPoseLifting, VideoPose3DFeatureExtractor),
    "martinez-fcn": (MartinezFCNConfig, MartinezFCNForPoseLifting, MartinezFCNFeatureExtractor),
}
UNKNOWN_SUBJECT = "unk"
STATISTICS_SAMPLES = 4096


@dataclass
class PoseLiftingRecipe:
    """Settings of one run; each is a key of a recipe file and a command-line option, which wins."""

    method: Literal["skeletal-gnn", "videopose3d", "martinez-fcn"] = option("skeletal-gnn", "Model.")
    train_data: str | None = option(None, "Archive of motion capture, see hvmodels.datasets.pose_lifting.")
    validation_data: str | None = option(None, "Another one to evaluate on.")
    keypoints: str | None = option(
        None, "Human3.6M's archive of keypoints, see hvmodels.datasets.human36m_archives. `train_data` is that of its poses "
        "then, windows are taken as they stand, and the test subjects are evaluated on."
    )  # fmt: skip
    mirror: bool = option(True, "Whether the mirror images of Human3.6M's windows are trained on too.")
    held_out: bool = option(
        False, "Evaluate on a part of the training data, which is not trained on then: subjects and every fourth sequence "
        "of unknown ones. For the choice of settings."
    )  # fmt: skip
    held_out_subjects: list[str] = field(
        default_factory=lambda: ["02", "10", "39"], metadata={"help": "Subjects of `held_out`."}
    )
    model: str | None = option(None, "Pretrained model to start from: a folder or a Hub repository.")
    config: str | None = option(None, "Fields of the configuration of a model from scratch: JSON text or file.")
    augmentation: str | None = option(None, "Fields of LiftingAugmentation: JSON text or file.")
    batch_size: int = option(256, "Windows a step, over all processes together.")
    learning_rate: float = option(1e-3, "Of Adam, at the start.")
    schedule: Literal["cosine", "exponential"] = option(
        "cosine", "Learning rate: down to 0 along a cosine, or times `learning_rate_decay` after each epoch."
    )
    learning_rate_decay: float = option(0.95, "Of the exponential schedule.")
    warmup_steps: int = option(50, "Steps in which the learning rate rises at the start.")
    amsgrad: bool = option(False, "Whether Adam keeps the largest second moments.")
    batch_norm_momentum_end: float | None = option(
        None, "Share of a batch in the running statistics at the end, to which it falls exponentially epoch by epoch from "
        "the configuration's; None keeps that. For VideoPose3D."
    )  # fmt: skip
    epochs: int = option(60, "Passes over the frames.")
    evaluate_every: int = option(10, "Epochs from one evaluation and saved state to the next.")
    log_every: int = option(100, "Steps from one printed training loss to the next.")
    seed: int = option(4321, "Of weights, order, cameras, noise and dropout.")

    def __post_init__(self):
        for name in ("config", "augmentation"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, read_json_option(getattr(self, name), name))
        for name in ("batch_size", "epochs", "evaluate_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.warmup_steps < 0:
            raise ValueError(f"`warmup_steps` must not be negative, got {self.warmup_steps}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"`learning_rate` must be positive, got {self.learning_rate}.")
        if not 0 < self.learning_rate_decay <= 1:
            raise ValueError(f"`learning_rate_decay` must be above 0 and at most 1, got {self.learning_rate_decay}.")
        if self.model is not None and self.config is not None:
            raise ValueError("`model` brings its configuration; leave out `config`.")
        if self.keypoints is not None and (self.held_out or self.validation_data or self.augmentation):
            raise ValueError(
                "`keypoints` brings Human3.6M's own subjects to evaluate on, and windows as they stand; leave out `held_out`, "
                "`validation_data` and `augmentation`."
            )
        if self.batch_norm_momentum_end is not None and not 0 < self.batch_norm_momentum_end <= 1:
            raise ValueError(f"`batch_norm_momentum_end` must be in (0, 1], got {self.batch_norm_momentum_end}.")
        if self.batch_norm_momentum_end is not None and self.method != "videopose3d":
            raise ValueError(f"`batch_norm_momentum_end` is for videopose3d, got `method` {self.method!r}.")
        if self.held_out and self.validation_data is not None:
            raise ValueError("`held_out` evaluates on the training data; leave out `validation_data`.")
        for name, values, known in (
            ("config", self.config, METHODS[self.method][0]),
            ("augmentation", self.augmentation, LiftingAugmentation),
        ):
            if unknown := set(values or {}) - {entry.name for entry in fields(known)}:
                raise ValueError(f"`{name}` has fields that {known.__name__} lacks: {sorted(unknown)}.")

    def load_data(self) -> "PoseLiftingData":
        """Read the sequences.

        Raises:
            ValueError: If a file is missing or does not fit.
        """
        if self.train_data is None:
            raise ValueError("`train_data` must name the data to train on.")
        if self.keypoints is not None:
            return self._load_human36m()
        train, validation = read_lifting_sequences(self.train_data), None
        if self.validation_data is not None:
            validation = read_lifting_sequences(self.validation_data)
        elif self.held_out:
            train, validation = self.hold_out(train)
        config = self.model_config()
        augmentation = LiftingAugmentation(
            **{name: tuple(v) if isinstance(v, list) else v for name, v in (self.augmentation or {}).items()}
        )
        windows = LiftingWindows(
            train,
            config.num_frames,
            getattr(config, "causal", False),
            noise=DetectionNoise.fit(train),
            augmentation=augmentation,
            seed=self.seed,
        )
        if len(windows) < self.batch_size:
            raise ValueError(
                f"`batch_size` must be at most the number of frames, {len(windows)}, got {self.batch_size}."
            )
        return PoseLiftingData(windows, self.build_extractor(config, train), validation)

    def _load_human36m(self) -> "PoseLiftingData":
        train, test = (
            read_human36m_archives(self.train_data, self.keypoints, subjects)
            for subjects in (TRAIN_SUBJECTS, TEST_SUBJECTS)
        )
        if set(map(frozenset, train.flip_pairs)) != set(map(frozenset, HUMAN36M17.flip_pairs)):
            raise ValueError(
                "`keypoints` must have the joints of Human3.6M, such as data_2d_h36m_cpn_ft_h36m_dbb.npz."
            )
        config = self.model_config()
        windows = ClipWindows.from_sequences(
            train, config.num_frames, causal=getattr(config, "causal", False), mirror=self.mirror
        )
        return PoseLiftingData(windows, self.build_extractor(config, train.sequences), test.sequences)

    def hold_out(self, sequences: Sequence[LiftingSequence]) -> tuple[list[LiftingSequence], list[LiftingSequence]]:
        """The sequences to train on and those to evaluate on."""
        unknown = [sequence.name for sequence in sequences if sequence.subject == UNKNOWN_SUBJECT][::4]
        aside = [sequence.subject in self.held_out_subjects or sequence.name in set(unknown) for sequence in sequences]
        if all(aside) or not any(aside):
            raise ValueError(
                f"`held_out_subjects` must leave some sequences to train on and some not; {sum(aside)} of {len(aside)} are "
                "theirs."
            )
        parts = ([s for s, out in zip(sequences, aside, strict=True) if out == kept_out] for kept_out in (False, True))
        return tuple(parts)

    def model_config(self) -> Any:
        """Configuration of the model."""
        config_class = METHODS[self.method][0]
        if self.model is not None:
            return config_class.from_pretrained(self.model)
        return config_class(**(self.config or {}))

    def build_extractor(self, config: Any, sequences: Sequence[LiftingSequence]) -> PoseLiftingFeatureExtractor:
        """What brings pixels to the numbers that the model reads, and its poses back."""
        extractor_class = METHODS[self.method][2]
        if self.model is not None:
            return extractor_class.from_pretrained(self.model)
        lenses = {float(s.camera.focal_length[0]) / s.image_size[0] for s in sequences}
        return extractor_class(
            num_frames=config.num_frames,
            causal=getattr(config, "causal", False),
            focal_length=round(sum(lenses) / len(lenses), 6) if max(lenses) < 1.01 * min(lenses) else None,
        )

    def build_model(self, data: "PoseLiftingData") -> PreTrainedModel:
        torch.manual_seed(self.seed)
        model_class = METHODS[self.method][1]
        if self.model is not None:
            return model_class.from_pretrained(self.model)
        model = model_class(self.model_config())
        if hasattr(model, "fit_statistics"):
            samples = data.train.__getitems__(np.linspace(0, len(data.train) - 1, STATISTICS_SAMPLES).astype(int))
            model.fit_statistics(samples["keypoints_2d"], samples["labels"])
        if self.batch_norm_momentum_end is not None:
            self._schedule_momentum(model, self.steps_per_epoch(data))
        return model

    def _schedule_momentum(self, model: VideoPose3DForPoseLifting, steps_per_epoch: int):
        """Set the momentum before each epoch; batch norms count the steps themselves, also over an interruption."""
        start, end = model.config.batch_norm_momentum, self.batch_norm_momentum_end
        steps_before = int(model.videopose3d.expand.norm.num_batches_tracked)  # of a model to start from

        def schedule(module, arguments):
            steps = int(module.videopose3d.expand.norm.num_batches_tracked) - steps_before
            if module.training and steps % steps_per_epoch == 0:
                module.set_batch_norm_momentum(start * (end / start) ** (steps // steps_per_epoch / self.epochs))

        model.register_forward_pre_hook(schedule)

    def steps_per_epoch(self, data: "PoseLiftingData") -> int:
        return len(data.train) // self.batch_size

    def make_optimizer(self, model: torch.nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(model.parameters(), self.learning_rate, amsgrad=self.amsgrad, fused=True)

    def make_scheduler(self, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LambdaLR:
        total = self.epochs * steps_per_epoch

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
            if self.schedule == "exponential":
                return warm * self.learning_rate_decay ** (step // steps_per_epoch)
            return warm * (0.5 + 0.5 * math.cos(math.pi * min(step / total, 1.0)))

        return LambdaLR(optimizer, factor)

    def training_loader(self, data: "PoseLiftingData", num_processes: int, process_index: int) -> DataLoader:
        """Batches of one process: those of an epoch hold the same frames for any number of processes."""
        share = ShuffledShare(len(data.train), self.batch_size, self.seed, num_processes, process_index)
        return DataLoader(data.train, batch_sampler=share, collate_fn=collate_windows)

    def make_run(self, data: "PoseLiftingData", output_dir: Path) -> LastWeightsRun:
        measure = None if data.validation is None else partial(evaluate, data)
        return LastWeightsRun(self, data.extractor, output_dir, measure)


@dataclass
class PoseLiftingData:
    """What is trained and evaluated on.

    Args:
        train: Windows to draw samples of.
        extractor: What leads from pixels to the model and back.
        validation: Sequences to evaluate on, if any.
    """

    train: LiftingWindows | ClipWindows
    extractor: PoseLiftingFeatureExtractor
    validation: list[LiftingSequence] | None


@torch.inference_mode()
def lift_sequence(
    sequence: LiftingSequence,
    model: PreTrainedModel,
    extractor: PoseLiftingFeatureExtractor,
    detected: bool = False,
    flip_test: bool | None = None,
) -> np.ndarray:
    """Poses (frames, 17, 3) in the camera's axes, metres, from true places in the picture or from stored detections."""
    keypoints, scores = (
        (sequence.detections, sequence.scores) if detected else (sequence.keypoints.astype(np.float32), None)
    )
    features = extractor(keypoints, scores, image_size=sequence.image_size, flip_test=flip_test)
    outputs = model(keypoints_2d=features["keypoints_2d"].to(model.device))
    return extractor.post_process_pose_lifting(outputs, features)[0]["poses"]


def evaluate(data: PoseLiftingData, model: PreTrainedModel, accelerator: Accelerator) -> dict[str, float]:
    """MPJPE in millimetres over all frames, from true and from detected places; each sequence is lifted by one process."""
    was_training = model.training
    model.eval()
    found = []
    for index in range(accelerator.process_index, len(data.validation), accelerator.num_processes):
        sequence = data.validation[index]
        errors = [
            float(joint_errors(lift_sequence(sequence, model, data.extractor, detected), sequence.positions).sum())
            for detected in (False, True)
        ]
        found.append((index, len(sequence), *errors))
    model.train(was_training)
    found = sorted(gather_object(found))
    joints = sum(length for _, length, *_ in found) * len(data.extractor.keypoint_names)
    names = ("MPJPE true 2D", "MPJPE detected 2D")
    return {name: 1000 * sum(entry[2 + place] for entry in found) / joints for place, name in enumerate(names)}


__all__ = [
    "LastWeightsRun",
    "PoseLiftingData",
    "PoseLiftingRecipe",
    "lift_sequence",
    "write_json",
]
