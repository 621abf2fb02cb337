"""Training of a compiled model; `aot_eager` traces as `torch.compile` does and needs no C++ compiler."""

import pytest
import torch
from torch.testing import assert_close

from hvmodels import EDPoseForPoseEstimation
from tests.tiny_models import tiny_ed_pose_config


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = tiny_ed_pose_config(num_denoising=7)
    return EDPoseForPoseEstimation(config).train()


def make_labels(num_persons):
    return {
        "class_labels": torch.ones(num_persons, dtype=torch.int64),
        "boxes": torch.rand(num_persons, 4) * 0.3 + 0.2,
        "keypoints": torch.rand(num_persons, 17, 2),
        "keypoints_visible": torch.ones(num_persons, 17),
        "area": torch.rand(num_persons) * 0.1 + 0.05,
    }


def test_a_compiled_model_trains_as_the_eager_one(model):
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    for num_persons, height in ((2, 64), (0, 64), (3, 96)):
        pixel_values = torch.randn(2, 3, height, 96)
        labels = [make_labels(num_persons), make_labels(1)]
        losses, gradients = [], []
        for network in (model, compiled):
            torch.manual_seed(1)  # of the denoising queries
            outputs = network(pixel_values, labels=labels)
            outputs.loss.backward()
            losses.append(outputs.loss.detach())
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
            model.zero_grad()
        assert_close(losses[1], losses[0])
        assert_close(gradients[1], gradients[0])
