"""ViTKD and NKD: distillation of vision transformers."""

from .configuration_vitkd import ViTKDConfig
from .feature_taps_vitkd import FeatureTaps
from .image_processing_vitkd import ViTKDImageProcessor
from .loss_vitkd import (
    ViTKDLoss,
    dkd_loss,
    kd_loss,
    label_loss,
    nkd_loss,
    nkd_terms,
    uskd_loss,
    wsld_loss,
)
from .modeling_vitkd import ViTKDForImageClassification, ViTKDImageClassifierOutput, ViTKDModel, ViTKDModelOutput


__all__ = [
    "FeatureTaps",
    "ViTKDConfig",
    "ViTKDForImageClassification",
    "ViTKDImageClassifierOutput",
    "ViTKDImageProcessor",
    "ViTKDLoss",
    "ViTKDModel",
    "ViTKDModelOutput",
    "dkd_loss",
    "kd_loss",
    "label_loss",
    "nkd_loss",
    "nkd_terms",
    "uskd_loss",
    "wsld_loss",
]
