"""Checkpoints of AIB: the twelve published models in the layouts of the three scripts, and ImageNet weights to start from."""

import re
from collections.abc import Mapping
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..models.aib import AIBConfig, AIBForImageClassification, AIBImageProcessor
from .checkpoints import flatten_options, read_checkpoint


# An entry that only the network of a script has.
SIGNATURES = {
    "vgg_cifar": "features.0.op.0.weight",
    "wide_resnet_cifar": "block1.layer.0.conv1.weight",
    "vgg16": "features.0.weight",
    "wide_resnet50": "layer1.0.conv1.weight",
}
# Second names of tensors, for the modules that the original keeps under two.
ALIASES = {
    "wide_resnet_cifar": {
        "att_module_mu.0.": "att_block3.",
        "att_module_mu.1.": "bn_att.",
        "att_module_mu.2.": "att_conv.",
        "att_module_mu.3.": "bn_att2.",
        "att_module_mu.5.": "att_conv3.",
        "att_module_mu.6.": "bn_att3.",
        "encode.0.": "block3.",
        "encode.1.": "bn1.",
    },
    "wide_resnet50": {"att_module_mu.0.": "att_layer4.", "encode.0.": "layer4."},
}
# Layers of the original that its forward pass never uses.
UNUSED = {"wide_resnet50": "tmp_layer."}
STATISTICS = {
    "vgg_cifar": "encode.8.",
    "wide_resnet_cifar": "encode.5.",
    "vgg16": "encode.2.",
    "wide_resnet50": "encode.3.",
}
LAST_LAYER = {
    "vgg_cifar": "decode.2.",
    "wide_resnet_cifar": "decode.1.",
    "vgg16": "decode.2.",
    "wide_resnet50": "decode.2.",
}
# Entries of ImageNet classifiers that AIB has no place for.
CLASSIFIERS = re.compile(r"(classifier|fc|head|pre_logits)\..*")

STATISTICS_OF_IMAGES = {
    "vgg_cifar": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "wide_resnet_cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "vgg16": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "wide_resnet50": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
}
CIFAR_LABELS = {
    10: "airplane automobile bird cat deer dog frog horse ship truck",
    100: (
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
        "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
        "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
        "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
        "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
        "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
        "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
    ),
}


def convert(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path
) -> tuple[AIBForImageClassification, AIBImageProcessor]:
    """Turn a state dict into model and image processor.

    Args:
        weights: State dict of the original.
        options: Options of its scripts by their names, at any depth: `va_beta` (`beta` in the script for CUB), `vq_coef`,
            `comit_coef`, `qt_trainable`, `num_avg`, `drop`, and `dataset`, of which `"SVHN"` has other image statistics than
            CIFAR.
        source: The checkpoint's path.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    options = flatten_options(options)
    config, state_dict = convert_state_dict(weights, options)
    with torch.device("meta"):
        model = AIBForImageClassification(config)
    model.load_state_dict({name: tensor.contiguous() for name, tensor in state_dict.items()}, assign=True)
    mean, std = STATISTICS_OF_IMAGES[config.backbone_type]
    processor = {"image_mean": list(mean), "image_std": list(std)}
    if config.image_size == 224:
        size = {"height": 256, "width": 256}
        processor |= {"size": size, "do_center_crop": True, "crop_padding": 0}
    elif _dataset(options) == "SVHN":
        processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return model.eval(), AIBImageProcessor(**processor)


def convert_state_dict(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> tuple[AIBConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict of `AIBForImageClassification`; see `convert`."""
    options = flatten_options(options)
    backbone_type = _backbone_type(weights)
    weights = _drop_second_names(weights, backbone_type)
    dtypes = {tensor.dtype for name, tensor in weights.items() if not name.endswith(".num_batches_tracked")}
    if len(dtypes) != 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(
            f"`checkpoint`: all tensors must have the same floating-point dtype, got {sorted(map(str, dtypes))}."
        )
    config = _read_config(weights, backbone_type, options)
    names = _names(config)
    state_dict, unknown = {}, []
    for name, tensor in weights.items():
        start = next((start for start in names if name.startswith(start)), None)
        if start is None:
            unknown.append(name)
        else:
            state_dict[names[start] + name[len(start) :]] = tensor
    if config.use_quantization:
        state_dict["aib.attention.anchors"] = state_dict["aib.attention.anchors"].flatten()
    with torch.device("meta"):
        expected = AIBForImageClassification(config).state_dict()
    unknown += state_dict.keys() - expected.keys()
    missing = expected.keys() - state_dict.keys()
    if missing or unknown:
        raise ValueError(
            f"`checkpoint` must be a whole AIB with {backbone_type!r}: {len(missing)} weights are missing, such as "
            f"{sorted(missing)[:4]}, and {len(unknown)} have no place, such as {sorted(unknown)[:4]}."
        )
    for name, tensor in state_dict.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"`checkpoint`: {name!r} has the shape {tuple(tensor.shape)}, but the other weights ask for "
                f"{tuple(expected[name].shape)}."
            )
    return config, state_dict


def load_imagenet_weights(model: AIBForImageClassification, checkpoint: str | PathLike) -> AIBForImageClassification:
    """Start the features from an ImageNet classifier, as the original does for CUB.

    Beside the features of the VGG-16 or wide ResNet-50-2, the last stage of the latter, which is AIB's encoder, is taken;
    the attention, the code and the decoder keep the weights they have.

    Args:
        model: With `backbone_type` `"vgg16"` or `"wide_resnet50"`; it is changed in place.
        checkpoint: File with the state dict of torchvision's or timm's `vgg16` or `wide_resnet50_2`.

    Returns:
        The model.

    Raises:
        ValueError: If the file cannot be read, or is of another network.
    """
    if model.config.backbone_type not in ("vgg16", "wide_resnet50"):
        raise ValueError(
            f"`model` must have the `backbone_type` 'vgg16' or 'wide_resnet50', got {model.config.backbone_type!r}; "
            "the networks for CIFAR start from random weights."
        )
    names = {
        start: ours for start, ours in _names(model.config).items() if re.match(r"features|conv1|bn1|layer", start)
    }
    own, taken, unknown = model.state_dict(), {}, []
    for name, tensor in read_checkpoint(checkpoint).items():
        start = next((start for start in names if name.startswith(start)), None)
        ours = None if start is None else names[start] + name[len(start) :]
        if ours in own and own[ours].shape == tensor.shape:
            taken[ours] = tensor
        elif not CLASSIFIERS.fullmatch(name):
            unknown.append(name)
    missing = {name for name in own if name.startswith(tuple(names.values()))} - taken.keys()
    if missing or unknown:
        raise ValueError(
            f"`checkpoint` must be torchvision's or timm's classifier for {model.config.backbone_type!r}: "
            f"{len(missing)} weights are missing or have another shape, such as {sorted(missing)[:4]}, and {len(unknown)} "
            f"have no place, such as {sorted(unknown)[:4]}."
        )
    model.load_state_dict(taken, strict=False)
    return model


def _backbone_type(weights: Mapping[str, torch.Tensor]) -> str:
    for backbone_type, name in SIGNATURES.items():
        if name in weights:
            return backbone_type
    raise ValueError(
        f"`checkpoint` must be of AIB, with one of the entries {sorted(SIGNATURES.values())}; it has {sorted(weights)[:4]}."
    )


def _drop_second_names(weights: Mapping[str, torch.Tensor], backbone_type: str) -> dict[str, torch.Tensor]:
    """Every tensor under one name, without layers that are never used.

    Raises:
        ValueError: If two names of a tensor have different values.
    """
    unused = UNUSED.get(backbone_type)
    single = {name: tensor for name, tensor in weights.items() if unused is None or not name.startswith(unused)}
    for alias, first in ALIASES.get(backbone_type, {}).items():
        for name in [name for name in single if name.startswith(alias)]:
            tensor, other = single.pop(name), first + name[len(alias) :]
            if not torch.equal(single.setdefault(other, tensor), tensor):
                raise ValueError(f"`checkpoint`: {name!r} and {other!r} are one tensor in AIB, but differ.")
    return single


def _shape(weights: Mapping[str, torch.Tensor], name: str, dims: int) -> torch.Size:
    if name not in weights:
        raise ValueError(f"`checkpoint` must be a whole AIB: the entry {name!r} is missing.")
    if weights[name].ndim != dims or 0 in weights[name].shape:
        raise ValueError(
            f"`checkpoint`: {name!r} must have {dims} dimensions that are not empty, got the shape "
            f"{tuple(weights[name].shape)}."
        )
    return weights[name].shape


def _count(weights: Mapping[str, torch.Tensor], pattern: str) -> int:
    """Number of modules whose names match."""
    return len({match[0] for name in weights if (match := re.match(pattern, name))})


def _read_config(weights: Mapping[str, torch.Tensor], backbone_type: str, options: Mapping[str, Any]) -> AIBConfig:
    """Sizes from the tensors, the rest from the options or as published."""

    def channels(name: str) -> int:
        return _shape(weights, name, 4)[0]

    if backbone_type == "vgg_cifar":
        first = "features.0.op.0.weight"
        blocks = (first, "features.1.op.0.weight", "features.2.op.0.weight", "encode.0.op.0.weight")
        sizes = {"hidden_sizes": [channels(name) for name in blocks]}
    elif backbone_type == "wide_resnet_cifar":
        first = "conv1.weight"
        stem, *stages = [channels(first), *(channels(f"block{index}.layer.0.conv1.weight") for index in (1, 2, 3))]
        factor = stages[0] // 16
        if (stem, *stages) == (16, 16 * factor, 32 * factor, 64 * factor):
            sizes = {"hidden_sizes": [16, 16, 32, 64], "widen_factor": factor}
        else:
            sizes = {"hidden_sizes": [stem, *stages], "widen_factor": 1}
        sizes["depth"] = 6 * _count(weights, r"block1\.layer\.\d+\.") + 4
    elif backbone_type == "vgg16":
        first = "features.0.weight"
        sizes = {"hidden_sizes": [channels(f"features.{index}.weight") for index in (0, 5, 10, 17, 24)]}
    else:
        first = "conv1.weight"
        stages = range(1, 5)
        hidden_sizes = [channels(f"layer{stage}.0.conv3.weight") for stage in stages]
        factor = 4 * channels("layer1.0.conv1.weight") / hidden_sizes[0]
        sizes = {
            "hidden_sizes": hidden_sizes,
            "widen_factor": int(factor) if factor.is_integer() else factor,
            "depths": [_count(weights, rf"layer{stage}\.\d+\.") for stage in stages],
        }
        if any(size % 4 for size in hidden_sizes):
            raise ValueError(f"`checkpoint`: the stages must have multiples of 4 channels, got {hidden_sizes}.")
    if backbone_type in ("vgg_cifar", "vgg16"):
        sizes["attention_hidden_layers"] = max(_count(weights, r"att_module_mu\.\d+\.") - 1, 0)
    rows = _shape(weights, f"{STATISTICS[backbone_type]}weight", 2)[0]
    if rows % 2:
        raise ValueError(
            f"`checkpoint`: '{STATISTICS[backbone_type]}weight' must have an even number of rows, got {rows}."
        )
    num_labels = _shape(weights, f"{LAST_LAYER[backbone_type]}weight", 2)[0]
    values = {
        "backbone_type": backbone_type,
        "num_channels": _shape(weights, first, 4)[1],
        "latent_dim": rows // 2,
        "num_labels": num_labels,
        "beta": _number(
            options, "va_beta", _number(options, "beta", 0.01) if backbone_type in ("vgg16", "wide_resnet50") else 0.01
        ),
        **sizes,
    }
    if "emb.weight" in weights:
        rows, anchors = _shape(weights, "emb.weight", 2)
        if rows != 1:
            raise ValueError(f"`checkpoint`: 'emb.weight' must have one row, got {rows}.")
        values |= {"use_quantization": True, "num_anchors": anchors}
    values |= {"vq_weight": _number(options, "vq_coef", 0.4), "commitment_weight": _number(options, "comit_coef", 0.1)}
    if "qt_trainable" in options:
        if not isinstance(options["qt_trainable"], bool):
            raise ValueError(
                f"`original_config`: `qt_trainable` must be true or false, got {options['qt_trainable']!r}."
            )
        values["train_anchors"] = options["qt_trainable"]
    if backbone_type == "wide_resnet_cifar":
        values["dropout"] = _number(options, "drop", 0.3)
    samples = options.get("num_avg")
    if samples is not None:
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 0:
            raise ValueError(f"`original_config`: `num_avg` must be a whole number of 0 or more, got {samples!r}.")
        values["num_samples_eval"] = samples or None  # 0 is none in the script for CUB
    if (
        backbone_type in ("vgg_cifar", "wide_resnet_cifar")
        and _dataset(options) != "SVHN"
        and num_labels in CIFAR_LABELS
    ):
        labels = dict(enumerate(CIFAR_LABELS[num_labels].split()))
        values |= {"id2label": labels, "label2id": {label: index for index, label in labels.items()}}
    return AIBConfig(**values)


def _dataset(options: Mapping[str, Any]) -> str:
    return str(options.get("dataset", "")).upper()


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (isfinite(value) and value >= 0):
        raise ValueError(f"`original_config`: `{name}` must be a number of 0 or more, got {value!r}.")
    return value


def _names(config: AIBConfig) -> dict[str, str]:
    """Starts of the original's names to starts of ours."""
    backbone_type = config.backbone_type
    names = {
        STATISTICS[backbone_type]: "aib.statistics.",
        LAST_LAYER[backbone_type]: "decoder.classifier.",
        "att_module_std.0.": "aib.attention.spread_head.",
        "emb.weight": "aib.attention.anchors",
    }
    if backbone_type != "wide_resnet_cifar":
        names["decode.0."] = "decoder.hidden."
    if backbone_type in ("vgg_cifar", "vgg16"):
        names["att_module_mu."] = "aib.attention.mean_head."
    if backbone_type == "vgg_cifar":
        # Convolutions of each block, and modules before the first of them.
        blocks = {
            "features.0.op.": ("backbone", 2, 0),
            "features.1.op.": ("backbone", 2, 2),
            "features.2.op.": ("backbone", 3, 4),
            "encode.0.op.": ("encoder", 3, 0),
            "encode.2.op.": ("encoder", 3, 4),
        }
        places = {
            f"{block}{3 * index}.": f"aib.{part}.{first + index}."
            for block, (part, count, first) in blocks.items()
            for index in range(count)
        }
        places |= {"encode.4.op.0.": "aib.encoder.8.", "encode.4.op.4.": "aib.encoder.10."}
        for convolution, ours in places.items():
            block, index = convolution[:-1].rsplit(".", 1)
            names[convolution] = f"{ours}convolution."
            names[f"{block}.{int(index) + 1}."] = f"{ours}normalization."
        names["encode.5."] = "aib.encoder.12."
    elif backbone_type == "wide_resnet_cifar":
        blocks = (config.depth - 4) // 6
        stages = {
            "block1": "aib.backbone.{}.",
            "block2": "aib.backbone.{}.",
            "block3": "aib.encoder.{}.",
            "att_block3": "aib.attention.mean_head.{}.",
        }
        firsts = {"block1": 1, "block2": 1 + blocks, "block3": 0, "att_block3": 0}
        parts = {
            "bn1": "normalization",
            "conv1": "input.convolution",
            "bn2": "input.normalization",
            "conv2": "output",
            "convShortcut": "shortcut",
        }
        for stage, ours in stages.items():
            for index in range(blocks):
                for part, our_part in parts.items():
                    start = ours.format(firsts[stage] + index)
                    names[f"{stage}.layer.{index}.{part}."] = f"{start}{our_part}."
        head = "aib.attention.mean_head."
        names |= {
            "conv1.": "aib.backbone.0.",
            "bn1.": f"aib.encoder.{blocks}.",
            "bn_att.": f"{head}{blocks}.",
            "att_conv.": f"{head}{blocks + 1}.convolution.",
            "bn_att2.": f"{head}{blocks + 1}.normalization.",
            "att_conv3.": f"{head}{blocks + 2}.convolution.",
            "bn_att3.": f"{head}{blocks + 2}.normalization.",
        }
    elif backbone_type == "vgg16":
        names["features."] = "aib.backbone."
    else:
        first = 2
        for stage, depth in enumerate(config.depths, start=1):
            places = {f"layer{stage}": ("aib.backbone.", first)}
            if stage == 4:
                places = {"layer4": ("aib.encoder.", 0), "att_layer4": ("aib.attention.mean_head.", 0)}
            for name, (ours, offset) in places.items():
                for index in range(depth):
                    block = f"{ours}{offset + index}."
                    for part in range(3):
                        names[f"{name}.{index}.conv{part + 1}."] = f"{block}layers.{part}.convolution."
                        names[f"{name}.{index}.bn{part + 1}."] = f"{block}layers.{part}.normalization."
                    names[f"{name}.{index}.downsample.0."] = f"{block}shortcut.convolution."
                    names[f"{name}.{index}.downsample.1."] = f"{block}shortcut.normalization."
            first += depth
        names |= {
            "conv1.": "aib.backbone.0.convolution.",
            "bn1.": "aib.backbone.0.normalization.",
            "att_module_mu.1.": f"aib.attention.mean_head.{config.depths[3]}.",
        }
    return names


__all__ = ["convert", "convert_state_dict", "load_imagenet_weights"]
