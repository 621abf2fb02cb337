"""Models small enough for tests that need one but do not test it."""

from typing import Any

from hvmodels import EDPoseConfig


def tiny_ed_pose_config(**options: Any) -> EDPoseConfig:
    """An ED-Pose with one layer of each kind; `options` replace fields."""
    sizes = {
        "backbone_config": {
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [32, 64, 128, 256],
            "depths": [1, 1, 1, 1],
            "out_features": ["stage2", "stage3", "stage4"],
        },
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "num_box_decoder_layers": 1,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "num_queries": 12,
        "num_groups": 5,
    }
    return EDPoseConfig(**{**sizes, **options})
