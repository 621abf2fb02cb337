"""Matching and losses of ED-Pose.

Paper: "Explicit Box Detection Unifies End-to-End Multi-Person Pose Estimation" (Yang et al., ICLR 2023,
arXiv 2302.01593). Original code: github.com/IDEA-Research/ED-Pose.

Every decoder layer and the encoder's proposals are matched to the labelled persons on their own. Layers without
keypoints are matched by class and box. Layers with keypoints are matched by class and keypoints alone, and that matching
also serves their box loss, as in the original.

Differences from the original, none of which changes a value by more than rounding:

* Costs are computed between a person and the queries of its own image, not of the whole batch, and travel to the CPU
  in one transfer for all layers, together with the checks of the labels.
* Generalised IoU is computed for the matched pairs, not as a square matrix whose diagonal is then read.
* Half precision is raised to float32 first.
* Any number of keypoints, with the sigmas of the configuration.
* Loss terms of denoising queries are absent when there are none; the original reports zeros.
* The mean costs that the original logs beside the losses are `mean_matching_costs`, since they need all pairs of the
  batch.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn


try:
    from scipy.optimize import linear_sum_assignment as scipy_linear_sum_assignment
except Exception:  # a broken installation must not stop training either
    scipy_linear_sum_assignment = None


# Added to unions and hulls in units of the image, and to the number of visible keypoints.
EPSILON = 1e-6
# A person without visible keypoints has this similarity.
MIN_SIMILARITY = 1e-6

LABEL_SHAPES = {
    "class_labels": "(n,)",
    "boxes": "(n, 4)",
    "keypoints": "(n, {keypoints}, 2)",
    "keypoints_visible": "(n, {keypoints})",
    "area": "(n,)",
}
LABEL_CHECKS = (
    "a box that is empty or not finite: `boxes` must be (cx, cy, w, h) with w > 0 and h > 0; leave such persons out",
    "an `area` that is not positive: it must be the person's area divided by the image's area",
    "a label out of range: `class_labels` must be at least 0 and below the number of classes",
    "a visibility other than 0 and 1: `keypoints_visible` must be 1 for labelled keypoints (COCO's 1 and 2), 0 for others",
    "a keypoint that is not finite: write 0 for unlabelled `keypoints` and mark them in `keypoints_visible`",
)

# Attributes of the configuration that weigh a cost and a loss.
COSTS = {
    "class": "class_cost",
    "bbox": "bbox_cost",
    "giou": "giou_cost",
    "keypoints": "keypoint_cost",
    "oks": "oks_cost",
}
COEFFICIENTS = {
    "loss_ce": "class_loss_coefficient",
    "loss_bbox": "bbox_loss_coefficient",
    "loss_giou": "giou_loss_coefficient",
    "loss_keypoints": "keypoint_loss_coefficient",
    "loss_oks": "oks_loss_coefficient",
    "dn_loss_ce": "dn_class_loss_coefficient",
    "dn_loss_bbox": "dn_bbox_loss_coefficient",
    "dn_loss_giou": "dn_giou_loss_coefficient",
}

Indices = list[tuple[torch.Tensor, torch.Tensor]]


def linear_sum_assignment(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the assignment of least total cost, exact: successive shortest augmenting paths.

    The stand-in for `scipy.optimize.linear_sum_assignment`, with the same result up to ties. Time grows with
    rows^2 * columns for the smaller side as rows.

    Args:
        cost: (rows, columns) finite numbers.

    Returns:
        Two int64 arrays of length min(rows, columns); the rows ascend.
    """
    cost = np.asarray(cost, dtype=np.float64)
    if cost.shape[0] > cost.shape[1]:
        columns, rows = linear_sum_assignment(cost.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    num_rows, num_columns = cost.shape
    row_potential, column_potential = np.zeros(num_rows), np.zeros(num_columns)
    row_of_column, column_of_row = np.full(num_columns, -1), np.full(num_rows, -1)
    for start in range(num_rows):
        # Dijkstra over reduced costs, from an unassigned row to the nearest unassigned column.
        distance, previous_row = np.full(num_columns, np.inf), np.full(num_columns, -1)
        done = np.zeros(num_columns, dtype=bool)
        visited = []  # rows, with the distance at which and the column through which they were reached
        row, reached, column = start, 0.0, -1
        while True:
            visited.append((row, reached, column))
            step = reached + cost[row] - row_potential[row] - column_potential
            closer = ~done & (step < distance)
            distance[closer], previous_row[closer] = step[closer], row
            column = int(np.argmin(np.where(done, np.inf, distance)))
            reached, done[column] = distance[column], True
            if row_of_column[column] < 0:
                break
            row = row_of_column[column]
        for visited_row, at, through in visited:
            row_potential[visited_row] += reached - at
            if through >= 0:
                column_potential[through] -= reached - at
        # Swap the assignments along the path.
        row = -1
        while row != start:
            row = previous_row[column]
            row_of_column[column] = row
            column_of_row[row], column = column, column_of_row[row]
    return np.arange(num_rows), column_of_row


@dataclass
class Targets:
    """All persons of a batch in one row, on the device of the predictions.

    Args:
        class_labels: (persons,) int64.
        boxes: (persons, 4), cx, cy, w, h relative to the person's image, as all that follows.
        keypoints: (persons, keypoints, 2).
        visible: (persons, keypoints), 1 for labelled keypoints, else 0.
        area: (persons,).
        sigmas: (keypoints,) fall-off of each keypoint in the similarity.
        image_index: (persons,) int64, the image of each person.
        counts: Number of persons of each image.
    """

    class_labels: torch.Tensor
    boxes: torch.Tensor
    keypoints: torch.Tensor
    visible: torch.Tensor
    area: torch.Tensor
    sigmas: torch.Tensor
    image_index: torch.Tensor
    counts: list[int]


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 if it is in half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def gather_targets(labels: list[dict[str, torch.Tensor]], config, like: torch.Tensor) -> Targets:
    """Join the labels of all images; their shapes are checked here, their values by `assign`.

    Args:
        labels: One dict an image: `class_labels` (n,), `boxes` (n, 4), `keypoints` (n, keypoints, 2),
            `keypoints_visible` (n, keypoints) and `area` (n,), relative to the image; n may be 0.
        config: `num_keypoints` and `keypoint_sigmas` are read.
        like: (batch, ...) predictions, whose device, batch size and dtype (float32 if smaller) the targets take.

    Raises:
        ValueError: If labels are missing, have the wrong shape or number, or the sigmas are unknown.
    """
    num_keypoints, sigmas = config.num_keypoints, config.keypoint_sigmas
    if sigmas is None or len(sigmas) != num_keypoints:
        raise ValueError(
            f"The losses need `keypoint_sigmas`, one positive number for each of the {num_keypoints} keypoints, got "
            f"{'none' if sigmas is None else len(sigmas)}; set them in the configuration (0.05 each is a fair start "
            "for keypoints without known sigmas)."
        )
    if len(labels) != len(like):
        raise ValueError(f"`labels` must hold one dict for each of the {len(like)} images, got {len(labels)}.")
    for image, label in enumerate(labels):
        missing = [name for name in LABEL_SHAPES if name not in label]
        if missing:
            raise ValueError(f"`labels[{image}]` lacks {missing}; it holds {sorted(label)}.")
        count = len(label["class_labels"])
        shapes = [(count,), (count, 4), (count, num_keypoints, 2), (count, num_keypoints), (count,)]
        for (name, wanted), shape in zip(LABEL_SHAPES.items(), shapes, strict=True):
            if tuple(label[name].shape) != shape:
                raise ValueError(
                    f"`labels[{image}]` must hold `{name}` of shape {wanted.format(keypoints=num_keypoints)} with "
                    f"n = {count} persons, the length of `class_labels`; got {tuple(label[name].shape)}."
                )
    counts = [len(label["class_labels"]) for label in labels]
    device, dtype = like.device, at_least_float32(like).dtype

    def join(name: str, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.cat([label[name].to(device, dtype) for label in labels])

    return Targets(
        class_labels=join("class_labels", torch.int64),
        boxes=join("boxes"),
        keypoints=join("keypoints"),
        visible=join("keypoints_visible"),
        area=join("area"),
        sigmas=torch.tensor(sigmas, dtype=dtype, device=device),
        image_index=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device),
        counts=counts,
    )


def rectangle_area(sizes: torch.Tensor) -> torch.Tensor:
    """(...) product of width and height (..., 2)."""
    return sizes[..., 0] * sizes[..., 1]


def generalized_iou(boxes: torch.Tensor, other_boxes: torch.Tensor) -> torch.Tensor:
    """(...) generalised IoU of boxes (..., 4) of the form cx, cy, w, h, element by element, with broadcasting."""
    low, high = boxes[..., :2] - 0.5 * boxes[..., 2:], boxes[..., :2] + 0.5 * boxes[..., 2:]
    other_low = other_boxes[..., :2] - 0.5 * other_boxes[..., 2:]
    other_high = other_boxes[..., :2] + 0.5 * other_boxes[..., 2:]
    intersection = rectangle_area((torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0))
    hull = rectangle_area(torch.maximum(high, other_high) - torch.minimum(low, other_low))
    union = rectangle_area(high - low) + rectangle_area(other_high - other_low) - intersection
    return intersection / (union + EPSILON) - (hull - union) / (hull + EPSILON)


def keypoint_similarity(
    keypoints: torch.Tensor,
    target_keypoints: torch.Tensor,
    visible: torch.Tensor,
    area: torch.Tensor,
    sigmas: torch.Tensor,
) -> torch.Tensor:
    """(...) object keypoint similarity of poses (..., keypoints, 2), element by element, with broadcasting.

    Distances are in fractions of the image's width and height, as in the original, so they depend on its shape.
    """
    squared_distance = (keypoints - target_keypoints).square().sum(dim=-1)
    similarity = torch.exp(-squared_distance / (2 * area[..., None] * (2 * sigmas).square())) * visible
    return (similarity.sum(dim=-1) / (visible.sum(dim=-1) + EPSILON)).clamp(min=MIN_SIMILARITY)


def focal_loss(logits: torch.Tensor, class_labels: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    """Sum of the sigmoid focal loss over all queries and classes.

    Args:
        logits: (..., classes).
        class_labels: (...) int64; the number of classes stands for "no object".
        alpha: Weight of the right class, 1 - alpha of the others.
        gamma: Exponent that turns down what is right already.
    """
    one_hot = (class_labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)).to(logits.dtype)
    miss = (one_hot - logits.sigmoid()).abs()
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    return ((one_hot * alpha + (1 - one_hot) * (1 - alpha)) * miss**gamma * entropy).sum()


def matching_costs(
    logits: torch.Tensor, boxes: torch.Tensor, keypoints: torch.Tensor | None, targets: Targets, config
) -> dict[str, torch.Tensor]:
    """Unweighted costs (persons, queries) of giving a query to a person: `class`, and `bbox`, `giou` or `keypoints`, `oks`.

    Args:
        logits: (persons or 1, queries, classes): for each person the queries that it may get.
        boxes: (persons or 1, queries, 4).
        keypoints: (persons or 1, queries, keypoints, 2), or None for layers without keypoints.
        targets: The persons.
        config: `focal_alpha` and `focal_gamma` are read.
    """
    # The clamp keeps labels out of range from the index; `assign` reports them.
    index = targets.class_labels.clamp(0, logits.shape[-1] - 1)[:, None, None].expand(-1, logits.shape[1], 1)
    logits = logits.expand(len(index), -1, -1).gather(-1, index).squeeze(-1)
    probability, alpha, gamma = logits.sigmoid(), config.focal_alpha, config.focal_gamma
    right = alpha * (1 - probability) ** gamma * -(probability + 1e-8).log()
    wrong = (1 - alpha) * probability**gamma * -(1 - probability + 1e-8).log()
    costs = {"class": right - wrong}
    if keypoints is None:
        costs["bbox"] = (boxes - targets.boxes[:, None]).abs().sum(dim=-1)
        costs["giou"] = -generalized_iou(boxes, targets.boxes[:, None])
    else:
        target, visible, area = targets.keypoints[:, None], targets.visible[:, None], targets.area[:, None]
        costs["keypoints"] = ((keypoints - target).abs().sum(dim=-1) * visible).sum(dim=-1)
        costs["oks"] = 1 - keypoint_similarity(keypoints, target, visible, area, targets.sigmas)
    return costs


def label_faults(targets: Targets, num_classes: int) -> torch.Tensor:
    """(persons, checks) bool, True where a person fails one of `LABEL_CHECKS`."""
    faults = [
        ~(targets.boxes.isfinite().all(dim=-1) & (targets.boxes[:, 2:] > 0).all(dim=-1)),
        ~(targets.area.isfinite() & (targets.area > 0)),
        (targets.class_labels < 0) | (targets.class_labels >= num_classes),
        ~((targets.visible == 0) | (targets.visible == 1)).all(dim=-1),
        ~targets.keypoints.isfinite().flatten(1).all(dim=-1),
    ]
    return torch.stack(faults, dim=-1)


def prediction(outputs: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """`logits`, `pred_boxes` and, if there, `pred_keypoints` of one layer, at least in float32."""
    keypoints = outputs.get("pred_keypoints")
    logits, boxes = at_least_float32(outputs["logits"]), at_least_float32(outputs["pred_boxes"])
    return logits, boxes, None if keypoints is None else at_least_float32(keypoints)


@torch.no_grad()
def assign(layers: list[Mapping[str, Any]], targets: Targets, config) -> list[Indices]:
    """Match the queries of each layer with the persons; see `match`. The device is waited for once.

    Raises:
        ValueError: If labels hold impossible values, or predictions are not finite.
    """
    if sum(targets.counts) == 0:
        empty = torch.zeros(0, dtype=torch.int64)
        return [[(empty, empty) for _ in targets.counts] for _ in layers]
    rows = [label_faults(targets, layers[0]["logits"].shape[-1]).to(targets.boxes.dtype)]
    for layer in layers:
        own = [part if part is None else part[targets.image_index] for part in prediction(layer)]
        costs = matching_costs(*own, targets, config)
        weights = [getattr(config, COSTS[name]) for name in costs]
        rows.append(sum(weight * cost for weight, cost in zip(weights, costs.values(), strict=True)))
    sizes = [part.shape[1] for part in rows]
    faults, *costs = np.split(torch.cat(rows, dim=1).cpu().numpy(), np.cumsum(sizes)[:-1], axis=1)
    starts = np.cumsum([0, *targets.counts])
    if faults.any():
        row, check = np.argwhere(faults)[0]
        image = int(np.searchsorted(starts, row, side="right")) - 1
        raise ValueError(f"`labels[{image}]`: person {row - starts[image]} has {LABEL_CHECKS[check]}.")
    if not all(np.isfinite(cost).all() for cost in costs):
        raise ValueError(
            "The predictions in `outputs` are not finite, so they cannot be matched: training has diverged. Lower the "
            "learning rate, clip gradients at 0.1, or use bfloat16 or float32 instead of float16."
        )
    solve = scipy_linear_sum_assignment or linear_sum_assignment
    matches = []
    for cost in costs:
        matches.append([])
        for start, stop in itertools.pairwise(starts):
            target_index, query_index = solve(cost[start:stop])
            order = np.argsort(query_index)
            pair = (torch.from_numpy(index[order].astype(np.int64)) for index in (query_index, target_index))
            matches[-1].append(tuple(pair))
    return matches


def match(outputs: Mapping[str, Any], labels: list[dict[str, torch.Tensor]], config) -> Indices:
    """Match queries of one layer with labelled persons at the least total cost.

    Args:
        outputs: `logits` (batch, queries, classes), `pred_boxes` (batch, queries, 4) and `pred_keypoints` (batch, queries,
            keypoints, 2); without keypoints (absent or None) boxes decide, with them keypoints decide and boxes do not.
        labels: One dict an image, see `gather_targets`.
        config: The model's configuration.

    Returns:
        For each image the matched queries, ascending, and their persons: int64 tensors of length
        min(queries, persons), on the CPU.

    Raises:
        ValueError: On labels of wrong shape or impossible value, and on predictions that are not finite.
    """
    (matches,) = assign([outputs], gather_targets(labels, config, outputs["logits"]), config)
    return matches


def named_layers(outputs: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """All matched layers by the suffix of their losses: the last decoder layer, the earlier ones, the encoder."""
    layers = {"": outputs}
    layers |= {f"_{index}": layer for index, layer in enumerate(outputs.get("auxiliary_outputs") or ())}
    if outputs.get("enc_outputs_class") is not None:
        layers["_interm"] = {"logits": outputs["enc_outputs_class"], "pred_boxes": outputs["enc_outputs_coord"]}
    return layers


def average_num_persons(count: int, device: torch.device) -> float | torch.Tensor:
    """Persons in the batch, averaged over processes, at least 1."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return max(float(count), 1.0)
    total = torch.tensor(float(count), device=device)
    torch.distributed.all_reduce(total)
    return (total / torch.distributed.get_world_size()).clamp(min=1)


def layer_losses(
    outputs: Mapping[str, Any], pairs: torch.Tensor, targets: Targets, config, num_persons: float | torch.Tensor
) -> dict[str, torch.Tensor]:
    """Unweighted losses of one layer.

    Args:
        outputs: `logits`, `pred_boxes`, and `pred_keypoints` or None.
        pairs: (3, matches) int64: image, query and row of `targets` of each match.
        targets: The persons.
        config: `focal_alpha` and `focal_gamma` are read.
        num_persons: What sums are divided by.
    """
    logits, boxes, keypoints = prediction(outputs)
    image, query, row = pairs
    class_labels = torch.full(logits.shape[:2], logits.shape[-1], device=logits.device)
    class_labels[image, query] = targets.class_labels[row]
    boxes, target_boxes = boxes[image, query], targets.boxes[row]
    losses = {
        "loss_ce": focal_loss(logits, class_labels, config.focal_alpha, config.focal_gamma),
        "loss_bbox": (boxes - target_boxes).abs().sum(),
        "loss_giou": (1 - generalized_iou(boxes, target_boxes)).sum(),
    }
    if keypoints is not None:
        keypoints, target, visible = keypoints[image, query], targets.keypoints[row], targets.visible[row]
        similarity = keypoint_similarity(keypoints, target, visible, targets.area[row], targets.sigmas)
        losses["loss_keypoints"] = ((keypoints - target).abs() * visible[..., None]).sum()
        losses["loss_oks"] = (1 - similarity).sum()
    return {name: value / num_persons for name, value in losses.items()}


def denoising_losses(
    outputs: Mapping[str, Any], targets: Mapping[str, torch.Tensor], config
) -> dict[str, torch.Tensor]:
    """Unweighted losses of the denoising queries of one layer: sums over the batch, divided by `num_denoising`.

    Args:
        outputs: `logits` (batch, num_denoising, classes) and `pred_boxes` (batch, num_denoising, 4).
        targets: `class_labels` (batch, num_denoising) and `boxes` (batch, num_denoising, 4).
        config: `focal_alpha` and `focal_gamma` are read.
    """
    logits, boxes, _ = prediction(outputs)
    target_boxes = targets["boxes"].to(boxes.dtype)
    losses = {
        "dn_loss_ce": focal_loss(logits, targets["class_labels"], config.focal_alpha, config.focal_gamma),
        "dn_loss_bbox": (boxes - target_boxes).abs().sum(),
        "dn_loss_giou": (1 - generalized_iou(boxes, target_boxes)).sum(),
    }
    return {name: value / boxes.shape[1] for name, value in losses.items()}


@torch.compiler.disable  # the assignment leaves PyTorch, and its sizes depend on the labels
def compute_loss(
    outputs: Mapping[str, Any],
    labels: list[dict[str, torch.Tensor]],
    config,
    num_persons: float | torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The training loss and its parts.

    Args:
        outputs: Fields of `EDPoseForPoseEstimationOutput`: `logits`, `pred_boxes`, `pred_keypoints`, and if not None
            `auxiliary_outputs`, `enc_outputs_class` with `enc_outputs_coord`, and `denoising_outputs` with
            `denoising_targets` (`class_labels` and `boxes`).
        labels: One dict an image, see `gather_targets`.
        config: The model's configuration: costs, coefficients, sigmas.
        num_persons: What the losses of matched queries are divided by; None for the persons in the batch, averaged
            over processes, at least 1.

    Returns:
        The weighted sum, and the unweighted losses by the original's names: `loss_ce`, `loss_bbox`, `loss_giou`,
        `loss_keypoints`, `loss_oks` of the last layer, with `_0`, `_1`, ... of earlier layers, with `_interm` of the
        encoder, with `dn_` before the name of denoising queries. `class_error`, the percentage of matched queries
        whose best class is wrong, does not count towards the sum.

    Raises:
        ValueError: On labels of wrong shape or impossible value, and on predictions that are not finite.
    """
    targets, layers = gather_targets(labels, config, outputs["logits"]), named_layers(outputs)
    device = targets.boxes.device
    matches = assign(list(layers.values()), targets, config)
    if num_persons is None:
        num_persons = average_num_persons(sum(targets.counts), device)

    # Image, query and person of every match of every layer, sent to the device at once.
    starts = np.cumsum([0, *targets.counts])
    pairs = [
        torch.stack([torch.full_like(query_index, image), query_index, target_index + int(starts[image])])
        for indices in matches
        for image, (query_index, target_index) in enumerate(indices)
    ]
    per_layer = [sum(len(query_index) for query_index, _ in indices) for indices in matches]
    pairs = torch.cat(pairs, dim=1).to(device).split(per_layer, dim=1)

    loss_dict, loss = {}, 0.0

    def add(losses: dict[str, torch.Tensor], suffix: str) -> None:
        nonlocal loss
        for name, value in losses.items():
            loss_dict[name + suffix] = value
            loss = loss + getattr(config, COEFFICIENTS[name]) * value

    for (suffix, layer), layer_pairs in zip(layers.items(), pairs, strict=True):
        add(layer_losses(layer, layer_pairs, targets, config, num_persons), suffix)
    denoising = outputs.get("denoising_outputs") or ()
    for index, layer in enumerate(denoising):
        suffix = "" if index == len(denoising) - 1 else f"_{index}"
        add(denoising_losses(layer, outputs["denoising_targets"], config), suffix)

    image, query, row = pairs[0]
    wrong = outputs["logits"][image, query].argmax(dim=-1) != targets.class_labels[row]
    loss_dict["class_error"] = 100 * wrong.float().mean() if len(row) else torch.tensor(100.0, device=device)
    return loss, loss_dict


@torch.no_grad()
def mean_matching_costs(
    outputs: Mapping[str, Any], labels: list[dict[str, torch.Tensor]], config
) -> dict[str, torch.Tensor]:
    """Means of the unweighted matching costs, as the original logs them: over all queries and persons of the batch.

    Returns:
        `set_class`, `set_bbox`, `set_giou` and `set_keypoints` with the suffixes of `compute_loss`; 0 for costs that do
        not count in a layer and for batches without persons.
    """
    targets = gather_targets(labels, config, outputs["logits"])
    means = {}
    for suffix, layer in named_layers(outputs).items():
        flat = [part if part is None else part.flatten(0, 1)[None] for part in prediction(layer)]
        costs = matching_costs(*flat, targets, config)
        for name in ("class", "bbox", "giou", "keypoints"):
            known = name in costs and sum(targets.counts) > 0
            means[f"set_{name}{suffix}"] = costs[name].mean() if known else targets.boxes.new_zeros(())
    return means


__all__ = [
    "compute_loss",
    "focal_loss",
    "generalized_iou",
    "keypoint_similarity",
    "linear_sum_assignment",
    "match",
    "mean_matching_costs",
]
