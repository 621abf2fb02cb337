"""Multi-scale deformable attention as two Triton kernels, forward and backward.

Same semantics as the PyTorch forms in `deformable_attention_ed_pose.py`. The sums are float32 whatever the dtype of the
value; the gradient of the value is summed by atomic additions, in no fixed order. Without Triton the file imports all
the same and `is_triton_usable` says no.
"""

import torch


try:
    import triton
    import triton.language as tl
except Exception:  # a broken Triton is as good as none
    triton = None


QUERIES_PER_PROGRAM = 32


def is_triton_usable(value: torch.Tensor) -> bool:
    """Whether the kernels can take `value`: Triton there, a CUDA device it supports, float32 or half precision.

    Where deterministic algorithms are demanded the answer is no: `grid_sample`, which then takes over, reports by
    torch's own rules that its backward pass is not deterministic either.
    """
    return (
        triton is not None
        and value.is_cuda
        and value.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and torch.cuda.get_device_properties(value.device).major >= 7
        and not torch.are_deterministic_algorithms_enabled()
    )


def attend_by_triton(
    value: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """`multi_scale_deformable_attention` on a CUDA device.

    Args:
        value: (batch, tokens, heads, head_dim), float32, bfloat16 or float16.
        spatial_shapes: (height, width) of each level.
        locations: (batch, queries, heads, levels, points, 2); float32 also beside a half precision value.
        weights: (batch, queries, heads, levels, points).

    Returns:
        (batch, queries, heads * head_dim) in the dtype of `value`.
    """
    output = value.new_empty(value.shape[0], weights.shape[1], value.shape[2] * value.shape[3])
    inputs = (tensor.contiguous() for tensor in (value, locations, weights))
    launch(forward_kernel, (*inputs, level_sizes(spatial_shapes, value), output), value.shape, weights.shape)
    return output


def gradients_by_triton(
    grad_output: torch.Tensor,
    value: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of value, locations and weights, each in the dtype and shape of its tensor."""
    grad_output, value, locations, weights = (t.contiguous() for t in (grad_output, value, locations, weights))
    grad_value = torch.zeros_like(value, dtype=torch.float32)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    inputs = (grad_output, value, locations, weights, level_sizes(spatial_shapes, value))
    launch(backward_kernel, (*inputs, grad_value, grad_locations, grad_weights), value.shape, weights.shape)
    return grad_value.to(value.dtype), grad_locations, grad_weights


def level_sizes(spatial_shapes: list[tuple[int, int]], value: torch.Tensor) -> torch.Tensor:
    """(levels * 2,) heights and widths on the device, made there: a copy from the host would not fit a CUDA graph."""
    return torch.stack([value.new_full((), size, dtype=torch.int32) for shape in spatial_shapes for size in shape])


def launch(kernel, tensors, value_shape, weights_shape):
    """One program a block of queries of one head of one image."""
    batch, tokens, heads, head_dim = value_shape
    _, queries, _, num_levels, points = weights_shape
    grid = (triton.cdiv(queries, QUERIES_PER_PROGRAM), batch * heads)
    kernel[grid](
        *tensors,
        tokens,
        queries,
        heads=heads,
        head_dim=head_dim,
        num_levels=num_levels,
        points=points,
        block_queries=QUERIES_PER_PROGRAM,
        block_dim=triton.next_power_of_2(head_dim),
    )


if triton is not None:

    @triton.jit
    def locate(locations, index, is_query, width, height):
        """Pixel coordinates of the points, kept in [-1, size], where all that is outside reads zero; NaN stays NaN."""
        x = tl.load(locations + index * 2, mask=is_query, other=0.0).to(tl.float32) * width - 0.5
        y = tl.load(locations + index * 2 + 1, mask=is_query, other=0.0).to(tl.float32) * height - 0.5
        x, y = tl.where(x < -1, -1.0, x), tl.where(y < -1, -1.0, y)
        return tl.where(x > width, width.to(tl.float32), x), tl.where(y > height, height.to(tl.float32), y)

    @triton.jit
    def corner_offsets(left, top, start, width, height, is_query, stride: tl.constexpr):
        """Where the token at column `left`, row `top` of a level begins, and whether there is such a token."""
        exists = is_query & (left >= 0) & (left < width) & (top >= 0) & (top < height)
        return (start + tl.where(exists, top * width + left, 0.0).to(tl.int32)) * stride, exists

    @triton.jit
    def read_corner(first_value, offsets, exists, is_channel):
        """Values of a corner, (queries, channels) in float32, zero outside the level."""
        mask = exists[:, None] & is_channel[None, :]
        return tl.load(first_value + offsets[:, None], mask=mask, other=0.0).to(tl.float32)

    @triton.jit
    def return_corner(first_gradient, offsets, exists, is_channel, share, gradient):
        """Add `share` of the output's gradient to a corner's gradient."""
        mask = exists[:, None] & is_channel[None, :]
        tl.atomic_add(first_gradient + offsets[:, None], share[:, None] * gradient, mask=mask, sem="relaxed")

    @triton.jit
    def forward_kernel(
        value,
        locations,
        weights,
        sizes,
        output,
        tokens,
        queries,
        heads: tl.constexpr,
        head_dim: tl.constexpr,
        num_levels: tl.constexpr,
        points: tl.constexpr,
        block_queries: tl.constexpr,
        block_dim: tl.constexpr,
    ):
        """One program: the output of one head of one image for a block of queries."""
        image, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
        query = tl.program_id(0) * block_queries + tl.arange(0, block_queries)
        channel = tl.arange(0, block_dim)
        is_query, is_channel = query < queries, channel < head_dim
        query_head = (image * queries + query) * heads + head
        first_value = value + (image * tokens * heads + head) * head_dim + channel[None, :]
        stride: tl.constexpr = heads * head_dim
        total = tl.zeros((block_queries, block_dim), dtype=tl.float32)
        start = 0
        for level in range(num_levels):
            height, width = tl.load(sizes + level * 2), tl.load(sizes + level * 2 + 1)
            for point in range(points):
                index = (query_head * num_levels + level) * points + point
                weight = tl.load(weights + index, mask=is_query, other=0.0).to(tl.float32)
                x, y = locate(locations, index, is_query, width, height)
                left, top = tl.floor(x), tl.floor(y)
                right, lower = x - left, y - top
                offsets, exists = corner_offsets(left, top, start, width, height, is_query, stride)
                share = weight * (1 - right) * (1 - lower)
                total += share[:, None] * read_corner(first_value, offsets, exists, is_channel)
                offsets, exists = corner_offsets(left + 1, top, start, width, height, is_query, stride)
                share = weight * right * (1 - lower)
                total += share[:, None] * read_corner(first_value, offsets, exists, is_channel)
                offsets, exists = corner_offsets(left, top + 1, start, width, height, is_query, stride)
                share = weight * (1 - right) * lower
                total += share[:, None] * read_corner(first_value, offsets, exists, is_channel)
                offsets, exists = corner_offsets(left + 1, top + 1, start, width, height, is_query, stride)
                share = weight * right * lower
                total += share[:, None] * read_corner(first_value, offsets, exists, is_channel)
            start += height * width
        tl.store(
            output + query_head[:, None] * head_dim + channel[None, :],
            total,
            mask=is_query[:, None] & is_channel[None, :],
        )

    @triton.jit
    def backward_kernel(
        grad_output,
        value,
        locations,
        weights,
        sizes,
        grad_value,
        grad_locations,
        grad_weights,
        tokens,
        queries,
        heads: tl.constexpr,
        head_dim: tl.constexpr,
        num_levels: tl.constexpr,
        points: tl.constexpr,
        block_queries: tl.constexpr,
        block_dim: tl.constexpr,
    ):
        """One program: all that the output of one head of one image hands back for a block of queries."""
        image, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
        query = tl.program_id(0) * block_queries + tl.arange(0, block_queries)
        channel = tl.arange(0, block_dim)
        is_query, is_channel = query < queries, channel < head_dim
        query_head = (image * queries + query) * heads + head
        first = (image * tokens * heads + head) * head_dim + channel[None, :]
        first_value, first_gradient = value + first, grad_value + first
        stride: tl.constexpr = heads * head_dim
        gradient = tl.load(
            grad_output + query_head[:, None] * head_dim + channel[None, :],
            mask=is_query[:, None] & is_channel[None, :],
            other=0.0,
        ).to(tl.float32)
        start = 0
        for level in range(num_levels):
            height, width = tl.load(sizes + level * 2), tl.load(sizes + level * 2 + 1)
            for point in range(points):
                index = (query_head * num_levels + level) * points + point
                weight = tl.load(weights + index, mask=is_query, other=0.0).to(tl.float32)
                x, y = locate(locations, index, is_query, width, height)
                left, top = tl.floor(x), tl.floor(y)
                right, lower = x - left, y - top

                offsets, exists = corner_offsets(left, top, start, width, height, is_query, stride)
                upper_left = tl.sum(gradient * read_corner(first_value, offsets, exists, is_channel), 1)
                share = weight * (1 - right) * (1 - lower)
                return_corner(first_gradient, offsets, exists, is_channel, share, gradient)
                offsets, exists = corner_offsets(left + 1, top, start, width, height, is_query, stride)
                upper_right = tl.sum(gradient * read_corner(first_value, offsets, exists, is_channel), 1)
                share = weight * right * (1 - lower)
                return_corner(first_gradient, offsets, exists, is_channel, share, gradient)
                offsets, exists = corner_offsets(left, top + 1, start, width, height, is_query, stride)
                lower_left = tl.sum(gradient * read_corner(first_value, offsets, exists, is_channel), 1)
                share = weight * (1 - right) * lower
                return_corner(first_gradient, offsets, exists, is_channel, share, gradient)
                offsets, exists = corner_offsets(left + 1, top + 1, start, width, height, is_query, stride)
                lower_right = tl.sum(gradient * read_corner(first_value, offsets, exists, is_channel), 1)
                share = weight * right * lower
                return_corner(first_gradient, offsets, exists, is_channel, share, gradient)

                upper = upper_left + right * (upper_right - upper_left)
                down = lower_left + right * (lower_right - lower_left) - upper
                across = (1 - lower) * (upper_right - upper_left) + lower * (lower_right - lower_left)
                # On the frame and beyond it a point does not move with its location.
                across = tl.where((x > -1) & (x < width), across * weight * width, 0.0)
                down_slope = tl.where((y > -1) & (y < height), down * weight * height, 0.0)
                grad_weight = upper + lower * down
                tl.store(grad_locations + index * 2, across, mask=is_query)
                tl.store(grad_locations + index * 2 + 1, down_slope, mask=is_query)
                tl.store(grad_weights + index, grad_weight, mask=is_query)
            start += height * width


__all__ = ["attend_by_triton", "gradients_by_triton", "is_triton_usable"]
