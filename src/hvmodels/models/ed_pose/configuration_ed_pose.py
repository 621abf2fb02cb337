"""Configuration of ED-Pose."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import CONFIG_MAPPING


NUM_GROUP_NORM_GROUPS = 32

# The two keypoint sets of the published models, chosen by the number of keypoints as the original does.
KEYPOINT_SETS = {
    17: {
        "keypoint_names": (
            "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
            "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee",
            "left_ankle", "right_ankle",
        ),
        "keypoint_sigmas": (
            0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
            0.089, 0.089,
        ),
        "keypoint_flip_pairs": ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
        "keypoint_links": (
            (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9),
            (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
        ),
    },
    14: {
        "keypoint_names": (
            "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
            "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck",
        ),
        "keypoint_sigmas": (
            0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079,
        ),
        "keypoint_flip_pairs": ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
        "keypoint_links": (
            (10, 8), (8, 6), (11, 9), (9, 7), (6, 7), (0, 6), (1, 7), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (12, 13),
            (13, 0), (13, 1),
        ),
    },
}  # fmt: skip


@strict
class EDPoseConfig(PreTrainedConfig):
    """Configuration of ED-Pose (arXiv 2302.01593); the defaults are the published ResNet-50 model for COCO.

    Args:
        backbone_config: Configuration of a transformers backbone, as an object or a dict; ResNet-50 with its last
            three stages if None. A ResNet keeps its batch norm, stem and first stage frozen.
        d_model: Width of the transformer; a multiple of 32 and of both numbers of heads.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers of both kinds together.
        num_box_decoder_layers: Decoder layers that see people only; the rest also sees their keypoints.
        encoder_ffn_dim: Width inside the feed-forward blocks of the encoder.
        decoder_ffn_dim: Width inside the feed-forward blocks of the decoder.
        encoder_attention_heads: Heads of the encoder's attention.
        decoder_attention_heads: Heads of the decoder's attention.
        num_feature_levels: Levels of the feature pyramid: those of the backbone, then halved copies of the last.
        encoder_n_points: Points that a head of the encoder samples on each level.
        decoder_n_points: Points that a head of the decoder samples on each level.
        num_queries: Candidate people, chosen among the encoder's tokens. Appears in no weight.
        num_groups: People that get keypoint queries, and are predicted. Appears in no weight.
        num_keypoints: Keypoints of a person.
        expansion_head: Keypoint head that places the first keypoints: `"last"`, one of its own (published models of
            17 keypoints), or `"first"`, that of the first layer with keypoints (all others).
        positional_embedding_temperature: Temperature of the sine position encoding, or two, for height and width.
        inverse_sigmoid_eps: Smallest value whose logit is taken when boxes and keypoints are refined.
        num_denoising: Denoising queries of an image in training; 0 switches them off.
        label_noise_ratio: Share of the denoising queries whose label is replaced.
        box_noise_scale: Noise on denoising boxes, as a share of their size.
        denoising_label_size: Number of labels that denoising draws from.
        keypoint_sigmas: Fall-off of the object keypoint similarity for each keypoint. This and the next three fields
            are those of COCO for 17 and of CrowdPose for 14 keypoints if None, and unknown otherwise; training needs
            the sigmas.
        keypoint_names: Name of each keypoint.
        keypoint_flip_pairs: Pairs of keypoints that change places in a mirrored image.
        keypoint_links: Pairs of keypoints to draw a line between.
        isolate_images: Keep the poses of an image independent of the padding that its batch adds: features are made
            without it, and query positions are relative to the image. False is the original's way.
        auxiliary_loss: Whether every decoder layer is trained on its own predictions.
        class_cost: Weight of the class in matching predictions with people.
        bbox_cost: Weight of the L1 distance of boxes in matching.
        giou_cost: Weight of the generalised IoU of boxes in matching.
        keypoint_cost: Weight of the L1 distance of keypoints in matching.
        oks_cost: Weight of the object keypoint similarity in matching.
        class_loss_coefficient: Weight of the class loss.
        bbox_loss_coefficient: Weight of the L1 loss of boxes.
        giou_loss_coefficient: Weight of the generalised IoU loss.
        keypoint_loss_coefficient: Weight of the L1 loss of keypoints.
        oks_loss_coefficient: Weight of the object keypoint similarity loss.
        dn_class_loss_coefficient: Weight of the class loss of denoising queries.
        dn_bbox_loss_coefficient: Weight of their L1 loss.
        dn_giou_loss_coefficient: Weight of their generalised IoU loss.
        focal_alpha: Weight of positives in the focal loss.
        focal_gamma: Exponent of the focal loss.

    Raises:
        ValueError: If sizes do not fit each other.
    """

    model_type = "ed_pose"
    sub_configs = {"backbone_config": AutoConfig}
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    backbone_config: dict | PreTrainedConfig | None = None
    d_model: int = 256
    encoder_layers: int = 6
    decoder_layers: int = 6
    num_box_decoder_layers: int = 2
    encoder_ffn_dim: int = 2048
    decoder_ffn_dim: int = 2048
    encoder_attention_heads: int = 8
    decoder_attention_heads: int = 8
    num_feature_levels: int = 4
    encoder_n_points: int = 4
    decoder_n_points: int = 4
    num_queries: int = 900
    num_groups: int = 100
    num_keypoints: int = 17
    expansion_head: Literal["last", "first"] = "last"
    positional_embedding_temperature: float | int | list[float | int] | tuple[float | int, ...] = 20
    inverse_sigmoid_eps: float = 1e-3
    num_denoising: int = 100
    label_noise_ratio: float | int = 0.5
    box_noise_scale: float | int = 0.4
    denoising_label_size: int = 100
    keypoint_sigmas: list[float] | tuple[float, ...] | None = None
    keypoint_names: list[str] | tuple[str, ...] | None = None
    keypoint_flip_pairs: list | tuple | None = None
    keypoint_links: list | tuple | None = None
    isolate_images: bool = False
    auxiliary_loss: bool = True
    class_cost: float | int = 2
    bbox_cost: float | int = 5
    giou_cost: float | int = 2
    keypoint_cost: float | int = 10
    oks_cost: float | int = 4
    class_loss_coefficient: float | int = 2
    bbox_loss_coefficient: float | int = 5
    giou_loss_coefficient: float | int = 2
    keypoint_loss_coefficient: float | int = 10
    oks_loss_coefficient: float | int = 4
    dn_class_loss_coefficient: float | int = 0.3
    dn_bbox_loss_coefficient: float | int = 2.5
    dn_giou_loss_coefficient: float | int = 1
    focal_alpha: float | int = 0.25
    focal_gamma: float | int = 2

    def __post_init__(self, **kwargs):
        backbone = self.backbone_config
        if backbone is None:
            backbone = {"model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]}
        if isinstance(backbone, dict):
            if backbone.get("model_type") not in CONFIG_MAPPING:
                raise ValueError(
                    "`backbone_config` must name a model of transformers as `model_type`, such as 'resnet' or 'swin', "
                    f"got {backbone.get('model_type')!r}."
                )
            backbone = CONFIG_MAPPING[backbone["model_type"]].from_dict(backbone)
        self.backbone_config = backbone
        for name, values in KEYPOINT_SETS.get(self.num_keypoints, {}).items():
            if getattr(self, name) is None:
                setattr(self, name, values)
        # As JSON gives them back, so that a configuration equals its saved copy.
        for name in ("keypoint_sigmas", "keypoint_names"):
            if getattr(self, name) is not None:
                setattr(self, name, list(getattr(self, name)))
        for name in ("keypoint_flip_pairs", "keypoint_links"):
            if getattr(self, name) is not None:
                setattr(self, name, [list(pair) for pair in getattr(self, name)])
        if isinstance(self.positional_embedding_temperature, tuple):
            self.positional_embedding_temperature = list(self.positional_embedding_temperature)
        if self.id2label is None and kwargs.get("num_labels") in (None, 2):
            self.id2label = {0: "N/A", 1: "person"}
            self.label2id = {"N/A": 0, "person": 1}
        self.validate_sizes()  # here too, so that construction raises a plain ValueError
        self.validate_keypoints()
        super().__post_init__(**kwargs)

    @property
    def position_temperatures(self) -> tuple[float, float]:
        """Temperature of the position encoding along height and width."""
        temperature = self.positional_embedding_temperature
        return tuple(temperature) if isinstance(temperature, list | tuple) else (temperature, temperature)

    def validate_sizes(self):
        """Check that the sizes of the network fit each other."""
        positive = (
            "d_model", "encoder_layers", "num_box_decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim",
            "encoder_attention_heads", "decoder_attention_heads", "num_feature_levels", "encoder_n_points",
            "decoder_n_points", "num_groups", "num_keypoints", "denoising_label_size",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            if self.d_model % getattr(self, name):
                raise ValueError(f"`d_model` ({self.d_model}) must be a multiple of `{name}` ({getattr(self, name)}).")
        if self.d_model % NUM_GROUP_NORM_GROUPS:
            raise ValueError(
                f"`d_model` must be a multiple of {NUM_GROUP_NORM_GROUPS}, the number of groups of its group norm, "
                f"got {self.d_model}."
            )
        if self.decoder_layers <= self.num_box_decoder_layers:
            raise ValueError(
                f"`decoder_layers` ({self.decoder_layers}) must be more than `num_box_decoder_layers` "
                f"({self.num_box_decoder_layers}): the remaining layers find the keypoints."
            )
        if self.num_queries < self.num_groups:
            raise ValueError(
                f"`num_queries` ({self.num_queries}) must be at least `num_groups` ({self.num_groups}), which are "
                "chosen among them."
            )
        if self.num_denoising < 0:
            raise ValueError(f"`num_denoising` must be 0 (off) or more, got {self.num_denoising}.")
        if not 0 < self.inverse_sigmoid_eps < 0.5:
            raise ValueError(f"`inverse_sigmoid_eps` must be between 0 and 0.5, got {self.inverse_sigmoid_eps}.")
        if not 0 <= self.label_noise_ratio <= 1:
            raise ValueError(f"`label_noise_ratio` must be between 0 and 1, got {self.label_noise_ratio}.")
        if len(self.position_temperatures) != 2 or min(self.position_temperatures) <= 0:
            raise ValueError(
                "`positional_embedding_temperature` must be a positive number, or two for height and width, "
                f"got {self.positional_embedding_temperature}."
            )
        if not isinstance(self.backbone_config, PreTrainedConfig):
            return  # a value that is being replaced; the next construction looks at it
        channels = len(getattr(self.backbone_config, "out_features", None) or [])
        if not 1 <= channels <= self.num_feature_levels:
            raise ValueError(
                f"`num_feature_levels` ({self.num_feature_levels}) must be at least the number of stages that the "
                f"backbone returns, and that at least 1, got {channels} (`out_features` of `backbone_config`)."
            )

    def validate_keypoints(self):
        """Check that what is said of the keypoints fits their number."""
        count = self.num_keypoints
        for name in ("keypoint_sigmas", "keypoint_names"):
            values = getattr(self, name)
            if values is not None and len(values) != count:
                raise ValueError(f"`{name}` must have `num_keypoints` = {count} entries, got {len(values)}.")
        if self.keypoint_sigmas is not None and min(self.keypoint_sigmas) <= 0:
            raise ValueError(f"`keypoint_sigmas` must be positive, got {list(self.keypoint_sigmas)}.")
        for name in ("keypoint_flip_pairs", "keypoint_links"):
            for pair in getattr(self, name) or ():
                if len(pair) != 2 or not all(isinstance(index, int) and 0 <= index < count for index in pair):
                    raise ValueError(f"`{name}` must be pairs of keypoint indices in [0, {count}), got {pair}.")
        paired = [index for pair in self.keypoint_flip_pairs or () for index in pair]
        if len(paired) != len(set(paired)):
            raise ValueError(f"`keypoint_flip_pairs` must name each keypoint once, got {self.keypoint_flip_pairs}.")


__all__ = ["EDPoseConfig"]
