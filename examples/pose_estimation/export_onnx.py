"""Export an ED-Pose model to ONNX, whole, with dynamic batch and image size, and check it in onnxruntime.

    python examples/pose_estimation/export_onnx.py model-folder pose.onnx

Inputs: `pixel_values` (batch, 3, height, width) float32 and `pixel_mask` (batch, height, width) int64, 1 on the image
and 0 on padding; ones where nothing is padded. Outputs: `logits`, `pred_boxes` and `pred_keypoints` as of the model.
Needs the extra `onnx`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hvmodels import EDPoseForPoseEstimation


INPUTS = ["pixel_values", "pixel_mask"]
OUTPUTS = ["logits", "pred_boxes", "pred_keypoints"]


class PosesOnly(nn.Module):
    """The model with a tuple of its predictions as output."""

    def __init__(self, model: EDPoseForPoseEstimation):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.model(pixel_values, pixel_mask)
        return outputs.logits, outputs.pred_boxes, outputs.pred_keypoints


def make_batch(batch_size: int, height: int, width: int, padded: bool, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Random pixels and their mask; with `padded` the last image fills three quarters of the height and the width."""
    pixel_values = torch.randn(batch_size, 3, height, width, generator=torch.Generator().manual_seed(seed))
    pixel_mask = torch.ones(batch_size, height, width, dtype=torch.int64)
    if padded:
        pixel_mask[-1, height * 3 // 4 :] = 0
        pixel_mask[-1, :, width * 3 // 4 :] = 0
        pixel_values = pixel_values * pixel_mask[:, None]
    return pixel_values, pixel_mask


def export(model: EDPoseForPoseEstimation, path: Path, height: int = 480, width: int = 640):
    """Write the model to `path`; height and width are those of the example that the exporter runs, nothing more."""
    module = PosesOnly(model.eval())
    # A batch of 2, since a size of 1 would be taken for a constant.
    example = make_batch(2, height, width, padded=True)
    batch, rows, columns = (torch.export.Dim.DYNAMIC for _ in range(3))
    shapes = {"pixel_values": {0: batch, 2: rows, 3: columns}, "pixel_mask": {0: batch, 1: rows, 2: columns}}
    with torch.no_grad():
        torch.onnx.export(
            module,
            example,
            path,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamo=True,
            dynamic_shapes=shapes,
            external_data=False,
        )


def largest_differences(model: EDPoseForPoseEstimation, path: Path, batches: list[tuple[torch.Tensor, ...]]) -> dict:
    """Largest difference of each output between PyTorch and onnxruntime over some batches."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = dict.fromkeys(OUTPUTS, 0.0)
    for batch in batches:
        feed = {name: tensor.numpy() for name, tensor in zip(INPUTS, batch, strict=True)}
        with torch.no_grad():
            expected = PosesOnly(model.eval())(*batch)
        for name, reference, actual in zip(OUTPUTS, expected, session.run(OUTPUTS, feed), strict=True):
            differences[name] = max(differences[name], float(np.abs(actual - reference.numpy()).max()))
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder or repository on the Hub")
    parser.add_argument("output", type=Path, help="file to write, .onnx")
    args = parser.parse_args()
    model = EDPoseForPoseEstimation.from_pretrained(args.model)
    export(model, args.output)
    # Neither a size nor a batch of the export.
    batches = [make_batch(1, 512, 704, padded=False), make_batch(3, 416, 544, padded=True)]
    print(f"Wrote {args.output}; largest differences {largest_differences(model, args.output, batches)}")


if __name__ == "__main__":
    main()
