"""Training one model with another: a `Trainer` for ViTKD (arXiv 2209.02432) and the recipe of its authors.

    trainer = DistillationTrainer(
        student,
        teacher,
        DistillationArguments("outputs", per_device_train_batch_size=256),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
    )
    trainer.train()
    trainer.save_student("outputs/student")

Student and teacher are any two vision transformers that `ViTKDForImageClassification.from_pair` joins.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.utils import ModelOutput

from .datasets.image_classification import ImageClassificationCollator
from .datasets.keypoints import EpochCallback
from .models.vitkd import ViTKDForImageClassification, label_loss
from .weight_averaging import ExponentialMovingAverage


LOSS_TERMS = ("task_loss", "mimic_loss", "generation_loss", "logit_loss")
# Parameters of more than one dimension that do not decay; the second half is timm's names.
UNDECAYED = ("cls_token", "position_embeddings", "distillation_token", "register_tokens", "relative_position_bias_table",
             "pos_embed", "dist_token", "reg_token")  # fmt: skip
WITHOUT_TEACHER = {"mimic_weight": 0.0, "generation_weight": 0.0, "logit_loss": None}


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Names of the trainable parameters whose weights decay.

    All but biases, norms and other vectors, class tokens, position embeddings and tables of relative positions; the
    distillation's mask token does.
    """
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim > 1 and name.rpartition(".")[2] not in UNDECAYED
    ]


def parameter_groups(model: nn.Module, weight_decay: float = 0.05) -> list[dict[str, Any]]:
    """Trainable parameters for AdamW: those that decay, then those that do not."""
    names = set(decay_parameter_names(model))
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in trained if name in names], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trained if name not in names], "weight_decay": 0.0},
    ]


def warmup_cosine_schedule(
    optimizer: torch.optim.Optimizer,
    steps_per_epoch: int,
    epochs: int = 300,
    warmup_epochs: int = 20,
    warmup_factor: float = 1e-3,
    min_factor: float = 1e-2,
) -> LambdaLR:
    """Learning rates that rise linearly with each step, then fall along a cosine with each epoch.

    Args:
        optimizer: The optimiser, with its highest learning rates.
        steps_per_epoch: Its steps in an epoch.
        epochs: Epochs of the training.
        warmup_epochs: Epochs of the rise; its last step has the highest learning rate.
        warmup_factor: What the first step's learning rate is multiplied with.
        min_factor: Where the cosine ends, which is after the last epoch.

    Raises:
        ValueError: If the numbers do not fit each other.
    """
    if steps_per_epoch < 1 or not 0 <= warmup_epochs < epochs:
        raise ValueError(
            "`steps_per_epoch` must be at least 1 and `warmup_epochs` from 0 to less than `epochs`, got "
            f"{steps_per_epoch}, {warmup_epochs} and {epochs}."
        )
    for name, value in (("warmup_factor", warmup_factor), ("min_factor", min_factor)):
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be from 0 to 1, got {value}.")
    warmup_steps = warmup_epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup_steps:
            return 1.0 if warmup_steps == 1 else warmup_factor + (1 - warmup_factor) * step / (warmup_steps - 1)
        progress = (step // steps_per_epoch - warmup_epochs) / (epochs - warmup_epochs)
        return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)


class LossTermMeans:
    """Means of the loss and of each of its terms since they were last asked for."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0

    def update(self, outputs: ModelOutput):
        """Take in the outputs of a batch."""
        for name in ("loss", *LOSS_TERMS):
            value = getattr(outputs, name)
            if value is not None:
                self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.count += 1

    def compute(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all processes, each of which must have taken in a batch; begins anew."""
        means = {name: accelerator.reduce(value / self.count, "mean").item() for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


@dataclass
class DistillationArguments(TrainingArguments):
    """`TrainingArguments` with the recipe of the published models as defaults: 300 epochs at a global batch of 1024.

    Args:
        warmup_epochs: Epochs in which the learning rate rises, with each step.
        warmup_factor: First learning rate over the highest.
        min_learning_rate: Where the cosine ends, by which the learning rate then falls with each epoch.
        average_momentum: Share of the new weights in each step of the moving average, with which the model is evaluated
            and saved; 4e-5 for DeiT-base as published, 0 for no average.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    max_grad_norm: float = 5.0
    num_train_epochs: float = 300
    remove_unused_columns: bool = False
    warmup_epochs: int = field(default=20, metadata={"help": "Epochs in which the learning rate rises."})
    warmup_factor: float = field(default=1e-3, metadata={"help": "First learning rate over the highest."})
    min_learning_rate: float = field(default=1e-5, metadata={"help": "Last learning rate."})
    average_momentum: float = field(default=0.0, metadata={"help": "Momentum of the moving average, 0 for none."})

    def __post_init__(self):
        super().__post_init__()
        if self.max_steps > 0:
            raise ValueError(f"`max_steps` must be -1, since the schedule counts epochs, got {self.max_steps}.")
        if self.num_train_epochs != int(self.num_train_epochs):
            raise ValueError(f"`num_train_epochs` must be a whole number, got {self.num_train_epochs}.")
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(
                f"`min_learning_rate` must be from 0 to `learning_rate` {self.learning_rate}, got {self.min_learning_rate}."
            )
        if not 0 <= self.average_momentum < 1:
            raise ValueError(f"`average_momentum` must be at least 0 and below 1, got {self.average_momentum}.")


class DistillationTrainer(Trainer):
    """Trains a student with a frozen teacher and logs every term of the loss.

    The teacher is in evaluation mode, and in no checkpoint, optimiser or average. Evaluation runs the student alone, with
    averaged weights if there are any; its loss is the cross-entropy without smoothing. Training goes on from a checkpoint,
    also one within an epoch, with the same numbers as if it had not stopped.

    Args:
        student: An image classifier of transformers.
        teacher: A vision transformer; None trains the student by its labels alone.
        args: `DistillationArguments`.
        config_fields: Fields of `ViTKDConfig`: which losses, with which weights.
        data_collator: Makes batches of `pixel_values` and `labels`; `ImageClassificationCollator` if None.
        kwargs: As for every `Trainer`; a data set with `set_epoch` is told each epoch.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | None = None,
        args: DistillationArguments | None = None,
        config_fields: dict[str, Any] | None = None,
        data_collator: Callable | None = None,
        **kwargs,
    ):
        args = DistillationArguments() if args is None else args
        if not isinstance(args, DistillationArguments):
            raise TypeError(f"`args` must be `DistillationArguments`, got {type(args).__name__}.")
        fields = {**(WITHOUT_TEACHER if teacher is None else {}), **(config_fields or {})}
        model = ViTKDForImageClassification.from_pair(student, teacher, **fields)
        if data_collator is None:
            data_collator = ImageClassificationCollator(model.config.num_labels)
        super().__init__(model=model, args=args, data_collator=data_collator, **kwargs)
        self.term_means = LossTermMeans()
        self.average: ExponentialMovingAverage | None = None
        callbacks = self.callback_handler.callbacks
        if hasattr(self.train_dataset, "set_epoch") and not any(isinstance(each, EpochCallback) for each in callbacks):
            self.add_callback(EpochCallback(self.train_dataset))
        if args.average_momentum:
            self.average = ExponentialMovingAverage(1 - args.average_momentum, copy_first=True)
            self.add_callback(self.average)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters whose weights decay, see `decay_parameter_names`."""
        return decay_parameter_names(model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """`warmup_cosine_schedule`, unless the trainer was given a schedule."""
        if self.lr_scheduler is None:
            epochs = int(self.args.num_train_epochs)
            self.lr_scheduler = warmup_cosine_schedule(
                self.optimizer if optimizer is None else optimizer,
                num_training_steps // epochs,
                epochs,
                self.args.warmup_epochs,
                self.args.warmup_factor,
                self.args.min_learning_rate / self.args.learning_rate,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor | tuple[torch.Tensor, ModelOutput]:
        """The sum of the terms; each is taken in for the log."""
        outputs = model(**inputs)
        self.term_means.update(outputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None):
        """Log `logs`, and with the loss the mean of each of its terms."""
        if "loss" in logs and self.term_means.count:
            means = self.term_means.compute(self.accelerator)
            logs = {**logs, **{name: value for name, value in means.items() if name in LOSS_TERMS}}
        super().log(logs, start_time)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None):
        """Load the weights by `from_pretrained`: `Trainer` looks for the modules' names, files may have older ones."""
        loaded = type(self.model).from_pretrained(resume_from_checkpoint)
        self.model.load_state_dict(loaded.state_dict())

    def averaged_weights(self):
        """Context in which the model has its averaged weights, if there are any."""
        return nullcontext() if self.average is None or not self.average.averages else self.average.applied(self.model)

    def evaluation_loop(self, *args, **kwargs):
        """That of `Trainer`, with averaged weights."""
        with self.averaged_weights():
            return super().evaluation_loop(*args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Loss, logits and labels of a batch, by the student alone."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.get("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = self.model.student(inputs["pixel_values"]).logits
            loss = None if labels is None else label_loss(logits, labels, 0.0)
        return loss, None if prediction_loss_only else logits, labels

    def save_student(self, folder: str | PathLike):
        """Save the student as a plain model of transformers, with averaged weights if there are any, and the processor."""
        if self.is_world_process_zero():
            with self.averaged_weights():
                self.model.save_student(folder, self.processing_class)


__all__ = [
    "DistillationArguments",
    "DistillationTrainer",
    "LossTermMeans",
    "decay_parameter_names",
    "parameter_groups",
    "warmup_cosine_schedule",
]
