"""AIB: image classification through a sampled attention map and an information bottleneck."""

from .attention_aib import AIBAttention, AIBAttentionOutput
from .configuration_aib import AIBConfig
from .image_processing_aib import AIBImageProcessor
from .modeling_aib import AIBForImageClassification, AIBImageClassifierOutput, AIBModel, AIBModelOutput
from .networks_aib import AIBNetworks, build_networks, convolution_head
from .optimization_aib import learning_rate_factor, parameter_groups, update_average


__all__ = [
    "AIBAttention",
    "AIBAttentionOutput",
    "AIBConfig",
    "AIBForImageClassification",
    "AIBImageClassifierOutput",
    "AIBImageProcessor",
    "AIBModel",
    "AIBModelOutput",
    "AIBNetworks",
    "build_networks",
    "convolution_head",
    "learning_rate_factor",
    "parameter_groups",
    "update_average",
]
