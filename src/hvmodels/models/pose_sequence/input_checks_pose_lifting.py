"""What the models that lift 2D poses to 3D share: their output and the checks of what they are given."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput, TransformersKwargs


@dataclass
class PoseLiftingOutput(ModelOutput):
    """Output of a model for pose lifting.

    Args:
        loss: Scalar, with `labels`.
        positions_3d: (batch, frames - num_frames + 1, joints, 3), metres along the camera's axes, relative to the pelvis;
            one pose for each full window of `config.num_frames` frames.
        hidden_states: Activations of each layer, if asked for.
    """

    loss: torch.Tensor | None = None
    positions_3d: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


def refuse_unknown_arguments(arguments: dict):
    """TypeError for a misspelt argument of `forward`; options that all transformers models take mean nothing here."""
    if arguments and (unknown := arguments.keys() - TransformersKwargs.__annotations__.keys() - {"return_dict"}):
        raise TypeError(f"Unknown arguments {sorted(unknown)}.")


def check_keypoints(keypoints_2d: torch.Tensor, num_joints: int, in_channels: int, num_frames: int):
    """Check the input of a lifting model.

    Raises:
        TypeError: If it is not a floating-point tensor.
        ValueError: If its shape is not (batch, frames, num_joints, in_channels) with at least `num_frames` frames.
    """
    expected = f"(batch, frames, {num_joints}, {in_channels})"
    _check_tensor("keypoints_2d", keypoints_2d, expected)
    if keypoints_2d.ndim != 4 or 0 in keypoints_2d.shape:
        hint = "; add the axis of the batch" if keypoints_2d.ndim == 3 else ""
        raise ValueError(
            f"`keypoints_2d` must have shape {expected}, with no axis of length 0, got {tuple(keypoints_2d.shape)}{hint}."
        )
    if tuple(keypoints_2d.shape[2:]) != (num_joints, in_channels):
        raise ValueError(
            f"`keypoints_2d` must have {num_joints} joints of {in_channels} numbers, in the model's order, got "
            f"{tuple(keypoints_2d.shape)}; the feature extractor converts other joint sets."
        )
    if keypoints_2d.shape[1] < num_frames:
        raise ValueError(
            f"`keypoints_2d` must have at least the {num_frames} frames that the model sees at once (`num_frames`), got "
            f"{keypoints_2d.shape[1]}; the feature extractor repeats the first and the last frame."
        )


def check_lifting_labels(labels: torch.Tensor, shape: tuple[int, ...]):
    """Check the true positions of a lifting model.

    Raises:
        TypeError: If they are not a floating-point tensor.
        ValueError: If their shape is not that of the output, one pose for each full window.
    """
    expected = str(tuple(shape))
    _check_tensor("labels", labels, expected)
    if tuple(labels.shape) != tuple(shape):
        raise ValueError(
            f"`labels` must have shape {expected} (batch, windows, joints, 3), one pose for each full window, got "
            f"{tuple(labels.shape)}."
        )


def _check_tensor(name: str, values: torch.Tensor, expected: str):
    if not torch.is_tensor(values) or not values.is_floating_point():
        kind = values.dtype if torch.is_tensor(values) else type(values).__name__
        raise TypeError(f"`{name}` must be a floating-point tensor {expected}, got {kind}.")


__all__ = ["PoseLiftingOutput", "check_keypoints", "check_lifting_labels", "refuse_unknown_arguments"]
