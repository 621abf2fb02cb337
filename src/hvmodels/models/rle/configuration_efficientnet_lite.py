"""Configuration of EfficientNet-Lite."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class EfficientNetLiteConfig(PreTrainedConfig):
    """Configuration of EfficientNet-Lite, an EfficientNet (arXiv 1905.11946) without squeeze-and-excitation.

    The defaults are EfficientNet-Lite0. The five lists have one entry a stage.

    Args:
        num_channels: Channels of the picture.
        stem_channels: Channels after the first convolution, which halves the picture.
        hidden_sizes: Channels of each stage.
        depths: Blocks of each stage.
        kernel_sizes: Size of the depthwise convolutions.
        strides: Stride of the first block.
        expand_ratios: Channels inside a block, relative to those that enter it.
        hidden_size: Channels of the last feature map.
        batch_norm_eps: Added to the variance.
        batch_norm_momentum: Share of a new batch in the running statistics.

    Raises:
        ValueError: If the lists differ in length, or an entry is not positive.
    """

    model_type = "efficientnet_lite"

    num_channels: int = 3
    stem_channels: int = 32
    hidden_sizes: list[int] | tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    depths: list[int] | tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    kernel_sizes: list[int] | tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    strides: list[int] | tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    expand_ratios: list[int] | tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    hidden_size: int = 1280
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 1e-2

    def __post_init__(self, **kwargs):
        lists = ("hidden_sizes", "depths", "kernel_sizes", "strides", "expand_ratios")
        for name in lists:  # as JSON gives them back, so that a configuration equals its saved copy
            setattr(self, name, list(getattr(self, name)))
        lengths = {name: len(getattr(self, name)) for name in lists}
        if len(set(lengths.values())) != 1 or not self.depths:
            raise ValueError(f"{', '.join(f'`{name}`' for name in lists)} must have one entry a stage, got {lengths}.")
        for name in (*lists, "num_channels", "stem_channels", "hidden_size"):
            values = getattr(self, name)
            if min(values if isinstance(values, list) else [values]) < 1:
                raise ValueError(f"`{name}` must be positive, got {values}.")
        super().__post_init__(**kwargs)


__all__ = ["EfficientNetLiteConfig"]
