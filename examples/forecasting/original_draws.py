"""SCINet's training run as its original code draws it from a seed: shuffles, dropout masks, partial batches.

The original walks its tree recursively, and a seed means nothing without that order. Here the masks are drawn in that order
and handed to the levels; the model is the same. For repeating a run of the original, not for training in general.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import Sampler

from hvmodels.models.forecasting import SCINetForPrediction
from hvmodels.models.forecasting.modeling_scinet import OUTPUT_KERNEL_SIZE, SCINetTree


class OriginalDropout(nn.Module):
    """Takes the place of a tree's dropout; its masks are drawn before each pass of the tree."""

    def __init__(self, tree: SCINetTree, hidden_channels: int):
        super().__init__()
        self.probability, self.hidden_channels, self.masks = tree.dropout.p, hidden_channels, []
        tree.register_forward_pre_hook(self.draw)

    def draw(self, tree: SCINetTree, arguments: tuple[torch.Tensor, ...]):
        if not self.training or self.probability == 0:
            return
        (batch, time, _), drawn = arguments[0].shape, {}
        for level, node in recursive_order(tree.num_levels):
            length = time // 2 ** (level + 1) + OUTPUT_KERNEL_SIZE - 1
            for branch in ("phi", "psi", "U", "P"):
                mask = arguments[0].new_empty(batch, self.hidden_channels, length).bernoulli_(1 - self.probability)
                drawn[level, branch, node] = mask.div_(1 - self.probability).permute(1, 2, 0)
        self.masks = [
            torch.cat([drawn[level, branch, node] for node in range(2**level) for branch in pair])
            for level in range(tree.num_levels)
            for pair in (("phi", "psi"), ("U", "P"))
        ]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(branches * groups, channels, time, batch) to the same shape."""
        if not self.training or self.probability == 0:
            return hidden
        return hidden * self.masks.pop(0).view(hidden.shape)


def recursive_order(num_levels: int, level: int = 0, node: int = 0) -> Iterator[tuple[int, int]]:
    """(level, node) as the original reaches the blocks: a block, its even subtree, its odd subtree."""
    yield level, node
    if level + 1 < num_levels:
        for child in (2 * node, 2 * node + 1):
            yield from recursive_order(num_levels, level + 1, child)


class OriginalShuffle(Sampler):
    """Order of the training windows in each epoch, from the state of torch's generator.

    Args:
        model: Its dropout is replaced.
        num_windows: Training windows.
        validation_windows: Their number; None for the financial protocol, whose shuffle is a plain permutation, and which
            uses all windows.
        batch_size: Windows that do not fill a batch of this size are left out in the other case.
    """

    def __init__(self, model: SCINetForPrediction, num_windows: int, validation_windows: int | None, batch_size: int):
        self.num_windows, self.validation_windows, self.batch_size = num_windows, validation_windows, batch_size
        for tree in model.model.trees:
            tree.dropout = OriginalDropout(tree, model.config.hidden_channels)

    def start_epoch(self, epoch: int) -> torch.Tensor:
        if self.validation_windows is None:
            return torch.randperm(self.num_windows)
        return self._loader_order(self.num_windows)

    def end_epoch(self) -> torch.Tensor | None:
        """Validation windows of this epoch, None for all."""
        if self.validation_windows is None:
            return None
        order = self._loader_order(self.validation_windows)
        torch.empty((), dtype=torch.int64).random_()  # the loader of the test windows, which are not shuffled
        return order

    def _loader_order(self, num_windows: int) -> torch.Tensor:
        """What a shuffling loader draws: a base seed, then the seed of its sampler; without the partial batch."""
        _, seed = (torch.empty((), dtype=torch.int64).random_().item() for _ in range(2))
        order = torch.randperm(num_windows, generator=torch.Generator().manual_seed(seed))
        return order[: num_windows // self.batch_size * self.batch_size]


__all__ = ["OriginalDropout", "OriginalShuffle"]
