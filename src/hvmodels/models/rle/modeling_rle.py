"""RLE: keypoints of one person in a crop, by regression, each with a learned deviation.

Paper: "Human Pose Regression with Residual Log-likelihood Estimation" (Li et al., ICCV 2021, arXiv 2107.11291).
Original code: github.com/Jeff-sjtu/res-loglikelihood-regression; a second implementation, with another loss and another
head, is mmpose's, and its models are expressed here as well.

Differences from the original, none of which changes a value by more than rounding:

* Batch norm is folded into the convolutions outside of training.
* The heads and the loss are computed in float32 whatever the precision of the backbone.
* All-zero features give the bias of the coordinate head; there they give NaN.
* Scores are (batch, keypoints) without the last axis of size 1.

Kept on purpose: the depth is made relative to the root outside of training only; the flip test's shift by one pixel; in
converted models, deviations that the flip test averages without exchanging left and right (`flip_swaps_sigmas`).
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoBackbone, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_efficientnet_lite import EfficientNetLiteConfig
from .configuration_rle import RLEConfig
from .convolution_rle import replace_convolutions
from .loss_rle import RealNVP, RLELoss
from .modeling_efficientnet_lite import EfficientNetLiteModel


HEAD_GAIN = 0.01


@dataclass
class RLEPoseEstimatorOutput(ModelOutput):
    """Output of `RLEForPoseEstimation`.

    Coordinates are relative to the crop: 0 is its centre, -0.5 and 0.5 are its edges, x to the right and y down; depth is
    in units of `depth_scale` millimetres.

    Args:
        loss: Scalar, with `labels`.
        keypoints: (batch, keypoints, 2 or 3). Outside of training the depth is relative to that of the root.
        sigmas: (batch, keypoints, 2 or 3), deviation of each coordinate, in its unit.
        scores: (batch, keypoints), 1 minus the mean deviation.
        confidences: (batch, keypoints), calibrated probability that the keypoint is off by less than `confidence_radius` of
            the longer side of the box, if the model is calibrated.
        last_hidden_state: Features, see `RLEModel`; after the flip test those of the mirrored crops follow.
    """

    loss: torch.Tensor | None = None
    keypoints: torch.Tensor | None = None
    sigmas: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    confidences: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


def build_backbone(config: PreTrainedConfig) -> nn.Module:
    """A backbone with random weights.

    Args:
        config: `backbone_config` of the model.
    """
    if config.model_type == EfficientNetLiteConfig.model_type:
        return EfficientNetLiteModel(config)
    if config.model_type in MODEL_FOR_BACKBONE_MAPPING_NAMES:
        backbone = AutoBackbone.from_config(config)
        if config.model_type == "resnet":
            replace_convolutions(backbone)
        return backbone
    return AutoModel.from_config(config)


def feature_size(backbone: PreTrainedModel) -> int:
    """Channels of the features that a backbone gives."""
    if hasattr(backbone, "channels"):
        return backbone.channels[-1]
    # Configurations name the width in many ways; a pass without data tells it.
    size = getattr(backbone.config, "image_size", 64)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    with torch.device("meta"):
        outputs = build_backbone(backbone.config)(
            torch.empty(1, backbone.config.num_channels, height, width), return_dict=True
        )
    hidden_states = outputs.last_hidden_state
    return hidden_states.shape[1 if hidden_states.ndim == 4 else 2]


class RLECoordinateHead(nn.Linear):
    """Linear layer whose product is divided by the norm of the features before the bias is added."""

    def __init__(self, in_features: int, out_features: int, normalize_features: bool):
        super().__init__(in_features, out_features)
        self.normalize_features = normalize_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, in_features) to (batch, out_features), in float32 at least."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        features, weight, bias = features.to(dtype), self.weight.to(dtype), self.bias.to(dtype)
        if not self.normalize_features:
            return nn.functional.linear(features, weight, bias)
        norm = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        return nn.functional.linear(features, weight) / norm.clamp(min=torch.finfo(dtype).tiny) + bias


class RLESigmaHead(nn.Linear):
    """Linear layer with a sigmoid, and a floor."""

    def __init__(self, in_features: int, out_features: int, epsilon: float):
        super().__init__(in_features, out_features)
        self.epsilon = epsilon

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, in_features) to (batch, out_features) in (0, 1), in float32 at least."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        logits = nn.functional.linear(features.to(dtype), self.weight.to(dtype), self.bias.to(dtype))
        return logits.sigmoid() + self.epsilon


class RLEPreTrainedModel(PreTrainedModel):
    """Initial weights and loading."""

    config: RLEConfig
    base_model_prefix = "rle"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Fill heads and flow as the original, or mmpose, does."""
        super()._init_weights(module)
        is_mmpose = self.config.loss_formulation == "mmpose"
        if isinstance(module, RLECoordinateHead | RLESigmaHead):
            if is_mmpose:
                init.normal_(module.weight, std=0.01)
                init.zeros_(module.bias)
            else:
                bound = 1 / math.sqrt(module.in_features)
                init.xavier_uniform_(module.weight, gain=HEAD_GAIN)
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, RealNVP):
            for name in ("input", "hidden", "output"):
                weight, bias = getattr(module, f"{name}_weight"), getattr(module, f"{name}_bias")
                outputs, inputs = weight.shape[-2:]
                # mmpose: Xavier with a gain of 0.01; the original: PyTorch's default.
                bound = HEAD_GAIN * math.sqrt(6 / (inputs + outputs)) if is_mmpose else 1 / math.sqrt(inputs)
                init.uniform_(weight, -bound, bound)
                init.uniform_(bias, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))


class RLEModel(RLEPreTrainedModel):
    """The backbone of RLE with its global average."""

    def __init__(self, config: RLEConfig):
        super().__init__(config)
        self.backbone = build_backbone(config.backbone_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """That of the backbone, or the backbone where it names none."""
        try:
            return self.backbone.get_input_embeddings()
        except NotImplementedError:
            return self.backbone

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Compute features of crops.

        Args:
            pixel_values: (batch, 3, height, width), normalised crops of one person each.
            kwargs: `return_dict`.

        Returns:
            `last_hidden_state` (batch, channels, height, width) of the last feature map, or (batch, tokens, channels), and
            `pooler_output` (batch, channels), its mean.

        Raises:
            ValueError: If `pixel_values` has another rank.
        """
        if pixel_values.ndim != 4:
            raise ValueError(
                f"`pixel_values` must have shape (batch, channels, height, width), got {tuple(pixel_values.shape)}; "
                "the image processor makes them."
            )
        outputs = self.backbone(pixel_values.to(self.dtype), return_dict=True)
        hidden_states = outputs.feature_maps[-1] if "feature_maps" in outputs else outputs.last_hidden_state
        pooled = hidden_states.mean(dim=(2, 3)) if hidden_states.ndim == 4 else hidden_states.mean(dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


class RLEForPoseEstimation(RLEPreTrainedModel):
    """Regression of keypoints and their deviations; the flow of its loss is used in training only."""

    def __init__(self, config: RLEConfig):
        super().__init__(config)
        self.rle = RLEModel(config)
        channels = feature_size(self.rle.backbone)
        # Row k * keypoint_dim + d is coordinate d of keypoint k.
        outputs = config.num_keypoints * config.keypoint_dim
        self.coordinate_head = RLECoordinateHead(channels, outputs, config.normalize_features)
        self.sigma_head = RLESigmaHead(channels, outputs, config.sigma_epsilon)
        self.criterion = RLELoss(
            config.keypoint_dim,
            config.num_flow_layers,
            config.flow_hidden_size,
            config.loss_formulation,
            config.base_distribution,
            config.use_residual,
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """That of the base model."""
        return self.rle.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        label_weights: torch.Tensor | None = None,
        flip_test: bool = False,
        **kwargs,
    ) -> RLEPoseEstimatorOutput:
        """Predict keypoints, and compute the loss if labels are given.

        Args:
            pixel_values: (batch, 3, height, width), normalised crops of one person each.
            labels: (batch, keypoints, keypoint_dim), normalised as the predictions. Those that are not finite count as
                unlabelled.
            label_weights: (batch, keypoints) or (batch, keypoints, keypoint_dim), 0 for what is not labelled; all 1 if
                None.
            flip_test: Average with the predictions for the mirrored crops.
            kwargs: `return_dict`.

        Raises:
            ValueError: If shapes do not fit, or the flip test is asked for with labels or without `flip_pairs`.
        """
        if flip_test and labels is not None:
            raise ValueError("`flip_test` must be False where `labels` are given: the loss is that of one pass.")
        if label_weights is not None and labels is None:
            raise ValueError("`labels` must be given where `label_weights` are.")
        batches = [pixel_values]
        if flip_test:
            permutation = self.config.flip_permutation
            batches.append(pixel_values.flip(-1))
            if pixel_values.device.type != "cpu":
                # On the CPU two passes are faster, as their feature maps stay smaller.
                batches = [torch.cat(batches)]
        features = [self.rle(batch, return_dict=True) for batch in batches]
        pooled = torch.cat([batch.pooler_output for batch in features])
        with torch.autocast(pixel_values.device.type, enabled=False):
            shape = (len(pooled), self.config.num_keypoints, self.config.keypoint_dim)
            keypoints = self.coordinate_head(pooled).view(shape)
            sigmas = self.sigma_head(pooled).view(shape)
            if self.config.root_index is not None and self.config.keypoint_dim == 3 and not self.training:
                depth = keypoints[..., 2:]
                keypoints = torch.cat([keypoints[..., :2], depth - depth[:, self.config.root_index, None]], dim=-1)
            loss = None if labels is None else self.criterion(keypoints, sigmas, labels, label_weights)
            scores = 1 - sigmas.mean(-1)
            if flip_test:
                keypoints, sigmas, scores = self._merge(keypoints, sigmas, scores, permutation, pixel_values.shape[-1])
        return RLEPoseEstimatorOutput(
            loss=loss,
            keypoints=keypoints,
            sigmas=sigmas,
            scores=scores,
            confidences=self._confidences(sigmas),
            last_hidden_state=torch.cat([batch.last_hidden_state for batch in features]),
        )

    def _merge(
        self, keypoints: torch.Tensor, sigmas: torch.Tensor, scores: torch.Tensor, permutation: list[int], width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean of the first half of each, from the crops, and of the second, from the mirrored crops, mirrored back."""
        keypoints, mirrored = keypoints.chunk(2)
        x = -mirrored[..., :1] - self.config.flip_shift / width
        mirrored = torch.cat([x, mirrored[..., 1:]], dim=-1)[:, permutation]
        scores, mirrored_scores = scores.chunk(2)
        sigmas, mirrored_sigmas = sigmas.chunk(2)
        if self.config.flip_swaps_sigmas:
            mirrored_sigmas = mirrored_sigmas[:, permutation]
        return (
            (keypoints + mirrored) / 2,
            (sigmas + mirrored_sigmas) / 2,
            (scores + mirrored_scores[:, permutation]) / 2,
        )

    def _confidences(self, sigmas: torch.Tensor) -> torch.Tensor | None:
        if self.config.confidence_coefficients is None:
            return None
        intercept, slope = self.config.confidence_coefficients
        return (intercept + slope * sigmas[..., :2].mean(-1).log()).sigmoid()


__all__ = ["RLEForPoseEstimation", "RLEModel", "RLEPoseEstimatorOutput", "RLEPreTrainedModel"]
