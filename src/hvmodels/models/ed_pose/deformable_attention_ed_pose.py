"""Multi-scale deformable attention: each query reads a few points of every feature level.

Paper: "Deformable DETR: Deformable Transformers for End-to-End Object Detection" (Zhu et al., ICLR 2021, arXiv
2010.04159), section 4.1, as ED-Pose uses it in its encoder and for the cross-attention of its decoder.

The operator has three forms with the same results up to rounding: a gather-and-sum for the CPU, Triton kernels for
CUDA (`deformable_attention_triton.py`), and `grid_sample` for other devices and for export. Locations and sums are
float32 at least in all of them: a bfloat16 location would be off by pixels.
"""

import math
import re
import warnings

import torch
from torch import nn
from transformers import initialization as init
from transformers.integrations import use_kernel_forward_from_hub
from transformers.utils.import_utils import is_torchdynamo_exporting

from .deformable_attention_triton import attend_by_triton, gradients_by_triton, is_triton_usable


IM2COL_STEP = 64  # images that a Hub kernel takes at once; no other form reads it


def multi_scale_deformable_attention(
    value: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted sum of bilinear samples of all levels.

    A location is sampled at `location * size - 0.5` pixels of its level; what lies outside the level counts as zero.

    Args:
        value: (batch, tokens, heads, head_dim), the levels one after the other, each row-major.
        spatial_shapes: (height, width) of each level.
        sampling_locations: (batch, queries, heads, levels, points, 2) as x, y, in [0, 1] of each level's map.
        attention_weights: (batch, queries, heads, levels, points).

    Returns:
        (batch, queries, heads * head_dim) in the dtype of `value`.
    """
    is_exported = is_torchdynamo_exporting() or torch.jit.is_tracing()
    if is_exported or not (value.device.type == "cpu" or is_triton_usable(value)):
        return attend_by_grid(value, spatial_shapes, sampling_locations, attention_weights)
    sizes = [size for shape in spatial_shapes for size in shape]
    return attend(value, sampling_locations, attention_weights, sizes)


def attend_by_grid(
    value: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
) -> torch.Tensor:
    """`multi_scale_deformable_attention` by `grid_sample`, level by level: runs and exports everywhere."""
    batch, _, heads, head_dim = value.shape
    queries = sampling_locations.shape[1]
    dtype = torch.promote_types(value.dtype, torch.float32)
    maps = value.to(dtype).permute(0, 2, 3, 1).flatten(0, 1)
    maps = maps.split([height * width for height, width in spatial_shapes], dim=2)
    grids = (2 * sampling_locations.to(dtype) - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    weights = attention_weights.to(dtype).permute(3, 0, 2, 1, 4).flatten(1, 2)
    output = 0
    for level, (height, width) in enumerate(spatial_shapes):
        samples = nn.functional.grid_sample(
            maps[level].reshape(batch * heads, head_dim, height, width), grids[level], align_corners=False
        )
        output = output + (samples * weights[level][:, None]).sum(-1)
    return output.view(batch, heads * head_dim, queries).transpose(1, 2).to(value.dtype)


# One opaque operator for torch.compile: no graph break, and no guards on the sizes of the levels, of which there would
# be so many that compiling for any image size takes minutes. A namespace of its own for each copy of this file, as
# every repository with `trust_remote_code` brings one.
NAMESPACE = re.sub(r"\W", "_", __name__)


@torch.library.custom_op(f"{NAMESPACE}::attend", mutates_args=())
def attend(
    value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor, spatial_shapes: list[int]
) -> torch.Tensor:
    """`multi_scale_deformable_attention` on the CPU or by Triton; height and width of the levels in one flat list."""
    form = attend_by_triton if value.is_cuda else attend_by_bags
    return form(value, pair_sizes(spatial_shapes), locations, weights)


@attend.register_fake
def _(value, locations, weights, spatial_shapes):
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.custom_op(f"{NAMESPACE}::gradients", mutates_args=())
def gradients(
    grad_output: torch.Tensor,
    value: torch.Tensor,
    locations: torch.Tensor,
    weights: torch.Tensor,
    spatial_shapes: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of value, locations and weights, from the gradient of the output."""
    form = gradients_by_triton if value.is_cuda else gradients_by_bags
    return form(grad_output, value, pair_sizes(spatial_shapes), locations, weights)


@gradients.register_fake
def _(grad_output, value, locations, weights, spatial_shapes):
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (value, locations, weights))


def save_inputs(ctx, inputs, output):
    """Keep the inputs of `attend`, and nothing else, for its backward pass."""
    *tensors, ctx.spatial_shapes = inputs
    ctx.save_for_backward(*tensors)


def backward(ctx, grad_output):
    """Backward pass of `attend`."""
    return *gradients(grad_output, *ctx.saved_tensors, ctx.spatial_shapes), None


attend.register_autograd(backward, setup_context=save_inputs)


def pair_sizes(sizes: list[int]) -> list[tuple[int, int]]:
    """[height, width, height, width, ...] to [(height, width), ...]."""
    return list(zip(sizes[::2], sizes[1::2], strict=True))


class PixelCells:
    """Where the points fall, as rows of the table of `frame_levels`, and how far they are from that row's pixel.

    A point lies between four pixels, the corners of its cell. The frame of zeros around each level stands for all that
    is outside, so that no corner needs a mask: a location beyond the frame is moved onto it.

    The tensors are (batch, queries, heads * levels * points): with the small sizes folded into one long axis, sums with
    constants of that axis are some ten times quicker.
    """

    def __init__(self, spatial_shapes: list[tuple[int, int]], locations: torch.Tensor):
        batch, _, heads, _, points, _ = locations.shape
        device = locations.device
        shapes = torch.tensor(spatial_shapes, dtype=torch.int32, device=device)
        framed = (shapes + 2).prod(1, dtype=torch.int32)
        height, width = shapes.repeat_interleave(points, dim=0).repeat(heads, 1).unbind(1)
        # Row of the first pixel inside the frame, in the first image: levels come first, heads are innermost.
        first = (framed.cumsum(0, dtype=torch.int32) - framed + shapes[:, 1] + 3).repeat_interleave(points)
        first = (first * heads + torch.arange(heads, dtype=torch.int32, device=device)[:, None]).flatten()
        image = torch.arange(batch, dtype=torch.int32, device=device)[:, None, None]

        self.size = torch.stack([width, height]).to(locations.dtype)
        self.x, self.y = (
            (locations[..., axis].flatten(2) * size - 0.5).clamp(min=-1.0).minimum(size)
            for axis, size in enumerate(self.size)
        )
        # The integer bounds matter for NaN: its cell must exist for the output to become NaN.
        column = self.x.floor().to(torch.int32).clamp(min=-1).minimum(width - 1)
        row = self.y.floor().to(torch.int32).clamp(min=-1).minimum(height - 1)
        self.fraction_x, self.fraction_y = self.x - column, self.y - row
        self.rows = (row * (width + 2) + column) * heads + first + image * (framed.sum(dtype=torch.int32) * heads)

        stride = shapes[:, 1] + 2
        corners = torch.stack([torch.zeros_like(stride), torch.ones_like(stride), stride, stride + 1])
        self.steps = corners.repeat_interleave(points, dim=1) * heads

    def corner_rows(self) -> torch.Tensor:
        """(batch * queries * heads, 4, levels * points): rows of the corners."""
        return self.rows.view(-1, 1, self.steps.shape[1]) + self.steps

    def inside(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where moving the point along x, along y changes its value at all."""
        width, height = self.size
        return (self.x > -1) & (self.x < width), (self.y > -1) & (self.y < height)


def corner_shares(fraction_x: torch.Tensor, fraction_y: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    """Bilinear shares of the corners upper left, upper right, lower left, lower right, times the point's weight."""
    lower = weights * fraction_y
    upper = weights - lower
    lower_right, upper_right = lower * fraction_x, upper * fraction_x
    return [upper - upper_right, upper_right, lower - lower_right, lower_right]


def split_levels(tokens: torch.Tensor, spatial_shapes: list[tuple[int, int]], frame: int = 0) -> list[torch.Tensor]:
    """Views (batch, height, width, channels) of the levels in (batch, tokens, channels), each with its frame."""
    shapes = [(height + 2 * frame, width + 2 * frame) for height, width in spatial_shapes]
    levels = tokens.split([height * width for height, width in shapes], dim=1)
    return [level.unflatten(1, shape) for level, shape in zip(levels, shapes, strict=True)]


def frame_levels(value: torch.Tensor, spatial_shapes: list[tuple[int, int]]) -> torch.Tensor:
    """Table (rows, head_dim) of a value (batch, tokens, heads, head_dim) with a frame of zeros around each level."""
    batch, _, heads, head_dim = value.shape
    tokens = sum((height + 2) * (width + 2) for height, width in spatial_shapes)
    table = value.new_zeros(batch, tokens, heads * head_dim)
    framed, levels = split_levels(table, spatial_shapes, frame=1), split_levels(value.flatten(2), spatial_shapes)
    for target, level in zip(framed, levels, strict=True):
        target[:, 1:-1, 1:-1] = level
    return table.view(-1, head_dim)


def attend_by_bags(
    value: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """`multi_scale_deformable_attention` as one weighted sum of table rows a query and head, quick on the CPU."""
    batch, _, heads, head_dim = value.shape
    dtype = torch.promote_types(value.dtype, torch.float32)
    cells = PixelCells(spatial_shapes, locations.to(dtype))
    shares = corner_shares(cells.fraction_x, cells.fraction_y, weights.to(dtype).flatten(2))
    shares = torch.stack([share.view(-1, cells.steps.shape[1]) for share in shares], dim=1)
    output = nn.functional.embedding_bag(
        cells.corner_rows().flatten(1),
        frame_levels(value.to(dtype), spatial_shapes),
        per_sample_weights=shares.flatten(1),
        mode="sum",
    )
    return output.view(batch, -1, heads * head_dim).to(value.dtype)


def gradients_by_bags(
    grad_output: torch.Tensor,
    value: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `attend_by_bags`, several times quicker than the backward pass of `embedding_bag`."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    cells = PixelCells(spatial_shapes, locations.to(dtype))
    grad_output = grad_output.to(dtype).reshape(-1, value.shape[3])
    # The table is passed on, not named: it must not outlive its use.
    grad_locations, grad_weights = point_gradients(
        grad_output, frame_levels(value.to(dtype), spatial_shapes), cells, weights.to(dtype)
    )
    grad_value = value_gradient(grad_output, cells, weights.to(dtype), spatial_shapes)
    return grad_value.to(value.dtype), grad_locations.view(locations.shape).to(locations), grad_weights.to(weights)


def value_gradient(
    grad_output: torch.Tensor,
    cells: PixelCells,
    weights: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
) -> torch.Tensor:
    """Gradient of the value: each cell sums what its points hand back, then each pixel sums its four cells.

    `embedding_bag` does the first sum as well, once the points are sorted by cell.

    Args:
        grad_output: (batch * queries * heads, head_dim).
        cells: The cells of the points.
        weights: (batch, queries, heads, levels, points).
        spatial_shapes: (height, width) of each level.
    """
    batch, _, heads, num_levels, points = weights.shape
    head_dim = grad_output.shape[1]
    table_rows = batch * heads * sum((height + 2) * (width + 2) for height, width in spatial_shapes)
    rows, order = cells.rows.flatten().sort()
    starts = torch.searchsorted(rows, torch.arange(table_rows, dtype=rows.dtype, device=rows.device), out_int32=True)
    sources = (order // (num_levels * points)).to(torch.int32)
    point_values = (cells.fraction_x, cells.fraction_y, weights)
    shares = corner_shares(*(tensor.flatten().index_select(0, order) for tensor in point_values))
    gradient = grad_output.new_zeros(batch, sum(height * width for height, width in spatial_shapes), heads * head_dim)
    # One corner at a time: the sums of a corner are as large as the framed value.
    for share, (down, across) in zip(shares, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        sums = nn.functional.embedding_bag(sources, grad_output, starts, mode="sum", per_sample_weights=share)
        framed = split_levels(sums.view(batch, -1, heads * head_dim), spatial_shapes, frame=1)
        for level, cells_of_level in zip(split_levels(gradient, spatial_shapes), framed, strict=True):
            height, width = level.shape[1:3]
            level += cells_of_level[:, 1 - down : height + 1 - down, 1 - across : width + 1 - across]
    return gradient.view(batch, -1, heads, head_dim)


def point_gradients(
    grad_output: torch.Tensor, table: torch.Tensor, cells: PixelCells, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of locations, (..., 2), and weights, through the products of output gradients and corner values."""
    rows = cells.corner_rows()
    products = product_of_rows(grad_output, table, rows.flatten(1)).view(rows.shape)
    upper_left, upper_right, lower_left, lower_right = (
        corner.reshape(cells.rows.shape) for corner in products.unbind(1)
    )
    across_upper, across_lower = upper_right - upper_left, lower_right - lower_left
    upper = torch.addcmul(upper_left, cells.fraction_x, across_upper)
    down = torch.addcmul(lower_left, cells.fraction_x, across_lower) - upper
    grad_weights = torch.addcmul(upper, cells.fraction_y, down).view(weights.shape)
    weights = weights.flatten(2)
    slopes = (across_upper.lerp(across_lower, cells.fraction_y), down)
    gradients = [
        slope * weights * size * inside for slope, size, inside in zip(slopes, cells.size, cells.inside(), strict=True)
    ]
    return torch.stack(gradients, dim=-1), grad_weights


def product_of_rows(left: torch.Tensor, table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Products of each row of `left` (n, dim) with the k rows of `table` (m, dim) that `rows` (n, k) names, (n, k).

    They are the entries at `rows` of `left @ table.T`, which is what a sampled matrix product computes.
    """
    n, k = rows.shape
    starts = torch.arange(0, n * k + 1, k, dtype=rows.dtype, device=rows.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR")
        pattern = torch.sparse_csr_tensor(
            starts, rows.flatten(), left.new_zeros(n * k), (n, len(table)), check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, left, table.t(), beta=0.0).values().view(n, k)


@use_kernel_forward_from_hub("MultiScaleDeformableAttention")
class MultiScaleDeformableAttention(nn.Module):
    """The operator as a layer whose `forward` a kernel from the Hub may replace; the arguments are those it expects."""

    def forward(
        self,
        value: torch.Tensor,
        value_spatial_shapes: torch.Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: torch.Tensor,
        sampling_locations: torch.Tensor,
        attention_weights: torch.Tensor,
        im2col_step: int,
    ) -> torch.Tensor:
        """(batch, queries, heads * head_dim); see `multi_scale_deformable_attention`."""
        return multi_scale_deformable_attention(
            value, value_spatial_shapes_list, sampling_locations, attention_weights
        )


class EDPoseMultiscaleDeformableAttention(nn.Module):
    """Multi-scale deformable attention with its four projections.

    Args:
        embed_dim: Width of queries and values.
        num_heads: Heads; must divide `embed_dim`.
        n_levels: Feature levels that `value_states` holds.
        n_points: Points that a head samples on each level.
    """

    def __init__(self, embed_dim: int, num_heads: int, n_levels: int, n_points: int):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"`embed_dim` ({embed_dim}) must be a multiple of `num_heads` ({num_heads}).")
        self.num_heads = num_heads
        self.n_levels = n_levels
        self.n_points = n_points
        self.attn = MultiScaleDeformableAttention()
        self.sampling_offsets = nn.Linear(embed_dim, num_heads * n_levels * n_points * 2)
        self.attention_weights = nn.Linear(embed_dim, num_heads * n_levels * n_points)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        init_deformable_attention(self)

    def project_value(self, value_states: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Project `value_states` (batch, tokens, embed_dim); padded tokens become zero, bias included."""
        value = self.value_proj(value_states)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        return value

    def forward(
        self,
        hidden_states: torch.Tensor,
        value_states: torch.Tensor | None,
        reference_points: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        padding_mask: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from the queries to the feature maps.

        Args:
            hidden_states: Queries, position added, (batch, queries, embed_dim).
            value_states: Feature tokens (batch, tokens, embed_dim), the levels one after the other. Not read if
                `value` is given.
            reference_points: (batch, queries, levels, 2) x, y, or (batch, queries, levels, 4) x, y, width, height, in
                [0, 1] of each padded level: already multiplied by the valid ratios. Best in float32 whatever the model
                computes in: half precision cannot tell neighbouring pixels of a large map apart.
            spatial_shapes: (height, width) of each level.
            padding_mask: (batch, tokens), True on padding. Not read if `value` is given.
            value: What `project_value` gives, for callers that project the values of several layers at once.

        Returns:
            (batch, queries, embed_dim).
        """
        batch, queries, embed_dim = hidden_states.shape
        if value is None:
            value = self.project_value(value_states, padding_mask)
        value = value.view(batch, -1, self.num_heads, embed_dim // self.num_heads)
        points = (batch, queries, self.num_heads, self.n_levels, self.n_points)
        weights = self.attention_weights(hidden_states).view(*points[:3], -1).softmax(-1).view(points)
        offsets = self.sampling_offsets(hidden_states).view(*points, 2)
        dtype = torch.promote_types(value.dtype, torch.float32)
        reference_points = reference_points[:, :, None, :, None].to(dtype)
        if reference_points.shape[-1] == 4:
            sizes = reference_points[..., 2:] * (0.5 / self.n_points)
        else:
            # Not `torch.tensor`: it would fix the sizes in a trace and make a GPU wait for the copy.
            sizes = [offsets.new_full((), size, dtype=dtype) for shape in spatial_shapes for size in reversed(shape)]
            sizes = torch.stack(sizes).reciprocal().view(-1, 1, 2)
        locations = torch.addcmul(reference_points[..., :2], offsets.to(dtype), sizes)
        return self.output_proj(self.sample(value, spatial_shapes, locations, weights))

    def sample(self, value, spatial_shapes, locations, weights) -> torch.Tensor:
        """The operator itself, by a kernel from the Hub if one has replaced the `forward` of `attn`."""
        if "forward" not in vars(self.attn):
            return self.attn(value, None, spatial_shapes, None, locations, weights, IM2COL_STEP)
        shapes = torch.tensor(spatial_shapes, device=value.device)
        starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
        inputs = (locations, weights.to(locations.dtype))  # such kernels take one dtype
        output = self.attn(value.to(locations.dtype), shapes, spatial_shapes, starts, *inputs, IM2COL_STEP)
        return output.to(value.dtype)


@torch.no_grad()
def init_deformable_attention(module: EDPoseMultiscaleDeformableAttention):
    """Start from equal weights on points along `num_heads` directions, the n-th at n pixels or n/points half boxes.

    Weights that came from a checkpoint are left alone, so that `_init_weights` may call it on any module.
    """
    angles = torch.arange(module.num_heads, dtype=torch.float32, device="cpu") * (2 * math.pi / module.num_heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    directions = directions / directions.abs().amax(dim=-1, keepdim=True)
    steps = torch.arange(1, module.n_points + 1, dtype=torch.float32, device="cpu")
    offsets = (directions[:, None, None] * steps[:, None]).expand(-1, module.n_levels, -1, -1)
    init.zeros_(module.sampling_offsets.weight)
    init.copy_(module.sampling_offsets.bias, offsets.flatten())
    init.zeros_(module.attention_weights.weight)
    init.zeros_(module.attention_weights.bias)
    for projection in (module.value_proj, module.output_proj):
        init.xavier_uniform_(projection.weight)
        init.zeros_(projection.bias)


__all__ = ["EDPoseMultiscaleDeformableAttention", "init_deformable_attention", "multi_scale_deformable_attention"]
