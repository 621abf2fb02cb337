"""A training run of AIB: its settings, the data and model they describe, evaluation and results."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from PIL import Image
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset


sys.path.append(str(Path(__file__).parents[1] / "pose_estimation"))  # what training runs share

from optimization import ExponentialMovingAverage
from pose_recipe import LastWeightsRun, ShuffledShare, option, read_json_option

from hvmodels.conversion.aib import load_imagenet_weights
from hvmodels.datasets.classification_archives import read_cifar, read_cub_list
from hvmodels.datasets.image_classification import LabelledImages, read_labelled_images
from hvmodels.metrics.classification import classification_metrics
from hvmodels.models.aib import (
    AIBConfig,
    AIBForImageClassification,
    AIBImageClassifierOutput,
    AIBImageProcessor,
    build_networks,
    parameter_groups,
)
from hvmodels.models.aib.modeling_aib import AIBDecoder, AIBPreTrainedModel


EVALUATION_SEED = 20210819
ONE_CYCLE_RISE = 0.2


@dataclass
class AIBRecipe:
    """Settings of one run; each is a key of a recipe file and a command-line option, which wins."""

    format: Literal["images", "cifar", "cub"] = option(
        "images", "Of the data: folders of classes or Parquet files; CIFAR's batches; lists of CUB with boxes."
    )
    train_data: str | None = option(
        None, "Folder with a folder for each class, or Parquet file; folder of CIFAR's batches; list of CUB."
    )
    validation_data: str | None = option(
        None, "The same to evaluate on, of CIFAR the same folder, whose test batch is taken; none trains without."
    )
    images: str | None = option(None, "Folder of CUB's images.")
    model: str | None = option(None, "Pretrained model to start from: a folder or a Hub repository.")
    backbone: str | None = option(None, "Weights of an ImageNet classifier of torchvision for the networks of CUB.")
    config: str | None = option(None, "AIBConfig fields of a model from scratch: JSON text or file.")
    attention: bool = option(True, "False trains the same network without attention and sampling, for comparison.")
    resize: list[int] = field(
        default_factory=lambda: [32, 32], metadata={"help": "Height and width that images are resized to."}
    )
    crop_size: list[int] | None = field(
        default=None,
        metadata={"help": "Height and width of the crop behind that, at random in training; none for all."},
    )
    padding: int = option(4, "Pixels that training images are padded by, reflected, before a random crop.")
    image_mean: list[float] = field(
        default_factory=lambda: [0.5071, 0.4867, 0.4408], metadata={"help": "Of the normalisation."}
    )
    image_std: list[float] = field(
        default_factory=lambda: [0.2675, 0.2565, 0.2761], metadata={"help": "Of the normalisation."}
    )
    optimizer: Literal["sgd", "adam"] = option("sgd", "SGD with momentum 0.9, or Adam with betas 0.5 and 0.999.")
    learning_rate: float = option(0.1, "The highest.")
    weight_decay: float = option(5e-4, "Of all parameters.")
    anchor_ratio: float = option(1e-4, "Learning rate of trained anchors, times that of the rest.")
    schedule: Literal["steps", "one_cycle"] = option(
        "steps", "Drops after whole epochs; or a rise over a fifth of the steps and a fall along a cosine."
    )
    first_factors: list[float] = field(
        default_factory=list, metadata={"help": "Steps: factors of the learning rate in the first epochs."}
    )
    drop_epochs: list[int] = field(default_factory=list, metadata={"help": "Steps: epochs before each drop."})
    drop_every: int = option(0, "Steps: in place of `drop_epochs`, a drop after each so many epochs.")
    drop_factor: float = option(0.5, "Steps: factor of the learning rate at each drop.")
    average_decay: float = option(0.0, "Decay of the moving average of weights and statistics, 0 for none.")
    norms: Literal["batch", "frozen", "synchronized"] = option(
        "batch",
        "Statistics of batch norms in training: of the images in a process, stored ones, or of all processes (GPUs only).",
    )
    batch_size: int = option(128, "Images a step, over all processes together.")
    epochs: int = option(200, "Passes over the training images.")
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "Precision of the arithmetic in training.")
    evaluate_every: int = option(1, "Epochs from one evaluation and saved state to the next.")
    evaluation_samples: int | None = option(None, "Maps and codes in evaluation; as the model's configuration says.")
    evaluation_batch_size: int = option(100, "Images at a time in evaluation, in each process.")
    keep_images: bool = option(False, "Keep decoded images in memory.")
    num_workers: int = option(0, "Processes that load images, in each process.")
    log_every: int = option(50, "Steps from one printed training loss to the next.")
    seed: int = option(0, "Of weights, order, augmentation and noise.")

    # What the training loop knows and this method has not.
    max_tensor_norm: ClassVar[None] = None
    first_epochs: ClassVar[int] = 0

    def __post_init__(self):
        if isinstance(self.config, str):
            self.config = read_json_option(self.config, "config")
        for name in ("batch_size", "epochs", "evaluate_every", "evaluation_batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("learning_rate", "anchor_ratio", "drop_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"`average_decay` must be at least 0 and below 1, got {self.average_decay}.")
        for name in ("resize", "crop_size"):
            if getattr(self, name) is not None and len(getattr(self, name)) != 2:
                raise ValueError(f"`{name}` must be height and width, got {getattr(self, name)}.")
        if self.drop_every < 0 or (self.drop_every and self.drop_epochs):
            raise ValueError("`drop_every` must be 0 or more, and 0 beside `drop_epochs`.")
        if self.model is not None and (self.config is not None or self.backbone is not None):
            raise ValueError("`model` brings its configuration and weights; leave out `config` and `backbone`.")
        if not self.attention and (self.model is not None or self.backbone is not None):
            raise ValueError("Without `attention` training starts from scratch; leave out `model` and `backbone`.")

    def read_images(self, path: str, split: Literal["train", "test"]) -> LabelledImages:
        """Images and labels of one split."""
        if self.format == "cifar":
            return read_cifar(path, split)
        if self.format == "cub":
            if self.images is None:
                raise ValueError("`images` must name the folder of CUB's images.")
            return read_cub_list(path, self.images)
        return read_labelled_images(path)

    def load_data(self) -> "AIBData":
        """Read the data.

        Raises:
            ValueError: If files are missing or do not fit each other.
        """
        if self.train_data is None:
            raise ValueError("`train_data` must name the data to train on.")
        processor, images = self.image_processor(), self.read_images(self.train_data, "train")
        if len(images) < self.batch_size:
            raise ValueError(
                f"`batch_size` must be at most the number of training images, {len(images)}, got {self.batch_size}."
            )
        train, validation = ImageDataset(images, self.keep_images, self.seed), None
        if self.validation_data is not None:
            of_test = self.read_images(self.validation_data, "test")
            if tuple(of_test.class_names) != tuple(images.class_names):
                raise ValueError("`validation_data` must have the classes of `train_data`.")
            validation = ImageDataset(of_test, self.keep_images)
        return AIBData(images.class_names, train, validation, processor)

    def image_processor(self) -> AIBImageProcessor:
        """What prepares images, and is saved with the model."""
        crop_size = self.resize if self.crop_size is None else self.crop_size
        return AIBImageProcessor(
            size=dict(zip(("height", "width"), self.resize, strict=True)),
            do_center_crop=self.crop_size is not None,
            crop_size=dict(zip(("height", "width"), crop_size, strict=True)),
            crop_padding=self.padding,
            image_mean=self.image_mean,
            image_std=self.image_std,
        )

    def build_model(self, data: "AIBData") -> AIBForImageClassification:
        """The model to train, for the classes of the data."""
        torch.manual_seed(self.seed)
        id2label = dict(enumerate(data.class_names))
        labels = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
        if self.model is not None:
            config = AIBConfig.from_pretrained(self.model, **labels)
            model = AIBForImageClassification.from_pretrained(
                self.model, config=config, ignore_mismatched_sizes=True, dtype=torch.float32
            )
        else:
            values = {"image_size": data.processor.output_size[0], **(self.config or {})}
            if unknown := set(values) - {entry.name for entry in fields(AIBConfig)}:
                raise ValueError(f"`config` has the unknown fields {sorted(unknown)}.")
            model_class = AIBForImageClassification if self.attention else PlainForImageClassification
            model = model_class(AIBConfig(**values, **labels))
            if self.backbone is not None:
                load_imagenet_weights(model, self.backbone)
        if self.norms == "synchronized":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        data.noise_shapes = noise_shapes(model, data.processor.output_size)
        return model

    def train_mode(self, model: nn.Module):
        """Training mode, but for frozen norms."""
        model.train()
        if self.norms == "frozen":
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD or Adam; anchors that are trained have a learning rate of their own."""
        groups = parameter_groups(model, self.learning_rate, self.anchor_ratio)
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=0.9, weight_decay=self.weight_decay)
        return torch.optim.Adam(groups, betas=(0.5, 0.999), weight_decay=self.weight_decay)

    def make_average(self) -> ExponentialMovingAverage | None:
        """Moving average of weights and statistics, if there is one."""
        return ExponentialMovingAverage(self.average_decay, buffers=True) if self.average_decay else None

    def learning_rate_factor(self, step: int, steps_per_epoch: int) -> float:
        """Factor of the learning rate at a step."""
        if self.schedule == "one_cycle":
            total = self.epochs * steps_per_epoch
            rise = ONE_CYCLE_RISE * total
            if step < rise:
                return (step + 1) / (rise + 1)
            return (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2
        epoch = step // steps_per_epoch
        if epoch < len(self.first_factors):
            return self.first_factors[epoch]
        drops = epoch // self.drop_every if self.drop_every else sum(epoch >= drop for drop in self.drop_epochs)
        return self.drop_factor**drops

    def make_scheduler(self, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LambdaLR:
        """Factor of the learning rates at each step."""
        return LambdaLR(optimizer, partial(self.learning_rate_factor, steps_per_epoch=steps_per_epoch))

    def steps_per_epoch(self, data: "AIBData") -> int:
        """Steps; the incomplete last batch is left out."""
        return len(data.train) // self.batch_size

    def training_loader(self, data: "AIBData", num_processes: int, process_index: int) -> DataLoader:
        """Batches of one process: those of an epoch hold the same images and noise for any number of processes."""
        share = ShuffledShare(len(data.train), self.batch_size, self.seed, num_processes, process_index)
        collator = AIBCollator(data.processor, data.noise_shapes)
        return DataLoader(data.train, batch_sampler=share, collate_fn=collator, num_workers=self.num_workers)

    def make_run(self, data: "AIBData", output_dir: Path) -> LastWeightsRun:
        """Results in their folder."""
        measure = None if data.validation is None else partial(evaluate, self, data.validation, data.processor)
        return LastWeightsRun(self, data.processor, output_dir, measure)


@dataclass
class AIBData:
    """What is trained and evaluated on.

    Args:
        class_names: Names of the labels.
        train: Training images.
        validation: Images to evaluate on, if any.
        processor: Prepares images.
        noise_shapes: See `noise_shapes`; known when there is a model.
    """

    class_names: Sequence[str]
    train: "ImageDataset"
    validation: "ImageDataset | None"
    processor: AIBImageProcessor
    noise_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


class PlainForImageClassification(AIBPreTrainedModel):
    """The network of AIB without attention map and without sampling: same layers, same initial distribution."""

    def __init__(self, config: AIBConfig):
        super().__init__(config)
        networks = build_networks(config)
        self.backbone, self.encoder = networks.backbone, networks.encoder
        self.projection = nn.Linear(networks.encoder_channels, config.latent_dim)
        self.decoder = AIBDecoder(config.latent_dim, config.num_labels, config.backbone_type != "wide_resnet_cifar")
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> AIBImageClassifierOutput:
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        codes = self.projection(self.encoder(self.backbone(pixel_values)))
        logits = self.decoder(codes[:, None, None])[:, 0]
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels) / math.log(2)
        return AIBImageClassifierOutput(loss=loss, logits=logits)


class ImageDataset(Dataset):
    """Images, labels, and a seed for what is drawn for an image, by seed, epoch and index alone.

    Args:
        images: The images.
        keep_images: Whether decoded images stay in memory.
        seed: Seeds the draws.
    """

    def __init__(self, images: LabelledImages, keep_images: bool = False, seed: int = 0):
        self.images, self.seed, self.epoch = images, seed, 0
        self.decoded: dict[int, Image.Image] | None = {} if keep_images else None

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images.image(index) if self.decoded is None or index not in self.decoded else self.decoded[index]
        if self.decoded is not None:
            self.decoded[index] = image
        return {"image": image, "label": int(self.images.labels[index]), "seed": (self.seed, self.epoch, index)}


class AIBCollator:
    """Batches of random crops, half of them mirrored, with the noise of their step.

    What is drawn for an image depends on its seed alone, not on its batch or the number of processes.

    Args:
        processor: Prepares images.
        shapes: Shape of each kind of noise for one image; none for models without.
    """

    def __init__(self, processor: AIBImageProcessor, shapes: dict[str, tuple[int, ...]]):
        self.processor, self.shapes = processor, shapes

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        size, padding = self.processor.size, self.processor.crop_padding
        sides = list(zip((size.height, size.width), self.processor.output_size, strict=True))
        offsets, flips, noise = [], [], {name: [] for name in self.shapes}
        for item in items:
            random = np.random.default_rng(item["seed"])
            offsets.append([int(random.integers(side + 2 * padding - cut + 1)) for side, cut in sides])
            flips.append(bool(random.random() < 0.5))
            for name, shape in self.shapes.items():
                noise[name].append(random.standard_normal(shape, np.float32))
        images = [item["image"] for item in items]
        batch = dict(self.processor(images, crop_offsets=offsets, flips=flips, return_tensors="pt"))
        batch["labels"] = torch.tensor([item["label"] for item in items])
        if noise:  # samples come before images; a code's row is the sample of the map times images, plus the image
            of_maps, of_codes = (torch.from_numpy(np.stack(values)) for values in noise.values())
            batch |= {
                "attention_noise": of_maps.transpose(0, 1),
                "latent_noise": of_codes.permute(1, 2, 0, 3).flatten(1, 2),
            }
        return batch


def noise_shapes(model: nn.Module, input_size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shape of the noise that a model takes in training for one image, which has this height and width."""
    if not isinstance(model, AIBForImageClassification):
        return {}
    config, backbone = model.config, model.aib.backbone.eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, config.num_channels, *input_size))
    backbone.train()
    samples, positions = config.num_samples_train, features.shape[2] * features.shape[3]
    return {"attention_noise": (samples, positions), "latent_noise": (samples, samples, config.latent_dim)}


@torch.inference_mode()
def evaluate(
    recipe: AIBRecipe,
    dataset: ImageDataset,
    processor: AIBImageProcessor,
    model: nn.Module,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Accuracies over all images; each is classified by one process, once.

    Processes take whole batches, which are the same for any number of processes, and each batch has noise of its own
    from a fixed seed: one model always gives the same figures.
    """
    size = recipe.evaluation_batch_size
    starts = range(0, len(dataset), size)[accelerator.process_index :: accelerator.num_processes]
    draws = isinstance(model, AIBForImageClassification) and (
        model.config.stochastic_eval or recipe.evaluation_samples
    )
    model.eval()
    found = []
    for start in starts:
        images = [dataset[index]["image"] for index in range(start, min(start + size, len(dataset)))]
        inputs = send_to_device(dict(processor(images, return_tensors="pt")), model.device)
        if draws:
            generator = torch.Generator(device=model.device).manual_seed(EVALUATION_SEED + start)
            inputs |= {"generator": generator, "num_samples": recipe.evaluation_samples}
        with accelerator.autocast():
            found.append((start, model(**inputs).logits.float().cpu().numpy()))
    recipe.train_mode(model)
    logits = np.concatenate([part for _, part in sorted(gather_object(found), key=lambda pair: pair[0])])
    return classification_metrics(logits, dataset.images.labels)
