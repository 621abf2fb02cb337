"""A training run of an image classifier, alone or by distillation: its settings, data, models, evaluation and results."""

import math
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel, ViTImageProcessorPil


sys.path.append(str(Path(__file__).parents[1] / "pose_estimation"))  # what training runs share

from pose_recipe import (
    LastWeightsRun,
    ShuffledShare,
    claim_output_dir,
    option,
    parse_arguments,
    read_json_option,
    seed_step,
    write_json,
)

from hvmodels.datasets.image_classification import (
    ImageAugmentation,
    ImageClassificationCollator,
    ImageClassificationDataset,
    LabelledImages,
    read_labelled_images,
)
from hvmodels.metrics.classification import classification_metrics
from hvmodels.models.vitkd import ViTKDConfig, ViTKDImageProcessor


@dataclass
class DistillationRecipe:
    """Settings of one run; each is a key of a recipe file and a command-line option, which wins."""

    train_data: str | None = option(None, "Folder of class folders, Parquet file, or pattern of Parquet files.")
    validation_data: str | None = option(None, "The same to evaluate on; none trains without.")
    student: str | None = option(None, "Pretrained student: a folder or a Hub repository.")
    student_config: str | None = option(None, "Configuration of a student from scratch: JSON text or file.")
    teacher: str | None = option(
        None, "Teacher: a folder or a Hub repository; none trains the student by labels alone."
    )
    teacher_dtype: Literal["float32", "bfloat16"] = option("float32", "Precision of the teacher.")
    distillation: str | None = option(None, "Fields of ViTKDConfig, such as loss weights: JSON text or file.")
    image_size: list[int] = field(default_factory=lambda: [224, 224], metadata={"help": "Height and width."})
    resize: int = option(
        256, "Short side before the centre crop in evaluation; 0 resizes whole images to `image_size`."
    )
    area_range: list[float] = field(
        default_factory=lambda: [0.08, 1.0], metadata={"help": "Least and greatest area of random crops."}
    )
    num_operations: int = option(2, "Operations that RandAugment draws.")
    level: float = option(9.0, "Their mean level, of 10.")
    erase_probability: float = option(0.25, "Probability of erasing a rectangle.")
    mixup_alpha: float = option(0.0, "Of mixup, 0.8 in the published baselines without a teacher; 0 for none.")
    cutmix_alpha: float = option(0.0, "Of cutmix, 1 in the published baselines without a teacher; 0 for none.")
    batch_size: int = option(1024, "Images a step, over all processes together.")
    learning_rate: float = option(1e-3, "Highest one of AdamW.")
    min_learning_rate: float = option(1e-5, "Last one.")
    weight_decay: float = option(0.05, "Of all but biases, norms, class token and position embeddings.")
    max_grad_norm: float = option(5.0, "Norm at which gradients are clipped.")
    epochs: int = option(300, "Passes over the training images.")
    warmup_epochs: int = option(20, "Epochs in which the learning rate rises.")
    average_momentum: float = option(0.0, "Share of the new weights in the moving average, 0 for none.")
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "Precision of the arithmetic.")
    keep_images: bool = option(False, "Keep decoded images in memory.")
    evaluate_every: int = option(1, "Epochs from one evaluation to the next.")
    save_every: int = option(
        0, "Steps from one saved training state of the Trainer to the next; 0 saves at evaluations."
    )
    evaluation_batch_size: int = option(128, "Images at a time in evaluation, in each process.")
    num_workers: int = option(0, "Processes that load images, in each process.")
    log_every: int = option(50, "Steps from one printed training loss to the next.")
    seed: int = option(0, "Of weights, order, augmentation and masks.")

    def __post_init__(self):
        for name in ("student_config", "distillation"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, read_json_option(getattr(self, name), name))
        for name in ("batch_size", "epochs", "evaluate_every", "evaluation_batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.save_every < 0:
            raise ValueError(f"`save_every` must not be negative, got {self.save_every}.")
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"`image_size` must be height and width, got {self.image_size}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"`learning_rate` must be positive, got {self.learning_rate}.")
        if (self.student is None) == (self.student_config is None):
            raise ValueError("One of `student` and `student_config` must be given.")

    def load_data(self) -> "ImageData":
        """Read the images.

        Raises:
            ValueError: If they do not fit each other or the batch.
        """
        if self.train_data is None:
            raise ValueError("`train_data` must name the images to train on.")
        images = read_labelled_images(self.train_data)
        if len(images) < self.batch_size:
            raise ValueError(
                f"`batch_size` must be at most the number of training images {len(images)}, got {self.batch_size}."
            )
        processor = self.image_processor()
        augmentation = ImageAugmentation(
            size=tuple(self.image_size),
            area_range=tuple(self.area_range),
            num_operations=self.num_operations,
            level=self.level,
            erase_probability=self.erase_probability,
            image_mean=tuple(processor.image_mean),
            image_std=tuple(processor.image_std),
        )
        train = ImageClassificationDataset(images, processor, augmentation, self.keep_images, self.seed)
        validation = None
        if self.validation_data is not None:
            validation = read_labelled_images(self.validation_data)
            if validation.class_names != images.class_names:
                raise ValueError(
                    f"`validation_data` has the classes {validation.class_names}, but `train_data` {images.class_names}."
                )
        return ImageData(train, validation, processor)

    def image_processor(self) -> ViTKDImageProcessor:
        """What makes inputs of whole images."""
        height, width = self.image_size
        if not self.resize:
            return ViTKDImageProcessor(size={"height": height, "width": width}, do_center_crop=False)
        return ViTKDImageProcessor(size={"shortest_edge": self.resize}, crop_size={"height": height, "width": width})

    def steps_per_epoch(self, data: "ImageData") -> int:
        return len(data.train) // self.batch_size

    def build_student(self, data: "ImageData") -> PreTrainedModel:
        """The student, for the classes of the data."""
        torch.manual_seed(self.seed)
        names = data.train.images.class_names
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
        if self.student is not None:
            return AutoModelForImageClassification.from_pretrained(
                self.student, ignore_mismatched_sizes=True, **labels
            )
        values = {"model_type": "vit", "image_size": self.image_size, **self.student_config, **labels}
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        return AutoModelForImageClassification.from_config(config)

    def load_teacher(self) -> PreTrainedModel | None:
        if self.teacher is None:
            return None
        dtype = getattr(torch, self.teacher_dtype)
        return AutoModelForImageClassification.from_pretrained(self.teacher, dtype=dtype)

    def collator(self, data: "ImageData", student: PreTrainedModel) -> ImageClassificationCollator:
        """Batches with mixup or cutmix; and with the noise of masks, so that it is the same in any number of processes."""
        weights = (
            ViTKDConfig.generation_weight
            if self.distillation is None
            else self.distillation.get("generation_weight", 1)
        )
        tokens = 0
        if self.teacher is not None and weights:
            config = AutoConfig.from_pretrained(self.teacher)
            tokens = math.prod(side // config.patch_size for side in self.image_size)
        return ImageClassificationCollator(student.config.num_labels, self.mixup_alpha, self.cutmix_alpha, tokens)

    def training_loader(
        self, data: "ImageData", student: PreTrainedModel, num_processes: int, process_index: int
    ) -> DataLoader:
        """Batches of one process: those of an epoch hold the same images for any number of processes."""
        share = ShuffledShare(len(data.train), self.batch_size, self.seed, num_processes, process_index)
        return DataLoader(
            data.train,
            batch_sampler=share,
            collate_fn=self.collator(data, student),
            num_workers=self.num_workers,
        )

    def make_run(self, data: "ImageData", output_dir: Path) -> LastWeightsRun:
        measure = None if data.validation is None else partial(evaluate, self, data.validation, data.processor)
        plain = ViTImageProcessorPil.from_dict(data.processor.to_dict())  # students need no hvmodels
        return LastWeightsRun(self, plain, output_dir, measure)


@dataclass
class ImageData:
    """What is trained and evaluated on.

    Args:
        train: Augmented images.
        validation: Images to evaluate on, if any.
        processor: What makes inputs of them.
    """

    train: ImageClassificationDataset
    validation: LabelledImages | None
    processor: ViTKDImageProcessor


@torch.inference_mode()
def evaluate(
    recipe: DistillationRecipe,
    images: LabelledImages,
    processor: Any,
    model: nn.Module,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Accuracies of a model; each image is classified by one process."""
    dataset = ImageClassificationDataset(images, processor)
    batches = [
        list(range(start, min(start + recipe.evaluation_batch_size, len(dataset))))
        for start in range(0, len(dataset), recipe.evaluation_batch_size)
    ]
    own = batches[accelerator.process_index :: accelerator.num_processes]
    was_training = model.training
    model.eval()
    found = []
    for indices, batch in zip(
        own, DataLoader(dataset, batch_sampler=own, num_workers=recipe.num_workers), strict=True
    ):
        with accelerator.autocast():
            logits = model(batch["pixel_values"].to(model.device)).logits
        found.append((indices, logits.float().cpu().numpy()))
    model.train(was_training)
    scores = {index: row for indices, rows in gather_object(found) for index, row in zip(indices, rows, strict=True)}
    return classification_metrics([scores[index] for index in range(len(dataset))], images.labels)


__all__ = [
    "DistillationRecipe",
    "ImageData",
    "LastWeightsRun",
    "claim_output_dir",
    "evaluate",
    "parse_arguments",
    "seed_step",
    "write_json",
]
