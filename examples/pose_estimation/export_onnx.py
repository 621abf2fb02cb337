"""Export an ED-Pose model to ONNX, whole, with dynamic batch and image size, and check it in onnxruntime.

    python examples/pose_estimation/export_onnx.py model-folder pose.onnx

Inputs: `pixel_values` (batch, 3, height, width) float32 and `pixel_mask` (batch, height, width) int64, 1 on the image
and 0 on padding; ones where nothing is padded. Outputs: `logits`, `pred_boxes` and `pred_keypoints` as of the model.
Needs the extra `onnx`.

The model is traced: `torch.export` takes many minutes over the sum of the levels' sizes as a symbol, tracing seconds.
"""

import argparse
import warnings
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from hvmodels import EDPoseConfig, EDPoseForPoseEstimation


INPUTS = {"pixel_values": {0: "batch", 2: "height", 3: "width"}, "pixel_mask": {0: "batch", 1: "height", 2: "width"}}
OUTPUTS = {name: {0: "batch"} for name in ("logits", "pred_boxes", "pred_keypoints")}
OPSET = 18


class PosesOnly(nn.Module):
    """The model with a tuple of its predictions as output."""

    def __init__(self, model: EDPoseForPoseEstimation):
        super().__init__()
        self.model = model.eval()

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.model(pixel_values, pixel_mask)
        return tuple(outputs[name] for name in OUTPUTS)


def make_batch(batch_size: int, height: int, width: int, padded: bool, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Random pixels and their mask; with `padded` the last image fills three quarters of the height and the width."""
    pixel_values = torch.randn(batch_size, 3, height, width, generator=torch.Generator().manual_seed(seed))
    pixel_mask = torch.ones(batch_size, height, width, dtype=torch.int64)
    if padded:
        pixel_mask[-1, height * 3 // 4 :] = 0
        pixel_mask[-1, :, width * 3 // 4 :] = 0
        pixel_values = pixel_values * pixel_mask[:, None]
    return pixel_values, pixel_mask


def pad_to_patches(pixel_values: torch.Tensor, height: int, width: int, size: int) -> torch.Tensor:
    """What Swin's `maybe_pad` does, without its branches, which a trace would keep as they were taken."""
    return nn.functional.pad(pixel_values, (0, (size - width % size) % size, 0, (size - height % size) % size))


def traced_size(config: EDPoseConfig, least: int) -> int:
    """A height or width, at least `least`, whose maps a Swin must pad at every merging and for every window.

    A trace keeps the branches that were taken. Where padding was added and cut off again, it may also be none; where
    there was none, it stays so.
    """
    window = getattr(config.backbone_config, "window_size", None)
    size = 3
    while True:
        # Of the patches and after each merging, backwards: all but the smallest are odd.
        sizes = [size, 2 * size - 1, 4 * size - 3, 8 * size - 7]
        if 4 * sizes[-1] >= least and not (window and any(size % window == 0 for size in sizes)):
            return 4 * sizes[-1]
        size += 1


def export(model: EDPoseForPoseEstimation, path: Path, least_size: int = 400):
    """Write the model to `path`; it is traced at an image size a little above `least_size`."""
    if model.config.isolate_images:
        raise ValueError(
            "`model` has `isolate_images`, which goes image by image and cannot be exported; set it to False."
        )
    size = traced_size(model.config, least_size)
    # A batch of 2 and padding: neither may be left out of the trace.
    example = make_batch(2, size, size, padded=True)
    swin = getattr(model.model.backbone, "swin", None)
    with ExitStack() as stack:
        if swin is not None:
            embeddings = swin.embeddings.patch_embeddings
            pad = partial(pad_to_patches, size=embeddings.patch_size[0])
            stack.enter_context(patch.object(embeddings, "maybe_pad", pad))
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # checks of the inputs' shapes are left out of the trace, on purpose
        torch.onnx.export(
            PosesOnly(model),
            example,
            path,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes={**INPUTS, **OUTPUTS},
            opset_version=OPSET,
            dynamo=False,
        )


def largest_differences(
    model: EDPoseForPoseEstimation, path: Path, batches: list[tuple[torch.Tensor, ...]]
) -> dict[str, float]:
    """Largest difference of each output between PyTorch and onnxruntime over some batches."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    poses, differences = PosesOnly(model), dict.fromkeys(OUTPUTS, 0.0)
    for batch in batches:
        feed = {name: tensor.numpy() for name, tensor in zip(INPUTS, batch, strict=True)}
        with torch.no_grad():
            expected = poses(*batch)
        for name, reference, actual in zip(OUTPUTS, expected, session.run(list(OUTPUTS), feed), strict=True):
            differences[name] = max(differences[name], float(np.abs(actual - reference.numpy()).max()))
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder or repository on the Hub")
    parser.add_argument("output", type=Path, help="file to write, .onnx")
    args = parser.parse_args()
    model = EDPoseForPoseEstimation.from_pretrained(args.model)
    export(model, args.output)
    # Batches and sizes that the trace has not seen.
    batches = [make_batch(1, 512, 704, padded=False), make_batch(3, 416, 544, padded=True)]
    print(f"Wrote {args.output}; largest differences to PyTorch: {largest_differences(model, args.output, batches)}")


if __name__ == "__main__":
    main()
