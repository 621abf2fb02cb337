"""A training run of a network for actions: its settings, the data and model they describe, evaluation and results."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, default_collate


sys.path.append(str(Path(__file__).parents[1] / "pose_estimation"))  # what training runs of poses share

from pose_recipe import (
    LastWeightsRun,
    ShuffledShare,
    option,
    read_json_option,
)

from hvmodels import SkeletalGNNActionConfig, SkeletalGNNForActionRecognition, SkeletonActionFeatureExtractor
from hvmodels.datasets.skeleton_actions import (
    NTU_SPLITS,
    ActionAugmentation,
    ActionDataset,
    ActionSequence,
    mirrored_labels,
    read_action_archive,
    read_ntu_archive,
    read_ntu_folder,
)
from hvmodels.metrics.classification import classification_metrics


EVALUATION_BATCH = 32


@dataclass
class ActionRecipe:
    """Settings of one run; each is a key of a recipe file and a command-line option, which wins."""

    data: Literal["archive", "ntu", "ntu-archive"] = option(
        "archive", "Kind of the data: archives of sequences, a folder of NTU's .skeleton files, or CTR-GCN's .npz."
    )
    train_data: str | None = option(None, "Archive or folder.")
    validation_data: str | None = option(None, "Archive to evaluate on, where it is not `train_data` that tells.")
    held_out: str | None = option(None, "Groups of `train_data`, such as styles, to evaluate on instead: a,b,c.")
    split: Literal[NTU_SPLITS] | None = option(None, "Of NTU's files.")
    skipped: str | None = option(None, "Text file with the names of NTU's broken files, one a line.")
    unit: Literal["metre", "millimetre"] = option("metre", "Unit of the data.")
    up: Literal["z", "y", "-y", "-z"] | None = option(None, "Axis that points up, for extractors that turn to it.")
    extractor: str | None = option(None, "Settings of the feature extractor: JSON text or file.")
    config: str | None = option(None, "Fields of the configuration: JSON text or file.")
    augmentation: str | None = option(None, "Fields of `ActionAugmentation`: JSON text or file.")
    one_handed: str | None = option(None, "Actions that are never mirrored, since one hand always does them: a,b,c.")
    ctr_crop: float | None = option(None, "Least share of the frames that training keeps, for CTR-GCN's preparation.")
    ctr_rotation: float = option(0.0, "Largest angle around each axis in training, likewise.")
    balance: float = option(0.0, "Rare actions come more often: 1 makes all equal, 0.5 goes by the square root.")
    batch_size: int = option(64, "Sequences a step, over all processes together.")
    optimizer: Literal["sgd", "adamw"] = option("sgd", "SGD with Nesterov's momentum 0.9, or AdamW.")
    learning_rate: float = option(0.1, "Largest.")
    schedule: Literal["steps", "cosine"] = option("steps", "A tenth after each of `drop_epochs`, or down to 0.")
    drop_epochs: str = option("30,40", "For `steps`.")
    warmup_epochs: float = option(0.0, "In which the learning rate rises.")
    weight_decay: float = option(1e-4, "Of the optimizer.")
    epochs: int = option(50, "Passes over the training data.")
    evaluate_every: int = option(1, "Epochs from one evaluation and saved state to the next.")
    log_every: int = option(100, "Steps from one printed training loss to the next.")
    seed: int = option(0, "Of weights, order, changes and dropout.")

    def __post_init__(self):
        for name in ("extractor", "config", "augmentation"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, read_json_option(getattr(self, name), name))
        for name in ("batch_size", "epochs", "evaluate_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("learning_rate", "weight_decay", "warmup_epochs", "balance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")
        if (self.data == "ntu") != (self.split is not None):
            raise ValueError("`split` is for the files of NTU, `--data ntu`, and needed there.")
        if self.held_out is not None and (self.data != "archive" or self.validation_data is not None):
            raise ValueError("`held_out` is for archives, and in place of `validation_data`.")

    def load_data(self) -> "ActionData":
        """Read the sequences.

        Raises:
            ValueError: If files are missing or do not fit.
        """
        if self.train_data is None:
            raise ValueError("`train_data` must name the data to train on.")
        train, validation, classes = self.read_sequences()
        extractor = SkeletonActionFeatureExtractor(**(self.extractor or {}))
        changes = dict(self.augmentation or {})
        if unknown := set(changes) - {entry.name for entry in fields(ActionAugmentation)}:
            raise ValueError(f"`augmentation` has unknown fields {sorted(unknown)}.")
        if changes.get("mirror") and "mirrored_labels" not in changes:
            changes["mirrored_labels"] = mirrored_labels(classes, set((self.one_handed or "").split(",")) - {""})
        options = {"unit": self.unit, "up": self.up}
        dataset = ActionDataset(
            repeat_rare(train, self.balance),
            extractor,
            augmentation=ActionAugmentation(**changes) if changes else None,
            ctr_crop=None if self.ctr_crop is None else (self.ctr_crop, 1.0),
            ctr_rotation=self.ctr_rotation,
            seed=self.seed,
            **options,
        )
        if len(dataset) < self.batch_size:
            raise ValueError(f"`batch_size` must be at most the {len(dataset)} sequences, got {self.batch_size}.")
        test = ActionDataset(validation, extractor, **options) if validation else None
        return ActionData(dataset, test, extractor, classes)

    def read_sequences(self) -> tuple[list[ActionSequence], list[ActionSequence], list[str]]:
        """Training and validation sequences, and the names of the actions."""
        if self.data == "ntu":
            skipped = [] if self.skipped is None else Path(self.skipped).read_text().split()
            parts = [read_ntu_folder(self.train_data, self.split, part, skipped) for part in (True, False)]
            return *parts, [f"A{index + 1:03}" for index in range(60 if self.split.startswith("ntu60") else 120)]
        if self.data == "ntu-archive":
            parts = [read_ntu_archive(self.train_data, part) for part in (True, False)]
            count = 1 + max(sequence.label for part in parts for sequence in part)
            return *parts, [f"A{index + 1:03}" for index in range(count)]
        sequences, classes, _ = read_action_archive(self.train_data)
        if self.validation_data is not None:
            validation, other, _ = read_action_archive(self.validation_data)
            if other != classes:
                raise ValueError(f"`validation_data` must have the actions of `train_data`, {classes}, got {other}.")
            return sequences, validation, classes
        groups = set((self.held_out or "").split(",")) - {""}
        if unknown := groups - {sequence.group for sequence in sequences}:
            raise ValueError(f"`held_out` must name groups of `train_data`; {sorted(unknown)} are none.")
        held_out = [sequence for sequence in sequences if sequence.group in groups]
        return [sequence for sequence in sequences if sequence.group not in groups], held_out, classes

    def build_model(self, data: "ActionData") -> SkeletalGNNForActionRecognition:
        values = {"in_channels": 3 * len(data.extractor.streams), "num_persons": data.extractor.num_persons}
        values |= self.config or {}
        if unknown := set(values) - {entry.name for entry in fields(SkeletalGNNActionConfig)}:
            raise ValueError(f"`config` has unknown fields {sorted(unknown)}.")
        names = dict(enumerate(data.classes))
        torch.manual_seed(self.seed)
        return SkeletalGNNForActionRecognition(
            SkeletalGNNActionConfig(**values, id2label=names, label2id={name: index for index, name in names.items()})
        )

    def steps_per_epoch(self, data: "ActionData") -> int:
        return len(data.train) // self.batch_size

    def make_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """SGD decays all weights as the graph networks' code does, AdamW only matrices and kernels."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                model.parameters(), self.learning_rate, momentum=0.9, nesterov=True, weight_decay=self.weight_decay
            )
        parameters = list(model.parameters())
        groups = [
            {"params": [parameter for parameter in parameters if (parameter.ndim > 1) == decayed],
             "weight_decay": self.weight_decay if decayed else 0.0}
            for decayed in (True, False)
        ]  # fmt: skip
        return torch.optim.AdamW(groups, self.learning_rate)

    def make_scheduler(self, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LambdaLR:
        drops = [int(epoch) for epoch in self.drop_epochs.split(",") if epoch]

        def factor(step: int) -> float:
            epoch = step / steps_per_epoch
            warm = min(1.0, (epoch + 1 / steps_per_epoch) / self.warmup_epochs) if self.warmup_epochs else 1.0
            if self.schedule == "steps":
                return warm * 0.1 ** sum(int(epoch) >= drop for drop in drops)
            return warm * (0.5 + 0.5 * math.cos(math.pi * min(1.0, epoch / self.epochs)))

        return LambdaLR(optimizer, factor)

    def training_loader(self, data: "ActionData", num_processes: int, process_index: int) -> DataLoader:
        """Batches of one process: those of an epoch hold the same sequences for any number of processes."""
        share = ShuffledShare(len(data.train), self.batch_size, self.seed, num_processes, process_index)
        return DataLoader(data.train, batch_sampler=share, collate_fn=default_collate)

    def make_run(self, data: "ActionData", output_dir: Path) -> LastWeightsRun:
        measure = None if data.validation is None else partial(evaluate, data.validation)
        return LastWeightsRun(self, data.extractor, output_dir, measure)


@dataclass
class ActionData:
    """What is trained and evaluated on.

    Args:
        train: Training sequences, rare actions repeated.
        validation: Sequences to evaluate on, if any.
        extractor: What makes the network's input of them.
        classes: Names of the actions.
    """

    train: ActionDataset
    validation: ActionDataset | None
    extractor: SkeletonActionFeatureExtractor
    classes: list[str]


def repeat_rare(sequences: Sequence[ActionSequence], balance: float) -> list[ActionSequence]:
    """Each sequence as often as (most of an action / of its action) ** balance says, rounded."""
    counts = np.bincount([sequence.label for sequence in sequences])
    return [
        sequence
        for sequence in sequences
        for _ in range(round((counts.max() / counts[sequence.label]) ** balance))
    ]  # fmt: skip


@torch.inference_mode()
def predict(dataset: ActionDataset, model: SkeletalGNNForActionRecognition, indices: Sequence[int]) -> np.ndarray:
    """Logits (indices, actions) in evaluation mode."""
    was_training = model.training
    model.eval()
    logits = []
    for first in range(0, len(indices), EVALUATION_BATCH):
        values = [dataset[index]["skeleton_values"] for index in indices[first : first + EVALUATION_BATCH]]
        logits.append(model(torch.stack(values).to(model.device)).logits.float().cpu().numpy())
    model.train(was_training)
    return np.concatenate(logits) if logits else np.zeros((0, model.config.num_labels), np.float32)


def evaluate(
    dataset: ActionDataset, model: SkeletalGNNForActionRecognition, accelerator: Accelerator
) -> dict[str, float]:
    """Accuracies; each sequence is looked at by one process."""
    indices = list(range(accelerator.process_index, len(dataset), accelerator.num_processes))
    rows = gather_object([*zip(indices, predict(dataset, model, indices), strict=True)])
    scores = np.stack([row for _, row in sorted(rows, key=lambda entry: entry[0])])
    return classification_metrics(scores, dataset.labels)


__all__ = [
    "ActionData",
    "ActionRecipe",
    "LastWeightsRun",
    "evaluate",
    "predict",
    "repeat_rare",
]
