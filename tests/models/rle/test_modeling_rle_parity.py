"""RLE against values of the original and of mmpose; `tests/fixtures/rle/README.md` says how they were made."""

import copy
import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForPoseEstimation

from hvmodels import RLEForPoseEstimation, RLELoss
from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.rle import convert_state_dict
from hvmodels.models.rle import clip_gradients_by_tensor
from tests.reference_cases import reference_case, reference_folder


FIXTURES = Path(__file__).parents[2] / "fixtures" / "rle"
KEYS = json.loads(gzip.decompress((FIXTURES / "keys.json.gz").read_bytes()))
CASES = {"coco2d_bottleneck_tiny": "uv", "h36m3d_bottleneck_tiny": "uvd"}
FULL_CASES = {
    "full_coco2d_res50_rule": "coco2d_res50_256x192",
    "full_h36m3d_res50_rule": "h36m_mpii3d_res50_256x256",
}
PREDICTIONS = {"atol": 1e-6, "rtol": 0}
LOSS = {"atol": 0, "rtol": 1e-6}


def read_case(name):
    folder = reference_folder("rle", name)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")


def convert(name, output_dir):
    """The case's checkpoint through the public converter and `from_pretrained`."""
    folder = reference_folder("rle", name)
    convert_checkpoint("rle", folder / "checkpoint.pth", output_dir, original_config=folder / "config.json")
    model, loading = AutoModelForPoseEstimation.from_pretrained(output_dir, output_loading_info=True)
    assert type(model) is RLEForPoseEstimation
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.fixture(scope="module", params=[reference_case("rle", name) for name in CASES])
def case(request, tmp_path_factory):
    """(model, config, values, labels, their weights) of a case of the original."""
    model = convert(request.param, tmp_path_factory.mktemp("rle") / "model")
    config, values = read_case(request.param)
    name = f"input.train.target_{CASES[request.param]}"
    shape = (-1, model.config.num_keypoints, model.config.keypoint_dim)
    return model, config, values, values[name].view(shape), values[f"{name}_weight"].view(shape)


def original_gradients(model):
    """Gradients of the model under the original's names."""
    state = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {original: select(state[name]) for original, (name, select) in original_names(model).items()}


def original_names(model):
    """Original name to (our name, function that takes it out of our tensor)."""

    def whole(tensor):
        return tensor

    base = "rle.backbone."
    names = {}
    for part, ours in (("conv1", "convolution"), ("bn1", "normalization")):
        for kind in ("weight", "bias"):
            names[f"preact.{part}.{kind}"] = (f"{base}embedder.embedder.{ours}.{kind}", whole)
    for stage in range(4):
        for block in range(model.config.backbone_config.depths[stage]):
            place = f"{base}encoder.stages.{stage}.layers.{block}."
            for layer in range(3):
                for part, ours in (("conv", "convolution"), ("bn", "normalization")):
                    for kind in ("weight", "bias"):
                        original = f"preact.layer{stage + 1}.{block}.{part}{layer + 1}.{kind}"
                        names[original] = (f"{place}layer.{layer}.{ours}.{kind}", whole)
            for index, ours in enumerate(("convolution", "normalization")):
                for kind in ("weight", "bias"):
                    original = f"preact.layer{stage + 1}.{block}.downsample.{index}.{kind}"
                    names[original] = (f"{place}shortcut.{ours}.{kind}", whole)
    for kind in ("weight", "bias"):
        names[f"fc_coord.linear.{kind}"] = (f"coordinate_head.{kind}", whole)
        for original in (f"fc_sigma.{kind}", f"fc_sigma.linear.{kind}"):
            names[original] = (f"sigma_head.{kind}", whole)
        for flow, ours in (("flow", "flow"), ("flow3d", "flow"), ("flow2d", "flow_2d")):
            for index, part in ((0, "input"), (2, "hidden"), (4, "output")):
                for layer in range(model.config.num_flow_layers):
                    for net in range(2):
                        names[f"{flow}.{'st'[net]}.{layer}.{index}.{kind}"] = (
                            f"criterion.{ours}.{part}_{kind}",
                            lambda tensor, layer=layer, net=net: tensor[layer, net],
                        )
    ours = dict(model.named_parameters())
    return {original: entry for original, entry in names.items() if entry[0] in ours}


def assert_scaled_close(actual, expected, tolerance):
    """Within the tolerance, relative to the largest entry of a tensor where that is above 1."""
    for name, value in expected.items():
        scale = max(1.0, value.abs().max().item())
        assert_close(
            actual[name] / scale,
            value / scale,
            atol=tolerance,
            rtol=0,
            msg=f"{name} is off by more than {tolerance} of its largest value",
        )


class TestOriginal:
    def test_predictions(self, case):
        model, _, values, _, _ = case
        with torch.no_grad():
            outputs = model.eval()(values["input.pixel_values"])
        assert_close(outputs.keypoints, values["output.eval.pred_jts"], **PREDICTIONS)
        assert_close(outputs.sigmas, values["output.eval.sigma"], **PREDICTIONS)
        assert_close(outputs.scores, values["output.eval.maxvals"][..., 0], **PREDICTIONS)
        actual, expected = (
            {"features": features} for features in (outputs.last_hidden_state, values["intermediate.eval.layer4"])
        )
        assert_scaled_close(actual, expected, 1e-6)

    def test_mirrored_crops(self, case):
        model, _, values, _, _ = case
        with torch.no_grad():
            outputs = model.eval()(values["input.pixel_values"].flip(-1))
        assert_close(outputs.keypoints, values["output.flip_raw.pred_jts"], **PREDICTIONS)
        assert_close(outputs.sigmas, values["output.flip_raw.sigma"], **PREDICTIONS)

    def test_flip_test(self, case):
        model, _, values, _, _ = case
        with torch.no_grad():
            outputs = model.eval()(values["input.pixel_values"], flip_test=True)
        assert_close(outputs.keypoints, values["output.flip_merged.pred_jts"], **PREDICTIONS)
        assert_close(outputs.sigmas, values["output.flip_merged.sigma"], **PREDICTIONS)
        assert_close(outputs.scores, values["output.flip_merged.maxvals"][..., 0], **PREDICTIONS)

    def test_training_step(self, case):
        model, config, values, labels, weights = case
        model = copy.deepcopy(model).train()
        outputs = model(values["input.pixel_values"], labels=labels, label_weights=weights)
        assert_close(outputs.keypoints, values["output.train.pred_jts"], **PREDICTIONS)
        assert_close(outputs.sigmas, values["output.train.sigma"], **PREDICTIONS)
        assert_close(outputs.scores, values["output.train.maxvals"][..., 0], **PREDICTIONS)
        assert_close(outputs.loss, values["output.train.loss"][0], **LOSS)
        criterion, arguments = model.criterion, (outputs.keypoints, outputs.sigmas, labels)
        assert_close(criterion(*arguments, weights, reduction="sum"), values["output.train.loss_sum"][0], **LOSS)
        expected = values["output.train.nf_loss"]
        assert_close(criterion.flow_terms(*arguments, weights), expected, atol=1e-5, rtol=1e-5)
        outputs.loss.backward()
        gradients = {name[5:]: value for name, value in values.items() if name.startswith("grad.")}
        assert len(gradients) >= 8
        # Batch norm's backward sums in another order: the first convolution is off by 6e-6 between 1 and 2 threads.
        assert_scaled_close(original_gradients(model), gradients, 1e-5)
        # One step of Adam from here.
        clipped = {name[13:]: value for name, value in values.items() if name.startswith("grad_clipped.")}
        if clipped:
            max_norm = config["TRAIN"]["GRAD_CLIP"]["MAX_NORM"]
            clip_gradients_by_tensor(model, max_norm)
            assert_scaled_close(original_gradients(model), clipped, 1e-5)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        torch.optim.Adam(model.parameters(), lr=1e-3).step()
        after = dict(model.named_parameters())
        steps = {name[17:]: value for name, value in values.items() if name.startswith("param_after_step.")}
        names = original_names(model)
        assert steps
        for name, expected in steps.items():
            ours, select = names[name]
            # Where a gradient is all but zero, Adam's first step is the sign of rounding.
            sure = select(after[ours].grad).abs() > 1e-4
            assert_close(select(after[ours])[sure], expected[sure], atol=2e-6, rtol=0)
            assert (select(after[ours]) - select(before[ours])).abs().max() <= 1e-3 * (1 + 1e-4)
        for name, expected in values.items():
            if name.startswith("buffer_after_step."):
                buffer = name.removeprefix("buffer_after_step.").replace("running_mean", "weight")
                buffer = buffer.replace("running_var", "weight")
                if buffer in names:
                    ours = names[buffer][0].replace("weight", name.rpartition(".")[2])
                    assert_close(model.state_dict()[ours], expected, atol=1e-6, rtol=1e-5)

    def test_loss_outside_of_training(self, case):
        """In 3-D the original has one there as well, of depths relative to the root."""
        model, _, values, labels, weights = case
        if "output.eval_with_labels.loss" in values:
            with torch.no_grad():
                loss = model.eval()(values["input.pixel_values"], labels=labels, label_weights=weights).loss
            assert_close(loss, values["output.eval_with_labels.loss"][0], **LOSS)

    def test_flows(self, case):
        model, _, values, _, _ = case
        for name, flow in (("flow", "flow"), ("flow3d", "flow"), ("flow2d", "flow_2d")):
            if f"{name}.input.x" not in values:
                continue
            flow = getattr(model.criterion, flow)
            points = values[f"{name}.input.x"].clone().requires_grad_()
            latent, log_determinant = flow.to_latent(points)
            log_prob = flow.log_prob(points)
            log_prob.sum().backward()
            actual = {
                "z": latent,
                "log_det": log_determinant,
                "log_prob": log_prob,
                "forward_p_of_z": flow.from_latent(values[f"{name}.output.z"]),
            }
            assert_scaled_close(actual, {key: values[f"{name}.output.{key}"] for key in actual}, 1e-6)
            assert_scaled_close({"gradient": points.grad}, {"gradient": values[f"{name}.grad.x"]}, 1e-6)

    def test_loss_alone(self, case):
        """The flow's part is given here; a sample without labels, and a batch without any."""
        _, _, values, _, _ = case
        given = {name[16:]: value for name, value in values.items() if name.startswith("loss_only.input.")}
        keypoints, sigmas, labels, weights = (given[name] for name in ("pred_jts", "sigma", "target", "weight"))
        loss_function = RLELoss(keypoints.shape[-1])
        loss_function.flow_terms = lambda *arguments: given["nf_loss"]
        expected = {name[17:]: value[0] for name, value in values.items() if name.startswith("loss_only.output.")}
        assert_close(loss_function(keypoints, sigmas, labels, weights), expected["size_average"], **LOSS)
        assert_close(loss_function(keypoints, sigmas, labels, weights, reduction="sum"), expected["sum"], **LOSS)
        zero = loss_function(keypoints, sigmas, labels, torch.zeros_like(weights))
        assert_close(zero, expected["all_weights_zero"], **LOSS)


def fill(keys, seed):
    """A state dict by the rule of `rule.json`."""
    weights = {}
    for name, shape in keys.items():
        draw = np.random.RandomState(zlib.crc32(name.encode()) ^ seed)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        if name.endswith(".mask"):
            pattern = [[0, 0, 1], [1, 1, 0]] if shape[1] == 3 else [[0, 1], [1, 0]]
            weights[name] = torch.tensor(pattern * (shape[0] // 2), dtype=torch.float32)
            continue
        if name.endswith("running_mean"):
            value = 0.1 * draw.standard_normal(shape)
        elif name.endswith("running_var"):
            value = 0.5 + draw.random_sample(shape)
        elif len(shape) == 4:
            value = draw.standard_normal(shape) * np.sqrt(2 / (shape[1] * shape[2] * shape[3]))
        elif name.startswith("preact.") and name.endswith(".weight"):
            value = (0.5 + draw.random_sample(shape)) * (0.25 if ".bn3." in name else 1)
        elif name.startswith("preact."):
            value = 0.1 * draw.standard_normal(shape)
        elif name.startswith("fc_coord") and len(shape) == 2:
            value = 0.3 * draw.standard_normal(shape)
        elif name.startswith("fc_sigma") and len(shape) == 2:
            value = 0.2 * draw.standard_normal(shape) / np.sqrt(shape[1])
        elif len(shape) == 2:
            value = draw.standard_normal(shape) / np.sqrt(shape[1])
        else:
            value = 0.1 * draw.standard_normal(shape)
        weights[name] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return weights


@pytest.mark.parametrize("name", FULL_CASES)
def test_published_size(name):
    """The whole ResNet-50 models, filled by a rule, since their weights may not be stored here."""
    config, values = read_case(name)
    seed = config["seed"]
    weights = fill(KEYS[FULL_CASES[name]], seed)
    for key, expected in values.items():
        if key.startswith("check.sum.") and key != "check.sum.input":
            total = weights[key.removeprefix("check.sum.")].double().sum()
            assert_close(total, expected[0], atol=1e-6, rtol=1e-9)
    height, width = config["DATA_PRESET"]["IMAGE_SIZE"]
    pixel_values = np.random.RandomState(seed + 1).standard_normal((config["batch"], 3, height, width)) * 0.3
    pixel_values = torch.from_numpy(pixel_values.astype(np.float32))
    assert_close(pixel_values.double().sum(), values["check.sum.input"][0], atol=1e-4, rtol=0)
    model_config, state_dict = convert_state_dict(weights, config)
    model = RLEForPoseEstimation(model_config).eval()
    model.load_state_dict(state_dict, strict=False)
    with torch.no_grad():
        outputs, merged = model(pixel_values), model(pixel_values, flip_test=True)
    assert_close(outputs.keypoints, values["output.eval.pred_jts"], **PREDICTIONS)
    assert_close(outputs.sigmas, values["output.eval.sigma"], **PREDICTIONS)
    assert_close(outputs.scores, values["output.eval.maxvals"][..., 0], **PREDICTIONS)
    assert_close(merged.keypoints, values["output.flip_merged.pred_jts"], **PREDICTIONS)
    assert_close(merged.sigmas, values["output.flip_merged.sigma"], **PREDICTIONS)
    assert_close(merged.scores, values["output.flip_merged.maxvals"][..., 0], **PREDICTIONS)
    with torch.no_grad():  # these were recorded in the pass over the mirrored crops, the last one
        pooled = model.rle(pixel_values.flip(-1)).pooler_output
    assert_scaled_close({"pooled": pooled}, {"pooled": values["intermediate.eval.pooled"].view_as(pooled)}, 1e-6)


@pytest.fixture(scope="module")
def mmpose(tmp_path_factory):
    """(model, config, values) of mmpose's case."""
    model = convert("mmpose2d_bottleneck_tiny", tmp_path_factory.mktemp("mmpose") / "model")
    return model, *read_case("mmpose2d_bottleneck_tiny")


class TestMMPose:
    def test_head(self, mmpose):
        model, _, values = mmpose
        with torch.no_grad():
            outputs = model(values["input.pixel_values"])
        expected = values["output.head"]
        # The original's coordinates count from the corner of the crop.
        assert_close(outputs.keypoints + 0.5, expected[..., :2], **PREDICTIONS)
        assert_close(outputs.sigmas, expected[..., 2:].sigmoid(), **PREDICTIONS)
        pooled = outputs.last_hidden_state.mean(dim=(2, 3))
        assert_close(pooled, values["intermediate.pooled"], atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize(("group", "flip_test", "flip_shift"), [
        ("predict_plain", False, 1.0),
        ("predict_flip_shift", True, 1.0),
        ("predict_flip_noshift", True, 0.0),
    ])  # fmt: skip
    def test_flip_test(self, mmpose, group, flip_test, flip_shift):
        model, config, values = mmpose
        before = model.config.flip_shift
        model.config.flip_shift = flip_shift
        with torch.no_grad():
            outputs = model(values["input.pixel_values"], flip_test=flip_test)
        model.config.flip_shift = before
        pixels = (outputs.keypoints.double() + 0.5) * torch.tensor(config["codec"]["input_size_wh"])
        assert_close(pixels, values[f"output.{group}.keypoints_input_space"], atol=1e-4, rtol=0)
        assert_close(outputs.scores.double(), values[f"output.{group}.keypoint_scores"], atol=1e-6, rtol=0)

    def test_loss_and_gradients(self, mmpose):
        model, _, values = mmpose
        model.zero_grad()
        labels, weights = values["input.keypoint_labels"] - 0.5, values["input.keypoint_weights"]
        loss = model(values["input.pixel_values"], labels=labels, label_weights=weights).loss
        assert_close(loss, values["output.loss_eval_bn"][0], atol=0, rtol=2e-6)
        loss.backward()
        gradients = {name[5:]: value for name, value in values.items() if name.startswith("grad.")}
        assert gradients
        ours = original_gradients(model)
        for name, expected in gradients.items():
            if name.startswith("head.fc."):
                kind = name.rpartition(".")[2]
                coordinates, sigmas = (
                    getattr(model, head + "_head").get_parameter(kind).grad for head in ("coordinate", "sigma")
                )
                actual = torch.stack([coordinates.unflatten(0, (-1, 2)), sigmas.unflatten(0, (-1, 2))], dim=1)
                actual = actual.view_as(expected)
            else:
                original = name.replace("backbone.", "preact.").replace("head.loss_module.flow_model.", "flow.")
                actual = ours[original]
            assert_scaled_close({name: actual}, {name: expected}, 1e-5)

    @pytest.mark.parametrize("base", ["laplace", "gaussian"])
    @pytest.mark.parametrize("use_residual", [True, False])
    def test_variants_of_the_loss(self, mmpose, base, use_residual):
        model, _, values = mmpose
        labels, weights = values["input.keypoint_labels"] - 0.5, values["input.keypoint_weights"]
        loss_function = RLELoss(formulation="mmpose", base_distribution=base, use_residual=use_residual)
        loss_function.load_state_dict(model.criterion.state_dict())
        with torch.no_grad():
            outputs = model(values["input.pixel_values"])
            loss = loss_function(outputs.keypoints, outputs.sigmas, labels, weights)
        expected = values[f"output.loss_variant.{base}.residual_{use_residual}"][0]
        assert_close(loss, expected, atol=0, rtol=2e-6)
