import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hvmodels import RLELoss
from hvmodels.models.rle import RealNVP


@pytest.fixture(params=[2, 3])
def flow(request):
    torch.manual_seed(1)
    return RealNVP(request.param, hidden_size=16).double()


def make_case(dim, batch_size=3, num_keypoints=5):
    shape = (batch_size, num_keypoints, dim)
    return torch.randn(shape), torch.rand(shape) + 0.1, torch.randn(shape)


class TestRealNVP:
    def test_density_integrates_to_one(self):
        torch.manual_seed(2)
        flow = RealNVP(2, hidden_size=16).double()
        axis = torch.linspace(-12, 12, 801, dtype=torch.float64)
        points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
        with torch.no_grad():
            total = flow.log_prob(points).exp().sum() * (axis[1] - axis[0]) ** 2
        assert_close(total.item(), 1.0, atol=1e-6, rtol=0)

    def test_directions_are_inverse(self, flow):
        latent = torch.randn(7, 4, flow.dim, dtype=torch.float64)
        back, _ = flow.to_latent(flow.from_latent(latent))
        assert_close(back, latent)

    def test_determinant_is_that_of_the_jacobian(self, flow):
        point = torch.randn(flow.dim, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda point: flow.to_latent(point)[0], point)
        assert_close(flow.to_latent(point)[1], torch.linalg.slogdet(jacobian)[1])

    @pytest.mark.parametrize("num_layers", [1, 2, 5])
    @pytest.mark.parametrize("dim", [2, 3])
    def test_gradients(self, dim, num_layers):
        """Against differences, and exactly against those that autograd finds."""
        flow = RealNVP(dim, num_layers, hidden_size=3).double()
        points = torch.randn(2, 2, dim, dtype=torch.float64, requires_grad=True)
        inputs = [points, *flow.parameters()]
        assert torch.autograd.gradcheck(lambda *_: flow.log_prob(points), inputs)
        latent, log_determinant = flow.to_latent(points)
        expected = log_determinant + torch.distributions.Normal(0, 1).log_prob(latent).sum(-1)
        weights = torch.randn(2, 2, dtype=torch.float64)
        assert_close(
            torch.autograd.grad(flow.log_prob(points), inputs, weights),
            torch.autograd.grad(expected, inputs, weights, allow_unused=True, materialize_grads=True),
        )

    def test_equals_separate_networks(self, flow):
        """The paper's coupling, network by network: masked input, masked output."""
        points = torch.randn(6, flow.dim, dtype=torch.float64)
        masks = [[0, 1], [1, 0]] if flow.dim == 2 else [[0, 0, 1], [1, 1, 0]]
        latent, log_determinant = points, 0
        for layer in reversed(range(6)):
            mask = torch.tensor(masks[layer % 2], dtype=torch.float64)
            networks = []
            for index in (0, 1):
                hidden = latent * mask
                for name in ("input", "hidden", "output"):
                    weight, bias = getattr(flow, f"{name}_weight"), getattr(flow, f"{name}_bias")
                    hidden = nn.functional.linear(hidden, weight[layer, index], bias[layer, index])
                    if name != "output":
                        hidden = nn.functional.leaky_relu(hidden, 0.01)
                networks.append(hidden * (1 - mask))
            scale, shift = networks[0].tanh() * (1 - mask), networks[1]
            latent = latent * mask + (1 - mask) * (latent - shift) * torch.exp(-scale)
            log_determinant = log_determinant - scale.sum(-1)
        expected = log_determinant + torch.distributions.Normal(0, 1).log_prob(latent).sum(-1)
        assert_close(flow.log_prob(points), expected)


class TestRLELoss:
    @pytest.mark.parametrize("dim", [2, 3])
    def test_original_formula(self, dim):
        loss_function = RLELoss(dim)
        keypoints, sigmas, labels = make_case(dim)
        weights = (torch.rand(3, 5, dim) > 0.3).float()
        weights[0] = 0
        if dim == 3:
            weights[..., :2] = weights[..., :1]
        total = 0
        for person in range(3):
            for joint in range(5):
                w = weights[person, joint]
                error = (keypoints - labels)[person, joint]
                standardised = error / sigmas[person, joint]
                if dim == 3 and w[2] == 0:
                    density = loss_function.flow_2d.log_prob(standardised[:2])
                else:
                    density = loss_function.flow.log_prob(standardised)
                for d in range(dim):
                    sigma = sigmas[person, joint, d]
                    base = (sigma * math.sqrt(2 * math.pi)).log() + error[d].abs() / (math.sqrt(2) * sigma + 1e-9)
                    total = total + (sigma.log() - density) * (w[0] if dim == 2 else w[d]) + base * w[d]
        assert_close(loss_function(keypoints, sigmas, labels, weights, reduction="sum"), total)
        assert_close(loss_function(keypoints, sigmas, labels, weights), total / 3)

    @pytest.mark.parametrize("base", ["laplace", "gaussian"])
    @pytest.mark.parametrize("use_residual", [True, False])
    def test_mmpose_formula(self, base, use_residual):
        loss_function = RLELoss(formulation="mmpose", base_distribution=base, use_residual=use_residual)
        keypoints, sigmas, labels = make_case(2)
        weights = torch.tensor([[1.0, 0, 1, 0, 0.5]]).expand(3, 5)
        error = (keypoints - labels) / (sigmas + 1e-9)
        terms = sigmas.log() - loss_function.flow.log_prob(error)[..., None]
        if use_residual:
            terms = terms + (
                (2 * sigmas).log() + error.abs()
                if base == "laplace"
                else (sigmas * math.sqrt(2 * math.pi)).log() + error**2 / 2
            )
        assert_close(loss_function(keypoints, sigmas, labels, weights), (terms * weights[..., None]).sum() / 3)

    def test_l1_has_no_flow(self):
        loss_function = RLELoss(formulation="l1")
        keypoints, sigmas, labels = make_case(2)
        assert not list(loss_function.parameters())
        assert_close(loss_function(keypoints, sigmas, labels), (keypoints - labels).abs().sum() / 3)

    @pytest.mark.parametrize("dim", [2, 3])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
    @pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
    def test_unlabelled_values_do_not_reach_the_loss(self, dim, value, weighted):
        if weighted and value == 1e30:
            pytest.skip("a label that counts may be far away")
        loss_function = RLELoss(dim)
        keypoints, sigmas, labels = make_case(dim)
        keypoints.requires_grad_()
        weights = torch.ones(3, 5)
        weights[1, 2] = 0
        expected = loss_function(keypoints, sigmas, labels, weights)
        expected_gradient = torch.autograd.grad(expected, keypoints)[0]
        labels[1, 2] = value
        loss = loss_function(keypoints, sigmas, labels, torch.ones(3, 5) if weighted else weights)
        assert_close(loss, expected)
        assert_close(torch.autograd.grad(loss, keypoints)[0], expected_gradient)

    def test_everything_unlabelled_is_zero(self):
        loss_function = RLELoss()
        keypoints, sigmas, labels = make_case(2)
        keypoints.requires_grad_()
        loss = loss_function(keypoints, sigmas, labels, torch.zeros(3, 5))
        loss.backward()
        assert loss.item() == 0
        assert not keypoints.grad.any()

    def test_deviation_of_zero_is_finite(self):
        loss_function = RLELoss()
        keypoints, sigmas, labels = make_case(2)
        sigmas = torch.zeros_like(sigmas).requires_grad_()
        loss = loss_function(keypoints, sigmas, labels)
        loss.backward()
        assert loss.isfinite()
        assert sigmas.grad.isfinite().all()

    def test_example_of_the_docstring_learns(self):
        """Head and flow together: what one does not explain of the labels, the other does."""
        torch.manual_seed(3)
        head, loss_function = nn.Linear(1, 4), RLELoss(flow_hidden_size=16)
        optimizer = torch.optim.Adam([*head.parameters(), *loss_function.parameters()], lr=0.01)
        features, losses = torch.ones(64, 1), []
        for _ in range(120):
            labels = torch.randn(64, 1, 2) * torch.tensor([0.05, 0.2]) + torch.tensor([0.3, -0.2])
            keypoints, sigmas = head(features).view(-1, 1, 4).split(2, dim=-1)
            losses.append(loss_function(keypoints, sigmas.sigmoid(), labels))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0] - 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"keypoints": torch.zeros(3, 5, 3)}, "`keypoints` must have shape"),
            ({"keypoints": torch.zeros(3, 10)}, "`keypoints` must have shape"),
            ({"sigmas": torch.ones(3, 5, 1)}, "`sigmas` must have the shape"),
            ({"labels": torch.ones(3, 4, 2)}, "`labels` must have the shape"),
            ({"label_weights": torch.ones(3)}, "`label_weights` must have shape"),
            ({"reduction": "mean"}, "`reduction` must be"),
        ],
    )
    def test_refuses(self, change, message):
        keypoints, sigmas, labels = make_case(2)
        with pytest.raises(ValueError, match=message):
            RLELoss()(**{"keypoints": keypoints, "sigmas": sigmas, "labels": labels, **change})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"keypoint_dim": 4}, "`keypoint_dim` must be one of"),
            ({"formulation": "l2"}, "`formulation` must be one of"),
            ({"base_distribution": "gaussian"}, "`base_distribution` must be one of"),
        ],
    )
    def test_refuses_options(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            RLELoss(**arguments)
