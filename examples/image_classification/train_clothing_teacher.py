"""Train the teacher of the clothing experiments: a ViT from scratch on 3,068 photographs, on one thread of a CPU.

So few pictures need more augmentation than the recipe of ImageNet has: crops of the photographs' own upright shape, turns,
changes of light and colour, swapped channels, erasing, and mixup or cutmix in every other batch.
"""

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import torch
from distillation_recipe import write_json
from PIL import Image, ImageEnhance
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

from hvmodels.datasets.image_classification import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LabelledImages,
    cutmix,
    cutmix_box,
    mixup,
    read_labelled_images,
)
from hvmodels.distillation import parameter_groups
from hvmodels.metrics.classification import classification_metrics
from hvmodels.models.vitkd import ViTKDImageProcessor


SIZE = 64
MEAN, STD = (255 * np.array(values, dtype=np.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))
LEARNING_RATE, MIN_LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM, WARMUP_EPOCHS = 1e-3, 1e-5, 0.05, 5.0, 5
AVERAGE_DECAY = 0.998


def augment(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """(SIZE, SIZE, 3) float32 from 0 to 255, a changed copy of a photograph."""
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(0.3, 1)
        ratio = math.exp(rng.uniform(math.log(0.6), math.log(1.1)))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if crop_width <= width and crop_height <= height:
            left, top = rng.integers(0, width - crop_width + 1), rng.integers(0, height - crop_height + 1)
            break
    else:
        left, top, crop_width, crop_height = 0, 0, width, height
    box = (left, top, left + crop_width, top + crop_height)
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        image = image.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, fillcolor=(124, 116, 104))
    if rng.random() < 0.7:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.6, 1.4))
        image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.6, 1.4))
        image = ImageEnhance.Color(image).enhance(rng.uniform(0.2, 1.8))
    pixels = np.array(image, dtype=np.float32)
    if rng.random() < 0.25:
        pixels = pixels[:, :, rng.permutation(3)]
    if rng.random() < 0.25:
        area, ratio = SIZE * SIZE * rng.uniform(0.02, 0.33), math.exp(rng.uniform(-1, 1))
        height, width = min(SIZE, int(math.sqrt(area * ratio))), min(SIZE, int(math.sqrt(area / ratio)))
        top, left = rng.integers(0, SIZE - height + 1), rng.integers(0, SIZE - width + 1)
        pixels[top : top + height, left : left + width] = rng.normal(size=(height, width, 3)) * STD + MEAN
    return pixels


def normalise(pixels: np.ndarray) -> torch.Tensor:
    """(batch, 3, SIZE, SIZE) of pixels (batch, SIZE, SIZE, 3)."""
    return torch.from_numpy(((pixels - MEAN) / STD).transpose(0, 3, 1, 2).copy())


def mix(
    pixel_values: torch.Tensor, scores: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup or cutmix, by equal chance."""
    partners = torch.from_numpy(rng.permutation(len(scores)))
    weight = rng.beta(0.8, 0.8)
    if rng.random() < 0.5:
        return mixup(pixel_values, scores, weight, partners)
    return cutmix(pixel_values, scores, cutmix_box((SIZE, SIZE), rng.beta(1, 1), rng), partners)


@torch.inference_mode()
def evaluate(model: ViTForImageClassification, images: LabelledImages) -> dict[str, float]:
    pixels = [
        np.asarray(images.image(index).resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32)
        for index in range(len(images))
    ]
    logits = [model(normalise(np.stack(pixels[start : start + 128]))).logits for start in range(0, len(pixels), 128)]
    return classification_metrics(torch.cat(logits).numpy(), images.labels)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__)
    for split in ("train", "validation"):
        parser.add_argument(f"--{split}_data", required=True, help=f"The {split} images, as for run_distillation.py.")
    parser.add_argument("--output_dir", default="outputs/clothing_teacher")
    parser.add_argument("--epochs", type=int, default=62)
    parser.add_argument("--batch_size", type=int, default=64)
    options = parser.parse_args(arguments)
    output_dir = Path(options.output_dir)
    train, validation = read_labelled_images(options.train_data), read_labelled_images(options.validation_data)
    photographs = [train.image(index) for index in range(len(train))]
    labels = F.one_hot(torch.from_numpy(train.labels), len(train.class_names)).float()

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = ViTConfig(
        image_size=SIZE, patch_size=8, hidden_size=128, num_hidden_layers=6, num_attention_heads=4,
        intermediate_size=512, layer_norm_eps=1e-6, id2label=dict(enumerate(train.class_names)),
        label2id={name: index for index, name in enumerate(train.class_names)},
    )  # fmt: skip
    model = ViTForImageClassification(config).train()
    average = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(parameter_groups(model, WEIGHT_DECAY), LEARNING_RATE, fused=True)
    steps = len(train) // options.batch_size
    warmup, total, step = WARMUP_EPOCHS * steps, options.epochs * steps, 0
    history = []
    for epoch in range(options.epochs):
        order, loss_sum = rng.permutation(len(train)), 0.0
        for indices in order[: steps * options.batch_size].reshape(steps, options.batch_size):
            pixel_values = normalise(np.stack([augment(photographs[index], rng) for index in indices]))
            scores = labels[indices]
            if rng.random() < 0.5:
                pixel_values, scores = mix(pixel_values, scores, rng)
            cosine = (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
            rate = LEARNING_RATE * (step + 1) / warmup
            if step >= warmup:
                rate = MIN_LEARNING_RATE + (LEARNING_RATE - MIN_LEARNING_RATE) * cosine
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(pixel_values.float()).logits
            loss = F.cross_entropy(logits.float(), scores.float(), label_smoothing=0.1)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad()
            loss_sum, step = loss_sum + loss.item(), step + 1
            decay = min(AVERAGE_DECAY, step / (step + 100))
            with torch.no_grad():
                for averaged, weight in zip(average.parameters(), model.parameters(), strict=True):
                    averaged.lerp_(weight, 1 - decay)
        if (epoch + 1) % 5 and epoch + 1 < options.epochs:
            continue
        history.append({"epoch": epoch + 1, "train_loss": loss_sum / steps, **evaluate(average, validation)})
        average.save_pretrained(output_dir)
        ViTKDImageProcessor(size={"height": SIZE, "width": SIZE}, do_center_crop=False).save_as_vit(output_dir)
        write_json({"history": history}, output_dir / "metrics.json")
        print(", ".join(f"{name} {value:.4g}" for name, value in history[-1].items()), flush=True)


if __name__ == "__main__":
    main()
