"""A training run of a top-down pose estimator: its settings, the data and model they describe, evaluation and results."""

import math
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from optimization import ExponentialMovingAverage
from pose_recipe import LastWeightsRun, ShuffledShare, option, read_json_option, read_keypoint_set
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Subset

from hvmodels.datasets.human36m import (
    TEST_SUBJECTS,
    TRAIN_SUBJECTS,
    Human36MAugmentation,
    Human36MDataset,
    MixedPoseDataset,
    MPIIDataset,
)
from hvmodels.datasets.top_down import TopDownAugmentation, TopDownCollator, TopDownDataset
from hvmodels.keypoint_sets import HUMAN36M18, KeypointSet
from hvmodels.metrics.human36m import Human36MEvaluator
from hvmodels.metrics.keypoints import percentage_of_correct_keypoints
from hvmodels.models.rle import RLEConfig, RLEForPoseEstimation
from hvmodels.models.rle.cropping_rle import decode_keypoints
from hvmodels.models.rle.image_processing_rle import RLEImageProcessor


PCK_RADII = (0.1, 0.2)
EVERY_TEST_FRAME = 64


@dataclass
class TopDownRecipe:
    """Settings of one run; each is a key of a recipe file and a command-line option, which wins."""

    data: Literal["coco", "human36m"] = option("coco", "Format of the annotations; human36m is 3-D.")
    train_annotations: str | None = option(None, "COCO keypoints file, or that of Human3.6M, to train on.")
    train_images: str | None = option(None, "Its image folder or .tar file.")
    mpii_annotations: str | None = option(None, "COCO keypoints file of MPII, mixed with Human3.6M.")
    mpii_images: str | None = option(None, "Its image folder or .tar file.")
    validation_annotations: str | None = option(None, "File to evaluate on; none trains without.")
    validation_images: str | None = option(None, "Its image folder or .tar file.")
    keypoints: str | None = option(None, "Keypoint set: coco17, halpe19, a JSON file; by default that of the file.")
    extra_fields: list[str] = field(
        default_factory=list, metadata={"help": "Further fields of annotations with keypoints."}
    )
    hold_out: int = option(0, "Last persons of the training file that are not trained on, e.g. for the calibration.")
    limit: int | None = option(None, "Train on the first so many persons only.")
    model: str | None = option(None, "Pretrained RLE model to start from: a folder or a Hub repository.")
    backbone: str | None = option(None, "Pretrained backbone: an .pth file of EfficientNet-Lite, or of transformers.")
    config: str | None = option(None, "RLEConfig fields of a model from scratch: JSON text or file.")
    frozen: list[str] = field(
        default_factory=list, metadata={"help": "Modules of the backbone that stay as they are, with their norms."}
    )
    augmentation: Literal["none", "coco", "mmpose", "mmpose_mpii", "human36m", "full_rotation"] = option(
        "coco", "Preset; human36m for that data, the others for COCO's."
    )
    image_size: list[int] = field(default_factory=lambda: [256, 192], metadata={"help": "Height and width of crops."})
    first_image_size: list[int] = field(
        default_factory=list, metadata={"help": "Those of the first `first_epochs` epochs."}
    )
    first_epochs: int = option(0, "Number of epochs with `first_image_size`.")
    box_padding: float = option(1.25, "Crop side over box side.")
    image_mean: list[float] = field(
        default_factory=lambda: [0.406, 0.457, 0.48], metadata={"help": "Mean of each channel."}
    )
    image_std: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0], metadata={"help": "Their divisors."})
    batch_size: int = option(32, "Persons a step, over all processes together.")
    optimizer: Literal["adam", "adamw"] = option("adam", "Adam as published, or AdamW.")
    learning_rate: float = option(1e-3, "Of all parameters.")
    weight_decay: float = option(0.0, "Of AdamW.")
    schedule: Literal["steps", "cosine"] = option("steps", "A tenth after each of `drop_epochs`, or cosine to 0.")
    drop_epochs: list[int] = field(default_factory=lambda: [170, 200], metadata={"help": "See `schedule`."})
    warmup_steps: int = option(0, "Steps over which the learning rate rises, linearly.")
    epochs: int = option(270, "Passes over the training persons.")
    max_tensor_norm: float = option(0.0, "Norm at which the gradient of each tensor is clipped; 0 for none.")
    average_decay: float = option(0.0, "Decay of the moving average of the weights, 0 for none.")
    keep_images: bool = option(False, "Keep decoded pictures in memory.")
    evaluate_every: int = option(1, "Epochs from one evaluation and saved state to the next.")
    evaluation_batch_size: int = option(32, "Crops at a time in evaluation, in each process.")
    num_workers: int = option(0, "Processes that load images, in each process.")
    log_every: int = option(50, "Steps from one printed training loss to the next.")
    seed: int = option(123123, "Of weights, order and augmentation.")

    def __post_init__(self):
        if isinstance(self.config, str):
            self.config = read_json_option(self.config, "config")
        for name in ("batch_size", "epochs", "evaluate_every", "evaluation_batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("image_size", "first_image_size"):
            value = getattr(self, name)
            if value and (len(value) != 2 or min(value) < 1):
                raise ValueError(f"`{name}` must be height and width, got {value}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"`learning_rate` must be positive, got {self.learning_rate}.")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"`average_decay` must be at least 0 and below 1, got {self.average_decay}.")
        if self.first_epochs and (not self.first_image_size or self.data == "human36m"):
            raise ValueError("`first_epochs` needs `first_image_size`, and data in COCO's format.")
        if self.model is not None and (self.config is not None or self.backbone is not None):
            raise ValueError("`model` brings its configuration and backbone; leave out `config` and `backbone`.")

    def load_data(self) -> "TopDownData":
        """Read the annotations.

        Raises:
            ValueError: If files are missing or do not fit each other.
        """
        if not self.train_annotations or not self.train_images:
            raise ValueError("`train_annotations` and `train_images` must name the data to train on.")
        if (self.validation_annotations is None) != (self.validation_images is None):
            raise ValueError("`validation_annotations` and `validation_images` must be given together.")
        if (self.data == "human36m") != (self.augmentation == "human36m") and self.augmentation != "none":
            raise ValueError(f"`augmentation` {self.augmentation!r} does not fit `data` {self.data!r}.")
        return self._load_human36m() if self.data == "human36m" else self._load_coco()

    def _load_coco(self) -> "TopDownData":
        keypoint_set = None if self.keypoints is None else read_keypoint_set(self.keypoints)

        def dataset(annotations: str, images: str) -> TopDownDataset:
            return TopDownDataset(
                annotations,
                images,
                keypoint_set,
                tuple(self.image_size),
                self.box_padding,
                self.extra_fields,
                drop_outside=self.augmentation.startswith("mmpose"),
                keep_images=self.keep_images,
                seed=self.seed,
            )

        train = dataset(self.train_annotations, self.train_images)
        validation = None
        if self.validation_annotations is not None:
            validation = dataset(self.validation_annotations, self.validation_images)
        if self.augmentation != "none":
            train.transform = make_augmentation(self.augmentation, train.keypoint_set)
        return TopDownData(train.keypoint_set, train, self._trained_part(train), validation)

    def _load_human36m(self) -> "TopDownData":
        augmentation = None if self.augmentation == "none" else Human36MAugmentation()
        options = {"size": tuple(self.image_size), "seed": self.seed}
        train = Human36MDataset(
            self.train_annotations,
            self.train_images,
            TRAIN_SUBJECTS,
            box_padding=self.box_padding,
            transform=augmentation,
            **options,
        )
        if self.mpii_annotations is not None:
            mpii = MPIIDataset(self.mpii_annotations, self.mpii_images, transform=augmentation, **options)
            train = MixedPoseDataset(train, mpii, self.seed)
        validation = None
        if self.validation_annotations is not None:
            validation = Human36MDataset(
                self.validation_annotations,
                self.validation_images,
                TEST_SUBJECTS,
                every=EVERY_TEST_FRAME,
                box_padding=self.box_padding,
                **options,
            )
        return TopDownData(HUMAN36M18, train, self._trained_part(train), validation)

    def _trained_part(self, train: Dataset) -> Subset:
        count = min(self.limit or len(train), len(train) - self.hold_out)
        if count < self.batch_size:
            raise ValueError(
                f"`batch_size` must be at most the number of training persons {count}, got {self.batch_size}."
            )
        return Subset(train, range(count))

    def image_processor(self) -> RLEImageProcessor:
        """What makes the same crops for inference."""
        height, width = self.image_size
        return RLEImageProcessor(
            size={"height": height, "width": width},
            image_mean=self.image_mean,
            image_std=self.image_std,
            box_padding=self.box_padding,
        )

    def steps_per_epoch(self, data: "TopDownData") -> int:
        return len(data.subset) // self.batch_size

    def size_at(self, epoch: int) -> tuple[int, int]:
        """Height and width of training crops in an epoch."""
        return tuple(self.first_image_size if epoch < self.first_epochs else self.image_size)

    def build_model(self, data: "TopDownData") -> RLEForPoseEstimation:
        """The model to train, for the keypoints of the data."""
        torch.manual_seed(self.seed)
        keypoint_set = data.keypoint_set
        described = {
            "id2label": dict(enumerate(keypoint_set.keypoints)),
            "label2id": {name: index for index, name in enumerate(keypoint_set.keypoints)},
            "flip_pairs": keypoint_set.flip_pairs,
            "keypoint_sigmas": keypoint_set.sigmas,
            "keypoint_links": keypoint_set.links,
        }
        if self.model is not None:
            old = RLEConfig.from_pretrained(self.model).to_dict()
            config = RLEConfig.from_dict({**old, **described})
            model = RLEForPoseEstimation.from_pretrained(self.model, config=config, ignore_mismatched_sizes=True)
        else:
            if unknown := set(self.config or {}) - {entry.name for entry in fields(RLEConfig)}:
                raise ValueError(f"`config` has the unknown fields {sorted(unknown)}.")
            model = RLEForPoseEstimation(RLEConfig(**(self.config or {}), **described))
            if self.backbone is not None:
                load_backbone(model, self.backbone)
        for name in self.frozen:
            model.rle.backbone.get_submodule(name).requires_grad_(False)
        if model.config.loss_formulation == "l1":  # neither takes part
            model.sigma_head.requires_grad_(False)
            model.criterion.requires_grad_(False)
        return model.to(memory_format=torch.channels_last)

    def train_mode(self, model: RLEForPoseEstimation):
        """Training mode, but for what is frozen."""
        model.train()
        for name in self.frozen:
            model.rle.backbone.get_submodule(name).eval()

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam or AdamW, which lets biases, norms and the flow alone when it decays weights."""
        decayed, others = [], []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 and "criterion" not in name else others).append(parameter)
        if self.optimizer == "adam":
            return torch.optim.Adam(decayed + others, self.learning_rate)
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, self.learning_rate)

    def make_average(self) -> ExponentialMovingAverage | None:
        """Moving average of the weights, if there is one."""
        return ExponentialMovingAverage(self.average_decay) if self.average_decay else None

    def make_scheduler(self, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LambdaLR:
        """Factor of the learning rate at each step."""
        total = self.epochs * steps_per_epoch

        def factor(step: int) -> float:
            warmup = 0.001 + 0.999 * step / self.warmup_steps if step < self.warmup_steps else 1.0
            if self.schedule == "cosine":
                return warmup * (1 + math.cos(math.pi * min(step / total, 1))) / 2
            return warmup * 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in self.drop_epochs)

        return LambdaLR(optimizer, factor)

    def training_loader(self, data: "TopDownData", num_processes: int, process_index: int) -> DataLoader:
        """Batches of one process: those of an epoch hold the same persons for any number of processes."""
        share = ShuffledShare(len(data.subset), self.batch_size, self.seed, num_processes, process_index)
        return DataLoader(
            data.subset,
            batch_sampler=share,
            collate_fn=TopDownCollator(self.image_mean, self.image_std),
            num_workers=self.num_workers,
        )

    def make_run(self, data: "TopDownData", output_dir: Path) -> LastWeightsRun:
        measure = None if data.validation is None else partial(evaluate, self, data)
        return LastWeightsRun(self, self.image_processor(), output_dir, measure)


@dataclass
class TopDownData:
    """What is trained and evaluated on.

    Args:
        keypoint_set: Keypoints of the persons.
        train: The training file.
        subset: Its persons that are trained on.
        validation: Evaluation set, if any.
    """

    keypoint_set: KeypointSet
    train: Dataset
    subset: Subset
    validation: Dataset | None


def make_augmentation(name: str, keypoint_set: KeypointSet) -> TopDownAugmentation:
    """The preset of a recipe's `augmentation` for data in COCO's format."""
    if name == "mmpose_mpii":
        return TopDownAugmentation.mmpose(keypoint_set, half_body=False)
    return getattr(TopDownAugmentation, name)(keypoint_set)


def load_backbone(model: RLEForPoseEstimation, path: str):
    """Copy the weights of a pretrained backbone: an EfficientNet-Lite in the layout of PyTorch ports, or transformers'.

    Raises:
        ValueError: If some are missing.
    """
    backbone = model.rle.backbone
    if path.endswith(".pth"):
        weights = rename_efficientnet_lite(torch.load(path, map_location="cpu", weights_only=True))
    else:
        weights = type(backbone).from_pretrained(path, config=backbone.config).state_dict()
    missing, unexpected = backbone.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ValueError(f"`backbone` {path!r} lacks {missing[:5]} and has the unknown {unexpected[:5]}.")


def rename_efficientnet_lite(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of an EfficientNet-Lite port (`_conv_stem`, `_blocks.0._expand_conv`, ...) by the names of `hvmodels`."""
    parts = {
        "_conv_stem": "stem.convolution", "_bn0": "stem.normalization",
        "_conv_head": "head.convolution", "_bn1": "head.normalization",
    }  # fmt: skip
    block_parts = {
        "_expand_conv": "expansion.convolution", "_bn0": "expansion.normalization",
        "_depthwise_conv": "depthwise.convolution", "_bn1": "depthwise.normalization",
        "_project_conv": "projection.convolution", "_bn2": "projection.normalization",
    }  # fmt: skip
    renamed = {}
    for name, weight in weights.items():
        words = name.split(".")
        if words[0] == "_fc":
            continue
        if words[0] == "_blocks":
            renamed[".".join(["blocks", words[1], block_parts[words[2]], *words[3:]])] = weight
        else:
            renamed[".".join([parts[words[0]], *words[1:]])] = weight
    return renamed


@torch.inference_mode()
def evaluate(
    recipe: TopDownRecipe, data: TopDownData, model: RLEForPoseEstimation, accelerator: Accelerator
) -> dict[str, float]:
    """PCK of the longer side of the box in 2-D, errors in millimetres in 3-D; each person is predicted once."""
    dataset = data.validation
    own = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    collator = TopDownCollator(recipe.image_mean, recipe.image_std)
    batches = DataLoader(
        Subset(dataset, own), recipe.evaluation_batch_size, collate_fn=lambda items: (items, collator(items))
    )
    model.eval()
    found = []
    for items, batch in batches:
        predicted = model(send_to_device(batch["pixel_values"], model.device)).keypoints.cpu().numpy()
        boxes = np.stack([item["crop_box"] for item in items])
        found += list(decode_keypoints(predicted, boxes, dataset.size))
    recipe.train_mode(model)
    poses = dict(gather_object(list(zip(own, found, strict=True))))
    poses = np.stack([poses[index] for index in range(len(dataset))])
    if recipe.data == "human36m":
        evaluator = Human36MEvaluator(dataset.joints, dataset.cameras, dataset.actions)
        poses[..., 2] *= model.config.depth_scale
        for index, pose in enumerate(poses):
            evaluator.update(index, pose)
        return {name: float(value) for name, value in evaluator.compute().items()}
    sides = (dataset.boxes[:, 2:] - dataset.boxes[:, :2]).max(axis=1)
    return {
        f"PCK@{radius}": percentage_of_correct_keypoints(
            poses, dataset.keypoints[..., :2], dataset.keypoints[..., 2], sides, radius
        )
        for radius in PCK_RADII
    }
