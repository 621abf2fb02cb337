"""Checkpoints of ViTKD: whole distillers, students and teachers, in the layouts of mmpretrain, timm and transformers.

The three layouts name the same network, a DeiT or DeiT-III:

* `mmpretrain`: `backbone.layers.0.attn.qkv.weight`, as the original and all of OpenMMLab have it;
* `timm`: `blocks.0.attn.qkv.weight`, also of Meta's own files, whose `gamma_1` is timm's `ls1.gamma`;
* `transformers`: `vit.encoder.layer.0.attention.attention.query.weight`, as on the Hub and in files of
  `save_pretrained`; names of modules, which other versions of transformers spell otherwise, are understood as well.

transformers' ViT has no LayerScale and gives its class token a position. A DeiT-III becomes one exactly: LayerScale
multiplies the rows of the linear layers before it, and the position of the class token is zero.
"""

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from ..models.vitkd import ViTKDForImageClassification, ViTKDImageProcessor
from .checkpoints import flatten_options, read_python_config


# Names of mmpretrain and timm; `{}` is the number of a block, and a name that ends in a dot is a layer's.
TIMM_NAMES = [
    ("backbone.cls_token", "cls_token"),
    ("backbone.dist_token", "dist_token"),
    ("backbone.pos_embed", "pos_embed"),
    ("backbone.patch_embed.projection.", "patch_embed.proj."),
    ("backbone.layers.{}.ln1.", "blocks.{}.norm1."),
    ("backbone.layers.{}.attn.qkv.", "blocks.{}.attn.qkv."),
    ("backbone.layers.{}.attn.proj.", "blocks.{}.attn.proj."),
    ("backbone.layers.{}.attn.gamma1.weight", "blocks.{}.ls1.gamma"),
    ("backbone.layers.{}.ln2.", "blocks.{}.norm2."),
    ("backbone.layers.{}.ffn.layers.0.0.", "blocks.{}.mlp.fc1."),
    ("backbone.layers.{}.ffn.layers.1.", "blocks.{}.mlp.fc2."),
    ("backbone.layers.{}.ffn.gamma2.weight", "blocks.{}.ls2.gamma"),
    ("backbone.ln1.", "norm."),
    ("head.layers.head.", "head."),
    ("head.layers.head_dist.", "head_dist."),
]
META_NAMES = [("blocks.{}.gamma_1", "blocks.{}.ls1.gamma"), ("blocks.{}.gamma_2", "blocks.{}.ls2.gamma")]
# Names of timm, and of transformers without their first part.
ENCODER_NAMES = [
    ("cls_token", "embeddings.cls_token"),
    ("dist_token", "embeddings.distillation_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("blocks.{}.norm1.", "encoder.layer.{}.layernorm_before."),
    ("blocks.{}.attn.query.", "encoder.layer.{}.attention.attention.query."),
    ("blocks.{}.attn.key.", "encoder.layer.{}.attention.attention.key."),
    ("blocks.{}.attn.value.", "encoder.layer.{}.attention.attention.value."),
    ("blocks.{}.attn.proj.", "encoder.layer.{}.attention.output.dense."),
    ("blocks.{}.norm2.", "encoder.layer.{}.layernorm_after."),
    ("blocks.{}.mlp.fc1.", "encoder.layer.{}.intermediate.dense."),
    ("blocks.{}.mlp.fc2.", "encoder.layer.{}.output.dense."),
    ("norm.", "layernorm."),
]
VIT_NAMES = [*((timm, f"vit.{ours}") for timm, ours in ENCODER_NAMES), ("head.", "classifier.")]
DEIT_NAMES = [
    *((timm, f"deit.{ours}") for timm, ours in ENCODER_NAMES),
    ("head.", "cls_classifier."),
    ("head_dist.", "distillation_classifier."),
]
# Names of modules in transformers 5.23 and of the same weights in files.
MODULE_NAMES = [
    (f"{model}.layers.{{}}.{module}.", f"{model}.encoder.layer.{{}}.{file}.")
    for model in ("vit", "deit")
    for module, file in (
        ("layernorm_before", "layernorm_before"),
        ("layernorm_after", "layernorm_after"),
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    )
]
# Names of the original's losses to ours.
LOSS_NAMES = [
    ("loss_vitkd.mask_token", "distiller.mask_token"),
    ("loss_vitkd.align2.{}.", "distiller.mimic_aligners.{}."),
    ("loss_vitkd.align.", "distiller.generation_aligner."),
    ("loss_vitkd.generation.0.", "distiller.generator.0."),
    ("loss_vitkd.generation.2.", "distiller.generator.1."),
    ("loss_uskd.fc.", "weak_classifier."),
]
LAYOUTS = ("mmpretrain", "timm", "transformers")

# Attention heads of the published networks by width, blocks and width inside the MLP; other networks with heads of 64.
HEADS = {
    (192, 12, 768): 3,
    (384, 12, 1536): 6,
    (512, 12, 2048): 8,
    (768, 12, 3072): 12,
    (1024, 24, 4096): 16,
    (1280, 32, 5120): 16,
}
HEAD_DIM = 64
# Options of the original's losses to fields of `ViTKDConfig`.
LOSS_OPTIONS = {
    "vitkd": {"alpha_vitkd": "mimic_weight", "beta_vitkd": "generation_weight", "lambda_vitkd": "mask_ratio"},
    "nkd": {"temp": "nkd_temperature", "gamma": "nkd_gamma"},
    "kd": {"temp": "kd_temperature", "alpha": "kd_alpha"},
    "dkd": {"temp": "dkd_temperature", "alpha": "dkd_alpha", "beta": "dkd_beta"},
    "wsld": {"temp": "wsld_temperature", "alpha": "wsld_alpha"},
    "uskd": {"alpha": "uskd_alpha", "beta": "uskd_beta", "mu": "uskd_mu"},
}
BACKBONE_OPTIONS = ("backbone", "student_backbone", "teacher_backbone")
LAYER_NORM_EPS = 1e-6
CROP_RATIO = 0.875  # of DeiT; DeiT-III is tested without a margin


def layout_of(weights: Iterable[str]) -> str:
    """The layout that names of weights have: `"mmpretrain"`, `"timm"` or `"transformers"`.

    Raises:
        ValueError: If it is none of them.
    """
    names = set(weights)
    for layout, name in (
        ("mmpretrain", "backbone.cls_token"),
        ("timm", "cls_token"),
        ("transformers", "vit.embeddings.cls_token"),
        ("transformers", "deit.embeddings.cls_token"),
    ):
        if name in names:
            return layout
    raise ValueError(
        "`checkpoint` must be of a DeiT or DeiT-III, with a class token as mmpretrain ('backbone.cls_token'), timm "
        f"('cls_token') or transformers ('vit.embeddings.cls_token') name it; got entries such as {sorted(names)[:4]}."
    )


def change_layout(
    weights: Mapping[str, torch.Tensor], layout: str, grid_size: tuple[int, int] | None = None
) -> dict[str, torch.Tensor]:
    """The weights of a DeiT or DeiT-III classifier under the names of another library.

    To transformers, LayerScale is folded and the class token gets a position; this is exact, but the way back gives a
    plain DeiT. Load what it gives with `ViTForImageClassification.from_pretrained(None, config=config, state_dict=...)`.

    Args:
        weights: State dict in any of the three layouts, see `layout_of`; tensors on the meta device will do.
        layout: `"mmpretrain"`, `"timm"` or `"transformers"`.
        grid_size: Rows and columns of patches, needed only if they differ.

    Raises:
        ValueError: If an entry has no place in a DeiT, or the layout is not known.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` must be one of {list(LAYOUTS)}, got {layout!r}.")
    weights = _to_timm(weights)
    if layout == "mmpretrain":
        return _rename(weights, [(timm, name) for name, timm in TIMM_NAMES])
    if layout == "transformers":
        weights = _split_qkv(_with_class_position(fold_layer_scale(weights), grid_size))
        return _rename(weights, DEIT_NAMES if "dist_token" in weights else VIT_NAMES)
    return weights


def split_distiller(weights: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Weights of the original's distiller by part.

    Returns:
        Under `"student"` and `"teacher"` those of plain models, in mmpretrain's layout; under `"losses"` those of the
        losses by the names of `ViTKDForImageClassification`. If it is no distiller, all weights are under `"model"`.

    Raises:
        ValueError: If an entry belongs to none of them.
    """
    if not any(name.startswith("student.") for name in weights):
        return {"model": dict(weights)}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.items():
        part, _, rest = name.partition(".")
        if part not in ("student", "teacher", "distill_losses"):
            raise ValueError(f"`checkpoint`: {name!r} is neither of student, teacher nor distillation losses.")
        parts.setdefault(part, {})[rest] = tensor
    if "distill_losses" in parts:
        parts["losses"] = _rename(parts.pop("distill_losses"), LOSS_NAMES, "ViTKD's or USKD's losses")
    return parts


def fold_layer_scale(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in timm's layout with LayerScale multiplied into the rows of the linear layer before it."""
    folded = {
        name: tensor for name, tensor in weights.items() if not re.fullmatch(r"blocks\.\d+\.ls[12]\.gamma", name)
    }
    for name in weights.keys() - folded.keys():
        block, scale, _ = name.rsplit(".", 2)
        for kind in ("weight", "bias"):
            layer = f"{block}.{'attn.proj' if scale == 'ls1' else 'mlp.fc2'}.{kind}"
            if layer not in weights or len(weights[layer]) != weights[name].numel():
                raise ValueError(f"`checkpoint`: {name!r} needs {layer!r} with a row for each of its values.")
            rows = weights[name].reshape(-1, *[1] * (weights[layer].ndim - 1))
            folded[layer] = folded[layer] * rows
    return folded


def convert(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path
) -> tuple[PreTrainedModel, PilBackend] | tuple[PreTrainedModel, PilBackend, dict[str, tuple]]:
    """Turn a state dict into model and image processor.

    A distiller becomes `ViTKDForImageClassification`, its teacher a model of its own beside it; a student, a teacher or a
    baseline becomes `ViTForImageClassification`, and a DeiT with a distillation token
    `DeiTForImageClassificationWithTeacher`.

    Args:
        weights: State dict of the original's distiller, of what its transfer script makes of it, of mmpretrain, timm or
            transformers.
        options: Options of the original by their names: `model` as in its configuration files; or `backbone`,
            `student_backbone` and `teacher_backbone` (each with `arch`, of which `num_heads` counts, and `img_size`),
            `distill` or `distill_cfg`, `label_smooth_val` and `data_preprocessor`. The configuration that the file
            holds is read, too. `part`, `"student"` or `"teacher"`, asks for one plain model of a distiller;
            `save_teacher` as False leaves the teacher out.
        source: The checkpoint's path.

    Returns:
        Model and processor; of a distiller also what is to be saved beside it, by the folder's name.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    options = {**read_python_config(options.get("config_text")), **options}
    weights = {name: tensor for name, tensor in weights.items() if name != "steps"}  # of the averaged copy
    parts = split_distiller(weights)
    part = options.get("part")
    if part is not None and part not in (parts.keys() & {"student", "teacher"}):
        raise ValueError(
            f"`original_config`: `part` must name a model that the checkpoint has, one of "
            f"{sorted(parts.keys() & {'student', 'teacher'})}, got {part!r}."
        )
    if "model" in parts:
        return _convert_classifier(parts["model"], options, "backbone")
    if part == "teacher":
        return _convert_classifier(parts["teacher"], options, "teacher_backbone")
    student = _convert_classifier(parts["student"], options, "student_backbone")
    losses = parts.get("losses", {})
    if part == "student" or set(parts) == {"student"}:
        return student
    fields = read_losses(losses, options)
    companions, teacher = {}, None
    if fields["logit_loss"] != "uskd":  # its teacher is a placeholder from which nothing is learned
        if "teacher" not in parts:
            raise ValueError(
                "`checkpoint` has no teacher; `part` = 'student' in `original_config` converts its student."
            )
        companions["teacher"] = _convert_classifier(parts["teacher"], options, "teacher_backbone")
        teacher = companions["teacher"][0]
    model = ViTKDForImageClassification.from_pair(student[0], teacher, **fields)
    _fill_losses(model, losses)
    processor = ViTKDImageProcessor(**_processor_settings(student[0].config, options, has_margin=True))
    return model.eval(), processor, companions if options.get("save_teacher", True) else {}


def _fill_losses(model: ViTKDForImageClassification, weights: Mapping[str, torch.Tensor]):
    """Put weights into all of a distillation but student and teacher; a loss that is switched off has none."""
    switched_off = {
        "mimic_aligners": model.config.mimic_weight == 0,
        "generation_aligner": model.config.generation_weight == 0,
        "mask_token": model.config.generation_weight == 0,
        "generator": model.config.generation_weight == 0,
    }
    weights = {name: tensor for name, tensor in weights.items() if not switched_off.get(name.split(".")[1])}
    places = {name: place for name, place in model.named_parameters() if not name.startswith("vitkd.")}
    missing, unknown = sorted(places.keys() - weights.keys()), sorted(weights.keys() - places.keys())
    if missing or unknown:
        raise ValueError(f"`checkpoint`: of the losses {missing[:6]} are missing, and {unknown[:6]} have no place.")
    for name, tensor in weights.items():
        if tensor.shape != places[name].shape:
            raise ValueError(
                f"`checkpoint`: {name!r} has the shape {tuple(tensor.shape)}, but student and teacher ask for "
                f"{tuple(places[name].shape)}."
            )
        with torch.no_grad():
            places[name].copy_(tensor)


def read_losses(losses: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `ViTKDConfig` that say what is learned from the teacher.

    Args:
        losses: Names of the weights of the losses, see `split_distiller`.
        options: See `convert`. Without a word on losses, ViTKD and NKD are as released, or USKD where its weights are.

    Raises:
        ValueError: If weights and options contradict each other, or two losses on logits are asked for at once.
    """
    settings = _loss_options(options)
    owners = {"uskd" if name.startswith("weak_classifier.") else "vitkd" for name in losses}
    if settings is None:
        settings = {"uskd": {}} if "uskd" in owners else {"vitkd": {}, "nkd": {"gamma": 1.0}}
    if owners != settings.keys() & {"vitkd", "uskd"}:
        raise ValueError(
            f"`original_config` asks for the losses {sorted(settings)}, but the checkpoint has weights of {sorted(owners)}; "
            "of ViTKD and USKD, it must have those that are asked for and no other."
        )
    fields = {"mimic_weight": 0.0, "generation_weight": 0.0, "logit_loss": None}
    if "vitkd" in settings:
        del fields["mimic_weight"], fields["generation_weight"]
    logit_losses = sorted(settings.keys() - {"vitkd"})
    if len(logit_losses) > 1 or not settings.keys() <= LOSS_OPTIONS.keys():
        raise ValueError(
            f"`original_config`: ViTKD and one loss on logits, of {sorted(LOSS_OPTIONS.keys() - {'vitkd'})}, can be "
            f"converted, got {sorted(settings)}."
        )
    if logit_losses:
        fields["logit_loss"] = logit_losses[0]
    if "nkd" in settings:
        fields["nkd_gamma"] = 1.5  # of the original's class; the released configurations with ViTKD say 1
    for loss, values in settings.items():
        fields |= {ours: values[name] for name, ours in LOSS_OPTIONS[loss].items() if values.get(name) is not None}
    if options.get("label_smooth_mode", "original") != "original":
        raise ValueError(
            f"`original_config`: `label_smooth_mode` must be 'original', as in all released configurations, got "
            f"{options['label_smooth_mode']!r}."
        )
    if options.get("label_smooth_val") is not None:
        fields["label_smoothing"] = options["label_smooth_val"]
    return fields


def _loss_options(options: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """Options of each loss that is in use by the loss's name; None if nothing is said on losses."""
    model = options["model"] if isinstance(options.get("model"), Mapping) else {}
    found = options.get("distill", options.get("distill_cfg", model.get("distill_cfg")))
    if isinstance(found, Mapping):
        losses = [{"name": name, **values} for name, values in found.items() if isinstance(values, Mapping)]
    elif isinstance(found, Sequence) and not isinstance(found, str):
        places = [place for place in found if isinstance(place, Mapping)]
        losses = [loss for place in places for loss in place.get("methods") or () if isinstance(loss, Mapping)]
    else:
        return None
    settings = {str(loss.get("name")).removeprefix("loss_"): loss for loss in losses if loss.get("use_this", True)}
    uses_logits = options.get("use_logit", model.get("use_logit", True)) or "uskd" in settings
    return {name: loss for name, loss in settings.items() if uses_logits or name == "vitkd"}


def _rename(
    weights: Mapping[str, torch.Tensor], table: Iterable[tuple[str, str]], owner: str = "a DeiT or DeiT-III classifier"
) -> dict[str, torch.Tensor]:
    """Weights under the names that a table gives; every one must have its place."""
    rules = []
    for old, new in table:
        pattern = re.escape(old).replace(r"\{\}", r"(\d+)")
        rules.append((pattern + "(weight|bias)", new + "{}") if old.endswith(".") else (pattern, new))
    renamed, unknown = {}, []
    for name, tensor in weights.items():
        matches = ((re.fullmatch(pattern, name), new) for pattern, new in rules)
        converted = next((new.format(*match.groups()) for match, new in matches if match), None)
        if converted is None or converted in renamed:
            unknown.append(name)
        else:
            renamed[converted] = tensor
    if unknown:
        raise ValueError(f"`checkpoint` must be of {owner}; its entries {sorted(unknown)[:6]} have no place there.")
    return renamed


def _to_timm(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    layout = layout_of(weights)
    if layout == "mmpretrain":
        return _rename(weights, TIMM_NAMES)
    if layout == "timm":
        return _rename(weights, [*((timm, timm) for _, timm in TIMM_NAMES), *META_NAMES])
    is_deit = "deit.embeddings.cls_token" in weights
    names = [(ours, timm) for timm, ours in (DEIT_NAMES if is_deit else VIT_NAMES)]
    timm_of_file = dict(names)
    names += [(module, timm_of_file[file]) for module, file in MODULE_NAMES if file in timm_of_file]
    return _join_qkv(_rename(weights, names))


def _split_qkv(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Query, key and value of each block as layers of their own."""
    split = {}
    for name, tensor in weights.items():
        if ".attn.qkv." in name:
            if not tensor.ndim or len(tensor) % 3:
                raise ValueError(f"`checkpoint`: {name!r} must have as many rows for query, key and value each.")
            for layer, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                split[name.replace("qkv", layer)] = rows.clone()
        else:
            split[name] = tensor
    return split


def _join_qkv(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    joined = {}
    for name, tensor in weights.items():
        if ".attn.query." in name:
            names = [name.replace("query", layer) for layer in ("query", "key", "value")]
            if not all(other in weights for other in names):
                raise ValueError(f"`checkpoint`: query, key and value belong together, and of {names} one is missing.")
            joined[name.replace("query", "qkv")] = torch.cat([weights[other] for other in names])
        elif not re.search(r"\.attn\.(key|value)\.", name):
            joined[name] = tensor
        elif re.sub(r"\.(key|value)\.", ".query.", name) not in weights:
            raise ValueError(f"`checkpoint`: {name!r} has no query beside it.")
    return joined


def _grid_size(weights: Mapping[str, torch.Tensor], grid_size: Sequence[int] | None) -> tuple[int, int]:
    """Rows and columns of patches of weights in timm's layout: as asked if that fits the positions, else a square."""
    if "pos_embed" not in weights or weights["pos_embed"].ndim != 3:
        raise ValueError("`checkpoint` must be of a DeiT or DeiT-III: its table of positions is missing.")
    positions, extra_tokens = weights["pos_embed"].shape[1], 2 if "dist_token" in weights else 1
    for num_patches in (positions, positions - extra_tokens):
        if grid_size is not None and math.prod(grid_size) == num_patches:
            return tuple(grid_size)
    for num_patches in (positions, positions - extra_tokens):
        if num_patches > 0 and math.isqrt(num_patches) ** 2 == num_patches:
            return (math.isqrt(num_patches),) * 2
    raise ValueError(
        f"`checkpoint` has {positions} positions, which is no square of patches with or without {extra_tokens} more; "
        "give `original_config` the size of its images as `img_size` (height, width), or `grid_size` (rows, columns)."
    )


def _with_class_position(
    weights: Mapping[str, torch.Tensor], grid_size: Sequence[int] | None
) -> dict[str, torch.Tensor]:
    """Weights in timm's layout, where tokens without a position, as DeiT-III's class token, get that of zero."""
    positions = weights["pos_embed"]
    num_tokens = (2 if "dist_token" in weights else 1) + math.prod(_grid_size(weights, grid_size))
    empty = positions.new_zeros(1, num_tokens - positions.shape[1], positions.shape[2])
    return {**weights, "pos_embed": torch.cat([empty, positions], dim=1)}


def _convert_classifier(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], role: str
) -> tuple[PreTrainedModel, PilBackend]:
    config, state_dict = convert_state_dict(weights, options, role)
    model_class = ViTForImageClassification if config.model_type == "vit" else DeiTForImageClassificationWithTeacher
    dtype = state_dict["classifier.weight" if config.model_type == "vit" else "cls_classifier.weight"].dtype
    model, report = model_class.from_pretrained(
        None, config=config, state_dict=state_dict, dtype=dtype, output_loading_info=True
    )
    if any(report.values()):
        raise ValueError(f"`checkpoint` does not fill a {model_class.__name__}: {report}.")
    has_margin = "blocks.0.ls1.gamma" not in _to_timm(weights)
    return model.eval(), ViTImageProcessorPil(**_processor_settings(config, options, has_margin))


def convert_state_dict(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], role: str = "backbone"
) -> tuple[ViTConfig | DeiTConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict, by the names of files, of one plain classifier.

    Args:
        weights: State dict in any of the three layouts; tensors on the meta device will do.
        options: See `convert`.
        role: Name of the network's options, `"backbone"`, `"student_backbone"` or `"teacher_backbone"`.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    weights = _to_timm(weights)
    sizes = _check_shapes(weights)
    backbone = _backbone_options(options, role, sizes)
    patch_size, image_size = sizes["patch_size"], backbone.get("img_size")
    if image_size is not None:
        image_size = [image_size] * 2 if isinstance(image_size, int) else image_size
        if not _are_numbers(image_size, 2):
            raise ValueError(
                f"`original_config`: `img_size` must be one number or (height, width), got {image_size!r}."
            )
        image_size = [math.ceil(size / patch_size) for size in image_size]  # padded as the original does
    grid_size = _grid_size(weights, image_size)
    rows, columns = (size * patch_size for size in grid_size)
    config = {
        **sizes,
        "num_attention_heads": _num_heads(sizes, backbone),
        "image_size": rows if rows == columns else [rows, columns],
        "layer_norm_eps": LAYER_NORM_EPS,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
    }
    names = options.get("class_names")
    if isinstance(names, Sequence) and len(names) == len(set(map(str, names))) == sizes["num_labels"]:
        config["id2label"] = {index: str(name) for index, name in enumerate(names)}
        config["label2id"] = {str(name): index for index, name in enumerate(names)}
        del config["num_labels"]
    config_class = DeiTConfig if "dist_token" in weights else ViTConfig
    return config_class(**config), change_layout(weights, "transformers", grid_size)


def _check_shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Sizes of the network that weights in timm's layout make, by the names of `ViTConfig`.

    Raises:
        ValueError: If an entry is missing, too many, or of another shape or dtype than the others ask for.
    """

    def shape(name: str, dims: int) -> torch.Size:
        if name not in weights:
            raise ValueError(
                f"`checkpoint` must be of a DeiT or DeiT-III classifier: {name!r} (in timm's layout) is missing."
            )
        if weights[name].ndim != dims or 0 in weights[name].shape:
            raise ValueError(
                f"`checkpoint`: {name!r} must have {dims} dimensions that are not empty, got the shape "
                f"{tuple(weights[name].shape)}."
            )
        return weights[name].shape

    width, num_channels, patch_size, _ = shape("patch_embed.proj.weight", 4)
    num_labels, mlp_size = shape("head.weight", 2)[0], shape("blocks.0.mlp.fc1.weight", 2)[0]
    num_layers = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    expected = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, shape("pos_embed", 3)[1], width),
        "patch_embed.proj.weight": (width, num_channels, patch_size, patch_size),
        "patch_embed.proj.bias": (width,),
    }
    layers = {"head": (num_labels, width)}
    if "dist_token" in weights:
        expected["dist_token"] = (1, 1, width)
        layers["head_dist"] = (num_labels, width)
    norms = ["norm"]
    for block in (f"blocks.{index}" for index in range(num_layers)):
        norms += [f"{block}.norm1", f"{block}.norm2"]
        layers |= {
            f"{block}.attn.qkv": (3 * width, width),
            f"{block}.attn.proj": (width, width),
            f"{block}.mlp.fc1": (mlp_size, width),
            f"{block}.mlp.fc2": (width, mlp_size),
        }
        if "blocks.0.ls1.gamma" in weights:
            expected |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
    for name, size in [*layers.items(), *((norm, (width,)) for norm in norms)]:
        expected |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    if "blocks.0.attn.qkv.bias" not in weights:
        expected = {name: size for name, size in expected.items() if not name.endswith(".qkv.bias")}
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(
            f"`checkpoint` (in timm's layout): {missing[:6]} are missing, and {unknown[:6]} have no place."
        )
    for name, size in expected.items():
        if weights[name].shape != size:
            raise ValueError(
                f"`checkpoint`: {name!r} (in timm's layout) has the shape {tuple(weights[name].shape)}, but the other "
                f"weights ask for {size}."
            )
    dtypes = {tensor.dtype for tensor in weights.values()}
    if len(dtypes) > 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(
            f"`checkpoint`: all tensors of a model must have the same floating-point dtype, got {sorted(map(str, dtypes))}."
        )
    return {
        "hidden_size": width,
        "num_hidden_layers": num_layers,
        "intermediate_size": mlp_size,
        "num_labels": num_labels,
        "num_channels": num_channels,
        "patch_size": patch_size,
    }


def _backbone_options(options: Mapping[str, Any], role: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The original's options of the backbone with these sizes, by their own names; empty if there are none."""
    models = [options, options.get("model")]
    roles = BACKBONE_OPTIONS if role == "backbone" else (role,)  # a transferred student is a `backbone`, too
    found = [model.get(role) for role in roles for model in models if isinstance(model, Mapping)]
    names = {
        "embed_dims": "hidden_size",
        "num_layers": "num_hidden_layers",
        "feedforward_channels": "intermediate_size",
    }
    for backbone in found:
        backbone = flatten_options(backbone) if isinstance(backbone, Mapping) else {}
        if backbone and all(backbone.get(name, sizes[ours]) == sizes[ours] for name, ours in names.items()):
            return backbone
    return {}


def _num_heads(sizes: Mapping[str, int], backbone: Mapping[str, Any]) -> int:
    """Attention heads, which no tensor tells: as the options say, as published, or else of 64 channels."""
    width = sizes["hidden_size"]
    heads = backbone.get("num_heads")
    if heads is not None:
        if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1 or width % heads:
            raise ValueError(f"`original_config`: `num_heads` must divide the width {width}, got {heads!r}.")
        return heads
    published = HEADS.get((width, sizes["num_hidden_layers"], sizes["intermediate_size"]))
    if published is not None:
        return published
    advice = "give `original_config` the number, as {'backbone': {'arch': {'num_heads': ...}}}"
    if width % HEAD_DIM:
        raise ValueError(
            f"`checkpoint`: no published network has the width {width} with {sizes['num_hidden_layers']} blocks, and "
            f"tensors do not tell how many attention heads it has; {advice}; of a distiller `student_backbone` and "
            "`teacher_backbone`."
        )
    warnings.warn(
        f"No published network has the width {width} with {sizes['num_hidden_layers']} blocks; {width // HEAD_DIM} "
        f"attention heads of {HEAD_DIM} channels are a guess. If it has others, {advice}.",
        stacklevel=5,
    )
    return width // HEAD_DIM


def _processor_settings(
    config: ViTConfig | DeiTConfig, options: Mapping[str, Any], has_margin: bool
) -> dict[str, Any]:
    """The original's preparation of test images: a resized image, of DeiT with a margin, is cropped in its middle."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    statistics = options.get("data_preprocessor")
    statistics = statistics if isinstance(statistics, Mapping) else {}
    colours = {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}
    for name in colours.keys() & statistics.keys():
        if not _are_numbers(statistics[name], config.num_channels):
            raise ValueError(
                f"`original_config`: `{name}` of `data_preprocessor` must be {config.num_channels} numbers, got "
                f"{statistics[name]!r}."
            )
        colours[name] = [round(value / 255, 12) for value in statistics[name]]
    return {
        "size": {"shortest_edge": int(min(height, width) / (CROP_RATIO if has_margin else 1))},
        "resample": PILImageResampling.BICUBIC,
        "do_convert_rgb": config.num_channels == 3,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "image_mean": colours["mean"],
        "image_std": colours["std"],
    }


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in values)
    )


__all__ = [
    "change_layout",
    "convert",
    "convert_state_dict",
    "fold_layer_scale",
    "layout_of",
    "read_losses",
    "split_distiller",
]
