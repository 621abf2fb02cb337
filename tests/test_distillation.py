"""The trainer of distillation and the recipe of the published models."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hvmodels import default_model
from hvmodels.conversion import convert_checkpoint
from hvmodels.datasets.image_classification import (
    ImageClassificationCollator,
    ImageClassificationDataset,
    read_labelled_images,
)
from hvmodels.metrics.classification import classification_metrics
from hvmodels.models.vitkd import ViTKDConfig, ViTKDForImageClassification, ViTKDImageProcessor, label_loss
from hvmodels.weight_averaging import ExponentialMovingAverage
from tests.reference_cases import needs_reference, reference_case, reference_folder


pytest.importorskip("accelerate")

from hvmodels.distillation import (
    DistillationArguments,
    DistillationTrainer,
    decay_parameter_names,
    parameter_groups,
    warmup_cosine_schedule,
)


RECIPE = "recipe_deit3-small_to_deit-tiny"
EMBEDDED_ACCURACY = 0.395  # on the test photographs, see docs/vitkd_clothing.md
TERMS = ["task_loss", "mimic_loss", "generation_loss", "logit_loss"]
MODULES = {
    "backbone.cls_token": "vit.embeddings.cls_token",
    "backbone.pos_embed": "vit.embeddings.position_embeddings",
    "backbone.patch_embed.projection": "vit.embeddings.patch_embeddings.projection",
    "backbone.layers": "vit.layers",
    "backbone.ln1": "vit.layernorm",
    ".ln1.": ".layernorm_before.",
    ".ln2.": ".layernorm_after.",
    ".attn.qkv.": ".attention.q_proj.",
    ".attn.proj.": ".attention.o_proj.",
    ".ffn.layers.0.0.": ".mlp.fc1.",
    ".ffn.layers.1.": ".mlp.fc2.",
    "head.layers.head": "classifier",
    "student.": "vitkd.student.",
    "distill_losses.loss_vitkd.align2": "distiller.mimic_aligners",
    "distill_losses.loss_vitkd.align": "distiller.generation_aligner",
    "distill_losses.loss_vitkd.generation.2": "distiller.generator.1",
    "distill_losses.loss_vitkd.generation": "distiller.generator",
    "distill_losses.loss_vitkd.mask_token": "distiller.mask_token",
}


def tiny_vit(seed, hidden_size=16, depth=2):
    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=16, patch_size=4, hidden_size=hidden_size, num_hidden_layers=depth, num_attention_heads=2,
        intermediate_size=16, hidden_dropout_prob=0.1, num_labels=3,
    )  # fmt: skip
    return ViTForImageClassification(config)


class Images(torch.utils.data.Dataset):
    """Twelve images of three classes; each epoch sees them otherwise."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 12

    def __getitem__(self, index):
        noise = torch.Generator().manual_seed(100 * self.epoch + index)
        pixels = 0.3 * torch.randn(3, 16, 16, generator=noise)
        pixels[index % 3] += 1
        return {"pixel_values": pixels, "labels": index % 3, "seed": 100 * self.epoch + index}


def make_trainer(folder, fields=None, teacher=True, callbacks=(), **arguments):
    values = {
        "num_train_epochs": 4, "warmup_epochs": 1, "per_device_train_batch_size": 4, "logging_steps": 2,
        "save_strategy": "no", "learning_rate": 5e-3, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    return DistillationTrainer(
        tiny_vit(0),
        tiny_vit(1, 24, 3) if teacher else None,
        DistillationArguments(str(folder), **{**values, **arguments}),
        fields,
        train_dataset=Images(),
        eval_dataset=Images(),
        callbacks=list(callbacks),
        processing_class=ViTKDImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False),
    )


@needs_reference("vitkd", RECIPE)
def test_decay_groups_equal_the_original():
    with torch.device("meta"):
        model = ViTKDForImageClassification(ViTKDConfig())
    expected = {}
    for name, group in json.loads((reference_folder("vitkd", RECIPE) / "param_groups.json").read_text()).items():
        assert group["requires_grad"] and group["lr"] == 1e-3
        for old, new in MODULES.items():
            name = name.replace(old, new)
        names = (
            [name.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")] if "q_proj" in name else [name]
        )
        expected |= dict.fromkeys(names, group["weight_decay"])
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    name_of = {id(parameter): name for name, parameter in trained.items()}
    found = {
        name_of[id(parameter)]: group["weight_decay"]
        for group in parameter_groups(model)
        for parameter in group["params"]
    }
    assert found == expected and len(found) == len(trained)
    assert decay_parameter_names(model) == [name for name in trained if expected[name] > 0]


def test_tables_of_relative_positions_do_not_decay():
    model = nn.ModuleDict({"bias": nn.Linear(2, 2)})
    model["bias"].relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
    assert decay_parameter_names(model) == ["bias.weight"]


@needs_reference("vitkd", RECIPE)
def test_learning_rates_equal_the_original():
    expected = load_file(reference_folder("vitkd", RECIPE) / "io.safetensors")["output.lr_per_iteration"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1e-3)
    scheduler, found = warmup_cosine_schedule(optimizer, steps_per_epoch=3), []
    for _ in expected:
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=1e-12, atol=0)


@needs_reference("vitkd", RECIPE)
def test_average_and_label_smoothing_equal_the_original():
    values = load_file(reference_folder("vitkd", RECIPE) / "io.safetensors")
    model = nn.Module()
    model.weight = nn.Parameter(values["input.ema_init"].clone())
    average = ExponentialMovingAverage(1 - 4e-5, copy_first=True)
    average.start(model)
    for weight, expected in zip(values["input.ema_sequence"], values["output.ema_values"], strict=True):
        model.weight.data.copy_(weight)
        average.update(model)
        torch.testing.assert_close(average.averages["weight"], expected, rtol=1e-6, atol=1e-7)
    for kind, labels in (("hard", values["input.labels"]), ("mixup", values["output.mixup_scores"])):
        loss = label_loss(values["input.logits"], labels, 0.1)
        torch.testing.assert_close(loss, values[f"output.label_smooth_loss_{kind}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        reference_case("vitkd", "distill_deit3_to_deit_hard"),
        reference_case("vitkd", "distill_deit_to_deit_soft_ema"),
    ],
)
def test_a_step_of_the_optimizer_equals_the_original(case, tmp_path):
    folder = reference_folder("vitkd", case)
    values, options = load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())
    convert_checkpoint("vitkd", folder / "checkpoint.pth", tmp_path / "model", options)
    model = ViTKDForImageClassification.from_pretrained(tmp_path / "model", teacher=tmp_path / "model" / "teacher")
    optimizer = torch.optim.AdamW(parameter_groups(model.train(), 0.05), 1e-3)
    labels = values.get("input.soft_labels", values["input.labels"])
    model(values["input.pixel_values"], labels, mask_noise=values["input.mask_noise"]).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm = nn.utils.clip_grad_norm_(trained, 5.0)
    torch.testing.assert_close(norm, values["output.grad_norm_all_params"], rtol=1e-4, atol=1e-5)
    optimizer.step()
    after, compared = dict(model.named_parameters()), 0
    for name, expected in values.items():
        if not name.startswith("output.after_step."):
            continue
        name = name.removeprefix("output.after_step.")
        for old, new in MODULES.items():
            name = name.replace(old, new)
        parts = (
            [name.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")] if "q_proj" in name else [name]
        )
        found = torch.cat([after[part] for part in parts])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        compared += 1
    assert compared >= 6


def test_terms_are_logged_and_the_teacher_stays_out(tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="epoch", average_momentum=0.1)
    teacher = {name: value.clone() for name, value in trainer.model.teacher.state_dict().items()}
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 6
    for entry in logs:
        assert sum(entry[name] for name in TERMS) == pytest.approx(entry["loss"], rel=1e-4)
    assert logs[-1]["loss"] < 0.8 * logs[0]["loss"]
    torch.testing.assert_close(dict(trainer.model.teacher.state_dict()), teacher, rtol=0, atol=0)
    assert trainer.model.training and not trainer.model.teacher.training
    own = {name for name, parameter in trainer.model.named_parameters() if not name.startswith("vitkd.teacher")}
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(own)
    checkpoint = tmp_path / "checkpoint-12"
    assert not [name for name in load_file(checkpoint / "model.safetensors") if "teacher" in name]
    assert load_file(checkpoint / "average.safetensors").keys() == own


def test_evaluation_runs_the_averaged_student_alone(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, average_momentum=0.1, num_train_epochs=2)
    trainer.train()
    monkeypatch.setattr(type(trainer.model), "forward", None)
    found = trainer.predict(Images())
    trainer.save_student(tmp_path / "student")
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert type(student) is ViTForImageClassification
    batch = ImageClassificationCollator(3)([Images()[index] for index in range(12)])
    logits = student(batch["pixel_values"]).logits
    torch.testing.assert_close(torch.from_numpy(found.predictions), logits, rtol=1e-5, atol=1e-6)
    loss = nn.functional.cross_entropy(logits, batch["labels"]).item()
    assert found.metrics["test_loss"] == pytest.approx(loss, rel=1e-4)
    weights = trainer.model.student.state_dict()
    assert any((weights[name] != value).any() for name, value in student.state_dict().items())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-4)


class Stop(TrainerCallback):
    """Ends the process, as far as training knows."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [4, 7], ids=["within an epoch", "after an epoch"])
def test_resumed_training_is_bit_equal(step, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": step - 1, "average_momentum": 0.1, "data_seed": 5}
    whole = make_trainer(tmp_path / "whole", **saving)
    whole.train()
    stopped = make_trainer(tmp_path / "stopped", callbacks=[Stop(step)], **saving)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    torch.manual_seed(99)
    resumed = make_trainer(tmp_path / "stopped", **saving)
    resumed.train(resume_from_checkpoint=True)
    torch.testing.assert_close(dict(resumed.model.state_dict()), dict(whole.model.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(resumed.average.averages, whole.average.averages, rtol=0, atol=0)
    assert resumed.state.log_history[-2]["loss"] == whole.state.log_history[-2]["loss"]


def test_student_alone_learns_from_labels(tmp_path):
    trainer = make_trainer(tmp_path, {"label_smoothing": 0.0}, teacher=False, num_train_epochs=2)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert entry["task_loss"] == pytest.approx(entry["loss"], rel=1e-4) and "logit_loss" not in entry
    assert trainer.model.teacher is None and trainer.model.distiller is None


def test_accumulation_averages(tmp_path):
    options = {"num_train_epochs": 2, "max_grad_norm": 1e9}
    results = []
    for accumulation in (1, 2):
        trainer = make_trainer(
            tmp_path,
            {"generation_weight": 0.0},
            gradient_accumulation_steps=accumulation,
            per_device_train_batch_size=4 // accumulation,
            **options,
        )
        trainer.model.student.config.hidden_dropout_prob = 0.0
        for module in trainer.model.student.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        trainer.train()
        # The bias of keys has no gradient but rounding, of which Adam makes steps.
        results.append({k: v for k, v in trainer.model.state_dict().items() if not k.endswith("k_proj.bias")})
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 5}, "`max_steps` must be -1"),
        ({"num_train_epochs": 2.5}, "`num_train_epochs` must be a whole number"),
        ({"min_learning_rate": 1.0}, "`min_learning_rate` must be from 0 to"),
        ({"average_momentum": 1.0}, "`average_momentum` must be"),
    ],
)
def test_bad_arguments_are_named(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        DistillationArguments(str(tmp_path), **arguments)


def test_other_arguments_are_refused(tmp_path):
    with pytest.raises(TypeError, match="`args` must be `DistillationArguments`, got TrainingArguments"):
        DistillationTrainer(tiny_vit(0), None, TrainingArguments(str(tmp_path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"warmup_epochs": 300}, "`warmup_epochs`"), ({"steps_per_epoch": 0}, "`steps_per_epoch`"),
     ({"min_factor": -1.0}, "`min_factor` must be from 0 to 1"), ({"warmup_factor": 2.0}, "`warmup_factor`")],
)  # fmt: skip
def test_bad_schedules_are_named(options, message):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    with pytest.raises(ValueError, match=message):
        warmup_cosine_schedule(optimizer, **{"steps_per_epoch": 2, **options})


def test_schedule_without_warmup():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    factor = warmup_cosine_schedule(optimizer, 2, epochs=4, warmup_epochs=0, min_factor=0.1).lr_lambdas[0]
    assert [factor(step) for step in (0, 1, 4)] == pytest.approx([1, 1, 0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2])
    assert warmup_cosine_schedule(optimizer, 1, epochs=2, warmup_epochs=1).lr_lambdas[0](0) == 1.0


def test_embedded_student_is_plain_and_as_good_as_said(shared_data):
    folder = Path(default_model("vitkd-student-clothing"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1e6
    student, report = ViTForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()) and "hvmodels" not in (folder / "config.json").read_text()
    images = read_labelled_images(shared_data / "data" / "image_classification" / "clothing_small_96" / "test.parquet")
    assert tuple(student.config.id2label.values()) == images.class_names
    dataset = ImageClassificationDataset(images, ViTImageProcessorPil.from_pretrained(folder))
    with torch.inference_mode():
        logits = student(torch.stack([dataset[index]["pixel_values"] for index in range(len(dataset))])).logits
    found = classification_metrics(logits.numpy(), images.labels)
    assert found["accuracy"] == pytest.approx(EMBEDDED_ACCURACY, abs=0.003)


def test_embedded_student_in_the_pipeline(auto_image_processor):
    classify = pipeline("image-classification", model=default_model("vitkd-student-clothing"))
    found = classify(Image.new("RGB", (120, 160), (200, 190, 180)), top_k=10)
    assert len(found) == 10 and {"dress", "t-shirt"} < {entry["label"] for entry in found}
    assert sum(entry["score"] for entry in found) == pytest.approx(1, abs=1e-5)
