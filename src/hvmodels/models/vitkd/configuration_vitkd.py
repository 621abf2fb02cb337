"""Configuration of ViTKD."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import CONFIG_MAPPING


DEIT_TINY = {
    "model_type": "vit",
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "layer_norm_eps": 1e-6,
}
DEIT3_SMALL = {**DEIT_TINY, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
NUM_IMAGENET_CLASSES = 1000
TAP_KEYS = ("blocks", "norm", "num_prefix_tokens", "patch_size")


@strict
class ViTKDConfig(PreTrainedConfig):
    """Configuration of a distillation with ViTKD (arXiv 2209.02432) and a loss on logits, such as NKD (arXiv 2303.13005).

    The defaults are the released distillation of DeiT-III-small into DeiT-tiny, with ViTKD and NKD. `id2label` is the
    student's.

    Args:
        student_config: Configuration of an image classifier, as an object or a dict; DeiT-tiny as a plain ViT if None.
        teacher_config: Configuration of the teacher, a classifier, or any vision transformer where the loss on logits needs
            none. None if nothing is learned from a teacher; DeiT-III-small as a plain ViT if `student_config` is None too.
        mimic_layers: Blocks of the student whose patch tokens mimic the teacher's; negative ones count from the end.
        teacher_mimic_layers: Blocks of the teacher that they mimic; the same numbers if None, whatever the depths.
        generation_layer: Block whose patch tokens, behind the final norm, are masked and generated, in both models.
        mimic_weight: Weight of the mimicking loss (alpha); 0 leaves it out.
        generation_weight: Weight of the generation loss (beta); 0 leaves it out.
        mask_ratio: Share of the tokens that are masked (lambda).
        normalize_by_elements: Multiply both weights by 196 * 384 / (tokens * width of the teacher), so that an element counts
            as much as in the released distillation from DeiT-III-small.
        logit_loss: Loss on the logits: `"nkd"`, `"kd"`, `"dkd"` or `"wsld"`, of the teacher; `"uskd"`, which needs none;
            or None.
        nkd_temperature: Temperature of NKD's non-target term.
        nkd_gamma: Weight of NKD's non-target term; 1 with ViTKD, 1.5 alone.
        kd_temperature: Temperature of KD.
        kd_alpha: Weight of KD; the label loss gets 1 minus it.
        dkd_temperature: Temperature of DKD.
        dkd_alpha: Weight of DKD's target term.
        dkd_beta: Weight of DKD's non-target term.
        wsld_temperature: Temperature of WSLD.
        wsld_alpha: Weight of WSLD.
        uskd_alpha: Weight of USKD's target term.
        uskd_beta: Weight of USKD's non-target term.
        uskd_mu: Weight of the loss of USKD's weak classifier.
        label_smoothing: Share of the label loss's target that is spread over all classes.
        teacher_train_mode: Whether the teacher follows `train()`, with its stochastic depth, as it does in the original.
        student_taps: Where the student's features are, `{"blocks", "norm", "num_prefix_tokens"}` and, if need be,
            `"patch_size"`; see `feature_taps_vitkd.py`, which knows the usual families. None is the family's own.
        teacher_taps: The same for the teacher.
        student_hidden_size: Width of the student's tokens; its configuration's `hidden_size` if None.
        teacher_hidden_size: Width of the teacher's tokens, likewise.

    Raises:
        ValueError: If values do not fit each other.
    """

    model_type = "vitkd"
    sub_configs = {"student_config": AutoConfig, "teacher_config": AutoConfig}
    keys_to_ignore_at_inference = [
        "task_loss",
        "mimic_loss",
        "generation_loss",
        "logit_loss",
        "teacher_logits",
        "mask",
        "hidden_states",
        "attentions",
    ]

    student_config: dict | PreTrainedConfig | None = None
    teacher_config: dict | PreTrainedConfig | None = None
    mimic_layers: list[int] | tuple[int, ...] = (0, 1)
    teacher_mimic_layers: list[int] | tuple[int, ...] | None = None
    generation_layer: int = -1
    mimic_weight: float | int = 3e-5
    generation_weight: float | int = 3e-6
    mask_ratio: float | int = 0.5
    normalize_by_elements: bool = False
    logit_loss: Literal["nkd", "kd", "dkd", "wsld", "uskd"] | None = "nkd"
    nkd_temperature: float | int = 1.0
    nkd_gamma: float | int = 1.0
    kd_temperature: float | int = 4.0
    kd_alpha: float | int = 0.5
    dkd_temperature: float | int = 4.0
    dkd_alpha: float | int = 1.0
    dkd_beta: float | int = 6.0
    wsld_temperature: float | int = 4.0
    wsld_alpha: float | int = 2.25
    uskd_alpha: float | int = 1.0
    uskd_beta: float | int = 0.1
    uskd_mu: float | int = 0.005
    label_smoothing: float | int = 0.1
    teacher_train_mode: bool = False
    student_taps: dict[str, Any] | None = None
    teacher_taps: dict[str, Any] | None = None
    student_hidden_size: int | None = None
    teacher_hidden_size: int | None = None

    def __post_init__(self, **kwargs):
        use_defaults = self.student_config is None
        count = kwargs.get("num_labels")
        if self.id2label is not None:
            count = len(self.id2label)
        if use_defaults:
            labels = {"num_labels": NUM_IMAGENET_CLASSES if count is None else count}
            self.student_config = {**DEIT_TINY, **labels}
            if self.teacher_config is None and self.needs_teacher:
                self.teacher_config = {**DEIT3_SMALL, **labels}
        self.student_config = _to_config(self.student_config, "student_config")
        self.teacher_config = _to_config(self.teacher_config, "teacher_config")
        if count is None:
            self.id2label = dict(self.student_config.id2label)
            self.label2id = dict(self.student_config.label2id)
        super().__post_init__(**kwargs)
        if use_defaults:
            self.student_config.id2label, self.student_config.label2id = dict(self.id2label), dict(self.label2id)
        # As JSON gives them back, so that a configuration equals its saved copy.
        for name in ("mimic_layers", "teacher_mimic_layers"):
            if getattr(self, name) is not None:
                setattr(self, name, list(getattr(self, name)))
        self.validate_values()  # here too, so that construction raises a plain ValueError

    @property
    def needs_teacher_features(self) -> bool:
        """Whether a loss compares features of student and teacher."""
        return self.mimic_weight > 0 or self.generation_weight > 0

    @property
    def needs_teacher_logits(self) -> bool:
        """Whether a loss compares logits of student and teacher."""
        return self.logit_loss not in (None, "uskd")

    @property
    def needs_teacher(self) -> bool:
        """Whether a loss needs a teacher at all."""
        return self.needs_teacher_features or self.needs_teacher_logits

    @property
    def mimic_pairs(self) -> list[tuple[int, int]]:
        """Blocks of student and teacher that are compared."""
        teacher_layers = self.mimic_layers if self.teacher_mimic_layers is None else self.teacher_mimic_layers
        return list(zip(self.mimic_layers, teacher_layers, strict=True))

    def hidden_size_of(self, model: Literal["student", "teacher"]) -> int:
        """Width of the tokens of student or teacher.

        Raises:
            ValueError: If neither `<model>_hidden_size` nor the model's configuration tells it.
        """
        size = getattr(self, f"{model}_hidden_size")
        if size is None:
            size = getattr(getattr(self, f"{model}_config"), "hidden_size", None)
        if not isinstance(size, int):
            raise ValueError(
                f"`{model}_hidden_size` must be the width of the {model}'s tokens, as its configuration does not tell it "
                f"(`hidden_size` is {size!r})."
            )
        return size

    def validate_values(self):
        """Check that values are in range and fit each other."""
        for name in (
            "mimic_weight",
            "generation_weight",
            "nkd_gamma",
            "dkd_alpha",
            "dkd_beta",
            "wsld_alpha",
            "uskd_alpha",
            "uskd_beta",
            "uskd_mu",
        ):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be a finite number, 0 or more, got {getattr(self, name)}.")
        for name in ("nkd_temperature", "kd_temperature", "dkd_temperature", "wsld_temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be a positive number, got {getattr(self, name)}.")
        if not 0 <= self.kd_alpha <= 1:
            raise ValueError(f"`kd_alpha` must be in [0, 1], got {self.kd_alpha}.")
        if not 0 < self.mask_ratio <= 1:
            raise ValueError(
                f"`mask_ratio` must be in (0, 1], got {self.mask_ratio}; `generation_weight=0` switches the generation off."
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be in [0, 1), got {self.label_smoothing}.")
        if self.mimic_weight > 0 and not self.mimic_layers:
            raise ValueError("`mimic_layers` must name at least one block unless `mimic_weight` is 0, got none.")
        if self.teacher_mimic_layers is not None and len(self.teacher_mimic_layers) != len(self.mimic_layers):
            raise ValueError(
                "`teacher_mimic_layers` must name one block for each of `mimic_layers`, got "
                f"{len(self.teacher_mimic_layers)} for {len(self.mimic_layers)}."
            )
        for name in ("student_taps", "teacher_taps"):
            taps = getattr(self, name)
            if taps is not None and not {"blocks", "norm", "num_prefix_tokens"} <= taps.keys() <= set(TAP_KEYS):
                raise ValueError(
                    f"`{name}` must have the keys 'blocks', 'norm', 'num_prefix_tokens' and may have 'patch_size', got "
                    f"{sorted(taps)}."
                )
        for name in ("student_hidden_size", "teacher_hidden_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be a positive number, got {getattr(self, name)}.")
        if not isinstance(self.student_config, PreTrainedConfig) or self.id2label is None:
            return  # not constructed yet
        if self.needs_teacher and self.teacher_config is None:
            raise ValueError(
                "`teacher_config` must be given: the losses asked for learn from a teacher. Without one, set "
                "`mimic_weight=0`, `generation_weight=0` and `logit_loss=None` or 'uskd'."
            )
        if self.num_labels != self.student_config.num_labels:
            raise ValueError(
                f"`num_labels` must be that of `student_config`, {self.student_config.num_labels}, got {self.num_labels}."
            )
        if self.needs_teacher_logits and self.teacher_config.num_labels != self.num_labels:
            raise ValueError(
                f"`teacher_config` must have the student's {self.num_labels} classes for the loss on logits, got "
                f"{self.teacher_config.num_labels}; `logit_loss=None` learns from its features only."
            )


def _to_config(config: dict | PreTrainedConfig | None, name: str) -> PreTrainedConfig | None:
    if not isinstance(config, dict):
        return config
    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"`{name}` must name a model of transformers, such as 'vit' or 'dinov2', as `model_type`, got {model_type!r}."
        )
    return CONFIG_MAPPING[model_type].from_dict(config)


__all__ = ["ViTKDConfig"]
