"""ViTKD: a small vision transformer learns from the features and logits of a large one.

Papers: "ViTKD: Practical Guidelines for ViT feature knowledge distillation" (Yang et al., arXiv 2209.02432) and, for NKD and
USKD, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and Customized Soft
Labels" (Yang et al., ICCV 2023, arXiv 2303.13005). Original code: github.com/yzd-v/cls_KD.

Differences from the original:

* Student and teacher are any vision transformers of transformers whose features `feature_taps_vitkd.py` finds, with all
  tokens before the patches left out. Where their grids differ, the student's is interpolated; grids need not be square.
* The teacher stays in evaluation mode (`teacher_train_mode` is the original's behaviour), and is no part of what is saved.
* Loss terms are given one by one. Sums are in float32 under mixed precision.
* A student of two blocks mimics the output of its second as it is; there the original has it normalised.

Kept on purpose: blocks are chosen by their numbers, whatever the depths; the losses are sums over tokens and channels; the
generation loss is divided by the nominal ratio of masked tokens; soft labels count by their largest class in the losses on
logits.
"""

import inspect
import math
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import AutoModelForImageClassification, ImageProcessingMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_vitkd import ViTKDConfig
from .feature_taps_vitkd import FeatureTaps
from .image_processing_vitkd import ViTKDImageProcessor
from .loss_vitkd import (
    DistillerConv2d,
    DistillerLinear,
    ViTKDLoss,
    dkd_loss,
    kd_loss,
    label_loss,
    nkd_loss,
    uskd_loss,
    wsld_loss,
)


@dataclass
class ViTKDModelOutput(ModelOutput):
    """Output of `ViTKDModel`.

    Args:
        logits: (batch, classes) of the student.
        shallow_features: Patch tokens (batch, tokens, width) of each mimicking block of the student.
        deep_features: Patch tokens (batch, tokens, width) of the student's deep block, normalised.
        middle_token: (batch, width), class token of the student's block half-way, for USKD.
        teacher_logits: (batch, classes) of the teacher, where a loss needs them.
        teacher_shallow_features: Those of the teacher.
        teacher_deep_features: Those of the teacher.
        hidden_states: Those of the student, if asked for.
        attentions: Those of the student, if asked for.
    """

    logits: torch.Tensor | None = None
    shallow_features: tuple[torch.Tensor, ...] | None = None
    deep_features: torch.Tensor | None = None
    middle_token: torch.Tensor | None = None
    teacher_logits: torch.Tensor | None = None
    teacher_shallow_features: tuple[torch.Tensor, ...] | None = None
    teacher_deep_features: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class ViTKDImageClassifierOutput(ModelOutput):
    """Output of `ViTKDForImageClassification`.

    Args:
        loss: Sum of the four losses, with `labels`.
        logits: (batch, classes) of the student.
        task_loss: Cross-entropy with smoothed labels; with KD, times 1 - `kd_alpha`.
        mimic_loss: Loss of the shallow features, with its weight.
        generation_loss: Loss of the masked deep features, with its weight.
        logit_loss: Loss on the logits, with its weight.
        teacher_logits: (batch, classes) of the teacher, where a loss needs them.
        mask: (batch, tokens), 1 for masked tokens.
        hidden_states: Those of the student, if asked for.
        attentions: Those of the student, if asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    task_loss: torch.Tensor | None = None
    mimic_loss: torch.Tensor | None = None
    generation_loss: torch.Tensor | None = None
    logit_loss: torch.Tensor | None = None
    teacher_logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def classifier_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of transformers for image classification with this configuration.

    Raises:
        ValueError: If there is none.
    """
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ValueError(
            f"`student_config` must be that of an image classifier of transformers, got {type(config).__name__}, of which "
            "there is no class for image classification."
        )
    classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    if not isinstance(classes, tuple):
        return classes
    named = [cls for cls in classes if cls.__name__ in (config.architectures or ())]
    return (named or classes)[0]


def _forget_teacher(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]):
    """Leave the teacher out of a state dict."""
    for name in [name for name in state_dict if name.startswith(f"{prefix}teacher.")]:
        del state_dict[name]


def _need_no_teacher(module: nn.Module, incompatible_keys: Any):
    """Do not ask for the teacher when a state dict is loaded."""
    names = (
        {f"teacher.{name}" for name, _ in module.teacher.named_parameters()} if module.teacher is not None else set()
    )
    names |= {f"teacher.{name}" for name, _ in module.teacher.named_buffers()} if module.teacher is not None else set()
    missing = incompatible_keys.missing_keys
    missing[:] = [name for name in missing if name.removeprefix("vitkd.") not in names]


class ViTKDPreTrainedModel(PreTrainedModel):
    """Initial weights, loading, and access to student and teacher."""

    config: ViTKDConfig
    base_model_prefix = "vitkd"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Fill the layers of the distillation as PyTorch does; the student's class fills its own."""
        if isinstance(module, DistillerLinear | DistillerConv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, ViTKDLoss):
            if module.mask_token is not None:
                init.zeros_(module.mask_token)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike | None,
        *model_args,
        teacher: PreTrainedModel | str | PathLike | None = None,
        **kwargs,
    ):
        """Load what was saved, and attach a teacher, which is never saved.

        Args:
            pretrained_model_name_or_path: Folder, or repository on the Hub.
            model_args: As for every model.
            teacher: The teacher, or where an image classifier is to be loaded from; None to use the student only, or to
                call `attach_teacher` later.
            kwargs: As for every model.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        if teacher is not None:
            if isinstance(teacher, str | PathLike):
                teacher = AutoModelForImageClassification.from_pretrained(teacher)
            (loaded[0] if isinstance(loaded, tuple) else loaded).attach_teacher(teacher)
        return loaded

    @classmethod
    def from_pair(cls, student: PreTrainedModel, teacher: PreTrainedModel | None = None, **config_fields):
        """Join two loaded models, as they are, without copying them.

        Args:
            student: An image classifier of transformers.
            teacher: A vision transformer, with logits if a loss needs them. It is frozen. None where no loss needs it.
            config_fields: Fields of `ViTKDConfig`.

        Raises:
            ValueError: If the two cannot be distilled into each other in this way.
        """
        if not isinstance(student, PreTrainedModel):
            raise ValueError(f"`student` must be a model of transformers, got {type(student).__name__}.")
        if classifier_class(student.config) is not type(student):
            raise ValueError(
                f"`student` must be a {classifier_class(student.config).__name__}, the image classifier of its family, got "
                f"{type(student).__name__}."
            )
        if teacher is not None:
            _check_teacher(teacher)
            config_fields["teacher_config"] = teacher.config
        compares_features = any(config_fields.get(name, 1) > 0 for name in ("mimic_weight", "generation_weight"))
        for name, model in (("student", student), ("teacher", teacher)) if compares_features else ():
            if model is not None and not isinstance(getattr(model.config, "hidden_size", None), int):
                taps = FeatureTaps(model, config_fields.get(f"{name}_taps"), name)
                config_fields.setdefault(f"{name}_hidden_size", taps.hidden_size)
        # Making a configuration of configurations sets their attention anew.
        attentions = [
            (given.config, given.config._attn_implementation) for given in (student, teacher) if given is not None
        ]
        model = cls(cls.config_class(student_config=student.config, **config_fields))
        for config, attention in attentions:
            config._attn_implementation = attention
        model.base_model.student = student
        model.to(device=student.device, dtype=student.dtype)
        if teacher is not None:
            model.attach_teacher(teacher)
        return model

    def attach_teacher(self, teacher: PreTrainedModel):
        """Take a teacher, freeze it and move it to the device of the model; it keeps its dtype.

        Args:
            teacher: A vision transformer with the width, and where logits count the classes, that the model was made for.

        Raises:
            ValueError: If it is not.
        """
        _check_teacher(teacher)
        config = self.config
        if config.needs_teacher_features:
            taps = FeatureTaps(teacher, config.teacher_taps, "teacher")
            if taps.hidden_size != config.hidden_size_of("teacher"):
                raise ValueError(
                    f"`teacher` must have tokens of width {config.hidden_size_of('teacher')}, for which this model was made, "
                    f"got {taps.hidden_size}."
                )
            for layer in (*(layer for _, layer in config.mimic_pairs), config.generation_layer):
                taps.layer_index(layer)
        if config.needs_teacher_logits and teacher.config.num_labels != config.num_labels:
            raise ValueError(
                f"`teacher` must have the student's {config.num_labels} classes for the loss on logits, got "
                f"{teacher.config.num_labels}."
            )
        base = self.base_model
        base.teacher = teacher.requires_grad_(False).to(self.device)
        base.train(base.training)
        config.teacher_config = teacher.config
        # Nothing of it needs to be the same in all processes but what the user loaded.
        names = [name for name, _ in (*teacher.named_parameters(), *teacher.named_buffers())]
        base._ddp_params_and_buffers_to_ignore = [f"teacher.{name}" for name in names]
        if base is not self:
            self._ddp_params_and_buffers_to_ignore = [f"{self.base_model_prefix}.teacher.{name}" for name in names]

    def get_input_embeddings(self) -> nn.Module:
        """That of the student, or the student where it names none."""
        student = self.base_model.student
        try:
            return student.get_input_embeddings() or student
        except NotImplementedError:
            return student

    def save_student(self, folder: str | PathLike, processor: ImageProcessingMixin | None = None):
        """Save the student as a plain model of transformers, which needs neither teacher nor hvmodels.

        Args:
            folder: Made if needed.
            processor: Its image processor; a `ViTKDImageProcessor` is saved as a `ViTImageProcessor` of the same settings.

        Raises:
            ValueError: If the processor is none.
        """
        if processor is not None and not isinstance(processor, ImageProcessingMixin):
            raise ValueError(f"`processor` must be an image processor, got {type(processor).__name__}.")
        self.base_model.student.save_pretrained(folder)
        if isinstance(processor, ViTKDImageProcessor):
            processor.save_as_vit(folder)
        elif processor is not None:
            processor.save_pretrained(folder)

    def push_student_to_hub(
        self,
        repo_id: str,
        processor: ImageProcessingMixin | None = None,
        private: bool | None = None,
        commit_message: str = "Upload student",
        token: str | None = None,
    ) -> str:
        """Upload what `save_student` writes, in one commit; the repository is made if needed.

        Args:
            repo_id: `"namespace/name"`, or `"name"` in the namespace of the token.
            processor: See `save_student`.
            private: Whether a new repository is private.
            commit_message: Title of the commit.
            token: Token of the Hub; None takes that of `hf auth login` or of the environment.

        Returns:
            URL of the commit.
        """
        api = HfApi(token=token)
        with TemporaryDirectory() as folder:
            self.save_student(folder, processor)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(repo_id=repo_id, folder_path=Path(folder), commit_message=commit_message)
        return str(commit.commit_url)


def _check_teacher(teacher: PreTrainedModel):
    if not isinstance(teacher, PreTrainedModel):
        raise ValueError(f"`teacher` must be a model of transformers, got {type(teacher).__name__}.")


class ViTKDModel(ViTKDPreTrainedModel):
    """Student and teacher with the features that are distilled.

    The teacher is None until `attach_teacher`. It is frozen, and no part of `state_dict()`.
    """

    def __init__(self, config: ViTKDConfig):
        super().__init__(config)
        self.student = classifier_class(config.student_config)(config.student_config)
        self.register_module("teacher", None)
        self.register_state_dict_post_hook(_forget_teacher)
        self.register_load_state_dict_post_hook(_need_no_teacher)
        self.post_init()

    def train(self, mode: bool = True) -> nn.Module:
        """Switch the student to training or evaluation; the teacher stays in evaluation but with `teacher_train_mode`."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.train(mode and self.config.teacher_train_mode)
        return self

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        with_features: bool = True,
        with_teacher: bool = False,
        teacher_pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> ViTKDModelOutput:
        """Run the student, and the teacher if asked for, and take the features that losses need.

        Args:
            pixel_values: (batch, channels, height, width), normalised for the student.
            with_features: Whether to take features.
            with_teacher: Whether to run the teacher, and take its features.
            teacher_pixel_values: The same crops as the teacher wants them; `pixel_values` if None.
            interpolate_pos_encoding: Interpolate position embeddings for pictures of another size, in models that can.
            kwargs: `return_dict`, and for the student `output_hidden_states` and `output_attentions`.

        Returns:
            Logits, and feature maps (batch, rows, columns, width).

        Raises:
            ValueError: If pictures are not of this shape, or there is no teacher.
        """
        unknown = kwargs.keys() - {"output_hidden_states", "output_attentions"}
        if unknown:
            raise TypeError(f"{type(self).__name__} takes no arguments {sorted(unknown)}.")
        _check_pixel_values(pixel_values, "pixel_values")
        features = self._run("student", pixel_values, True, with_features, interpolate_pos_encoding, **kwargs)
        if not with_teacher:
            return ViTKDModelOutput(**features)
        if self.teacher is None:
            raise ValueError(
                "`teacher` must be attached: the losses asked for learn from it, and it is not saved with the model. Call "
                "`attach_teacher(teacher)`, or load with `from_pretrained(folder, teacher=teacher)`."
            )
        if teacher_pixel_values is None:
            teacher_pixel_values = pixel_values
        _check_pixel_values(teacher_pixel_values, "teacher_pixel_values")
        needs_logits = self.config.needs_teacher_logits
        with torch.no_grad():
            taught = self._run("teacher", teacher_pixel_values, needs_logits, with_features, interpolate_pos_encoding)
        names = ("logits", "shallow_features", "deep_features")
        return ViTKDModelOutput(**features, **{f"teacher_{name}": taught.get(name) for name in names})

    def _run(
        self,
        name: str,
        pixel_values: torch.Tensor,
        needs_logits: bool,
        with_features: bool,
        interpolate_pos_encoding: bool,
        **kwargs,
    ) -> dict[str, Any]:
        """Outputs and features of student or teacher, by their names in the student's output."""
        config, model = self.config, getattr(self, name)
        is_student = name == "student"
        needs_middle = is_student and config.logit_loss == "uskd"
        with_features = with_features and (config.needs_teacher_features or needs_middle)
        if not (with_features or needs_logits):
            return {}
        taps = FeatureTaps(model, getattr(config, f"{name}_taps"), name) if with_features else None
        shallow, deep, middle = [], None, None
        if with_features and config.mimic_weight > 0:
            shallow = [taps.layer_index(pair[0 if is_student else 1]) for pair in config.mimic_pairs]
        if with_features and config.generation_weight > 0:
            deep = taps.layer_index(config.generation_layer)
        if with_features and needs_middle:
            middle = max(len(taps.blocks) // 2 - 1, 0)

        module = model if needs_logits else taps.root
        if interpolate_pos_encoding and "interpolate_pos_encoding" in inspect.signature(module.forward).parameters:
            kwargs["interpolate_pos_encoding"] = True
        layers = {layer for layer in (*shallow, deep, middle) if layer is not None}
        with taps.record(layers) if layers else nullcontext({}) as recorded:
            outputs = module(pixel_values.to(model.dtype), return_dict=True, **kwargs)
        if needs_logits and getattr(outputs, "logits", None) is None:
            raise ValueError(
                f"`{name}` must give logits, but {type(model).__name__} gives {list(outputs)}; with `logit_loss=None` nothing "
                "is learned from the teacher's."
            )
        if is_student and outputs.logits.requires_grad:
            cut = [layer for layer, hidden_states in recorded.items() if not hidden_states.requires_grad]
            if cut and any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
                raise ValueError(
                    f"Gradient checkpointing cuts the gradients of the distilled blocks {cut}; enable it with "
                    "`use_reentrant=False`."
                )

        def to_map(layer: int, normalize: bool = False) -> torch.Tensor:
            patches = taps.patches(recorded[layer], normalize)
            return patches.unflatten(1, taps.grid(pixel_values, patches.shape[1]))

        result = {"logits": outputs.logits if needs_logits else None}
        for key in ("hidden_states", "attentions") if is_student else ():
            result[key] = getattr(outputs, key, None)
        if shallow:
            result["shallow_features"] = tuple(to_map(layer) for layer in shallow)
        if deep is not None:
            result["deep_features"] = to_map(deep, normalize=True)
        if middle is not None:
            result["middle_token"] = recorded[middle][:, 0]
        return result


def _check_pixel_values(pixel_values: torch.Tensor, name: str):
    if not isinstance(pixel_values, torch.Tensor) or not pixel_values.is_floating_point():
        got = pixel_values.dtype if isinstance(pixel_values, torch.Tensor) else type(pixel_values).__name__
        raise TypeError(f"`{name}` must be a floating-point tensor, got {got}; the image processor makes it.")
    if pixel_values.ndim != 4 or len(pixel_values) == 0:
        raise ValueError(
            f"`{name}` must have shape (batch, channels, height, width) with at least one picture, got "
            f"{tuple(pixel_values.shape)}."
        )


class ViTKDForImageClassification(ViTKDPreTrainedModel):
    """An image classifier, the student, with the losses that it learns from a teacher by.

    Without labels only the student runs.
    """

    def __init__(self, config: ViTKDConfig):
        super().__init__(config)
        self.vitkd = ViTKDModel(config)
        self.distiller = None
        if config.needs_teacher_features:
            self.distiller = ViTKDLoss(
                config.hidden_size_of("student"),
                config.hidden_size_of("teacher"),
                len(config.mimic_layers),
                config.mimic_weight,
                config.generation_weight,
                config.mask_ratio,
                config.normalize_by_elements,
            )
        # USKD's, of the class token half-way.
        self.weak_classifier = None
        if config.logit_loss == "uskd":
            self.weak_classifier = DistillerLinear(config.hidden_size_of("student"), config.num_labels)
        self.post_init()

    @property
    def student(self) -> PreTrainedModel:
        """The image classifier that learns."""
        return self.vitkd.student

    @property
    def teacher(self) -> PreTrainedModel | None:
        """What it learns from, see `attach_teacher`."""
        return self.vitkd.teacher

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        mask_noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        teacher_pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> ViTKDImageClassifierOutput:
        """Classify pictures, and compute all losses if labels are given.

        Args:
            pixel_values: (batch, channels, height, width), normalised for the student.
            labels: (batch,) classes, or (batch, classes) scores, as mixup and cutmix make them.
            mask_noise: (batch, tokens) of the teacher's grid, row by row; tokens with the least values are kept. Drawn if
                None.
            generator: Where it is drawn from; the global one if None.
            teacher_pixel_values: The same crops as the teacher wants them; `pixel_values` if None.
            interpolate_pos_encoding: Interpolate position embeddings for pictures of another size, in models that can.
            kwargs: `return_dict`, and for the student `output_hidden_states` and `output_attentions`.

        Raises:
            ValueError: If shapes do not fit, or a loss needs a teacher and there is none.
        """
        config = self.config
        outputs = self.vitkd(
            pixel_values,
            with_features=labels is not None,
            with_teacher=labels is not None and config.needs_teacher,
            teacher_pixel_values=teacher_pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            return_dict=True,
            **kwargs,
        )
        terms, mask = {}, None
        if labels is not None:
            terms["task_loss"] = label_loss(outputs.logits, labels, config.label_smoothing)
            if config.logit_loss == "kd":
                terms["task_loss"] = (1 - config.kd_alpha) * terms["task_loss"]
            if self.distiller is not None:
                distilled = self.distiller(
                    outputs.shallow_features,
                    outputs.teacher_shallow_features,
                    outputs.deep_features,
                    outputs.teacher_deep_features,
                    mask_noise,
                    generator,
                )
                terms["mimic_loss"], terms["generation_loss"] = distilled.mimic_loss, distilled.generation_loss
                mask = distilled.mask
            terms["logit_loss"] = self._logit_loss(outputs, labels)
        losses = [term for term in terms.values() if term is not None]
        return ViTKDImageClassifierOutput(
            loss=sum(losses) if losses else None,
            logits=outputs.logits,
            **terms,
            teacher_logits=outputs.teacher_logits,
            mask=mask,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _logit_loss(self, outputs: ViTKDModelOutput, labels: torch.Tensor) -> torch.Tensor | None:
        config, student, teacher = self.config, outputs.logits, outputs.teacher_logits
        match config.logit_loss:
            case "nkd":
                return nkd_loss(student, teacher, labels, config.nkd_temperature, config.nkd_gamma)
            case "kd":
                return kd_loss(student, teacher, config.kd_temperature, config.kd_alpha)
            case "dkd":
                return dkd_loss(student, teacher, labels, config.dkd_temperature, config.dkd_alpha, config.dkd_beta)
            case "wsld":
                return wsld_loss(student, teacher, labels, config.wsld_temperature, config.wsld_alpha)
            case "uskd":
                weak_logits = self.weak_classifier(outputs.middle_token)
                return uskd_loss(student, weak_logits, labels, config.uskd_alpha, config.uskd_beta, config.uskd_mu)
        return None


__all__ = [
    "ViTKDForImageClassification",
    "ViTKDImageClassifierOutput",
    "ViTKDModel",
    "ViTKDModelOutput",
    "ViTKDPreTrainedModel",
]
