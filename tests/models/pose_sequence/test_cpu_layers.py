import pytest
import torch
from torch.testing import assert_close

from hvmodels.models.pose_sequence import cpu_layers_pose_sequence
from hvmodels.models.pose_sequence.cpu_layers_pose_sequence import can_fuse, linear


def run(values, weight, bias, gradient):
    """Output and gradients of a linear layer."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (values, weight, bias) if tensor is not None]
    output = linear(*leaves)
    output.backward(gradient)
    return output, *(leaf.grad for leaf in leaves)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (1, 1, 5)], ids=str)
def test_linear_layer_as_pytorchs(shape, bias, monkeypatch):
    values, weight = torch.randn(shape), torch.randn(4, 5)
    arguments = (values, weight, torch.randn(4) if bias else None, torch.randn(*shape[:-1], 4))
    found = run(*arguments)
    monkeypatch.setattr(cpu_layers_pose_sequence, "_takes_onednn", lambda *arguments: False)
    assert_close(found, run(*arguments), atol=1e-6, rtol=1e-6)


def test_views_and_constants():
    """Transposed values and weights, and no gradient where none is needed."""
    values, weight = torch.randn(5, 7).T, torch.randn(5, 4, requires_grad=True)
    output = linear(values, weight.T)
    output.square().sum().backward()
    assert_close(output, values @ weight)
    assert_close(weight.grad, 2 * values.T @ (values @ weight.detach()))
    assert not linear(values, weight.detach().T).requires_grad


def test_where_onednn_is_not_taken():
    layer = torch.nn.Linear(5, 4)
    assert not can_fuse(torch.randn(2, 5), layer)  # gradients
    for dtype in (torch.float64, torch.bfloat16):
        values = torch.randn(3, 5, dtype=dtype)
        assert_close(linear(values, layer.weight.to(dtype)), values @ layer.weight.to(dtype).T)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.randn(3, 5), layer.weight).dtype == torch.bfloat16
    double = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: linear(values, layer.weight.double()), double)
