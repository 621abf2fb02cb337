"""How pose estimators are optimised: parameter groups, schedule, gradient clipping and the moving average of the weights.

The recipe of ED-Pose: AdamW, learning rate 1e-4 and 1e-5 in the backbone, weight decay 1e-4 on everything, gradients
clipped at a norm of 0.1, learning rate times 0.1 near the end, moving average with decay 0.9997 from the first step.

    optimizer = make_optimizer(model)
    scheduler = make_scheduler(optimizer, drop_epoch=55, steps_per_epoch=steps_per_epoch)
    average = ExponentialMovingAverage()
    arguments = TrainingArguments(..., num_train_epochs=60, max_grad_norm=MAX_GRAD_NORM)
    trainer = Trainer(model, arguments, ..., optimizers=(optimizer, scheduler), callbacks=[average])
    trainer.train()
    with average.applied(model):
        trainer.evaluate()
        model.save_pretrained("outputs/averaged")
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hvmodels.models.rle import clip_gradients_by_tensor


MAX_GRAD_NORM = 0.1
AVERAGE_FILE = "average.safetensors"


def parameter_groups(
    model: nn.Module, lr: float = 1e-4, backbone_lr: float = 1e-5, weight_decay: float = 1e-4
) -> list[dict]:
    """Trainable parameters in two groups: the backbone's, which have "backbone" in their name, and all others.

    Biases and norms decay like the rest, as in the original. Frozen parameters are in no group.
    """
    groups = [
        {"params": [], "lr": lr, "weight_decay": weight_decay},
        {"params": [], "lr": backbone_lr, "weight_decay": weight_decay},
    ]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["backbone" in name]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def make_optimizer(
    model: nn.Module, lr: float = 1e-4, backbone_lr: float = 1e-5, weight_decay: float = 1e-4
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(model, lr, backbone_lr, weight_decay))


def make_scheduler(optimizer: torch.optim.Optimizer, drop_epoch: int, steps_per_epoch: int) -> StepLR:
    """Learning rates times 0.1 after every `drop_epoch` epochs; the published models drop once.

    Args:
        optimizer: The optimiser.
        drop_epoch: 55 of 60 epochs for COCO, 75 of 80 for CrowdPose.
        steps_per_epoch: Steps of the optimiser in an epoch: batches of one process, divided by the accumulation steps.
            `Trainer` counts steps, not epochs.
    """
    return StepLR(optimizer, step_size=drop_epoch * steps_per_epoch, gamma=0.1)


class TensorClipping(TrainerCallback):
    """Clips the gradient of each parameter tensor to a norm of its own, as RLE's 3-D recipe does.

    As a callback of `Trainer` it needs `max_grad_norm=0`, which switches the common norm off. In a plain loop call `clip`
    before each step.

    Args:
        max_norm: Greatest L2 norm of the gradient of a tensor.
    """

    def __init__(self, max_norm: float):
        if not max_norm > 0:
            raise ValueError(f"`max_norm` must be positive, got {max_norm}.")
        self.max_norm = max_norm

    def clip(self, model: nn.Module) -> None:
        """Clip the gradients as they are."""
        clip_gradients_by_tensor(model, self.max_norm)

    def on_train_begin(self, args, state, control, **kwargs):
        if args.max_grad_norm:
            raise ValueError(f"`max_grad_norm` must be 0 beside `TensorClipping`, got {args.max_grad_norm}.")

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.clip(model)


class ExponentialMovingAverage(TrainerCallback):
    """Moving average of the weights, `average = decay * average + (1 - decay) * weight` after each step.

    Each trainable parameter is averaged once a step. The original averages its state dict, in which shared modules
    appear under several names: there the decoder's heads are averaged twice a step (a decay of decay^2) and the head of
    keypoint sizes eight times (decay^8), so its averages of these follow the weights somewhat faster. Parameters that do
    not train, and buffers unless `buffers` says so, need no average: they are those of the model.

    As a callback of `Trainer` it saves its averages with each checkpoint and takes them up when training is resumed. In
    a plain loop call `start` before and `update` after each step. Parameters must be whole in each process, so it
    works with DDP, but not with FSDP or DeepSpeed's stage 3.

    Args:
        decay: Share of the average that stays at each step.
        resume_from: Folder whose averages a resumed training starts from; None for the checkpoint of the step it
            resumes at, in the output folder.
        buffers: Whether floating-point buffers, such as the statistics of batch norms, are averaged as well.
    """

    def __init__(self, decay: float = 0.9997, resume_from: str | Path | None = None, buffers: bool = False):
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be at least 0 and below 1, got {decay}.")
        self.decay = decay
        self.resume_from = resume_from
        self.buffers = buffers
        self.averages: dict[str, torch.Tensor] = {}
        self._average_all = get_ema_multi_avg_fn(decay)

    def _tensors(self, model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        """What is averaged, by name."""
        yield from ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
        if self.buffers:
            yield from ((name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point())

    def start(self, model: nn.Module) -> None:
        """Begin with the weights as they are, in float32 even if the model is in half precision."""
        self.averages = {
            name: tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
            for name, tensor in self._tensors(model)
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        weights = dict(self._tensors(model))
        self._average_all(
            list(self.averages.values()),
            [weights[name].detach().to(average.dtype) for name, average in self.averages.items()],
            None,
        )

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give `model` the averaged weights inside a `with` block, and its own back after it."""
        weights = dict(self._tensors(model))
        kept = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            with torch.no_grad():
                for name, average in self.averages.items():
                    weights[name].copy_(average)
            yield
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(kept[name])

    def save(self, folder: str | Path) -> None:
        """Write the averages into `folder`, by parameter name."""
        averages = {name: average.cpu().contiguous() for name, average in self.averages.items()}
        save_file(averages, Path(folder) / AVERAGE_FILE)

    def load(self, folder: str | Path) -> None:
        """Replace the averages, which `start` has made, by those of `folder`.

        Raises:
            FileNotFoundError: If there are none.
            ValueError: If they belong to another model, or to other trainable parameters.
        """
        path = Path(folder) / AVERAGE_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no {path} to resume the moving average from; pass `resume_from`, the checkpoint's folder."
            )
        stored = load_file(path)
        shapes = {name: average.shape for name, average in self.averages.items()}
        if shapes != {name: average.shape for name, average in stored.items()}:
            differing = sorted(shapes.keys() ^ stored.keys()) or "their shapes differ"
            raise ValueError(f"{path} does not hold the averages of the model's trainable parameters: {differing}.")
        for name, average in self.averages.items():
            average.copy_(stored[name])

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.start(model)
        if state.global_step > 0:
            self.load(self.resume_from or self._checkpoint(args, state))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.update(model)

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.save(self._checkpoint(args, state))

    @staticmethod
    def _checkpoint(args, state) -> Path:
        return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
