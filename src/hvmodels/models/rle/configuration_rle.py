"""Configuration of RLE."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import CONFIG_MAPPING

from .configuration_efficientnet_lite import EfficientNetLiteConfig


COCO17 = {
    "keypoint_names": (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    "flip_pairs": ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    "keypoint_sigmas": (
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
        0.089,
    ),
    "keypoint_links": (
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
}  # fmt: skip


@strict
class RLEConfig(PreTrainedConfig):
    """Configuration of RLE (arXiv 2107.11291); the defaults are the published ResNet-50 model for COCO.

    `id2label` names the keypoints, `num_labels` is their number.

    Args:
        backbone_config: Configuration of a transformers model, as an object or a dict; ResNet-50 if None. Models that are
            backbones give their last feature map, others their `last_hidden_state`.
        keypoint_dim: 2 for x and y; 3 for depth as well.
        root_index: Keypoint whose depth the others are relative to outside of training, or None; 0 in 3-D by default.
        normalize_features: Divide the product of features and weight of the coordinate head by the norm of the features.
            False in mmpose's models.
        sigma_epsilon: Added to the deviations; 1e-9 in the original's 3-D model.
        num_flow_layers: Coupling layers of the flow.
        flow_hidden_size: Width of their networks.
        loss_formulation: `"original"`, `"mmpose"`, which is another function, or `"l1"`, the paper's baseline without
            density, which leaves the deviations untrained.
        base_distribution: Density the flow corrects; `"gaussian"` exists in mmpose's formulation only.
        use_residual: Whether the base density takes part in the loss; without, the flow has to learn it all.
        flip_pairs: Pairs of keypoints that change places in a mirrored picture. This, the sigmas and the links are COCO's if
            None and the keypoints are COCO's 17.
        flip_shift: Pixels of the crop by which mirrored keypoints are moved left in the flip test: 1 in the published
            models, 4 with the original's `FLIP_SHIFT` off, 0 with mmpose's `shift_coords` off.
        flip_swaps_sigmas: Whether the flip test exchanges left and right in the deviations too. The original does not.
        depth_scale: Millimetres that a depth of 1 stands for.
        keypoint_sigmas: Fall-off of the object keypoint similarity for each keypoint.
        keypoint_links: Pairs of keypoints to draw a line between.
        confidence_coefficients: Intercept and slope of the calibrated confidence, which is sigmoid(intercept + slope *
            log(sigma)) with the mean deviation of x and y; None if not calibrated.
        confidence_radius: The confidence is the probability that a keypoint is off by less than this share of the longer
            side of the person's box.

    Raises:
        ValueError: If values do not fit each other.
    """

    model_type = "rle"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    keypoint_dim: Literal[2, 3] = 2
    root_index: int | None = None
    normalize_features: bool = True
    sigma_epsilon: float | int = 0.0
    num_flow_layers: int = 6
    flow_hidden_size: int = 64
    loss_formulation: Literal["original", "mmpose", "l1"] = "original"
    base_distribution: Literal["laplace", "gaussian"] = "laplace"
    use_residual: bool = True
    flip_pairs: list | tuple | None = None
    flip_shift: float | int = 1.0
    flip_swaps_sigmas: bool = True
    depth_scale: float | int = 2000.0
    keypoint_sigmas: list[float] | tuple[float, ...] | None = None
    keypoint_links: list | tuple | None = None
    confidence_coefficients: list[float] | tuple[float, ...] | None = None
    confidence_radius: float | int = 0.1

    def __post_init__(self, **kwargs):
        backbone = self.backbone_config
        if backbone is None:
            backbone = {"model_type": "resnet", "out_features": ["stage4"]}
        if isinstance(backbone, dict):
            model_type = backbone.get("model_type")
            if model_type == EfficientNetLiteConfig.model_type:
                backbone = EfficientNetLiteConfig.from_dict(backbone)
            elif model_type in CONFIG_MAPPING:
                backbone = CONFIG_MAPPING[model_type].from_dict(backbone)
            else:
                raise ValueError(
                    "`backbone_config` must name a model of transformers, such as 'resnet' or 'mobilenet_v2', or "
                    f"'efficientnet_lite' as `model_type`, got {model_type!r}."
                )
        self.backbone_config = backbone
        if self.id2label is None and kwargs.get("num_labels") in (None, len(COCO17["keypoint_names"])):
            self.id2label = dict(enumerate(COCO17["keypoint_names"]))
            self.label2id = {name: index for index, name in self.id2label.items()}
        super().__post_init__(**kwargs)
        if tuple(self.keypoint_names) == COCO17["keypoint_names"]:
            for name in ("flip_pairs", "keypoint_sigmas", "keypoint_links"):
                if getattr(self, name) is None:
                    setattr(self, name, COCO17[name])
        if self.keypoint_dim == 3 and self.root_index is None:
            self.root_index = 0
        # As JSON gives them back, so that a configuration equals its saved copy.
        for name in ("keypoint_sigmas", "confidence_coefficients"):
            if getattr(self, name) is not None:
                setattr(self, name, list(getattr(self, name)))
        for name in ("flip_pairs", "keypoint_links"):
            if getattr(self, name) is not None:
                setattr(self, name, [list(pair) for pair in getattr(self, name)])
        self.validate_values()  # here too, so that construction raises a plain ValueError

    @property
    def keypoint_names(self) -> list[str]:
        """Name of each keypoint."""
        return [name for _, name in sorted(self.id2label.items())]  # JSON may have sorted the numbers as text

    @property
    def num_keypoints(self) -> int:
        """Number of keypoints."""
        return self.num_labels

    @property
    def flip_permutation(self) -> list[int]:
        """Keypoint k of a mirrored crop is keypoint `flip_permutation[k]` of the crop.

        Raises:
            ValueError: If `flip_pairs` is None.
        """
        if self.flip_pairs is None:
            raise ValueError(
                "`flip_pairs` must name the keypoints that change places in a mirrored picture, got None."
            )
        permutation = list(range(self.num_keypoints))
        for left, right in self.flip_pairs:
            permutation[left], permutation[right] = right, left
        return permutation

    def validate_values(self):
        """Check that values fit each other and the number of keypoints."""
        for name in ("num_flow_layers", "flow_hidden_size", "depth_scale", "confidence_radius"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        for name in ("sigma_epsilon", "flip_shift"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")
        if self.base_distribution == "gaussian" and self.loss_formulation != "mmpose":
            raise ValueError(
                f"`base_distribution` 'gaussian' needs `loss_formulation` 'mmpose', got {self.loss_formulation!r}."
            )
        if self.confidence_coefficients is not None and len(self.confidence_coefficients) != 2:
            raise ValueError(
                f"`confidence_coefficients` must be (intercept, slope), got {self.confidence_coefficients}."
            )
        if self.id2label is None:
            return  # not constructed yet
        count = self.num_keypoints
        if self.root_index is not None and not 0 <= self.root_index < count:
            raise ValueError(f"`root_index` must be a keypoint in [0, {count}), got {self.root_index}.")
        if self.keypoint_sigmas is not None and (
            len(self.keypoint_sigmas) != count or not min(self.keypoint_sigmas) > 0
        ):
            raise ValueError(f"`keypoint_sigmas` must be {count} positive numbers, got {self.keypoint_sigmas}.")
        for name in ("flip_pairs", "keypoint_links"):
            for pair in getattr(self, name) or ():
                if len(pair) != 2 or not all(isinstance(index, int) and 0 <= index < count for index in pair):
                    raise ValueError(f"`{name}` must be pairs of keypoint indices in [0, {count}), got {pair}.")
        paired = [index for pair in self.flip_pairs or () for index in pair]
        if len(paired) != len(set(paired)):
            raise ValueError(f"`flip_pairs` must name each keypoint once, got {self.flip_pairs}.")


__all__ = ["RLEConfig"]
