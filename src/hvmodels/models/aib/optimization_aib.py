"""How the original trains AIB: learning rates by epoch, the anchors' own rate, the moving average of weights."""

from typing import Any

import torch
from torch import nn


ANCHOR_LEARNING_RATE_RATIO = 1e-4


def learning_rate_factor(backbone_type: str, epoch: int, learning_rate: float = 0.1) -> float:
    """Factor of the initial learning rate, for `torch.optim.lr_scheduler.LambdaLR`.

    Args:
        backbone_type: Of the model; each script has its schedule.
        epoch: Counted from 0.
        learning_rate: The initial one. The schedule of the VGG for CIFAR depends on it: 0.01 and 0.001 rise to 0.1 first.

    Raises:
        ValueError: If the backbone is unknown or the epoch negative.
    """
    if epoch < 0:
        raise ValueError(f"`epoch` must be 0 or more, got {epoch}.")
    if backbone_type == "vgg_cifar":
        # The first rates of a slow start, and the factor of what follows.
        first, peak = {0.01: ((1.0,), 10.0), 0.001: ((1.0, 10.0), 100.0)}.get(learning_rate, ((), 1.0))
        return first[epoch] if epoch < len(first) else peak * 0.5 ** ((epoch + 1) // 25)
    if backbone_type == "wide_resnet_cifar":
        return 0.2 ** sum(epoch >= milestone for milestone in (60, 120, 160))
    if backbone_type in ("vgg16", "wide_resnet50"):
        return 0.97 ** (epoch // 2)
    raise ValueError(
        f"`backbone_type` must be 'vgg_cifar', 'wide_resnet_cifar', 'vgg16' or 'wide_resnet50', got {backbone_type!r}."
    )


def parameter_groups(
    model: nn.Module, learning_rate: float, anchor_ratio: float = ANCHOR_LEARNING_RATE_RATIO
) -> list[dict[str, Any]]:
    """Groups for an optimizer: all trained parameters, and the anchors, if they are trained, with a rate of their own.

    Args:
        model: An AIB model.
        learning_rate: Of all but the anchors.
        anchor_ratio: Learning rate of the anchors divided by that; 1 is what the original's VGG gets on GPUs, where its test
            for the anchors' name fails.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    anchors = [parameter for name, parameter in trained.items() if name.endswith("attention.anchors")]
    others = [parameter for name, parameter in trained.items() if not name.endswith("attention.anchors")]
    groups = [{"params": others, "lr": learning_rate}]
    if anchors:
        groups.append({"params": anchors, "lr": learning_rate * anchor_ratio})
    return groups


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float = 0.999):
    """Move every entry of the state of `average` towards that of `model`, as the original does for CUB.

    Running statistics are averaged too, and whole numbers, the batch norms' counters, are cut off after it.

    Args:
        average: Changed in place.
        model: With the same state.
        decay: Share of the average that stays.
    """
    state = model.state_dict()
    for name, value in average.state_dict().items():
        value.copy_(decay * value + (1 - decay) * state[name])


__all__ = ["learning_rate_factor", "parameter_groups", "update_average"]
