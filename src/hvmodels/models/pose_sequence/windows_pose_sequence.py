"""Cut pose sequences into overlapping windows and put the windows together again by their mean."""

from collections.abc import Sequence
from typing import Literal

import torch


def window_starts(length: int, window_size: int, stride: int = 1, tail: Literal["keep", "drop"] = "keep") -> list[int]:
    """First frames of the windows of a sequence.

    Args:
        length: Frames of the sequence, at least `window_size`; see `resize_sequence` for shorter ones.
        window_size: Frames of a window.
        stride: Frames from one window to the next.
        tail: `"keep"` adds a window that ends with the last frame where the others do not reach it, `"drop"` adds none, as
            the original.

    Raises:
        ValueError: If a number does not fit.
    """
    if stride < 1 or not 1 <= window_size <= length:
        raise ValueError(
            f"`length` must be at least `window_size`, and `window_size` and `stride` at least 1; got {length}, "
            f"{window_size} and {stride}."
        )
    last = length - window_size
    starts = list(range(0, last + 1, stride))
    if tail == "keep" and starts[-1] != last:
        starts.append(last)
    return starts


def resize_sequence(
    sequence: torch.Tensor, length: int, fill: Literal["replicate", "zeros"] = "replicate"
) -> torch.Tensor:
    """Cut (frames, ...) to a length, or lengthen it at the end by its last pose or by zeros."""
    missing = length - len(sequence)
    if missing <= 0:
        return sequence[:length]
    last = sequence[-1:] if fill == "replicate" else torch.zeros_like(sequence[-1:])
    return torch.cat([sequence, last.expand(missing, *sequence.shape[1:])])


def take_windows(sequence: torch.Tensor, starts: Sequence[int], window_size: int) -> torch.Tensor:
    """Windows (windows, window_size, ...) of a sequence (frames, ...); a view where the starts are evenly spaced."""
    step = starts[1] - starts[0] if len(starts) > 1 else 1
    if list(starts) == list(range(starts[0], starts[-1] + 1, step)):
        windows = sequence[starts[0] : starts[-1] + window_size].unfold(0, window_size, step)
        return windows.movedim(-1, 1)
    frames = torch.as_tensor(starts)[:, None] + torch.arange(window_size)
    return sequence[frames.to(sequence.device)]


def count_windows(starts: Sequence[int], window_size: int, length: int, device: torch.device | str = "cpu"):
    """Number of windows that cover each of `length` frames, (length,) float32."""
    starts = torch.as_tensor(starts, device=device)
    changes = torch.zeros(length + 1, device=device)
    ones = torch.ones(len(starts), device=device)
    changes.index_add_(0, starts, ones)
    changes.index_add_(0, starts + window_size, -ones)
    return changes[:-1].cumsum(0)


def overlap_average(windows: torch.Tensor, starts: Sequence[int], length: int) -> torch.Tensor:
    """Mean of all windows that cover a frame.

    Args:
        windows: (windows, window_size, ...).
        starts: First frame of each.
        length: Frames of the sequence.

    Returns:
        (length, ...) in the dtype of `windows`, summed in float32 at least; 0 where no window is.
    """
    window_size, device = windows.shape[1], windows.device
    frames = torch.as_tensor(starts, device=device)[:, None] + torch.arange(window_size, device=device)
    values = windows.flatten(0, 1).to(torch.promote_types(windows.dtype, torch.float32))
    total = values.new_zeros(length, *windows.shape[2:]).index_add(0, frames.flatten(), values)
    counts = count_windows(starts, window_size, length, device).clamp(min=1)
    return (total / counts.view(-1, *[1] * (total.ndim - 1))).to(windows.dtype)


__all__ = ["count_windows", "overlap_average", "resize_sequence", "take_windows", "window_starts"]
