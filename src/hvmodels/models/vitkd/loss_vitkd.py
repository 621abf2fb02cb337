"""Losses of ViTKD (arXiv 2209.02432), of NKD and USKD (arXiv 2303.13005), and of KD, DKD and WSLD.

All can be used alone. Features are maps (batch, rows, columns, width), logits (batch, classes), labels (batch,) classes or (batch,
classes) scores, as mixup and cutmix make them. Sums are taken in float32 under mixed precision too, in which those over
tokens would overflow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


# Tokens times width of DeiT-III-small at 224 pixels, for which the published weights were chosen.
REFERENCE_ELEMENTS = 196 * 384


@dataclass
class ViTKDLossOutput:
    """What `ViTKDLoss` gives.

    Args:
        mimic_loss: Scalar with its weight, None if it is switched off.
        generation_loss: Scalar with its weight, None if it is switched off.
        mask: (batch, tokens), 1 for masked tokens, None without generation.
    """

    mimic_loss: torch.Tensor | None = None
    generation_loss: torch.Tensor | None = None
    mask: torch.Tensor | None = None


class DistillerLinear(nn.Linear):
    """A linear layer of a distillation, which starts as PyTorch's does, unlike those of the models."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., tokens, in_features) to (..., tokens, out_features)."""
        if tokens.device.type == "cpu" and tokens.ndim > 2:
            return _convolve_tokens(tokens.flatten(1, -2), self.weight, self.bias).unflatten(1, tokens.shape[1:-1])
        return super().forward(tokens)


class DistillerConv2d(nn.Conv2d):
    """A convolution of a distillation, likewise."""


class ViTKDLoss(nn.Module):
    """The loss on features: shallow layers are mimicked, masked tokens of the deep one are generated from the others.

    Section 3 of the paper. Both are sums over tokens and channels, divided by the batch size only. Features are maps (batch,
    rows, columns, width); those of the student are interpolated where they have other rows and columns.

    Args:
        student_size: Width of the student's tokens.
        teacher_size: Width of the teacher's tokens. If it is the student's, features are compared as they are; otherwise
            linear layers align them.
        num_mimic_layers: How many shallow layers are mimicked.
        mimic_weight: Weight of mimicking (alpha); 0 leaves it and its layers out.
        generation_weight: Weight of generation (beta); 0 leaves it and its layers out.
        mask_ratio: Share of masked tokens (lambda); the loss is divided by it, not by their number.
        normalize_by_elements: Multiply the weights by 196 * 384 / (tokens * width), see `ViTKDConfig`.
    """

    def __init__(
        self,
        student_size: int,
        teacher_size: int,
        num_mimic_layers: int = 2,
        mimic_weight: float = 3e-5,
        generation_weight: float = 3e-6,
        mask_ratio: float = 0.5,
        normalize_by_elements: bool = False,
    ):
        super().__init__()
        self.student_size, self.teacher_size, self.num_mimic_layers = student_size, teacher_size, num_mimic_layers
        self.mimic_weight, self.generation_weight = mimic_weight, generation_weight
        self.mask_ratio, self.normalize_by_elements = mask_ratio, normalize_by_elements
        aligns = student_size != teacher_size
        self.mimic_aligners = self.generation_aligner = self.generator = None
        self.register_parameter("mask_token", None)
        if mimic_weight > 0 and aligns:
            self.mimic_aligners = nn.ModuleList(
                DistillerLinear(student_size, teacher_size) for _ in range(num_mimic_layers)
            )
        if generation_weight > 0:
            if aligns:
                self.generation_aligner = DistillerLinear(student_size, teacher_size)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, teacher_size))
            self.generator = nn.ModuleList(
                DistillerConv2d(teacher_size, teacher_size, kernel_size=3, padding=1) for _ in range(2)
            )

    def forward(
        self,
        student_shallow: Sequence[torch.Tensor] | None,
        teacher_shallow: Sequence[torch.Tensor] | None,
        student_deep: torch.Tensor | None,
        teacher_deep: torch.Tensor | None,
        mask_noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> ViTKDLossOutput:
        """Compare features.

        Args:
            student_shallow: (batch, rows, columns, student_size) for each mimicking layer, as blocks give them.
            teacher_shallow: (batch, rows, columns, teacher_size) for each.
            student_deep: (batch, rows, columns, student_size) behind the final norm.
            teacher_deep: (batch, rows, columns, teacher_size) behind the final norm.
            mask_noise: (batch, tokens) of the teacher's map, row by row; tokens with the least values are kept. Drawn if
                None.
            generator: Where it is drawn from; the global one if None.

        Raises:
            ValueError: If shapes do not fit.
        """
        mimic_loss = generation_loss = mask = None
        if self.mimic_weight > 0:
            mimic_loss = self.mimic(student_shallow, teacher_shallow)
        if self.generation_weight > 0:
            generation_loss, mask = self.generate(student_deep, teacher_deep, mask_noise, generator)
        return ViTKDLossOutput(mimic_loss, generation_loss, mask)

    def mimic(self, students: Sequence[torch.Tensor], teachers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The loss of mimicking shallow layers, see `forward`."""
        counts = [0 if maps is None else len(maps) for maps in (students, teachers)]
        if counts != [self.num_mimic_layers] * 2:
            raise ValueError(
                f"`student_shallow` and `teacher_shallow` must hold {self.num_mimic_layers} maps each, got {counts[0]} and "
                f"{counts[1]}."
            )
        errors = []
        for index, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            aligned = self._on_grid_of_teacher(student, teacher, "shallow")
            if self.mimic_aligners is not None:
                aligned = self.mimic_aligners[index](aligned)
            errors.append(squared_error(aligned, teacher))
        return self._scale(self.mimic_weight, teachers[0]) * sum(errors)

    def generate(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        mask_noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of generating masked tokens of the deep layer, and the mask, see `forward`."""
        student = self._on_grid_of_teacher(student, teacher, "deep")
        batch_size, *grid, _ = teacher.shape
        student, teacher = student.flatten(1, 2), teacher.flatten(1, 2)
        num_tokens = teacher.shape[1]
        order = draw_mask_order(batch_size, num_tokens, mask_noise, generator, student.device)
        kept, masked = order.tensor_split([int(num_tokens * (1 - self.mask_ratio))], dim=1)
        mask = torch.zeros(batch_size, num_tokens, device=student.device).scatter_(1, masked, 1.0)

        generated = self._generate_masked(_take(student, kept), kept, masked, tuple(grid))
        error = squared_error(generated, _take(teacher, masked))
        return self._scale(self.generation_weight, teacher) / self.mask_ratio * error, mask

    def _generate_masked(
        self, visible: torch.Tensor, kept: torch.Tensor, masked: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """The generator's output for masked tokens from the kept ones.

        It is aligner, convolution, ReLU and convolution over the map in which the mask token stands for masked tokens, at half
        the work where half of them are masked. What a mask token adds to the first convolution is the same for all pictures,
        so that only kept tokens, less the mask token, are convolved; the second convolution is evaluated at masked ones only.

        Args:
            visible: (batch, kept, student_size) tokens before the aligner.
            kept: (batch, kept) their positions on the map, row by row.
            masked: (batch, masked) positions to generate.
            grid: Rows and columns of the map.

        Returns:
            (batch, masked, teacher_size).
        """
        first, second = self.generator
        size, batch_size, num_tokens = self.teacher_size, len(visible), grid[0] * grid[1]
        neighbors = _neighbors(grid, visible.device)
        token = self.mask_token.flatten()

        kernels = first.weight.permute(2, 3, 0, 1).reshape(9 * size, size)
        if self.generation_aligner is not None:
            visible = self.generation_aligner(visible)
        contributions = _convolve_tokens(visible - token, kernels)
        of_mask_token = (neighbors < num_tokens).to(kernels.dtype) @ (kernels @ token).view(9, size) + first.bias
        # A token is seen at position k of the kernel by its neighbor 8 - k; row `num_tokens` is outside of the map.
        targets = _rows(neighbors.flip(1)[kept], num_tokens + 1)
        hidden = contributions.new_zeros(batch_size * (num_tokens + 1), size)
        hidden = hidden.index_add(0, targets, contributions.reshape(-1, size))
        hidden = (hidden.view(batch_size, num_tokens + 1, size)[:, :-1] + of_mask_token).relu()

        hidden = nn.functional.pad(hidden, (0, 0, 0, 1)).flatten(0, 1)
        patches = hidden.index_select(0, _rows(neighbors[masked], num_tokens + 1))
        kernels = second.weight.permute(0, 2, 3, 1).reshape(size, 9 * size)
        return _convolve_tokens(patches.view(batch_size, -1, 9 * size), kernels, second.bias)

    def _on_grid_of_teacher(self, student: torch.Tensor, teacher: torch.Tensor, name: str) -> torch.Tensor:
        """Map of the student with the rows and columns of the teacher's."""
        for kind, features, size in (("student", student, self.student_size), ("teacher", teacher, self.teacher_size)):
            if not isinstance(features, torch.Tensor) or features.ndim != 4 or features.shape[-1] != size:
                got = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
                raise ValueError(f"`{kind}_{name}` must be a map (batch, rows, columns, {size}), got {got}.")
        if len(student) != len(teacher):
            raise ValueError(
                f"`student_{name}` must have the batch of `teacher_{name}`, {len(teacher)}, got {len(student)}."
            )
        if student.shape[1:3] == teacher.shape[1:3]:
            return student
        channels_first = student.movedim(-1, 1)
        return nn.functional.interpolate(channels_first, size=teacher.shape[1:3], mode="bilinear").movedim(1, -1)

    def _scale(self, weight: float, teacher: torch.Tensor) -> float:
        return weight * REFERENCE_ELEMENTS / teacher[0].numel() if self.normalize_by_elements else weight


def squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum of squared differences, divided by the batch size, in float32 at least."""
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return nn.functional.mse_loss(prediction.to(dtype), target.to(dtype), reduction="sum") / len(prediction)


def draw_mask_order(
    batch_size: int,
    num_tokens: int,
    mask_noise: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Order of tokens in which the first are kept and the others masked.

    Args:
        batch_size: Number of pictures.
        num_tokens: Number of tokens of each.
        mask_noise: (batch, tokens), tokens with the least values are kept; drawn if None.
        generator: Where it is drawn from; the global generator of `device` if None.
        device: Where the order goes.

    Returns:
        (batch, tokens) int64.

    Raises:
        ValueError: If `mask_noise` has another shape.
    """
    shape = (batch_size, num_tokens)
    if mask_noise is None:
        mask_noise = torch.rand(shape, generator=generator, device=device if generator is None else generator.device)
    elif not isinstance(mask_noise, torch.Tensor) or tuple(mask_noise.shape) != shape:
        got = tuple(mask_noise.shape) if isinstance(mask_noise, torch.Tensor) else type(mask_noise).__name__
        raise ValueError(f"`mask_noise` must be a tensor (batch, tokens) of shape {shape}, got {got}.")
    return torch.argsort(mask_noise.to(device), dim=1)


def _take(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Some tokens of each row, (batch, chosen, width)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def _neighbors(grid: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Position of the 3 x 3 neighbors of each token, (tokens, 9), row by row; the number of tokens if outside."""
    rows, columns = grid
    positions = torch.full((rows + 2, columns + 2), rows * columns, device=device)
    positions[1:-1, 1:-1] = torch.arange(rows * columns, device=device).view(grid)
    return positions.unfold(0, 3, 1).unfold(1, 3, 1).reshape(rows * columns, 9)


def _rows(positions: torch.Tensor, stride: int) -> torch.Tensor:
    """Positions (batch, ...) within each picture as rows of all pictures one below the other, `stride` for each."""
    starts = stride * torch.arange(len(positions), device=positions.device)
    return (positions.flatten(1) + starts[:, None]).flatten()


def _convolve_tokens(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A linear layer of tokens (batch, tokens, width) as a convolution: on CPUs it is up to twice as fast."""
    if tokens.shape[1] == 0:
        return nn.functional.linear(tokens, weight, bias)
    # Channels last by strides too: `transpose` and `unsqueeze(-1)` would be copied.
    maps = tokens.unsqueeze(2).permute(0, 3, 1, 2)
    return nn.functional.conv2d(maps, weight[..., None, None], bias).permute(0, 2, 3, 1).squeeze(2)


# Losses on logits


def nkd_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 1.0,
    gamma: float = 1.5,
) -> torch.Tensor:
    """Normalised knowledge distillation, the sum of `nkd_terms`.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), without gradients.
        labels: (batch,) classes, or (batch, classes) scores, of which the largest counts.
        temperature: Of the non-target term.
        gamma: Weight of the non-target term.

    Raises:
        ValueError: If shapes do not fit.
    """
    target, non_target = nkd_terms(student_logits, teacher_logits, labels, temperature, gamma)
    return target + non_target


def nkd_terms(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 1.0,
    gamma: float = 1.5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Target and non-target term of NKD, see `nkd_loss`.

    Both non-target distributions are normalised without the target (equation 6 of arXiv 2303.13005). It is a cross-entropy,
    which does not reach 0.
    """
    target = _target_column(student_logits, teacher_logits, labels)
    student, teacher = _in_float32(student_logits, teacher_logits.detach())
    probability = (teacher.gather(1, target) - teacher.logsumexp(1, keepdim=True)).exp()
    log_probability = student.gather(1, target) - student.logsumexp(1, keepdim=True)
    target_term = -(probability * log_probability).mean()
    non_target_term = _cross_entropy_of_others(student / temperature, teacher / temperature, target).mean()
    return target_term, gamma * temperature**2 * non_target_term


def kd_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 4.0, alpha: float = 0.5
) -> torch.Tensor:
    """Plain knowledge distillation; the label loss that goes with it has weight 1 - alpha.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), without gradients.
        temperature: Of both distributions.
        alpha: Weight.

    Raises:
        ValueError: If shapes do not fit.
    """
    _check_logits(student_logits, teacher_logits)
    student, teacher = _in_float32(student_logits, teacher_logits.detach())
    return alpha * temperature**2 * _soft_cross_entropy(student / temperature, teacher / temperature).mean()


def dkd_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> torch.Tensor:
    """Decoupled knowledge distillation (arXiv 2203.08679).

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), without gradients.
        labels: (batch,) classes, or (batch, classes) scores, of which the largest counts.
        temperature: Of both terms.
        alpha: Weight of the target term, the divergence of target and all others.
        beta: Weight of the non-target term, the divergence within the others.

    Raises:
        ValueError: If shapes do not fit.
    """
    target = _target_column(student_logits, teacher_logits, labels)
    student, teacher = (logits / temperature for logits in _in_float32(student_logits, teacher_logits.detach()))
    # Logits of target and all others from log-probabilities, which are small, so that little is rounded off.
    student_binary, teacher_binary = (
        torch.cat([values.gather(1, target), _without(values, target).logsumexp(1, keepdim=True)], dim=1)
        for values in (student.log_softmax(1), teacher.log_softmax(1))
    )
    target_term = _divergence(student_binary, teacher_binary)
    non_target_term = _divergence(_without(student, target), _without(teacher, target))
    return temperature**2 * (alpha * target_term + beta * non_target_term).mean()


def wsld_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 4.0,
    alpha: float = 2.25,
) -> torch.Tensor:
    """Weighted soft labels (arXiv 2102.00650): KD, weighted by how much worse the student knows a label than the teacher.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), without gradients.
        labels: (batch,) classes, or (batch, classes) scores, of which the largest counts.
        temperature: Of both distributions.
        alpha: Weight.

    Raises:
        ValueError: If shapes do not fit.
    """
    target = _target_column(student_logits, teacher_logits, labels)[:, 0]
    student, teacher = _in_float32(student_logits, teacher_logits.detach())
    student_error = nn.functional.cross_entropy(student.detach(), target, reduction="none")
    teacher_error = nn.functional.cross_entropy(teacher, target, reduction="none")
    weight = 1 - torch.exp(-student_error / (teacher_error + 1e-7))
    return alpha * temperature**2 * (weight * _soft_cross_entropy(student / temperature, teacher / temperature)).mean()


def uskd_loss(
    student_logits: torch.Tensor,
    weak_logits: torch.Tensor,
    labels: torch.Tensor,
    alpha: float = 1.0,
    beta: float = 0.1,
    mu: float = 0.005,
) -> torch.Tensor:
    """Self-distillation without a teacher (section 3.2 of arXiv 2303.13005).

    Soft labels come from the student itself: the target's from its own confidence, the others' by Zipf's law from their rank
    in the student's and a weak classifier's predictions.

    Args:
        student_logits: (batch, classes).
        weak_logits: (batch, classes) of a classifier of the class token of a block half-way.
        labels: (batch,) classes, or (batch, classes) scores, of which the two largest are targets.
        alpha: Weight of the target term.
        beta: Weight of the non-target term.
        mu: Weight of the loss of the weak classifier.

    Raises:
        ValueError: If shapes do not fit.
    """
    _check_logits(student_logits, weak_logits, labels, second="weak_logits")
    num_classes = student_logits.shape[1]
    if labels.ndim == 2:
        values, targets = (ordered[:, :2] for ordered in torch.sort(labels, dim=1, descending=True))
    else:
        targets = labels[:, None]
        values = torch.ones_like(targets, dtype=student_logits.dtype)
    if num_classes <= targets.shape[1]:
        raise ValueError(
            f"`student_logits` must have more than {targets.shape[1]} classes, as there must be others beside the "
            f"target, got {num_classes}."
        )
    student, weak = _in_float32(student_logits, weak_logits)
    log_probabilities = student.log_softmax(1)
    target_log_probabilities = log_probabilities.gather(1, targets)
    with torch.no_grad():
        squared = target_log_probabilities.exp().square()
        soft_targets = (squared + values - squared.mean(0, keepdim=True)).masked_fill(values == 0, 0)
        weak_probabilities = weak.softmax(1)
        weak_share = weak_probabilities.gather(1, targets).sum(1, keepdim=True)
        # Kept from the original: of the student the logarithms enter, where the paper has probabilities.
        student_share = target_log_probabilities.sum(1, keepdim=True)
        strength = weak_probabilities / (1 - weak_share + 1e-6) + log_probabilities / (1 - student_share + 1e-6)
        order = torch.sort(strength, dim=1, descending=True).indices
        zipf = 1 / torch.arange(1, num_classes + 1, device=student.device)
        soft_others = torch.empty_like(student).scatter_(1, order, zipf.expand_as(student))
        soft_others.scatter_(1, targets, 0)
        soft_others /= soft_others.sum(1, keepdim=True)
    target_term = -(soft_targets * target_log_probabilities).sum(1).mean()
    non_target_term = (_without(student, targets).logsumexp(1) - (soft_others * student).sum(1)).mean()
    weak_term = nn.functional.cross_entropy(weak, labels, label_smoothing=0.1)
    return alpha * target_term + beta * non_target_term + mu * weak_term


def label_loss(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.1) -> torch.Tensor:
    """Cross-entropy with smoothed labels.

    Args:
        logits: (batch, classes).
        labels: (batch,) classes, or (batch, classes) scores.
        label_smoothing: Share of the target that is spread over all classes, the target's own included.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_labels(labels, *logits.shape)
    (logits,) = _in_float32(logits)
    labels = labels.to(logits.dtype) if labels.ndim == 2 else labels.long()
    return nn.functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def check_labels(labels: torch.Tensor, batch_size: int, num_classes: int):
    """Check classes or scores.

    Raises:
        ValueError: If they are neither (batch,) classes nor (batch, classes) scores; on the CPU also if they are out of
            range.
    """
    shapes = ((batch_size,), (batch_size, num_classes))
    if not isinstance(labels, torch.Tensor) or tuple(labels.shape) not in shapes:
        got = tuple(labels.shape) if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise ValueError(
            f"`labels` must be a tensor of classes, ({batch_size},), or of scores, ({batch_size}, {num_classes}), got {got}."
        )
    is_whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if is_whole != (labels.ndim == 1):
        raise ValueError(
            "`labels` must be whole numbers where they are classes, (batch,), and floats where they are scores, (batch, "
            f"classes), got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    if labels.device.type != "cpu":
        return  # to look at the values would mean to wait for them
    if labels.ndim == 2 and not labels.isfinite().all():
        raise ValueError("`labels` must be finite scores, got NaN or infinity.")
    if labels.ndim == 1 and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(f"`labels` must be in [0, {num_classes}), got {labels.min()} to {labels.max()}.")


def _check_logits(
    student_logits: torch.Tensor,
    other_logits: torch.Tensor,
    labels: torch.Tensor | None = None,
    second: str = "teacher_logits",
):
    if student_logits.ndim != 2 or student_logits.shape != other_logits.shape:
        raise ValueError(
            f"`student_logits` and `{second}` must both have shape (batch, classes), got {tuple(student_logits.shape)} and "
            f"{tuple(other_logits.shape)}."
        )
    if labels is not None:
        check_labels(labels, *student_logits.shape)


def _target_column(student_logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Target classes (batch, 1); of scores the largest, the first of equal ones."""
    _check_logits(student_logits, teacher_logits, labels)
    if student_logits.shape[1] < 2:
        raise ValueError("`student_logits` must have at least 2 classes, got 1.")
    return (labels.max(dim=1).indices if labels.ndim == 2 else labels.long())[:, None]


def _in_float32(*logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """At least float32."""
    return tuple(values.to(torch.promote_types(values.dtype, torch.float32)) for values in logits)


def _without(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Logits with -inf for some classes, (batch, how many), so that a softmax leaves these out."""
    return logits.scatter(1, classes, -torch.inf)


def _soft_cross_entropy(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (batch,) of two softmaxes."""
    return student.logsumexp(1) - (teacher.softmax(1) * student).sum(1)


def _cross_entropy_of_others(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (batch,) of two softmaxes without the target."""
    # The student's logit of the target is multiplied by 0.
    return _without(student, target).logsumexp(1) - (_without(teacher, target).softmax(1) * student).sum(1)


def _divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence (batch,) of the student's softmax from the teacher's; classes of -inf count nothing."""
    # Class by class: the difference of cross-entropy and entropy would be rounded as the two are.
    return nn.functional.kl_div(
        student.log_softmax(1).clamp(min=torch.finfo(student.dtype).min), teacher.softmax(1), reduction="none"
    ).sum(1)


__all__ = [
    "DistillerConv2d",
    "DistillerLinear",
    "ViTKDLoss",
    "ViTKDLossOutput",
    "check_labels",
    "dkd_loss",
    "kd_loss",
    "label_loss",
    "nkd_loss",
    "nkd_terms",
    "uskd_loss",
    "wsld_loss",
]
