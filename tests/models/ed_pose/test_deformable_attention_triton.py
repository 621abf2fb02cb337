"""The Triton kernels against the PyTorch form: in Triton's interpreter on the CPU, and on a GPU where there is one."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from hvmodels.models.ed_pose import deformable_attention_ed_pose as pytorch_form
from hvmodels.models.ed_pose import deformable_attention_triton as triton_form


SHAPES = {
    "two_levels": ([(5, 7), (2, 3)], 2, 2, 8, 2, 3),
    "odd_sizes": ([(3, 5), (2, 1), (1, 1)], 1, 3, 5, 1, 4),
    "more_queries_than_a_program_takes": ([(4, 3)], 1, 1, 4, 3, 37),
    "one_of_each": ([(1, 1)], 1, 1, 1, 1, 1),
}
# dtype of value and weights, tolerance relative to the largest entry
DTYPES = {"float32": (torch.float32, 1e-5), "bfloat16": (torch.bfloat16, 1e-2), "float16": (torch.float16, 2e-3)}


def make_inputs(spatial_shapes, batch, heads, head_dim, points, queries, dtype, device="cpu"):
    """Random inputs; the locations reach beyond the maps."""
    tokens, levels = sum(height * width for height, width in spatial_shapes), len(spatial_shapes)
    value = torch.randn(batch, tokens, heads, head_dim)
    locations = torch.rand(batch, queries, heads, levels, points, 2) * 1.8 - 0.4
    weights = torch.randn(batch, queries, heads, levels * points).softmax(-1).view(*locations.shape[:-1])
    grad_output = torch.randn(batch, queries, heads * head_dim)
    dtypes = (dtype, torch.float32, dtype, dtype)
    return [
        tensor.to(device, kind) for tensor, kind in zip((value, locations, weights, grad_output), dtypes, strict=True)
    ]


def check(actual, expected, tolerance):
    assert actual.dtype == expected.dtype
    scale = expected.abs().max().clamp(min=1e-3).float()
    assert_close(actual.float() / scale, expected.float() / scale, atol=tolerance, rtol=0)


INTERPRET = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("kernels", sys.argv[1])
kernels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernels)
torch.set_num_threads(1)
results = {}
for name, (spatial_shapes, value, locations, weights, grad_output) in torch.load(sys.argv[2]).items():
    inputs = (value, spatial_shapes, locations, weights)
    results[name] = [kernels.attend_by_triton(*inputs), *kernels.gradients_by_triton(grad_output, *inputs)]
torch.save(results, sys.argv[2])
"""


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """Inputs of all cases, and what Triton's interpreter makes of them.

    The interpreter is chosen by the first import of Triton in a process, so it needs one of its own.
    """
    pytest.importorskip("triton", reason="Triton is not installed: `pip install triton` also serves a CPU")
    torch.manual_seed(0)
    cases = {
        f"{shape}-{dtype}": [SHAPES[shape][0], *make_inputs(*SHAPES[shape], DTYPES[dtype][0])]
        for shape in SHAPES
        for dtype in DTYPES
    }
    value, locations, weights, grad_output = make_inputs([(3, 4)], 1, 2, 4, 2, 3, torch.float32)
    locations[0, 0] = 1e30
    locations[0, 1] = -1e30
    locations[0, 2, 1, 0, 0] = torch.nan
    cases["far_outside_and_nan"] = [[(3, 4)], value, locations, weights, grad_output]
    file = tmp_path_factory.mktemp("triton") / "cases.pt"
    torch.save(cases, file)
    command = [sys.executable, "-c", INTERPRET, triton_form.__file__, str(file)]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    results = torch.load(file)
    return {name: (cases[name], results[name]) for name in cases}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_interpreted_kernels_equal_pytorch(interpreted, shape, dtype):
    (spatial_shapes, value, locations, weights, grad_output), results = interpreted[f"{shape}-{dtype}"]
    inputs = (value, spatial_shapes, locations, weights)
    expected = [pytorch_form.attend_by_bags(*inputs), *pytorch_form.gradients_by_bags(grad_output, *inputs)]
    for result, expectation in zip(results, expected, strict=True):
        check(result, expectation, DTYPES[dtype][1])


def test_interpreted_kernel_far_outside_and_at_nan(interpreted):
    (spatial_shapes, value, locations, weights, _), (output, *_) = interpreted["far_outside_and_nan"]
    expected = pytorch_form.attend_by_bags(value, spatial_shapes, locations, weights)
    assert_close(output, expected, equal_nan=True)
    assert (output[0, :2] == 0).all() and output[0, 2, 4:].isnan().all()


def test_without_triton_the_module_imports_and_declines(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # makes `import triton` fail
    spec = importlib.util.spec_from_file_location("deformable_attention_without_triton", triton_form.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.is_triton_usable(torch.zeros(1, 1, 1, 1))


def test_cpu_tensors_do_not_go_to_triton():
    assert not triton_form.is_triton_usable(torch.zeros(1, 1, 1, 1))


needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or triton_form.triton is None, reason="needs a CUDA device and Triton"
)
GPU_SHAPES = {**SHAPES, "encoder": ([(60, 80), (30, 40), (15, 20), (8, 10)], 2, 8, 32, 4, 6380)}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", GPU_SHAPES)
def test_kernels_equal_pytorch_on_a_gpu(shape, dtype):
    spatial_shapes = GPU_SHAPES[shape][0]
    dtype, tolerance = DTYPES[dtype]
    value, locations, weights, grad_output = make_inputs(*GPU_SHAPES[shape], dtype, device="cuda")
    assert triton_form.is_triton_usable(value)
    results = []
    for attend in (pytorch_form.multi_scale_deformable_attention, pytorch_form.attend_by_grid):
        tensors = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
        output = attend(tensors[0], spatial_shapes, *tensors[1:])
        output.backward(grad_output)
        results.append([output, *(tensor.grad for tensor in tensors)])
    # On the edge of a pixel, rounding decides which slope a location has: a few may differ.
    locations_at = 2
    for index, (actual, expected) in enumerate(zip(*results, strict=True)):
        if index == locations_at:
            scale = expected.abs().max()
            assert (((actual - expected).abs() / scale) > tolerance).float().mean() < 1e-3
        else:
            check(actual, expected, 10 * tolerance)


@pytest.mark.gpu
@needs_gpu
def test_whole_graph_compiles_on_a_gpu():
    spatial_shapes = SHAPES["two_levels"][0]
    value, locations, weights, _ = make_inputs(*SHAPES["two_levels"], torch.float32, device="cuda")
    compiled = torch.compile(pytorch_form.multi_scale_deformable_attention, fullgraph=True)
    results = []
    for attend in (pytorch_form.multi_scale_deformable_attention, compiled):
        tensors = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
        output = attend(tensors[0], spatial_shapes, *tensors[1:])
        output.square().sum().backward()
        results.append([output, *(tensor.grad for tensor in tensors)])
    assert_close(results[1], results[0], atol=1e-5, rtol=1e-4)
