"""A training run of a pose estimator: its settings, the data and model they describe, evaluation and results."""

import argparse
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object, send_to_device
from optimization import MAX_GRAD_NORM, ExponentialMovingAverage
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler
from transformers import AutoBackbone, AutoConfig, HfArgumentParser

from hvmodels.datasets.keypoints import (
    AspectRatioBatchSampler,
    KeypointAugmentation,
    KeypointCollator,
    KeypointDataset,
)
from hvmodels.keypoint_sets import KEYPOINT_SETS, KeypointSet
from hvmodels.metrics.keypoints import STYLES, KeypointEvaluator
from hvmodels.models.ed_pose import EDPoseConfig, EDPoseForPoseEstimation, EDPoseImageProcessor


METRICS_FILE, RECIPE_FILE = "metrics.json", "recipe.json"
# What may differ between a run and its continuation.
FREE_ON_RESUME = ("epochs", "num_workers", "log_every", "evaluation_batch_size")
PATHS = (
    "train_annotations", "train_images", "validation_annotations", "validation_images", "model", "backbone", "train_data",
    "validation_data",
)  # fmt: skip


def option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class Recipe:
    """Settings of one run; each is a key of a recipe file and a command-line option, which wins."""

    train_annotations: list[str] = field(
        default_factory=list, metadata={"help": "COCO keypoints files to train on, one or more."}
    )
    train_images: list[str] = field(
        default_factory=list, metadata={"help": "Image folder of each of them, or one of all."}
    )
    validation_annotations: str | None = option(None, "COCO keypoints file to evaluate on; none trains without.")
    validation_images: str | None = option(None, "Its image folder.")
    keypoints: str | None = option(
        None, "Keypoint set: coco17, crowdpose14 or a JSON file; by default the names and skeleton of the annotations."
    )
    evaluation: Literal["coco", "crowdpose"] = option("coco", "Way of computing average precision.")
    model: str | None = option(None, "Pretrained model to start from: a folder or a Hub repository.")
    backbone: str | None = option(None, "Pretrained backbone for a model from scratch, e.g. microsoft/resnet-50.")
    config: str | None = option(None, "EDPoseConfig fields of a model from scratch: JSON text or file.")
    augment: bool = option(True, "Mirror, crop and resize training images at random, as published.")
    train_sizes: list[int] = field(
        default_factory=lambda: [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
        metadata={"help": "Short sides of augmented training images."},
    )
    image_size: list[int] = field(
        default_factory=lambda: [800],
        metadata={"help": "Short side of all other images, or height and width of all, which need no padding."},
    )
    max_image_size: int = option(1333, "Limit of the long side.")
    group_by_shape: bool = option(False, "Put images of similar shape in a batch, which needs less padding.")
    batch_size: int = option(16, "Images a step, over all processes and accumulation steps together.")
    accumulation_steps: int = option(1, "Parts in which a process takes its images of a step, to save memory.")
    learning_rate: float = option(1e-4, "Of AdamW.")
    backbone_learning_rate: float = option(1e-5, "Of the backbone.")
    weight_decay: float = option(1e-4, "Of all parameters.")
    max_grad_norm: float = option(MAX_GRAD_NORM, "Norm at which gradients are clipped.")
    epochs: int = option(60, "Passes over the training images.")
    drop_epoch: int = option(55, "Learning rates fall to a tenth after each so many epochs.")
    average_decay: float = option(0.9997, "Decay of the moving average of the weights, 0 for none.")
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "Precision of the arithmetic.")
    evaluate_every: int = option(1, "Epochs from one evaluation and saved state to the next.")
    evaluation_batch_size: int = option(4, "Images at a time in evaluation, in each process.")
    num_workers: int = option(0, "Processes that load images, in each process.")
    log_every: int = option(50, "Steps from one printed training loss to the next.")
    seed: int = option(42, "Of weights, order, augmentation and denoising.")

    def __post_init__(self):
        if isinstance(self.config, str):
            self.config = read_json_option(self.config, "config")
        for name in ("batch_size", "accumulation_steps", "epochs", "drop_epoch", "evaluate_every",
                     "max_image_size", "evaluation_batch_size", "log_every"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if len(self.image_size) not in (1, 2) or min(self.image_size) < 1:
            raise ValueError(f"`image_size` must be a short side, or height and width, got {self.image_size}.")
        for name in ("learning_rate", "backbone_learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"`average_decay` must be at least 0 and below 1, got {self.average_decay}.")
        if self.evaluation not in STYLES:
            raise ValueError(f"`evaluation` must be one of {sorted(STYLES)}, got {self.evaluation!r}.")
        if self.model is not None and (self.config is not None or self.backbone is not None):
            raise ValueError("`model` brings its configuration and backbone; leave out `config` and `backbone`.")
        if self.train_images and len(self.train_images) not in (1, len(self.train_annotations)):
            raise ValueError(
                f"`train_images` must name one folder, or one for each of the {len(self.train_annotations)} "
                f"`train_annotations`, got {len(self.train_images)}."
            )

    def load_data(self) -> "PoseData":
        """Read the annotations.

        Raises:
            ValueError: If files are missing or do not fit each other.
        """
        if not self.train_annotations or not self.train_images:
            raise ValueError("`train_annotations` and `train_images` must name the data to train on.")
        if (self.validation_annotations is None) != (self.validation_images is None):
            raise ValueError("`validation_annotations` and `validation_images` must be given together.")
        folders = self.train_images * (len(self.train_annotations) if len(self.train_images) == 1 else 1)
        keypoint_set = None if self.keypoints is None else read_keypoint_set(self.keypoints)
        train = [
            KeypointDataset(file, folder, keypoint_set, skip_without_keypoints=True, seed=self.seed + index)
            for index, (file, folder) in enumerate(zip(self.train_annotations, folders, strict=True))
        ]
        validation = None
        if self.validation_annotations is not None:
            validation = KeypointDataset(self.validation_annotations, self.validation_images, keypoint_set)
        keypoint_set = complete_keypoint_set(train[0])
        for dataset in train if validation is None else [*train, validation]:
            if dataset.keypoint_set.keypoints != train[0].keypoint_set.keypoints:
                raise ValueError(
                    f"All annotations must have the keypoints {train[0].keypoint_set.keypoints}, got "
                    f"{dataset.keypoint_set.keypoints}; choose the set by `keypoints`."
                )
            if dataset.category_ids != train[0].category_ids:
                raise ValueError(
                    f"All annotations must have the categories {train[0].category_ids}, got {dataset.category_ids}."
                )
            if self.augment and dataset is not validation:
                dataset.transform = KeypointAugmentation(
                    keypoint_set.flip_pairs, self.train_sizes, self.max_image_size
                )
        data = PoseData(keypoint_set, train, validation)
        if len(data.train) < self.batch_size:
            raise ValueError(
                f"`batch_size` must be at most the number of training images with labelled keypoints, "
                f"{len(data.train)}, got {self.batch_size}."
            )
        return data

    def steps_per_epoch(self, data: "PoseData") -> int:
        return len(data.train) // self.batch_size

    def build_model(self, data: "PoseData") -> tuple[EDPoseForPoseEstimation, EDPoseImageProcessor]:
        """The model to train and its image processor, both for the keypoints and classes of the data."""
        torch.manual_seed(self.seed)
        described = {
            "num_keypoints": len(data.keypoint_set),
            "keypoint_names": data.keypoint_set.keypoints,
            "keypoint_sigmas": data.keypoint_set.sigmas,
            "keypoint_flip_pairs": data.keypoint_set.flip_pairs,
            "keypoint_links": data.keypoint_set.links,
            "id2label": data.datasets[0].id2label,
            "label2id": {name: index for index, name in data.datasets[0].id2label.items()},
        }
        names = ("height", "width") if len(self.image_size) == 2 else ("shortest_edge", "longest_edge")
        size = dict(zip(names, (*self.image_size, self.max_image_size), strict=False))
        processor_options = {
            "size": size, "num_keypoints": len(data.keypoint_set), "category_ids": data.datasets[0].category_ids,
        }  # fmt: skip
        if self.model is not None:
            old = EDPoseConfig.from_pretrained(self.model).to_dict()
            config = EDPoseConfig.from_dict({**old, **described})
            model = EDPoseForPoseEstimation.from_pretrained(
                self.model, config=config, ignore_mismatched_sizes=True, dtype=torch.float32
            )
            return model, EDPoseImageProcessor.from_pretrained(self.model, **processor_options)
        values = dict(self.config or {})
        if self.backbone is not None:
            changes = {"out_features": ["stage2", "stage3", "stage4"], **values.get("backbone_config", {})}
            values["backbone_config"] = AutoConfig.from_pretrained(self.backbone, **changes)
            values["backbone_config"].num_labels = 2  # names of a thousand classes would fill the configuration
        values.setdefault("expansion_head", "last" if len(data.keypoint_set) == 17 else "first")
        if unknown := set(values) - {entry.name for entry in fields(EDPoseConfig)}:
            raise ValueError(f"`config` has the unknown fields {sorted(unknown)}.")
        model = EDPoseForPoseEstimation(EDPoseConfig(**{**values, **described}))
        if self.backbone is not None:
            load_backbone(model, self.backbone)
        return model, EDPoseImageProcessor(**processor_options)

    def training_loader(
        self, data: "PoseData", processor: EDPoseImageProcessor, num_processes: int, process_index: int
    ) -> DataLoader:
        """Batches of one process: those of an epoch are the same pictures for any number of processes."""
        ratios = data.aspect_ratios if self.group_by_shape else np.ones(len(data.train))
        # Images are sorted by shape within a chunk of batches; chunks of one batch leave the order random.
        batches = AspectRatioBatchSampler(
            ratios, self.batch_size, drop_last=True, seed=self.seed, chunk_size=50 if self.group_by_shape else 1
        )
        share = ProcessShare(batches, self.accumulation_steps, num_processes, process_index)
        return DataLoader(
            data.train,
            batch_sampler=share,
            collate_fn=KeypointCollator(processor),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


@dataclass
class PoseData:
    """What is trained and evaluated on.

    Args:
        keypoint_set: Keypoints of the annotations.
        datasets: Training sets, one or more.
        validation: Evaluation set, if any.
    """

    keypoint_set: KeypointSet
    datasets: list[KeypointDataset]
    validation: KeypointDataset | None

    def __post_init__(self):
        self.train: Dataset = self.datasets[0] if len(self.datasets) == 1 else ConcatDataset(self.datasets)

    @property
    def aspect_ratios(self) -> np.ndarray:
        return np.concatenate([dataset.aspect_ratios for dataset in self.datasets])


class ProcessShare(Sampler):
    """The share of each batch that one process takes, in `accumulation_steps` parts.

    Every image of a step is taken by exactly one process, so that a step is the same however it is divided.
    """

    def __init__(
        self, batch_sampler: AspectRatioBatchSampler, accumulation_steps: int, num_processes: int, process_index: int
    ):
        self.parts = accumulation_steps * num_processes
        if batch_sampler.batch_size % self.parts:
            raise ValueError(
                f"`batch_size` ({batch_sampler.batch_size}) must be a multiple of processes times "
                f"`accumulation_steps`, {num_processes} * {accumulation_steps}."
            )
        self.batch_sampler = batch_sampler
        self.own_parts = range(process_index, self.parts, num_processes)

    def set_epoch(self, epoch: int):
        self.batch_sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batch_sampler) * len(self.own_parts)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batch_sampler:
            for part in self.own_parts:
                yield batch[part :: self.parts]


class ShuffledShare(Sampler):
    """The share of each random batch that one process takes; the incomplete last batch is left out."""

    def __init__(self, count: int, batch_size: int, seed: int, num_processes: int, process_index: int):
        if batch_size % num_processes:
            raise ValueError(f"`batch_size` ({batch_size}) must be a multiple of the processes, {num_processes}.")
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0
        self.num_processes, self.process_index = num_processes, process_index

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        for batch in order[: len(self) * self.batch_size].reshape(len(self), self.batch_size):
            yield batch[self.process_index :: self.num_processes].tolist()


def seed_step(seed: int, step: int, process_index: int):
    """Seed the draws of a step (denoising, dropped paths), so that a resumed run repeats them and processes differ."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, process_index)).generate_state(1, np.uint64)[0] >> 1))


def read_json_option(value: str, name: str) -> dict[str, Any]:
    """A JSON object given as text or as the path of a file."""
    try:
        content = json.loads(value if value.lstrip().startswith("{") else Path(value).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"`{name}` must be a JSON object or the path of one, got {value!r}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"`{name}` must be a JSON object, got {type(content).__name__}.")
    return content


def read_keypoint_set(value: str) -> KeypointSet:
    """A known keypoint set, or one from a JSON file.

    The file holds `keypoints` (names) and optionally `name`, `flip_pairs` (by default those that the names tell, such
    as left_eye and right_eye), `links` and `sigmas`; indices count from 0.
    """
    if value in KEYPOINT_SETS:
        return KEYPOINT_SETS[value]
    content = read_json_option(value, "keypoints")
    names = {entry.name for entry in fields(KeypointSet)}
    if "keypoints" not in content or set(content) - names:
        raise ValueError(
            f"`keypoints` must name one of {sorted(KEYPOINT_SETS)} or a JSON file with `keypoints` and, if you like, "
            f"{sorted(names - {'keypoints'})}, got the keys {sorted(content)}."
        )
    pairs = content.pop("flip_pairs", None)
    keypoint_set = KeypointSet.from_names(**content)
    return keypoint_set if pairs is None else replace(keypoint_set, flip_pairs=pairs)


def complete_keypoint_set(dataset: KeypointDataset) -> KeypointSet:
    """The data set's keypoints, with sigmas and flip pairs from its annotation file if they stand there."""
    keypoint_set, category = dataset.keypoint_set, dataset.categories[0]
    if keypoint_set.sigmas is None and category.get("sigmas"):
        keypoint_set = replace(keypoint_set, sigmas=category["sigmas"])
    if not keypoint_set.flip_pairs and category.get("flip_pairs"):
        keypoint_set = replace(keypoint_set, flip_pairs=category["flip_pairs"])
    if keypoint_set.sigmas is None:
        raise ValueError(
            f"There are no OKS sigmas for the keypoints {keypoint_set.keypoints}. Give them in a JSON file to "
            "`--keypoints`, or as `sigmas` in the category of the annotations: one a keypoint, the standard deviation "
            "of careful annotators in units of the square root of a person's area (COCO: eyes 0.025, hips 0.107)."
        )
    return keypoint_set


def load_backbone(model: EDPoseForPoseEstimation, folder: str):
    """Copy the weights of a pretrained backbone; only the norms behind a Swin's stages may be new.

    Raises:
        ValueError: If others are missing.
    """
    config = model.config.backbone_config
    backbone_class = type(AutoBackbone.from_config(config))  # `AutoBackbone.from_pretrained` takes no folders
    source, found = backbone_class.from_pretrained(
        folder, config=config, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(name for name in found["missing_keys"] if "hidden_states_norms" not in name)
    if missing:
        raise ValueError(f"`backbone` {folder!r} lacks {missing[:5]}{' and more' * (len(missing) > 5)}.")
    weights = source.state_dict()
    model.model.backbone.load_state_dict({name: weights[name] for name in model.model.backbone.state_dict()})


@torch.inference_mode()
def evaluate(
    recipe: Recipe,
    data: PoseData,
    model: EDPoseForPoseEstimation,
    processor: EDPoseImageProcessor,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Average precision over all validation images; each is predicted by one process, once.

    Processes take whole batches, which are the same for any number of processes: padding changes poses a little.
    """
    dataset = data.validation
    evaluator = KeypointEvaluator(
        recipe.validation_annotations, data.keypoint_set.sigmas, recipe.evaluation, dataset.category_ids[0]
    )
    order, size = np.argsort(dataset.aspect_ratios, kind="stable"), recipe.evaluation_batch_size
    batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    loader = DataLoader(
        dataset,
        batch_sampler=batches[accelerator.process_index :: accelerator.num_processes],
        collate_fn=KeypointCollator(processor),
        num_workers=recipe.num_workers,
    )
    was_training = model.training
    model.eval()
    for batch in loader:
        images = send_to_device({name: batch[name] for name in ("pixel_values", "pixel_mask")}, model.device)
        with accelerator.autocast():
            outputs = model(**images)
        sizes = [label["orig_size"].tolist() for label in batch["labels"]]
        persons = processor.post_process_pose_estimation(outputs, target_sizes=sizes)
        for label, found in zip(batch["labels"], persons, strict=True):
            keep = found["labels"] == 1  # the first category, that of the evaluator
            evaluator.update(label["image_id"], {name: values[keep] for name, values in found.items()})
    model.train(was_training)
    # Processes have different numbers of images, and images of persons: whole objects are gathered, nothing is padded.
    for predictions in gather_object([evaluator.predictions]):
        evaluator.predictions |= predictions
    return {name: float(value) for name, value in evaluator.compute().items()}


class Run:
    """Results of a run in its folder: the best weights so far with their image processor, and `metrics.json`.

    Everything is in place after each evaluation, so a run that is stopped leaves a usable model.
    """

    def __init__(self, recipe: Recipe, data: PoseData, processor: EDPoseImageProcessor, output_dir: Path):
        self.recipe, self.data, self.processor, self.output_dir = recipe, data, processor, output_dir
        self.history: list[dict[str, float]] = []

    def restore(self, epoch: int):
        """Take up the history up to `epoch`."""
        report = json.loads((self.output_dir / METRICS_FILE).read_text())
        self.history = [entry for entry in report["history"] if entry["epoch"] <= epoch]

    @property
    def best(self) -> dict[str, float] | None:
        """The entry with the highest average precision, of equal ones the last; without validation the last."""
        return max(self.history, key=lambda entry: (entry.get("AP", -math.inf), entry["epoch"]), default=None)

    def evaluate(
        self,
        model: EDPoseForPoseEstimation,
        average: ExponentialMovingAverage | None,
        accelerator: Accelerator,
        **entry: float,
    ) -> dict[str, float]:
        """Evaluate the averaged weights (or the weights), keep them if they are the best, and note the result."""
        if not math.isfinite(entry["train_loss"]):
            raise ValueError("Training diverged: the loss is not finite. Lower `learning_rate`.")
        with nullcontext() if average is None else average.applied(model):
            if self.data.validation is not None:
                entry |= evaluate(self.recipe, self.data, model, self.processor, accelerator)
            self.history.append(entry)
            if accelerator.is_main_process:
                if self.best is entry:
                    model.save_pretrained(self.output_dir)
                    self.processor.save_pretrained(self.output_dir)
                report = {"best": self.best, "history": self.history, "recipe": asdict(self.recipe)}
                report["num_processes"] = accelerator.num_processes
                write_json(report, self.output_dir / METRICS_FILE)
                print(describe(entry), flush=True)
        return entry

    def finish(self):
        print(f"best: {describe(self.best)}", flush=True)


class LastWeightsRun:
    """Results of a run in its folder: the last weights and `metrics.json`, after each evaluation.

    Args:
        recipe: Settings of the run, a dataclass.
        processor: Image processor or feature extractor of the model.
        output_dir: The folder.
        measure: Gives the figures of a model when called with it and the accelerator; None for no evaluation.
    """

    def __init__(
        self,
        recipe: Any,
        processor: Any,
        output_dir: Path,
        measure: Callable[[nn.Module, Accelerator], dict[str, float]] | None,
    ):
        self.recipe, self.processor, self.output_dir, self.measure = recipe, processor, output_dir, measure
        self.history: list[dict[str, float]] = []

    def restore(self, epoch: int):
        """Take up the history up to `epoch`."""
        report = json.loads((self.output_dir / METRICS_FILE).read_text())
        self.history = [entry for entry in report["history"] if entry["epoch"] <= epoch]

    def evaluate(
        self, model: nn.Module, average: ExponentialMovingAverage | None, accelerator: Accelerator, **entry: Any
    ) -> dict[str, float]:
        """Evaluate the averaged weights (or the weights), keep them, and note the result."""
        if not math.isfinite(entry["train_loss"]):
            raise ValueError("Training diverged: the loss is not finite. Lower `learning_rate`.")
        with nullcontext() if average is None else average.applied(model):
            if self.measure is not None:
                entry |= self.measure(model, accelerator)
            self.history.append(entry)
            if accelerator.is_main_process:
                model.save_pretrained(self.output_dir)
                self.processor.save_pretrained(self.output_dir)
                report = {"history": self.history, "recipe": asdict(self.recipe)}
                report["num_processes"] = accelerator.num_processes
                write_json(report, self.output_dir / METRICS_FILE)
                figures = (f"{name} {value:.4g}" for name, value in entry.items() if name != "epoch")
                print(f"epoch {entry['epoch']}: {', '.join(figures)}", flush=True)
        return entry


def describe(entry: Mapping[str, float]) -> str:
    scores = (f"{name} {entry[name]:.4f}" for name in ("AP", "AP50", "AP75", "AR") if name in entry)
    return ", ".join([f"epoch {entry['epoch']}: loss {entry['train_loss']:.4f}", *scores])


def write_json(content: Any, path: Path):
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, path)


def claim_output_dir(recipe: Recipe, output_dir: Path, resume: bool):
    """Note the recipe in the folder, so that a run neither overwrites nor continues a different one.

    Raises:
        ValueError: If the folder holds a run that is not to be resumed, or one with another recipe.
    """
    path = output_dir / RECIPE_FILE
    if path.exists():
        if not resume:
            raise ValueError(f"`output_dir` = {str(output_dir)!r} holds a run; add `--resume` or name another folder.")
        old, new = json.loads(path.read_text()), json.loads(json.dumps(asdict(recipe)))
        changed = [name for name in new if old.get(name) != new[name] and name not in FREE_ON_RESUME + PATHS]
        if changed:
            raise ValueError(f"`--resume` needs the recipe of the run in {str(output_dir)!r}; {changed} differ.")
    state = PartialState()
    state.wait_for_everyone()
    if state.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(asdict(recipe), path)


def read_recipe(path: str, setting: str | None = None, recipe_class: type = Recipe) -> dict[str, Any]:
    """Values of a recipe file.

    A named entry of `settings` replaces values of the file. `note` is for readers.

    Raises:
        ValueError: On an unknown setting or key.
    """
    values = read_json_option(path, "recipe")
    settings = values.pop("settings", {})
    if setting is not None:
        if setting not in settings:
            raise ValueError(f"`setting` must be one of {sorted(settings)} of {path}, got {setting!r}.")
        values |= settings[setting]
    values.pop("note", None)
    if unknown := set(values) - {entry.name for entry in fields(recipe_class)}:
        raise ValueError(f"{path} has the unknown keys {sorted(unknown)}.")
    return values


@dataclass
class RunOptions:
    recipe: str | None = option(None, "JSON file of settings, see recipes/; the other options win over it.")
    setting: str | None = option(None, "Named entry of the file's `settings`, e.g. swinl.")
    output_dir: str = option("outputs/pose_estimation", "Folder of the model, metrics and training state.")
    resume: bool = option(False, "Go on with the run in `output_dir`.")


def parse_arguments(
    description: str, arguments: Iterable[str] | None = None, recipe_class: type = Recipe
) -> tuple[Any, RunOptions]:
    arguments = None if arguments is None else list(arguments)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe")
    early.add_argument("--setting")
    chosen, _ = early.parse_known_args(arguments)
    if chosen.setting is not None and chosen.recipe is None:
        raise ValueError("`--setting` needs `--recipe`.")
    parser = HfArgumentParser([recipe_class, RunOptions], description=description)
    if chosen.recipe is not None:
        parser.set_defaults(**read_recipe(chosen.recipe, chosen.setting, recipe_class))
    return parser.parse_args_into_dataclasses(arguments)
