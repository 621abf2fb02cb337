"""Denoising queries of ED-Pose: noisy copies of the labelled boxes that the decoder learns to put right.

Paper: "Explicit Box Detection Unifies End-to-End Multi-Person Pose Estimation" (Yang et al., ICLR 2023,
arXiv 2302.01593), after DN-DETR. Original code: github.com/IDEA-Research/ED-Pose.

Differences from the original, none of which changes a value:

* All random numbers are drawn on the CPU, in the order of the original on the CPU, so that one seed gives the same
  queries on every device; there they are only gathered and added, without waiting for the device.
* Blocking between denoising queries follows from one chunk number a query (`chunk_ids`), not from a stored mask.
* The number of queries is read from the configuration everywhere; the original's decoder knows only 100.
"""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class DenoisingNoise:
    """The random part of the denoising queries of a batch, on the CPU; what `draw_denoising_noise` returns.

    Args:
        person_index: (batch, num_denoising) int64, the person that each query copies; 0 in images without persons.
        label_replaced: (batch, num_denoising) bool, queries that get another label.
        new_labels: (batch, num_denoising) int64, the label they get.
        box_noise: (batch, num_denoising, 4) in [0, 1]: 0.5 leaves a box as it is, 0 and 1 move its centre by half of
            its size, and change its size by all of it, times the noise scale.
        spare_boxes: (batch, num_denoising, 4) in [0, 1], what the queries of images without persons copy.
    """

    person_index: torch.Tensor
    label_replaced: torch.Tensor
    new_labels: torch.Tensor
    box_noise: torch.Tensor
    spare_boxes: torch.Tensor


@dataclass
class DenoisingQueries:
    """Denoising queries of a batch and what they should become.

    Args:
        content: (batch, num_denoising, d_model), embeddings of the noisy labels.
        reference_logits: (batch, num_denoising, 4), noisy boxes (cx, cy, w, h) through the clamped inverse sigmoid.
        target_labels: (batch, num_denoising) int64; the number of classes ("no object") in images without persons.
        target_boxes: (batch, num_denoising, 4), boxes (cx, cy, w, h) without noise.
        chunk_ids: (batch, num_denoising) int64; denoising queries see each other only inside a chunk.
    """

    content: torch.Tensor
    reference_logits: torch.Tensor
    target_labels: torch.Tensor
    target_boxes: torch.Tensor
    chunk_ids: torch.Tensor

    @property
    def targets(self) -> dict[str, torch.Tensor]:
        """The `denoising_targets` of the losses: `class_labels` and `boxes`."""
        return {"class_labels": self.target_labels, "boxes": self.target_boxes}


def clamped_inverse_sigmoid(values: torch.Tensor, eps: float) -> torch.Tensor:
    """ln(max(x, eps) / max(1 - x, eps)) with x clamped to [0, 1]; not the logit of a clamped x, which differs."""
    values = values.clamp(0, 1)
    return torch.log(values.clamp(min=eps) / (1 - values).clamp(min=eps))


def denoising_chunk_ids(counts: list[int], num_denoising: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(batch, num_denoising) chunk of each query, for images with `counts` persons.

    The queries of an image with n persons copy persons 0 to n - 1 over and over, and each such round is one chunk. The
    queries that are left at the end are the last, shorter chunk. An image without persons has one chunk.
    """
    sizes = torch.tensor([count or max(num_denoising, 1) for count in counts], device=device)
    return torch.arange(num_denoising, device=device) // sizes[:, None]


def denoising_attention_mask(chunk_ids: torch.Tensor, num_matching_queries: int) -> torch.Tensor:
    """What denoising queries may attend to: True = allowed, the convention of `scaled_dot_product_attention`.

    They see their own chunk and every matching query; no matching query may see them.

    Args:
        chunk_ids: (batch, num_denoising), see `DenoisingQueries`.
        num_matching_queries: Number of the other queries, which stand behind the denoising queries.

    Returns:
        (batch, 1, num_denoising, num_denoising + num_matching_queries) bool.
    """
    same_chunk = chunk_ids[:, :, None] == chunk_ids[:, None, :]
    return nn.functional.pad(same_chunk, (0, num_matching_queries), value=True)[:, None]


def draw_denoising_noise(counts: list[int], config, generator: torch.Generator | None = None) -> DenoisingNoise:
    """Draw the noise for images with `counts` persons.

    The numbers come in the order of the original: a CPU generator with the seed that the original's global generator
    had before its forward pass gives the original's queries.

    Args:
        counts: Number of persons of each image.
        config: `num_denoising`, `num_keypoints`, `label_noise_ratio`, `box_noise_scale` and `denoising_label_size` are
            read.
        generator: CPU generator; None for PyTorch's global one, which `set_seed` seeds and `Trainer` saves and
            restores.
    """
    batch_size, num_denoising = len(counts), config.num_denoising
    person_index = torch.zeros(batch_size, num_denoising, dtype=torch.int64)
    spare_boxes = torch.zeros(batch_size, num_denoising, 4)
    for image, count in enumerate(counts):
        if count > 0:
            rest = num_denoising % count
            person_index[image] = torch.arange(num_denoising) % count
            person_index[image, num_denoising - rest :] = torch.randint(count, (rest,), generator=generator)
        else:
            spare_boxes[image] = torch.rand(num_denoising, 4, generator=generator)
            # The original draws spare keypoints too, and never reads them.
            torch.rand(num_denoising, 3 * config.num_keypoints, generator=generator)

    label_replaced = torch.zeros(batch_size, num_denoising, dtype=torch.bool)
    new_labels = torch.zeros(batch_size, num_denoising, dtype=torch.int64)
    if config.label_noise_ratio > 0:
        label_replaced = torch.rand(batch_size, num_denoising, generator=generator) < config.label_noise_ratio
        new_labels[label_replaced] = torch.randint(
            config.denoising_label_size, (int(label_replaced.sum()),), generator=generator
        )
    box_noise = torch.full((batch_size, num_denoising, 4), 0.5)
    if config.box_noise_scale > 0:
        box_noise = torch.rand(batch_size, num_denoising, 4, generator=generator)
    return DenoisingNoise(person_index, label_replaced, new_labels, box_noise, spare_boxes)


@torch.compiler.disable  # sizes depend on the labels and on the draws
def make_denoising_queries(
    labels: list[dict[str, torch.Tensor]],
    config,
    label_embedding: nn.Module,
    generator: torch.Generator | None = None,
    noise: DenoisingNoise | None = None,
) -> DenoisingQueries:
    """Make `config.num_denoising` queries an image from its labelled persons.

    Args:
        labels: One dict an image with `class_labels` (n,) and `boxes` (n, 4), cx, cy, w, h relative to the image;
            n may be 0.
        config: The model's configuration.
        label_embedding: `nn.Embedding` of `denoising_label_size + 1` labels; decides the device of the queries.
        generator: CPU generator for the noise, see `draw_denoising_noise`.
        noise: Noise to use instead of drawing it.

    Raises:
        ValueError: If there are no labels, or boxes and class labels of an image do not fit each other.
    """
    if not labels:
        raise ValueError("`labels` must hold one dict an image, got none; pass labels or set `num_denoising` to 0.")
    for image, label in enumerate(labels):
        classes, boxes = label["class_labels"], label["boxes"]
        if classes.dim() != 1 or tuple(boxes.shape) != (len(classes), 4):
            raise ValueError(
                f"`labels[{image}]` must hold `class_labels` (n,) and `boxes` (n, 4), got shapes {tuple(classes.shape)} "
                f"and {tuple(boxes.shape)}; an image without persons has shapes (0,) and (0, 4)."
            )
    counts = [len(label["class_labels"]) for label in labels]
    noise = draw_denoising_noise(counts, config, generator) if noise is None else noise
    device = label_embedding.weight.device

    # One more row behind all persons of the batch stands for "no person".
    first = torch.tensor([0, *counts[:-1]]).cumsum(0)[:, None]
    empty = torch.tensor([count == 0 for count in counts])[:, None]
    row = torch.where(empty, sum(counts), first + noise.person_index).to(device)
    all_boxes = torch.cat([label["boxes"].to(device, torch.float32) for label in labels])
    all_labels = torch.cat([label["class_labels"].to(device, torch.int64) for label in labels])
    target_boxes = nn.functional.pad(all_boxes, (0, 0, 0, 1))[row]
    target_labels = nn.functional.pad(all_labels, (0, 1), value=config.num_labels)[row]
    target_boxes = torch.where(empty[..., None].to(device), noise.spare_boxes.to(device), target_boxes)

    noisy_labels = torch.where(noise.label_replaced.to(device), noise.new_labels.to(device), target_labels)
    # Labels out of range must not break the look-up: the losses report them.
    noisy_labels = noisy_labels.clamp(0, config.denoising_label_size)
    sizes = target_boxes[..., 2:]
    reach = torch.cat([sizes / 2, sizes], dim=-1)
    noisy_boxes = target_boxes + (noise.box_noise.to(device) * 2 - 1) * reach * config.box_noise_scale
    return DenoisingQueries(
        content=label_embedding(noisy_labels),
        reference_logits=clamped_inverse_sigmoid(noisy_boxes, config.inverse_sigmoid_eps),
        target_labels=target_labels,
        target_boxes=target_boxes,
        chunk_ids=denoising_chunk_ids(counts, config.num_denoising, device),
    )


__all__ = [
    "DenoisingNoise",
    "DenoisingQueries",
    "clamped_inverse_sigmoid",
    "denoising_attention_mask",
    "denoising_chunk_ids",
    "draw_denoising_noise",
    "make_denoising_queries",
]
