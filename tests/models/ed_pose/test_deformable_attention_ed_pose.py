"""Multi-scale deformable attention: values of the original, the formula itself, half precision, export."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from hvmodels.models.ed_pose.deformable_attention_ed_pose import (
    EDPoseMultiscaleDeformableAttention,
    attend,
    attend_by_bags,
    attend_by_grid,
    init_deformable_attention,
    multi_scale_deformable_attention,
)


FIXTURE = Path(__file__).parents[2] / "fixtures" / "edpose" / "msdeform_attn"
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
SHAPES = {
    "one_level": ([(5, 7)], 2, 3, 4, 4),
    "four_levels": ([(7, 9), (4, 5), (2, 3), (1, 2)], 2, 4, 8, 4),
    "five_levels_odd": ([(9, 5), (5, 3), (3, 2), (2, 1), (1, 1)], 3, 2, 5, 3),
    "one_of_each": ([(1, 1)], 1, 1, 1, 1),
}

FORMS = {"bags": attend_by_bags, "grid": attend_by_grid}
HALF = {"bfloat16": (torch.bfloat16, 2e-2), "float16": (torch.float16, 2e-3)}


def make_inputs(spatial_shapes, batch, heads, head_dim, points, queries=11, dtype=torch.float32, spread=0.4):
    """Random inputs; the locations reach beyond the maps."""
    tokens, levels = sum(height * width for height, width in spatial_shapes), len(spatial_shapes)
    value = torch.randn(batch, tokens, heads, head_dim, dtype=dtype)
    locations = torch.rand(batch, queries, heads, levels, points, 2, dtype=dtype) * (1 + 2 * spread) - spread
    weights = torch.randn(batch, queries, heads, levels * points, dtype=dtype).softmax(-1)
    return value, locations, weights.view(batch, queries, heads, levels, points)


def sample_by_the_formula(value, spatial_shapes, locations, weights):
    """One corner of one point at a time, on whole tensors."""
    batch, _, heads, head_dim = value.shape
    output = value.new_zeros(batch, locations.shape[1], heads, head_dim)
    rows, columns = torch.arange(batch)[:, None, None], torch.arange(heads)
    start = 0
    for level, (height, width) in enumerate(spatial_shapes):
        for point in range(locations.shape[4]):
            x, y = locations[:, :, :, level, point].unbind(-1)
            x, y = x * width - 0.5, y * height - 0.5
            for corner_y in (y.floor(), y.floor() + 1):
                for corner_x in (x.floor(), x.floor() + 1):
                    inside = (corner_x >= 0) & (corner_x < width) & (corner_y >= 0) & (corner_y < height)
                    share = (1 - (x - corner_x).abs()) * (1 - (y - corner_y).abs()) * inside
                    token = corner_y.clamp(0, height - 1) * width + corner_x.clamp(0, width - 1)
                    corner_value = value[rows, start + token.long(), columns]
                    output = output + corner_value * (share * weights[:, :, :, level, point])[..., None]
        start += height * width
    return output.flatten(2)


def read_case():
    return json.loads((FIXTURE / "config.json").read_text()), load_file(FIXTURE / "io.safetensors")


def check_gradients(expected, **tensors):
    for name, tensor in tensors.items():
        scale = expected[name].abs().max()
        assert_close(
            tensor.grad / scale, expected[name] / scale, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_operator_equals_original():
    config, case = read_case()
    inputs = {
        name: case[f"op.input.{name}"].clone().requires_grad_()
        for name in ("value", "sampling_locations", "attention_weights")
    }
    output = multi_scale_deformable_attention(
        inputs["value"],
        [tuple(shape) for shape in config["spatial_shapes"]],
        inputs["sampling_locations"],
        inputs["attention_weights"],
    )
    assert_close(output, case["op.output"], **TOLERANCE)
    output.backward(case["op.grad_output"])
    check_gradients({name: case[f"op.grad.{name}"] for name in inputs}, **inputs)


@pytest.mark.parametrize("references", ["ref2", "ref4"])
@pytest.mark.parametrize("projected", [False, True], ids=["tokens", "projected"])
def test_module_equals_original(references, projected):
    config, case = read_case()
    spatial_shapes = [tuple(shape) for shape in config["spatial_shapes"]]
    module = EDPoseMultiscaleDeformableAttention(
        config["d_model"], config["n_heads"], config["n_levels"], config["n_points"]
    )
    prefix = "module.param."
    module.load_state_dict({key.removeprefix(prefix): case[key] for key in case if key.startswith(prefix)})
    query, reference_points = (
        case[f"module.{references}.{name}"].clone().requires_grad_() for name in ("query", "reference_points")
    )
    tokens = case["module.input.value"].clone().requires_grad_()
    padding_mask = case["module.input.padding_mask"]
    if projected:
        value = module.project_value(tokens, padding_mask)
        output = module(query, None, reference_points, spatial_shapes, value=value)
    else:
        output = module(query, tokens, reference_points, spatial_shapes, padding_mask)
    assert_close(output, case[f"module.{references}.output"], **TOLERANCE)

    output.backward(case[f"module.{references}.grad_output"])
    tensors = dict(module.named_parameters()) | {"query": query, "reference_points": reference_points, "value": tokens}
    prefix = f"module.{references}.grad."
    expected = {key.removeprefix(prefix): case[key] for key in case if key.startswith(prefix)}
    check_gradients(expected, **{name: tensors[name] for name in expected})


@pytest.mark.parametrize("shape", SHAPES)
def test_operator_is_the_formula(shape):
    inputs = [tensor.requires_grad_() for tensor in make_inputs(*SHAPES[shape], dtype=torch.float64)]
    copies = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value, locations, weights = inputs
    output = multi_scale_deformable_attention(value, SHAPES[shape][0], locations, weights)
    expected = sample_by_the_formula(copies[0], SHAPES[shape][0], *copies[1:])
    assert_close(output, expected)
    gradient = torch.randn_like(output)
    output.backward(gradient)
    expected.backward(gradient)
    for tensor, copy in zip(inputs, copies, strict=True):
        assert_close(tensor.grad, copy.grad)


def test_initial_state():
    module = EDPoseMultiscaleDeformableAttention(embed_dim=16, num_heads=8, n_levels=2, n_points=3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7.0)
    init_deformable_attention(module)
    offsets = module.sampling_offsets.bias.view(8, 2, 3, 2)
    directions = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]]
    expected = torch.tensor(directions)[:, None, None] * torch.arange(1.0, 4.0)[:, None]
    assert_close(offsets, expected.expand(8, 2, 3, 2), atol=1e-5, rtol=0)
    for name, parameter in module.named_parameters():
        if name.endswith("_proj.weight"):
            bound = (6 / 32) ** 0.5
            assert parameter.abs().max() <= bound and parameter.std() > bound / 3, name
        elif name != "sampling_offsets.bias":
            assert_close(parameter, torch.zeros_like(parameter))


def test_initialisation_leaves_loaded_weights_alone():
    module = EDPoseMultiscaleDeformableAttention(embed_dim=16, num_heads=4, n_levels=2, n_points=3)
    nn.init.constant_(module.sampling_offsets.bias, 7.0)
    module.sampling_offsets.bias._is_hf_initialized = True
    init_deformable_attention(module)
    assert (module.sampling_offsets.bias == 7).all()


def test_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="embed_dim"):
        EDPoseMultiscaleDeformableAttention(embed_dim=10, num_heads=4, n_levels=2, n_points=3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("half", HALF)
def test_half_precision(form, half):
    dtype, tolerance = HALF[half]
    spatial_shapes = SHAPES["four_levels"][0]
    value, locations, weights = make_inputs(*SHAPES["four_levels"])
    value, weights = value.to(dtype), weights.to(dtype)
    expected = sample_by_the_formula(value.float(), spatial_shapes, locations, weights.float())
    output = FORMS[form](value, spatial_shapes, locations, weights)
    assert output.dtype == dtype
    assert_close(output.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("form", FORMS)
def test_a_diverged_location_shows_as_nan(form):
    value, locations, weights = make_inputs(*SHAPES["four_levels"])
    locations[0, 3, 1, 2, 0] = torch.tensor([torch.nan, 0.5])
    locations[0, 4] = 1e30
    output = FORMS[form](value, SHAPES["four_levels"][0], locations, weights).unflatten(-1, (4, 8))
    if form == "bags":  # `grid_sample` reads a corner of the map at NaN
        assert output[0, 3, 1].isnan().all()
    assert not output[0, 3, 0].isnan().any() and not output[1].isnan().any()
    assert_close(output[0, 4], torch.zeros(4, 8))


def test_only_the_gradients_that_are_needed():
    value, locations, weights = make_inputs(*SHAPES["four_levels"])
    output = multi_scale_deformable_attention(value, SHAPES["four_levels"][0], locations, weights.requires_grad_())
    output.sum().backward()
    assert weights.grad is not None
    value.requires_grad_()
    multi_scale_deformable_attention(value, SHAPES["four_levels"][0], locations, weights.detach()).sum().backward()
    assert value.grad is not None


@pytest.mark.filterwarnings("error")
def test_training_warns_of_nothing():
    test_only_the_gradients_that_are_needed()


def test_operator_is_registered_soundly():
    value, locations, weights = (tensor.requires_grad_() for tensor in make_inputs(*SHAPES["one_level"]))
    torch.library.opcheck(attend, (value, locations, weights, [5, 7]))


class TwoLevels(nn.Module):
    """Feature maps whose sizes follow the image's, then the attention."""

    def __init__(self):
        super().__init__()
        self.attention = EDPoseMultiscaleDeformableAttention(embed_dim=8, num_heads=2, n_levels=2, n_points=3)
        nn.init.normal_(self.attention.sampling_offsets.weight)

    def forward(self, pixel_values, queries, reference_points):
        maps = [nn.functional.avg_pool2d(pixel_values, stride, ceil_mode=True) for stride in (2, 4)]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        spatial_shapes = [(level.shape[2], level.shape[3]) for level in maps]
        return self.attention(queries, tokens, reference_points, spatial_shapes)


def model_inputs(batch, height, width, queries, coordinates):
    return (
        torch.randn(batch, 8, height, width),
        torch.randn(batch, queries, 8),
        torch.rand(batch, queries, 2, coordinates),
    )


@pytest.mark.parametrize("coordinates", [2, 4])
def test_export_with_dynamic_sizes(coordinates):
    model = TwoLevels().eval()
    auto = torch.export.Dim.AUTO
    exported = torch.export.export(
        model,
        model_inputs(2, 16, 24, 7, coordinates),
        dynamic_shapes=({0: auto, 2: auto, 3: auto}, {0: auto, 1: auto}, {0: auto, 1: auto}),
    )
    assert any("grid_sampler" in str(node.target) for node in exported.graph.nodes)
    inputs = model_inputs(3, 20, 36, 5, coordinates)
    assert_close(exported.module()(*inputs), model(*inputs), **TOLERANCE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("coordinates", [2, 4])
def test_trace_with_dynamic_sizes(coordinates):
    model = TwoLevels().eval()
    traced = torch.jit.trace(model, model_inputs(2, 16, 24, 7, coordinates), check_trace=False)
    inputs = model_inputs(3, 20, 36, 5, coordinates)
    assert_close(traced(*inputs), model(*inputs), **TOLERANCE)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_whole_graph_compiles(dynamic):
    """Traced by `aot_eager`, which needs no C++ compiler: no graph break, backward pass included."""
    torch.compiler.reset()
    compiled = torch.compile(multi_scale_deformable_attention, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for shape in ("four_levels", "five_levels_odd"):
        spatial_shapes = SHAPES[shape][0]
        results = []
        inputs = make_inputs(*SHAPES[shape])
        for function in (multi_scale_deformable_attention, compiled):
            tensors = [tensor.clone().requires_grad_() for tensor in inputs]
            output = function(tensors[0], spatial_shapes, *tensors[1:])
            output.square().sum().backward()
            results.append([output, *(tensor.grad for tensor in tensors)])
        assert_close(results[1], results[0], atol=1e-5, rtol=1e-4)


def test_kernel_from_the_hub_gets_what_it_expects():
    """`kernels` replaces the `forward` of a layer that keeps the name and the order of arguments."""
    module = EDPoseMultiscaleDeformableAttention(embed_dim=8, num_heads=2, n_levels=2, n_points=3).bfloat16()
    nn.init.normal_(module.sampling_offsets.weight)
    spatial_shapes = [(4, 6), (2, 3)]
    inputs = [torch.randn(2, 5, 8).bfloat16(), torch.randn(2, 30, 8).bfloat16(), torch.rand(2, 5, 2, 4)]
    expected = module(*inputs, spatial_shapes)
    calls = []

    def kernel(value, shapes, shapes_list, starts, locations, weights, im2col_step):
        calls.append((shapes.tolist(), starts.tolist(), im2col_step))
        assert value.dtype == locations.dtype == weights.dtype == torch.float32
        return multi_scale_deformable_attention(value, shapes_list, locations, weights)

    module.attn.forward = kernel
    output = module(*inputs, spatial_shapes)
    assert calls == [([[4, 6], [2, 3]], [0, 24], 64)]
    assert_close(output, expected, atol=2e-2, rtol=2e-2)
