"""ONNX export of whole models in miniature, checked at batches and image sizes that the export has not seen."""

import importlib.util
from pathlib import Path

import pytest
import torch

from hvmodels import EDPoseConfig, EDPoseForPoseEstimation


pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SCRIPT = Path(__file__).parents[2] / "examples" / "pose_estimation" / "export_onnx.py"
SIZES = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_box_decoder_layers": 1,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "num_queries": 12,
    "num_groups": 5,
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}
SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 2, 1, 1],
    "num_heads": [1, 2, 2, 2],
    "window_size": 3,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
CONFIGS = {
    "resnet": {"backbone_config": RESNET},
    "swin": {"backbone_config": SWIN, "num_keypoints": 14, "expansion_head": "first", "num_feature_levels": 5},
}
BATCHES = {
    "alone": (1, 112, 144, False),
    "padded": (3, 80, 100, True),
    "odd_size": (2, 97, 131, True),
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("export_onnx", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=CONFIGS)
def exported(request, script, tmp_path_factory):
    """A model whose weights all count, and its file."""
    torch.manual_seed(0)
    model = EDPoseForPoseEstimation(EDPoseConfig(**SIZES, **CONFIGS[request.param]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("onnx") / f"{request.param}.onnx"
    script.export(model, path, least_size=90)
    return model, path


@pytest.mark.parametrize("batch", BATCHES)
def test_onnxruntime_gives_what_pytorch_gives(script, exported, batch):
    model, path = exported
    differences = script.largest_differences(model, path, [script.make_batch(*BATCHES[batch])])
    assert set(differences) == {"logits", "pred_boxes", "pred_keypoints"}
    assert max(differences.values()) < 1e-4, differences


def test_size_of_the_trace_needs_padding_everywhere(script):
    for window in (3, 7, 12):
        config = EDPoseConfig(backbone_config={**SWIN, "window_size": window}, num_feature_levels=5)
        size = script.traced_size(config, 300)
        assert size >= 300
        size //= 4
        for merging in (True, True, True, False):
            assert size % window
            assert not merging or size % 2
            size = (size + 1) // 2


def test_isolated_images_are_refused(script, tmp_path):
    model = EDPoseForPoseEstimation(EDPoseConfig(**SIZES, **CONFIGS["resnet"], isolate_images=True))
    with pytest.raises(ValueError, match="isolate_images"):
        script.export(model, tmp_path / "model.onnx")
