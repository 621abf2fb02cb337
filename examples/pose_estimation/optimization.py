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

import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from transformers import TrainerCallback

from hvmodels.models.rle import clip_gradients_by_tensor
from hvmodels.weight_averaging import ExponentialMovingAverage


MAX_GRAD_NORM = 0.1


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


__all__ = [
    "MAX_GRAD_NORM",
    "ExponentialMovingAverage",
    "TensorClipping",
    "make_optimizer",
    "make_scheduler",
    "parameter_groups",
]
