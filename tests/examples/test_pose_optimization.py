import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments


SCRIPT = Path(__file__).parents[2] / "examples" / "pose_estimation" / "optimization.py"


@pytest.fixture(scope="module")
def optimization():
    specification = importlib.util.spec_from_file_location("pose_optimization", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class ToyModel(nn.Module):
    """A backbone whose stem is frozen, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8))
        self.backbone[0].requires_grad_(False)
        self.input_proj = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, values, labels):
        return {"loss": (self.head(self.input_proj(self.backbone(values)).relu()) - labels).square().mean()}


DATA = [
    {"values": torch.sin(torch.arange(4) + index), "labels": torch.cos(torch.arange(2.0) * index)}
    for index in range(8)
]
TRAINABLE = {"backbone.1.weight", "backbone.1.bias", "backbone.2.weight", "backbone.2.bias"} | {
    f"{layer}.{kind}" for layer in ("input_proj", "head") for kind in ("weight", "bias")
}


def make_trainer(optimization, folder, average, max_steps=6):
    torch.manual_seed(0)
    model = ToyModel()
    optimizer = optimization.make_optimizer(model, lr=0.05, backbone_lr=0.01)
    scheduler = optimization.make_scheduler(optimizer, drop_epoch=1, steps_per_epoch=4)
    arguments = TrainingArguments(
        str(folder),
        max_steps=max_steps,
        save_steps=3,
        per_device_train_batch_size=2,
        max_grad_norm=optimization.MAX_GRAD_NORM,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    return Trainer(model, arguments, train_dataset=DATA, optimizers=(optimizer, scheduler), callbacks=[average])


def test_parameter_groups(optimization):
    model = ToyModel()
    rest, backbone = optimization.parameter_groups(model)
    assert (rest["lr"], backbone["lr"]) == (1e-4, 1e-5)
    assert rest["weight_decay"] == backbone["weight_decay"] == 1e-4
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)] for parameter in backbone["params"]} == {n for n in TRAINABLE if "backbone" in n}
    assert {names[id(parameter)] for parameter in rest["params"]} == {n for n in TRAINABLE if "backbone" not in n}
    model.backbone.requires_grad_(False)
    assert [group["lr"] for group in optimization.make_optimizer(model).param_groups] == [1e-4]


def test_schedule(optimization):
    optimizer = optimization.make_optimizer(ToyModel())
    scheduler = optimization.make_scheduler(optimizer, drop_epoch=2, steps_per_epoch=3)
    rates = []
    for _ in range(7):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert_close(torch.tensor(rates), torch.tensor([[1e-4, 1e-5]] * 6 + [[1e-5, 1e-6]]))


def test_average_against_its_definition(optimization):
    model, average = ToyModel(), optimization.ExponentialMovingAverage(decay=0.9)
    model.head_of_decoder = model.head  # a module with two names
    average.start(model)
    assert average.averages.keys() == TRAINABLE  # the shared head once, nothing frozen
    expected = {name: model.get_parameter(name).detach().clone() for name in TRAINABLE}
    for _ in range(3):
        for name in TRAINABLE:
            parameter = model.get_parameter(name)
            parameter.data.add_(torch.randn_like(parameter))
            expected[name] = 0.9 * expected[name] + 0.1 * parameter.detach()
        average.update(model)
    own = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with average.applied(model):
        for name, parameter in model.named_parameters():
            assert_close(parameter.detach(), expected.get(name, own[name]))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, own[name])


def test_average_in_half_precision_does_not_stall(optimization):
    model = nn.Linear(2, 2).to(torch.bfloat16)
    nn.init.ones_(model.weight)
    average = optimization.ExponentialMovingAverage(decay=0.9997)
    average.start(model)
    nn.init.constant_(model.weight, 2.0)
    for _ in range(100):
        average.update(model)
    assert_close(average.averages["weight"], torch.full((2, 2), 2 - 0.9997**100))


def test_resumed_training_equals_uninterrupted_training(optimization, tmp_path):
    whole = optimization.ExponentialMovingAverage(decay=0.8)
    trainer = make_trainer(optimization, tmp_path / "whole", whole)
    trainer.train()
    weights = trainer.model.state_dict()
    assert any(not torch.equal(weights[name], average) for name, average in whole.averages.items())

    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    resumed = optimization.ExponentialMovingAverage(decay=0.8)
    trainer = make_trainer(optimization, tmp_path / "resumed", resumed)
    trainer.train(resume_from_checkpoint=str(tmp_path / "resumed" / "checkpoint-3"))
    for name, weight in trainer.model.state_dict().items():
        assert_close(weight, weights[name], rtol=0, atol=0)
    for name, average in resumed.averages.items():
        assert_close(average, whole.averages[name], rtol=0, atol=0)

    elsewhere = optimization.ExponentialMovingAverage(decay=0.8, resume_from=tmp_path / "whole" / "checkpoint-3")
    trainer = make_trainer(optimization, tmp_path / "elsewhere", elsewhere)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for name, average in elsewhere.averages.items():
        assert_close(average, whole.averages[name], rtol=0, atol=0)


def test_errors(optimization, tmp_path):
    with pytest.raises(ValueError, match="`decay` must be at least 0 and below 1, got 1"):
        optimization.ExponentialMovingAverage(decay=1.0)
    average = optimization.ExponentialMovingAverage()
    average.start(ToyModel())
    with pytest.raises(FileNotFoundError, match="pass `resume_from`"):
        average.load(tmp_path)
    average.save(tmp_path)
    average.start(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="does not hold the averages"):
        average.load(tmp_path)
