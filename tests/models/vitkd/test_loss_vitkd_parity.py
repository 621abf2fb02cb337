"""Losses of ViTKD and on logits against values of the original; `tests/fixtures/vitkd/README.md` says how they were made."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from hvmodels.models.vitkd import (
    ViTKDLoss,
    dkd_loss,
    kd_loss,
    label_loss,
    nkd_loss,
    nkd_terms,
    uskd_loss,
    wsld_loss,
)
from tests.reference_cases import needs_reference, reference_folder


VALUES = {"atol": 1e-5, "rtol": 1e-5}
GRADIENTS = {"atol": 0, "rtol": 1e-4}
NAMES = {
    "mimic_aligners": "align2",
    "generation_aligner": "align",
    "generator.0": "generation.0",
    "generator.1": "generation.2",
    "mask_token": "mask_token",
}


def original_name(name):
    """Our name of a parameter of the loss to the original's."""
    return next(name.replace(ours, theirs) for ours, theirs in NAMES.items() if name.startswith(ours))


def read(case, file="io"):
    return load_file(reference_folder("vitkd", case) / f"{file}.safetensors")


def read_config(case):
    return json.loads((reference_folder("vitkd", case) / "config.json").read_text())


def assert_gradients_close(actual, expected, name):
    """Relative to the largest of the tensor, as small elements are sums that cancel."""
    assert_close(
        actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item(), msg=lambda text: f"{name}: {text}"
    )


def to_maps(tokens):
    """(..., tokens, width) as a square map."""
    side = int(tokens.shape[-2] ** 0.5)
    return tokens.unflatten(-2, (side, side))


@needs_reference("vitkd", "vitkd_loss")
@pytest.mark.parametrize("name", ["case0", "case1", "case2"])
def test_loss_on_features(name):
    options, values, weights = read_config("vitkd_loss")[name], read("vitkd_loss"), read("vitkd_loss", "weights")
    loss = ViTKDLoss(
        options["student_dims"],
        options["teacher_dims"],
        mimic_weight=options["alpha_vitkd"],
        generation_weight=options["beta_vitkd"],
        mask_ratio=options["lambda_vitkd"],
    )
    loss.load_state_dict({key: weights[f"{name}.{original_name(key)}"] for key in loss.state_dict()})
    shallow, deep = (values[f"input.{name}.student_{kind}"].requires_grad_() for kind in ("low", "high"))
    output = loss(
        to_maps(shallow).unbind(1),
        to_maps(values[f"input.{name}.teacher_low"]).unbind(1),
        to_maps(deep),
        to_maps(values[f"input.{name}.teacher_high"]),
        values[f"input.{name}.mask_noise"],
    )
    assert_close(output.mimic_loss, values[f"output.{name}.loss_mimic"], **VALUES)
    assert_close(output.generation_loss, values[f"output.{name}.loss_generation"], **VALUES)
    assert torch.equal(output.mask, values[f"output.{name}.mask"])
    (output.mimic_loss + output.generation_loss).backward()
    assert_gradients_close(shallow.grad, values[f"grad.{name}.student_low"], "shallow")
    assert_gradients_close(deep.grad, values[f"grad.{name}.student_high"], "deep")
    for key, parameter in loss.named_parameters():
        assert_gradients_close(parameter.grad, values[f"grad.{name}.{original_name(key)}"], key)


@needs_reference("vitkd", "logit_losses")
@pytest.mark.parametrize("name", ["nkd0", "nkd1", "nkd2", "nkd3"])
def test_nkd(name):
    options, values = read_config("logit_losses")[name], read("logit_losses")
    student, teacher, labels = (
        values[f"input.{name}.{kind}"] for kind in ("student_logits", "teacher_logits", "labels")
    )
    arguments = (student.requires_grad_(), teacher, labels, options["temp"], options["gamma"])
    target, _ = nkd_terms(*arguments)
    assert_close(target, values[f"output.{name}.loss_target"], **VALUES)
    loss = nkd_loss(*arguments)
    assert_close(loss, values[f"output.{name}.loss"], **VALUES)
    loss.backward()
    assert_gradients_close(student.grad, values[f"grad.{name}.student_logits"], name)


@needs_reference("vitkd", "logit_losses")
def test_other_losses_on_logits():
    options, values = read_config("logit_losses"), read("logit_losses")
    student, teacher, labels = (
        values[f"input.other.{kind}"] for kind in ("student_logits", "teacher_logits", "labels")
    )
    kd, dkd, wsld = (options[name] for name in ("kd", "dkd", "wsld"))
    losses = {
        "kd": kd_loss(student, teacher, kd["temp"], kd["alpha"]),
        "dkd": dkd_loss(student, teacher, labels, dkd["temp"], dkd["alpha"], dkd["beta"]),
        "wsld": wsld_loss(student, teacher, labels, wsld["temp"], wsld["alpha"]),
    }
    for name, loss in losses.items():
        assert_close(loss, values[f"output.{name}.loss"], **VALUES)
    assert values["output.kd.weight_of_ori_loss"] == 1 - kd["alpha"]


def test_dkd_of_many_classes():
    """Rounding grows with the number of classes where a cross-entropy less an entropy is taken."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 1000, generator=generator)
    expected = dkd_loss(student.double(), teacher.double(), torch.tensor([3]))
    assert_close(dkd_loss(student, teacher, torch.tensor([3])).double(), expected, atol=0, rtol=5e-6)


@needs_reference("vitkd", "logit_losses")
def test_uskd():
    options, values = read_config("logit_losses")["uskd"], read("logit_losses")
    inputs = {name.removeprefix("input.uskd."): value for name, value in values.items() if "input.uskd" in name}
    student, weight = inputs["student_logits"].requires_grad_(), inputs["fc.weight"].requires_grad_()
    weights = (options["alpha"], options["beta"], options["mu"])

    def loss(labels):
        weak_logits = torch.nn.functional.linear(inputs["mid_token"], weight, inputs["fc.bias"])
        return uskd_loss(student, weak_logits, labels, *weights)

    hard = loss(inputs["labels"])
    assert_close(hard, values["output.uskd.loss"], **VALUES)
    assert_close(loss(inputs["soft_labels"]), values["output.uskd.loss_soft"], **VALUES)
    hard.backward()
    assert_gradients_close(student.grad, values["grad.uskd.student_logits"], "student")
    assert_gradients_close(weight.grad, values["grad.uskd.fc.weight"], "weak classifier")


@needs_reference("vitkd", "recipe_deit3-small_to_deit-tiny")
def test_label_smoothing():
    values = read("recipe_deit3-small_to_deit-tiny")
    for kind, labels in (("hard", values["input.labels"]), ("mixup", values["output.mixup_scores"])):
        loss = label_loss(values["input.logits"], labels, 0.1)
        assert_close(loss, values[f"output.label_smooth_loss_{kind}"], **VALUES)
