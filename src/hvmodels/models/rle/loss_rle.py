"""Residual log-likelihood estimation as a loss for any regression head, and the flow that it trains.

Paper: "Human Pose Regression with Residual Log-likelihood Estimation" (Li et al., ICCV 2021, arXiv 2107.11291),
sections 3.2 to 3.4. The density of a keypoint's error is a simple one (Laplace) times a correction that a small
Real-NVP flow learns; the loss is its negative logarithm, and is often negative.

Deliberate differences from the original (github.com/Jeff-sjtu/res-loglikelihood-regression), none of which changes a
value: unlabelled keypoints do not pass the flow, so that NaN among them cannot reach the loss; the two networks of a
coupling run as one product; everything is computed in float32 at least; deviations below 1e-6 count as 1e-6.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.autograd.function import once_differentiable


LEAKY_SLOPE = 0.01
SMALLEST_SIGMA = 1e-6
EPSILON = 1e-9


class RealNVP(nn.Module):
    """Real-NVP flow (arXiv 1605.08803) with a standard normal base: a learned density of points in the plane or space.

    Coupling i leaves some coordinates as they are and moves the others by an affine map that depends on those. In the plane
    it moves x and y by turns, in space x and y together and z. A coupling has two networks with two hidden layers, one
    for the scale, which ends in tanh, and one for the shift; their weights are stacked in this order.

    Args:
        dim: 2 or 3.
        num_layers: Couplings.
        hidden_size: Width of the networks.
    """

    def __init__(self, dim: int = 2, num_layers: int = 6, hidden_size: int = 64):
        super().__init__()
        self.dim = dim
        # Of the full networks only some inputs and outputs are alive; the others are kept, so that weights can be converted
        # back and forth.
        for name, outputs, inputs in (
            ("input", hidden_size, dim),
            ("hidden", hidden_size, hidden_size),
            ("output", dim, hidden_size),
        ):
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(num_layers, 2, outputs, inputs)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.empty(num_layers, 2, outputs)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        """Fill the weights as PyTorch's linear layers are."""
        for name in ("input", "hidden", "output"):
            weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
            bound = 1 / math.sqrt(weight.shape[-1])
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def _weights(self, dtype: torch.dtype) -> list[torch.Tensor]:
        return [
            getattr(self, f"{name}_{kind}").to(dtype)
            for name in ("input", "hidden", "output")
            for kind in ("weight", "bias")
        ]

    def log_prob(self, points: torch.Tensor) -> torch.Tensor:
        """Logarithm of the density, with first derivatives only; `to_latent` has them all.

        Args:
            points: (..., dim).

        Returns:
            (...).
        """
        with torch.autocast(points.device.type, enabled=False):
            return _LogDensity.apply(points.reshape(-1, self.dim), *self._weights(points.dtype)).view(
                points.shape[:-1]
            )

    def to_latent(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Points (..., dim) to where the base density is normal, and the logarithm of the map's determinant (...)."""
        halves, log_determinant, _ = _to_latent(points.reshape(-1, self.dim), self._weights(points.dtype))
        return torch.cat(halves).T.reshape(points.shape), log_determinant.view(points.shape[:-1])

    def from_latent(self, latent: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_latent`, which turns normal samples into samples of the density; (..., dim)."""
        halves = _split(latent.reshape(-1, self.dim).T)
        for moved, weights in _couplings(self._weights(latent.dtype)):
            scale, shift, _ = _run_networks(halves[1 - moved], *weights)
            halves[moved] = halves[moved] * torch.exp(scale) + shift
        return torch.cat(halves).T.reshape(latent.shape)


# Below, points are (dim, points) and hidden states (2, hidden_size, points), of which nothing has to be copied.


def _split(values: torch.Tensor, dim: int = 0) -> list[torch.Tensor]:
    """The coordinates that odd couplings keep and even ones move, and the others: x and y, or x with y and z."""
    size = values.shape[dim]
    return list(values.split([1 if size == 2 else 2, 1], dim))


def _couplings(weights: Sequence[torch.Tensor]) -> list[tuple[int, tuple[torch.Tensor, ...]]]:
    """For each coupling which half it moves, and what is alive of its weights and biases, as views."""
    input_weights, input_biases, hidden_weights, hidden_biases, output_weights, output_biases = weights
    moving = [
        (
            _split(input_weights[moved::2], 3)[1 - moved].flatten(1, 2),
            input_biases[moved::2].flatten(1)[..., None],
            hidden_weights[moved::2],
            hidden_biases[moved::2, ..., None],
            _split(output_weights[moved::2], 2)[moved],
            _split(output_biases[moved::2], 2)[moved][..., None],
        )
        for moved in (0, 1)
    ]
    moving = [list(zip(*(values.unbind() for values in stacks), strict=True)) for stacks in moving]
    return [(layer % 2, moving[layer % 2][layer // 2]) for layer in range(len(input_weights))]


def _run_networks(
    kept: torch.Tensor,
    input_weight: torch.Tensor,
    input_bias: torch.Tensor,
    hidden_weight: torch.Tensor,
    hidden_bias: torch.Tensor,
    output_weight: torch.Tensor,
    output_bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Scale (logarithm) and shift of the moved half from the kept one, and the hidden states."""
    hidden_size = hidden_weight.shape[-1]
    first = torch.addmm(input_bias, input_weight, kept).view(2, hidden_size, -1)
    first = nn.functional.leaky_relu_(first, LEAKY_SLOPE)
    second = nn.functional.leaky_relu_(torch.baddbmm(hidden_bias, hidden_weight, first), LEAKY_SLOPE)
    scale, shift = torch.baddbmm(output_bias, output_weight, second)
    return scale.tanh(), shift, (first, second)


def _to_latent(
    points: torch.Tensor, weights: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], torch.Tensor, list[tuple[torch.Tensor, ...]]]:
    """Latent halves of points (points, dim), logarithm of the determinant (points,), and the states of each coupling.

    States are the kept half, the hidden ones, the scale, its exponential, and the half as it was moved, from the last
    coupling to the first.
    """
    halves, states = _split(points.T.contiguous()), []
    for moved, coupling in reversed(_couplings(weights)):
        kept = halves[1 - moved]
        scale, shift, hidden = _run_networks(kept, *coupling)
        factor = torch.exp(-scale)
        halves[moved] = (halves[moved] - shift) * factor
        states.append((kept, *hidden, scale, factor, halves[moved]))
    return halves, -torch.cat([state[3] for state in states]).sum(0), states


class _LogDensity(torch.autograd.Function):
    """Logarithm of the density, differentiated by hand: of autograd's 300 steps most do little but cost time."""

    @staticmethod
    def forward(ctx, points: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        """(points, dim) to (points,)."""
        halves, log_determinant, states = _to_latent(points, weights)
        ctx.save_for_backward(*weights, *halves, *(tensor for state in states for tensor in state))
        latent = torch.cat(halves)
        return log_determinant - 0.5 * (latent * latent).sum(0) - 0.5 * len(latent) * math.log(2 * math.pi)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gradients of points and weights."""
        weights, halves, states = ctx.saved_tensors[:6], ctx.saved_tensors[6:8], iter(ctx.saved_tensors[8:])
        states = list(zip(*[states] * 6, strict=True))
        gradients = [torch.zeros_like(weight) for weight in weights]
        # All by their negatives.
        gradient = -gradient
        negatives = [half * -gradient for half in halves]
        for (moved, coupling), (_, targets), state in zip(
            _couplings(weights), _couplings(gradients), reversed(states), strict=True
        ):
            input_weight, _, hidden_weight, _, output_weight, _ = coupling
            kept, first, second, scale, factor, result = state
            by_scale = torch.ops.aten.tanh_backward(torch.addcmul(gradient, negatives[moved], result), scale)
            negatives[moved] = negatives[moved] * factor
            by_output = torch.stack([by_scale, negatives[moved]])
            by_second = torch.bmm(output_weight.mT, by_output)
            by_second = torch.ops.aten.leaky_relu_backward(by_second, second, LEAKY_SLOPE, True)
            by_first = torch.bmm(hidden_weight.mT, by_second)
            by_first = torch.ops.aten.leaky_relu_backward(by_first, first, LEAKY_SLOPE, True).flatten(0, 1)
            negatives[1 - moved] = torch.addmm(negatives[1 - moved], input_weight.T, by_first, alpha=-1)
            torch.mm(by_first, kept.T, out=targets[0])
            torch.sum(by_first, -1, keepdim=True, out=targets[1])
            torch.bmm(by_second, first.mT, out=targets[2])
            torch.sum(by_second, -1, keepdim=True, out=targets[3])
            torch.bmm(by_output, second.mT, out=targets[4])
            torch.sum(by_output, -1, keepdim=True, out=targets[5])
        return -torch.cat(negatives).T, *gradients


class RLELoss(nn.Module):
    """Negative log-likelihood of the labels under a density of learned shape, for any head that predicts points.

    The loss holds the flow, whose parameters are trained along with the head; give them to the optimizer. At inference
    the loss is not needed. Values are often negative.

    ```python
    head = nn.Linear(128, 17 * 4)
    loss_function = RLELoss()
    optimizer = torch.optim.Adam([*head.parameters(), *loss_function.parameters()])
    keypoints, sigmas = head(features).view(-1, 17, 4).split(2, dim=-1)
    loss = loss_function(keypoints, sigmas.sigmoid(), labels, visible)
    loss.backward()
    optimizer.step()
    ```

    Args:
        keypoint_dim: 2, or 3 for points with depth. Points of which only x and y are labelled then have a flow of their own.
        num_flow_layers: Couplings of the flow.
        flow_hidden_size: Width of their networks.
        formulation: `"original"` or `"mmpose"`, whose normalisations of the base density differ, or `"l1"`, the plain
            absolute error without flow.
        base_distribution: `"laplace"`, or `"gaussian"` in mmpose's formulation.
        use_residual: Whether the base density takes part, as in the paper; else the flow learns it all.

    Raises:
        ValueError: If an argument is not one of these.
    """

    def __init__(
        self,
        keypoint_dim: int = 2,
        num_flow_layers: int = 6,
        flow_hidden_size: int = 64,
        formulation: Literal["original", "mmpose", "l1"] = "original",
        base_distribution: Literal["laplace", "gaussian"] = "laplace",
        use_residual: bool = True,
    ):
        super().__init__()
        for name, value, choices in (
            ("keypoint_dim", keypoint_dim, (2, 3)),
            ("formulation", formulation, ("original", "mmpose", "l1")),
            (
                "base_distribution",
                base_distribution,
                ("laplace", "gaussian") if formulation == "mmpose" else ("laplace",),
            ),
        ):
            if value not in choices:
                raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")
        self.keypoint_dim = keypoint_dim
        self.formulation = formulation
        self.base_distribution = base_distribution
        self.use_residual = use_residual
        self.flow = self.flow_2d = None
        if formulation != "l1":
            self.flow = RealNVP(keypoint_dim, num_flow_layers, flow_hidden_size)
            if keypoint_dim == 3:
                self.flow_2d = RealNVP(2, num_flow_layers, flow_hidden_size)

    def forward(
        self,
        keypoints: torch.Tensor,
        sigmas: torch.Tensor,
        labels: torch.Tensor,
        label_weights: torch.Tensor | None = None,
        reduction: Literal["batch_mean", "sum"] = "batch_mean",
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            keypoints: (batch, keypoints, dim) predicted points, of any unit.
            sigmas: (batch, keypoints, dim) predicted deviations in the same unit, positive.
            labels: (batch, keypoints, dim) true points. Those that are not finite count as unlabelled.
            label_weights: (batch, keypoints) or (batch, keypoints, dim), 0 for what is not labelled; all 1 if None. In 3-D
                a point with weight 0 for its depth and 1 for x and y is one of which only these are known.
            reduction: Divide the sum by the batch size, or not. It is never divided by the number of labelled keypoints.

        Returns:
            Scalar, float32 or float64.

        Raises:
            ValueError: If shapes do not fit each other or `keypoint_dim`.
        """
        _check_shapes(keypoints, sigmas, labels, label_weights, self.keypoint_dim)
        if reduction not in ("batch_mean", "sum"):
            raise ValueError(f"`reduction` must be 'batch_mean' or 'sum', got {reduction!r}.")
        with torch.autocast(keypoints.device.type, enabled=False):
            dtype = torch.promote_types(keypoints.dtype, torch.float32)
            keypoints, labels = keypoints.to(dtype), labels.to(dtype)
            sigmas = sigmas.to(dtype).clamp(min=SMALLEST_SIGMA)
            weights = _expand_weights(label_weights, labels)
            # A point without any weight becomes its own prediction: no error, whatever stood there.
            used = labels.isfinite() & (weights > 0).any(-1, keepdim=True)
            labels = torch.where(used, labels, keypoints.detach())
            loss = self._terms(keypoints, sigmas, labels, weights).sum()
            # The original falls back to the sum where all weights are zero; that sum is zero as well.
            return loss / len(keypoints) if reduction == "batch_mean" else loss

    def flow_terms(
        self,
        keypoints: torch.Tensor,
        sigmas: torch.Tensor,
        labels: torch.Tensor,
        label_weights: torch.Tensor,
    ) -> torch.Tensor:
        """The part of the loss that the flow gives, (batch, keypoints, dim), before weighting: log(sigma) - log(density).

        The density of a point is one number, and counts once a coordinate.
        """
        epsilon = EPSILON if self.formulation == "mmpose" else 0.0
        errors = (keypoints - labels) / (sigmas + epsilon)
        log_density = self.flow.log_prob(errors)
        if self.flow_2d is not None:
            has_depth = label_weights[..., 2] > 0
            log_density = torch.where(has_depth, log_density, self.flow_2d.log_prob(errors[..., :2]))
        return sigmas.log() - log_density[..., None]

    def base_terms(self, keypoints: torch.Tensor, sigmas: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The part of the loss that the base density gives, (batch, keypoints, dim), before weighting."""
        errors = (keypoints - labels).abs()
        if self.formulation == "original":
            # A Gaussian's normalisation beside a Laplacian's exponent, as in the original.
            return (sigmas * math.sqrt(2 * math.pi)).log() + errors / (math.sqrt(2) * sigmas + EPSILON)
        errors = errors / (sigmas + EPSILON)
        if self.base_distribution == "laplace":
            return (2 * sigmas).log() + errors
        return (sigmas * math.sqrt(2 * math.pi)).log() + 0.5 * errors**2

    def _terms(self, keypoints, sigmas, labels, weights) -> torch.Tensor:
        """Weighted terms of the loss, (batch, keypoints, dim)."""
        if self.formulation == "l1":
            return (keypoints - labels).abs() * weights
        flow = self.flow_terms(keypoints, sigmas, labels, weights)
        # In the plane the original weighs both coordinates of this part by the weight of x.
        terms = flow * (weights[..., :1] if self.keypoint_dim == 2 else weights)
        return terms + self.base_terms(keypoints, sigmas, labels) * weights if self.use_residual else terms


@torch.no_grad()
def clip_gradients_by_tensor(module: nn.Module, max_norm: float):
    """Scale the gradient of each tensor on its own to a norm of at most `max_norm`, as the original does in 3-D.

    The stacked networks of a flow count as the separate tensors that they are there. The usual clipping goes by the norm
    of all gradients together.

    Args:
        module: Its gradients are changed in place.
        max_norm: Largest L2 norm of a tensor's gradient.
    """
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if parameter.grad is not None:
                tensors = parameter.grad.flatten(0, 1) if isinstance(part, RealNVP) else parameter.grad[None]
                norms = torch.linalg.vector_norm(tensors.flatten(1), dim=1)
                factors = (max_norm / (norms + 1e-6)).clamp(max=1)
                tensors.mul_(factors.view(-1, *[1] * (tensors.ndim - 1)))


def _expand_weights(label_weights: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
    """Weights (batch, keypoints, dim), 0 where a label is not finite."""
    if label_weights is None:
        label_weights = torch.ones_like(labels)
    elif label_weights.ndim == 2:
        label_weights = label_weights[..., None].expand_as(labels)
    return torch.where(labels.isfinite(), label_weights.to(labels.dtype), 0)


def _check_shapes(keypoints, sigmas, labels, label_weights, keypoint_dim: int):
    shape = tuple(keypoints.shape)
    if keypoints.ndim != 3 or shape[-1] != keypoint_dim:
        raise ValueError(f"`keypoints` must have shape (batch, keypoints, {keypoint_dim}), got {shape}.")
    for name, tensor in (("sigmas", sigmas), ("labels", labels)):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"`{name}` must have the shape of `keypoints` {shape}, got {tuple(tensor.shape)}.")
    if label_weights is not None and tuple(label_weights.shape) not in (shape, shape[:2]):
        raise ValueError(f"`label_weights` must have shape {shape} or {shape[:2]}, got {tuple(label_weights.shape)}.")


__all__ = ["RLELoss", "RealNVP", "clip_gradients_by_tensor"]
