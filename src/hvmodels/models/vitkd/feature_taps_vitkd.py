"""Where vision transformers keep the features that are distilled, and how to read them.

Features are read by hooks on the list of blocks, which is the same for all families, unlike `hidden_states` and the
backbones of transformers. A feature is the output of a block without the tokens before the patches (class, distillation,
registers); the deep one goes through the final norm.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Family:
    """Where models of one family keep what is needed, by dotted names from the model without its head.

    Args:
        blocks: Name of the list of blocks.
        norms: Names of the final norm; the first that is there and is no identity is taken.
        num_prefix_tokens: Tells the number of tokens before the patches.
        patch_size: Tells side or (height, width) of a patch in pixels.
    """

    blocks: str
    norms: tuple[str, ...]
    num_prefix_tokens: Callable[[nn.Module], int]
    patch_size: Callable[[nn.Module], int | tuple[int, int]] = lambda model: model.config.patch_size


# By `model_type`. BEiT and some timm models average the patches before their final norm, which is kept elsewhere then.
FAMILIES = {
    "beit": Family("layers", ("layernorm", "pooler.layernorm"), lambda model: 1),
    "deit": Family("layers", ("layernorm",), lambda model: 2),
    "dinov2": Family("encoder.layer", ("layernorm",), lambda model: 1),
    "dinov2_with_registers": Family(
        "encoder.layer", ("layernorm",), lambda model: 1 + model.config.num_register_tokens
    ),
    "dinov3_vit": Family("model.layer", ("norm",), lambda model: 1 + model.config.num_register_tokens),
    "ijepa": Family("layers", ("layernorm",), lambda model: 0),
    "timm_wrapper": Family(
        "timm_model.blocks",
        ("timm_model.norm", "timm_model.fc_norm"),
        lambda model: model.timm_model.num_prefix_tokens,
        lambda model: model.timm_model.patch_embed.patch_size,
    ),
    "vit": Family("layers", ("layernorm",), lambda model: 1),
    "vit_msn": Family("layers", ("layernorm",), lambda model: 1),
}


class FeatureTaps:
    """Blocks and final norm of a vision transformer.

    Args:
        model: A model of transformers with or without a head.
        override: `{"blocks", "norm", "num_prefix_tokens"}`: dotted names from the model or from its `base_model`, and the
            number of tokens before the patches; with `"patch_size"` if the model's configuration does not tell it. None
            if the model's family is known.
        name: What to call the model in errors.

    Raises:
        ValueError: If the model has no such parts, or its family is unknown.
    """

    def __init__(self, model: nn.Module, override: dict[str, Any] | None = None, name: str = "student"):
        if override is None:
            model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
            if model_type not in FAMILIES:
                raise ValueError(
                    f"`{name}_taps` must be given for models of type {model_type!r}: {{'blocks': ..., 'norm': ..., "
                    f"'num_prefix_tokens': ...}}. Known are {sorted(FAMILIES)}."
                )
            family = FAMILIES[model_type]
        else:
            family = Family(
                override["blocks"],
                (override["norm"],),
                lambda model: override["num_prefix_tokens"],
                lambda model: override.get("patch_size") or model.config.patch_size,
            )
        self.name = name
        # The model without its head, which gives the features where no logits are needed.
        candidates = (model, getattr(model, "base_model", model))
        self.root = next((root for root in candidates if _find(root, family.blocks) is not None), None)
        if self.root is None:
            raise ValueError(
                f"`{name}_taps['blocks']` must name the list of blocks, and {type(model).__name__} has no "
                f"{family.blocks!r}."
            )
        self.blocks = _find(self.root, family.blocks)
        norms = (_find(self.root, norm) for norm in family.norms)
        self.norm = next((norm for norm in norms if norm is not None and not isinstance(norm, nn.Identity)), None)
        if self.norm is None:
            raise ValueError(
                f"`{name}_taps['norm']` must name the final norm, and {type(model).__name__} has no "
                f"{' or '.join(map(repr, family.norms))} that does anything."
            )
        self.num_prefix_tokens = family.num_prefix_tokens(self.root)
        self._patch_size = family.patch_size

    @property
    def hidden_size(self) -> int:
        """Width of the tokens."""
        return self.norm.weight.shape[-1]

    def layer_index(self, layer: int) -> int:
        """Number of a block from the start.

        Raises:
            ValueError: If there is no such block.
        """
        count = len(self.blocks)
        if not -count <= layer < count:
            raise ValueError(f"`mimic_layers` and `generation_layer` must be in [-{count}, {count}), got {layer}.")
        return layer % count

    def grid(self, pixel_values: torch.Tensor, num_patches: int) -> tuple[int, int]:
        """Rows and columns of the patches.

        Args:
            pixel_values: (batch, channels, height, width).
            num_patches: How many tokens there are without those before the patches.

        Raises:
            ValueError: If the patches of the picture are not as many.
        """
        patch_size = self._patch_size(self.root)
        height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        grid = (pixel_values.shape[-2] // height, pixel_values.shape[-1] // width)
        if grid[0] * grid[1] != num_patches:
            raise ValueError(
                f"`{self.name}_taps` must leave one token a patch, {grid[0]} x {grid[1]} for pictures of "
                f"{tuple(pixel_values.shape[-2:])} pixels in patches of {(height, width)}; {num_patches} are left after "
                f"{self.num_prefix_tokens} before the patches."
            )
        return grid

    @contextmanager
    def record(self, layers: Iterable[int]) -> Iterator[dict[int, torch.Tensor]]:
        """Record the outputs of blocks while the model runs.

        Args:
            layers: Numbers of blocks from the start.

        Yields:
            What fills up with (batch, tokens, width) by the number of the block, all tokens, without the final norm.
        """
        recorded = {}

        def keep(index: int) -> Callable:
            def hook(module, arguments, output):
                recorded[index] = output if isinstance(output, torch.Tensor) else output[0]

            return hook

        handles = [self.blocks[index].register_forward_hook(keep(index)) for index in set(layers)]
        try:
            yield recorded
        finally:
            for handle in handles:
                handle.remove()

    def patches(self, hidden_states: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Patch tokens of a block's output, through the final norm if asked for."""
        patches = hidden_states[:, self.num_prefix_tokens :]
        return self.norm(patches) if normalize else patches


def _find(root: nn.Module, path: str) -> nn.Module | None:
    """A module by its dotted name, None if there is none."""
    for name in path.split("."):
        root = getattr(root, name, None)
    return root if isinstance(root, nn.Module) else None


__all__ = ["FAMILIES", "FeatureTaps"]
