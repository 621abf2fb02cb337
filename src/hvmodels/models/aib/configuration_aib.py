"""Configuration of AIB."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# What the three scripts of the original set for their networks, where a configuration does not say otherwise.
BACKBONE_DEFAULTS = {
    "vgg_cifar": {
        "image_size": 32,
        "hidden_sizes": (64, 128, 256, 512),
        "latent_dim": 256,
        "info_loss_scale": 0.5,
        "num_samples_eval": 4,
        "train_anchors": True,
    },
    "wide_resnet_cifar": {
        "image_size": 32,
        "hidden_sizes": (16, 16, 32, 64),
        "depth": 28,
        "widen_factor": 10,
        "dropout": 0.3,
        "latent_dim": 512,
        "num_samples_eval": 4,
        "train_anchors": True,
    },
    "vgg16": {"hidden_sizes": (64, 128, 256, 512, 512)},
    "wide_resnet50": {"hidden_sizes": (256, 512, 1024, 2048), "depths": (3, 4, 6, 3), "widen_factor": 2},
}
COMMON_DEFAULTS = {
    "image_size": 224,
    "depth": None,
    "depths": None,
    "widen_factor": 1,
    "dropout": 0.0,
    "latent_dim": 256,
    "info_loss_scale": 1.0,
    "num_samples_eval": 12,
    "train_anchors": False,
}


@strict
class AIBConfig(PreTrainedConfig):
    """Configuration of AIB (arXiv 2108.03418); the defaults are the published VGG for CIFAR, without quantisation.

    Fields that are None take the published value of the `backbone_type`.

    Args:
        backbone_type: `"vgg_cifar"` and `"wide_resnet_cifar"` for images of 32 pixels, `"vgg16"` and `"wide_resnet50"` for
            224. Any size works with any of them; the attention map has the size of the feature map.
        image_size: Side of the images the model is for, in pixels. Nothing in the model depends on it.
        num_channels: Channels of the images.
        hidden_sizes: Channels: of the four widths of `"vgg_cifar"`; of the stem and of three stages before
            `widen_factor` of `"wide_resnet_cifar"`; of the five blocks of `"vgg16"`; of the output of four stages of
            `"wide_resnet50"`.
        depth: Convolutions of `"wide_resnet_cifar"`, 6 n + 4 with n blocks a stage; None for the others.
        depths: Blocks of each stage of `"wide_resnet50"`; None for the others.
        widen_factor: Factor of the stages' channels of `"wide_resnet_cifar"`, and of the inner channels of the blocks of
            `"wide_resnet50"`; 1 for the others.
        dropout: Rate between the convolutions of a block of `"wide_resnet_cifar"`; 0 for the others.
        attention_hidden_layers: Convolutions with ReLU in the attention head of the VGGs before its last one; 3 in the
            published `"vgg16"` with quantisation, else 0. The residual networks have a stage of blocks there.
        latent_dim: Size of the latent code.
        num_samples_train: Monte-Carlo samples in training, unless `forward` is told another number.
        num_samples_eval: The same outside of training: 4 in the original's tests on CIFAR, 12 on CUB.
        stochastic_eval: Whether maps and codes are sampled outside of training, as the original does. False takes their
            means, so that one image always gives one answer.
        std_offset: Subtracted from the predicted spreads before the softplus.
        beta: Weight of the divergence of the codes in the loss.
        info_loss_scale: Factor of the divergence beside `beta`; 0.5 in the script of `"vgg_cifar"`.
        kl_sigma: Standard deviation in the divergence: `"exp"` is the exponential of the one that codes are sampled with,
            as in the original; `"direct"` is that one itself, as in the textbook.
        use_quantization: Replace each score of the map by the nearest anchor.
        num_anchors: Number of anchors; they start evenly spaced from 0 to 1.
        vq_weight: Weight of the loss that moves anchors to the scores.
        commitment_weight: Weight of the loss that moves scores to the anchors.
        train_anchors: Whether anchors are trained. In the published models for CUB they are not.

    Raises:
        ValueError: If values do not fit each other.
    """

    model_type = "aib"

    backbone_type: Literal["vgg_cifar", "wide_resnet_cifar", "vgg16", "wide_resnet50"] = "vgg_cifar"
    image_size: int | None = None
    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] | None = None
    depth: int | None = None
    depths: list[int] | tuple[int, ...] | None = None
    widen_factor: float | int | None = None
    dropout: float | int | None = None
    attention_hidden_layers: int | None = None
    latent_dim: int | None = None
    num_samples_train: int = 1
    num_samples_eval: int | None = None
    stochastic_eval: bool = True
    std_offset: float | int = 5.0
    beta: float | int = 0.01
    info_loss_scale: float | int | None = None
    kl_sigma: Literal["exp", "direct"] = "exp"
    use_quantization: bool = False
    num_anchors: int = 20
    vq_weight: float | int = 0.4
    commitment_weight: float | int = 0.1
    train_anchors: bool | None = None

    def __post_init__(self, **kwargs):
        for name, value in {**COMMON_DEFAULTS, **BACKBONE_DEFAULTS.get(self.backbone_type, {})}.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.attention_hidden_layers is None:
            self.attention_hidden_layers = 3 if self.backbone_type == "vgg16" and self.use_quantization else 0
        # As JSON gives them back, so that a configuration equals its saved copy.
        for name in ("hidden_sizes", "depths"):
            if getattr(self, name) is not None:
                setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)
        self.validate_values()  # here too, so that construction raises a plain ValueError

    def validate_values(self):
        """Check that values are in range and fit the backbone."""
        if self.image_size is None:
            return  # not constructed yet
        for name in (
            "image_size",
            "num_channels",
            "latent_dim",
            "num_samples_train",
            "num_samples_eval",
            "num_anchors",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {getattr(self, name)}.")
        for name in ("std_offset", "beta", "info_loss_scale", "vq_weight", "commitment_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be a finite number of 0 or more, got {getattr(self, name)}.")
        defaults = {**COMMON_DEFAULTS, **BACKBONE_DEFAULTS[self.backbone_type]}
        for name in ("hidden_sizes", "depths"):
            values, default = getattr(self, name), defaults[name]
            if (values is None) != (default is None) or (
                values is not None and (len(values) != len(default) or min(values) < 1)
            ):
                expected = "None" if default is None else f"{len(default)} positive numbers"
                raise ValueError(
                    f"`{name}` must be {expected} with `backbone_type` {self.backbone_type!r}, got {values}."
                )
        is_wide_resnet_cifar = self.backbone_type == "wide_resnet_cifar"
        if is_wide_resnet_cifar and not (self.depth >= 10 and (self.depth - 4) % 6 == 0):
            raise ValueError(f"`depth` must be 6 n + 4 with n of 1 or more, such as 28, got {self.depth}.")
        if not is_wide_resnet_cifar and self.depth is not None:
            raise ValueError(f"`depth` must be None with `backbone_type` {self.backbone_type!r}, got {self.depth}.")
        if not 0 < self.widen_factor < float("inf"):
            raise ValueError(f"`widen_factor` must be a positive number, got {self.widen_factor}.")
        is_residual = self.backbone_type in ("wide_resnet_cifar", "wide_resnet50")
        if not is_residual and self.widen_factor != 1:
            raise ValueError(
                f"`widen_factor` must be 1 with `backbone_type` {self.backbone_type!r}, got {self.widen_factor}."
            )
        if not 0 <= self.dropout < 1 or (self.dropout and not is_wide_resnet_cifar):
            raise ValueError(
                "`dropout` must be a rate from 0 to below 1, and 0 unless `backbone_type` is 'wide_resnet_cifar', got "
                f"{self.dropout}."
            )
        if self.attention_hidden_layers < 0 or (self.attention_hidden_layers and is_residual):
            raise ValueError(
                "`attention_hidden_layers` must be 0 or more, and 0 for residual networks, got "
                f"{self.attention_hidden_layers}."
            )
        if self.backbone_type == "wide_resnet50" and any(size % 4 for size in self.hidden_sizes):
            raise ValueError(f"`hidden_sizes` must be multiples of 4 with 'wide_resnet50', got {self.hidden_sizes}.")


__all__ = ["AIBConfig"]
