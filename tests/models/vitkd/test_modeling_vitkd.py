import copy
import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BeitConfig,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    IJepaConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    ViTMSNConfig,
    pipeline,
)

from hvmodels import ViTKDConfig, ViTKDForImageClassification, ViTKDImageProcessor, ViTKDModel
from hvmodels.hub import collect_code, export
from hvmodels.models.vitkd import FeatureTaps, ViTKDLoss, dkd_loss, kd_loss, label_loss, nkd_loss, uskd_loss, wsld_loss
from hvmodels.models.vitkd.modeling_vitkd import classifier_class
from tests.modeling_checks import (
    ConfigChecks,
    ModelChecks,
    assert_equal,
    seed_of_each_module,  # noqa: F401
    seeded,
    with_random_weights,
)


pytestmark = pytest.mark.usefixtures("seed_of_each_module")

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
STUDENT = {"model_type": "vit", **SIZES}
TEACHER = {**STUDENT, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3}
CONFIGS = {
    "vitkd": {"student_config": STUDENT, "teacher_config": TEACHER},
    "same width": {"student_config": STUDENT, "teacher_config": STUDENT, "logit_loss": None, "mimic_layers": [0, -1]},
    "uskd": {"student_config": STUDENT, "mimic_weight": 0, "generation_weight": 0, "logit_loss": "uskd"},
}
FAMILIES = {
    "vit": ViTConfig,
    "vit_msn": ViTMSNConfig,
    "deit": DeiTConfig,
    "dinov2": Dinov2Config,
    "dinov2_with_registers": Dinov2WithRegistersConfig,
    "dinov3_vit": DINOv3ViTConfig,
    "beit": BeitConfig,
    "ijepa": IJepaConfig,
}
PREFIX = {"deit": 2, "dinov2_with_registers": 5, "dinov3_vit": 3, "ijepa": 0}


def make_config(name, **options):
    return ViTKDConfig(**copy.deepcopy({**CONFIGS[name], **options}))


def make_classifier(**options):
    return with_random_weights(ViTForImageClassification(ViTConfig(**{**SIZES, **options})))


def make_pair(**fields):
    student, teacher = make_classifier(), make_classifier(hidden_size=24, num_attention_heads=3)
    return ViTKDForImageClassification.from_pair(student, teacher, **fields)


def make_batch(batch_size=2, size=(32, 32)):
    return torch.randn(batch_size, 3, *size), torch.arange(batch_size) % 5


@pytest.fixture(params=CONFIGS)
def config(request):
    return make_config(request.param)


class TestViTKD(ModelChecks):
    base_class = ViTKDModel
    head_classes = (ViTKDForImageClassification,)

    def make_inputs(self, config, batch_size):
        return {"pixel_values": torch.randn(batch_size, 3, 32, 32)}

    def make_labels(self, config, batch_size):
        return {"labels": torch.arange(batch_size)}

    def test_loss_gives_every_parameter_a_gradient(self, head_class, config):
        model = head_class(config).train()
        if config.teacher_config is not None:
            model.attach_teacher(with_random_weights(ViTForImageClassification(config.teacher_config)))
        outputs = model(**self.make_inputs(config, 3), **self.make_labels(config, 3))
        assert next(iter(outputs)) == "loss"
        outputs.loss.backward()
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained.keys() == model.state_dict().keys()
        for name, parameter in trained.items():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


class TestConfig(ConfigChecks):
    config_class = ViTKDConfig
    config_arguments = {
        "mimic_layers": [0, 2],
        "teacher_mimic_layers": [1, 3],
        "generation_layer": -2,
        "mimic_weight": 1e-3,
        "generation_weight": 2e-4,
        "mask_ratio": 0.75,
        "normalize_by_elements": True,
        "logit_loss": "dkd",
        "nkd_temperature": 2.0,
        "nkd_gamma": 1.5,
        "kd_temperature": 1.0,
        "kd_alpha": 0.1,
        "dkd_temperature": 1.0,
        "dkd_alpha": 2.0,
        "dkd_beta": 0.5,
        "wsld_temperature": 2.0,
        "wsld_alpha": 2.5,
        "uskd_alpha": 2.0,
        "uskd_beta": 0.2,
        "uskd_mu": 0.01,
        "label_smoothing": 0.0,
        "teacher_train_mode": True,
        "student_taps": {"blocks": "layers", "norm": "layernorm", "num_prefix_tokens": 1},
        "teacher_taps": {"blocks": "layers", "norm": "layernorm", "num_prefix_tokens": 1, "patch_size": 8},
        "student_hidden_size": 192,
        "teacher_hidden_size": 384,
    }

    def test_num_labels(self):
        config = ViTKDConfig(num_labels=5)
        assert len(config.id2label) == config.student_config.num_labels == config.teacher_config.num_labels == 5

    def test_labels_are_those_of_the_student(self):
        names = {0: "shirt", 1: "dress"}
        student = ViTConfig(id2label=names, label2id={name: index for index, name in names.items()})
        config = ViTKDConfig(student_config=student, teacher_config=ViTConfig(num_labels=2))
        assert config.id2label == names
        assert config.student_config is student

    def test_no_teacher_where_nothing_is_learned_from_one(self):
        config = make_config("uskd")
        assert config.teacher_config is None
        assert not config.needs_teacher


# Taps


@pytest.mark.parametrize("family", FAMILIES)
def test_taps_of_every_family(family, tmp_path):
    """Against `hidden_states` and the final norm of the model itself."""
    sizes = {**SIZES, **({"num_register_tokens": PREFIX[family] - 1} if PREFIX.get(family, 0) > 2 else {})}
    config = FAMILIES[family](**sizes)
    config.drop_path_rate = 0.0
    model = with_random_weights(AutoModel.from_config(config))
    taps = FeatureTaps(model)
    assert (taps.num_prefix_tokens, taps.hidden_size, len(taps.blocks)) == (PREFIX.get(family, 1), 16, 3)
    pixel_values = make_batch()[0]
    with torch.no_grad(), taps.record([0, 2]) as recorded:
        outputs = model(pixel_values, output_hidden_states=True)
    assert recorded.keys() == {0, 2}
    assert_equal(recorded[0], outputs.hidden_states[1])
    patches = taps.patches(recorded[2], normalize=True)
    assert patches.shape == (2, 16, 16)
    assert taps.grid(pixel_values, 16) == (4, 4)
    if family != "beit":  # its last hidden state is not normalised
        assert_close(patches, outputs.last_hidden_state[:, PREFIX.get(family, 1) :])
    assert_close(patches, taps.norm(outputs.hidden_states[3][:, PREFIX.get(family, 1) :]))
    before = recorded[0]
    model(2 * pixel_values)
    assert recorded[0] is before  # the hooks are gone


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "dinov3_vit"])
def test_every_family_learns_and_teaches(family, tmp_path):
    student_config = FAMILIES[family](**SIZES)
    student = with_random_weights(classifier_class(student_config)(student_config))
    teacher = make_classifier(hidden_size=24, num_attention_heads=3)
    pixel_values, labels = make_batch()
    model = ViTKDForImageClassification.from_pair(student, teacher).train()
    outputs = model(pixel_values, labels)
    assert outputs.mask.shape == (2, 16)
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert_equal(again(pixel_values).logits, model.eval()(pixel_values).logits)
    reverse = ViTKDForImageClassification.from_pair(teacher.requires_grad_(True), student)
    assert torch.isfinite(reverse(pixel_values, labels).loss)


def test_a_teacher_without_a_head():
    teacher = with_random_weights(AutoModel.from_config(DINOv3ViTConfig(**SIZES, num_register_tokens=2)))
    model = ViTKDForImageClassification.from_pair(make_classifier(), teacher, logit_loss=None)
    outputs = model(*make_batch())
    assert outputs.logit_loss is None
    assert_close(outputs.loss, outputs.task_loss + outputs.mimic_loss + outputs.generation_loss)
    with pytest.raises(ValueError, match="`teacher` must give logits, but DINOv3ViTModel"):
        ViTKDForImageClassification.from_pair(make_classifier(), teacher)(*make_batch())


def test_any_classifier_teaches_by_logits_alone():
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=5)
    teacher = AutoModelForImageClassification.from_config(config)
    model = ViTKDForImageClassification.from_pair(
        make_classifier(), teacher, mimic_weight=0, generation_weight=0, logit_loss="kd", kd_alpha=0.25
    )
    assert model.distiller is None
    pixel_values, labels = make_batch()
    outputs = model(pixel_values, labels)
    assert_close(outputs.task_loss, 0.75 * label_loss(outputs.logits, labels, 0.1))
    assert_close(outputs.logit_loss, kd_loss(outputs.logits, outputs.teacher_logits, 4.0, 0.25))


def test_taps_of_the_configuration():
    taps = {"blocks": "vit.layers", "norm": "vit.layernorm", "num_prefix_tokens": 1, "patch_size": 8}
    noise, batch = torch.rand(2, 16), make_batch()
    model = make_pair()
    expected = model(*batch, mask_noise=noise).loss
    model.config.student_taps = taps
    assert_equal(model(*batch, mask_noise=noise).loss, expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"blocks": "stages"}, r"`student_taps\['blocks'\]` must name the list of blocks"),
        ({"norm": "final"}, r"`student_taps\['norm'\]` must name the final norm"),
    ],
)
def test_taps_that_are_not_there(override, message):
    taps = {"blocks": "layers", "norm": "layernorm", "num_prefix_tokens": 1}
    with pytest.raises(ValueError, match=message):
        FeatureTaps(make_classifier(), {**taps, **override})


def test_unknown_families_and_grids():
    swin = AutoModelForImageClassification.from_config(
        SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
    )
    with pytest.raises(ValueError, match="`student_taps` must be given for models of type 'swin'"):
        FeatureTaps(swin)
    taps = FeatureTaps(make_classifier())
    with pytest.raises(ValueError, match="one token a patch, 4 x 4"):
        taps.grid(make_batch()[0], 17)
    with pytest.raises(ValueError, match=r"must be in \[-3, 3\), got 3"):
        taps.layer_index(3)


# Losses


def test_mismatched_grids_that_are_not_square():
    """A student of 2 x 3 patches learns from 4 x 6."""
    student = make_classifier(image_size=(32, 48), patch_size=16)
    teacher = make_classifier(image_size=(32, 48), hidden_size=24, num_attention_heads=3)
    model = ViTKDForImageClassification.from_pair(student, teacher)
    pixel_values, labels = make_batch(size=(32, 48))
    outputs = model(pixel_values, labels, mask_noise=torch.rand(2, 24))
    assert outputs.mask.sum(1).tolist() == [12, 12]
    outputs.loss.backward()
    features = model.vitkd(pixel_values, with_teacher=True)
    assert features.shallow_features[0].shape == (2, 2, 3, 16)
    assert features.teacher_deep_features.shape == (2, 4, 6, 24)
    enlarged = torch.nn.functional.interpolate(
        features.shallow_features[0].permute(0, 3, 1, 2), size=(4, 6), mode="bilinear", align_corners=False
    ).permute(0, 2, 3, 1)
    loss = model.distiller
    enlarged = [enlarged, features.shallow_features[1].new_zeros(2, 4, 6, 16)]
    small = [features.shallow_features[0], torch.zeros(2, 2, 3, 16)]
    assert_close(
        loss.mimic(enlarged, features.teacher_shallow_features), loss.mimic(small, features.teacher_shallow_features)
    )


def reference_loss(loss, student, teacher, noise):
    """The generation loss as the paper has it, with whole convolutions."""
    batch_size, rows, columns, size = teacher.shape
    tokens = student if loss.generation_aligner is None else loss.generation_aligner(student)
    rank = noise.argsort(1).argsort(1)
    mask = rank >= int(rows * columns * (1 - loss.mask_ratio))
    tokens = torch.where(mask[..., None], loss.mask_token, tokens.flatten(1, 2))
    maps = tokens.transpose(1, 2).reshape(batch_size, size, rows, columns)
    generated = loss.generator[1](loss.generator[0](maps).relu()).flatten(2).transpose(1, 2)
    error = (generated - teacher.flatten(1, 2)).square().sum(2)
    return loss.generation_weight / loss.mask_ratio / batch_size * error[mask].sum(), mask


@pytest.mark.parametrize("student_size", [6, 10])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("grid", [(3, 5), (1, 4), (4, 4)])
def test_generation_equals_whole_convolutions(student_size, ratio, grid):
    loss = ViTKDLoss(student_size, 10, generation_weight=0.1, mask_ratio=ratio)
    torch.nn.init.normal_(loss.mask_token)
    student, teacher = torch.randn(3, *grid, student_size, requires_grad=True), torch.randn(3, *grid, 10)
    noise = torch.rand(3, grid[0] * grid[1]).mul(8).round()  # with ties
    parameters = [student, *(value for name, value in loss.named_parameters() if "mimic" not in name)]
    expected, mask = reference_loss(loss, student, teacher, noise)
    expected_gradients = torch.autograd.grad(expected, parameters)
    actual, actual_mask = loss.generate(student, teacher, noise)
    assert torch.equal(actual_mask.bool(), mask)
    assert_close(actual, expected)
    assert_close(torch.autograd.grad(actual, parameters), expected_gradients, atol=1e-5, rtol=1e-4)


def test_weights_by_elements():
    features = [torch.randn(2, 4, 4, size) for size in (8, 12)]
    noise = torch.rand(2, 16)
    plain = seeded(lambda: ViTKDLoss(8, 12, 1))
    scaled = seeded(lambda: ViTKDLoss(8, 12, 1, normalize_by_elements=True))
    one, other = (loss([features[0]], [features[1]], features[0], features[1], noise) for loss in (plain, scaled))
    factor = 196 * 384 / (16 * 12)
    assert_close(other.mimic_loss, factor * one.mimic_loss)
    assert_close(other.generation_loss, factor * one.generation_loss)


def test_masks_are_drawn_from_the_generator():
    model, batch = make_pair(), make_batch()
    masks = [model(*batch, generator=torch.Generator().manual_seed(seed)).mask for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_sums_are_in_float32_under_autocast():
    model, (pixel_values, labels) = make_pair(mimic_weight=1.0, generation_weight=1.0), make_batch()
    noise = torch.rand(2, 16)
    expected = model(pixel_values, labels, mask_noise=noise)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(pixel_values, labels, mask_noise=noise)
    for name in ("loss", "task_loss", "mimic_loss", "generation_loss", "logit_loss"):
        assert outputs[name].dtype == torch.float32
        assert_close(outputs[name], expected[name], atol=0, rtol=0.05)


@pytest.mark.parametrize("loss", ["nkd", "kd", "dkd", "wsld"])
def test_losses_are_finite_for_extreme_logits(loss):
    function = {"nkd": nkd_loss, "kd": lambda s, t, _: kd_loss(s, t), "dkd": dkd_loss, "wsld": wsld_loss}[loss]
    student = torch.tensor([[1e4, -1e4, 0.0], [-500.0, 3.0, 1000.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [5.0, 3.0, -1000.0]])
    value = function(student, teacher, torch.tensor([0, 1]))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_non_target_distributions_leave_out_the_target():
    """What the target's logit is does not matter to NKD's second term, nor does a constant."""
    student, teacher, labels = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0, 1, 3])
    other = student.scatter_add(1, labels[:, None], torch.full((3, 1), 5.0)) + 2
    targets = [nkd_loss(logits, teacher, labels, 2.0, 0.0) for logits in (student, other)]
    totals = [nkd_loss(logits, teacher, labels, 2.0, 1.0) for logits in (student, other)]
    assert_close(totals[0] - targets[0], totals[1] - targets[1])
    assert not torch.isclose(targets[0], targets[1])


def test_one_hot_scores_are_classes():
    student, teacher, labels = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0, 1, 3])
    scores = torch.nn.functional.one_hot(labels, 4).float()
    for loss in (nkd_loss, dkd_loss, wsld_loss):
        assert_equal(loss(student, teacher, scores), loss(student, teacher, labels))
    assert_close(label_loss(student, scores), label_loss(student, labels))


# Teacher


def test_the_teacher_is_frozen_and_not_saved(tmp_path):
    model = make_pair().train()
    teacher = model.teacher
    assert not teacher.training
    assert model.student.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any("teacher" in name for name in model.state_dict())
    model.load_state_dict(model.state_dict())
    model.save_pretrained(tmp_path)
    assert not any("teacher" in name for name in load_file(tmp_path / "model.safetensors"))
    ignored = model._ddp_params_and_buffers_to_ignore
    assert set(ignored) == {name for name, _ in model.named_parameters() if "teacher" in name}
    noise, batch = torch.rand(2, 16), make_batch()
    expected = model(*batch, mask_noise=noise).loss
    teacher.save_pretrained(tmp_path / "teacher")
    for source in (teacher, tmp_path / "teacher", str(tmp_path / "teacher")):
        for auto_class in (AutoModelForImageClassification, ViTKDForImageClassification):
            loaded = auto_class.from_pretrained(tmp_path, teacher=source)
            assert_equal(loaded(*batch, mask_noise=noise).loss, expected)
    loaded, info = ViTKDForImageClassification.from_pretrained(tmp_path, teacher=teacher, output_loading_info=True)
    assert loaded.teacher is teacher
    assert not info["missing_keys"]


def test_without_a_teacher_only_losses_fail(tmp_path):
    make_pair().save_pretrained(tmp_path)
    model = ViTKDForImageClassification.from_pretrained(tmp_path)
    pixel_values, labels = make_batch()
    assert model(pixel_values).logits.shape == (2, 5)
    with pytest.raises(ValueError, match=r"`teacher` must be attached.*attach_teacher"):
        model(pixel_values, labels)


def test_the_teacher_in_training_mode():
    model = make_pair(teacher_train_mode=True).eval()
    assert not model.teacher.training
    assert model.train().teacher.training
    assert not model.eval().teacher.training


def test_a_teacher_of_another_precision_and_picture():
    model, (pixel_values, labels) = make_pair(), make_batch()
    noise = torch.rand(2, 16)
    expected = model(pixel_values, labels, mask_noise=noise)
    model.teacher.to(torch.bfloat16)
    outputs = model(pixel_values, labels, mask_noise=noise)
    assert outputs.loss.dtype == torch.float32
    assert_close(outputs.loss, expected.loss, atol=0, rtol=0.05)
    model.teacher.to(torch.float32)
    other = model(pixel_values, labels, mask_noise=noise, teacher_pixel_values=2 * pixel_values)
    assert_equal(other.task_loss, expected.task_loss)
    assert not torch.isclose(other.mimic_loss, expected.mimic_loss)


def test_pictures_of_another_size():
    model, (pixel_values, labels) = make_pair(), make_batch(size=(48, 32))
    outputs = model(pixel_values, labels, interpolate_pos_encoding=True)
    assert outputs.mask.shape == (2, 24)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradient_checkpointing():
    model, batch = make_pair().train(), make_batch()
    noise = torch.rand(2, 16)
    gradients = []
    for options in (None, {"use_reentrant": False}):
        if options is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        model.zero_grad()
        model(*batch, mask_noise=noise).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.student.parameters()])
    assert_close(gradients[0], gradients[1])


# Student


def test_the_student_is_a_plain_model(tmp_path, auto_image_processor):
    model = make_pair()
    model.save_student(
        tmp_path, ViTKDImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    )
    student = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(student) is ViTForImageClassification
    pixel_values, _ = make_batch()
    assert_equal(student(pixel_values).logits, model(pixel_values).logits)
    for path in tmp_path.glob("*.json"):
        text = path.read_text().lower()
        assert "hvmodels" not in text
        assert "vitkd" not in text
        assert "auto_map" not in text
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert settings["image_processor_type"] == "ViTImageProcessor"
    classify = pipeline("image-classification", model=str(tmp_path))
    image = np.random.default_rng(0).integers(0, 256, (36, 50, 3), dtype=np.uint8)
    inputs = classify.image_processor(image, return_tensors="pt")["pixel_values"]
    assert_close(inputs, ViTKDImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"])


def test_a_side_shorter_than_the_crop_is_kept():
    image = np.random.default_rng(0).integers(0, 256, (32, 60, 3), dtype=np.uint8)
    processor = ViTKDImageProcessor(crop_size={"height": 48, "width": 40}, do_resize=False, do_normalize=False)
    pixel_values = processor(image, do_rescale=False, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(pixel_values, image[:, 10:50].transpose(2, 0, 1))


def test_the_pipeline_runs_the_student(tmp_path, auto_image_processor):
    from PIL import Image

    model = make_pair()
    model.save_pretrained(tmp_path)
    ViTKDImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    classify = pipeline("image-classification", model=str(tmp_path))
    assert type(classify.model) is ViTKDForImageClassification
    results = classify(Image.new("RGB", (60, 40), "red"), top_k=5)
    assert sum(result["score"] for result in results) == pytest.approx(1, abs=1e-5)
    assert classify.model.teacher is None


def test_the_code_travels(tmp_path):
    export(make_pair(), ViTKDImageProcessor(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"]["AutoModelForImageClassification"] == "modeling_vitkd.ViTKDForImageClassification"
    names = {path.name for path in tmp_path.glob("*.py")}
    kinds = ("configuration", "modeling", "loss", "feature_taps", "image_processing")
    assert (
        names
        == {f"{kind}_vitkd.py" for kind in kinds}
        == set(collect_code([ViTKDForImageClassification, ViTKDImageProcessor]))
    )


# Wrong inputs


def config_of(**options):
    return make_config("vitkd", **options)


def forward(pixel_values=None, labels=None, **options):
    given = make_batch()
    return make_pair()(
        given[0] if pixel_values is None else pixel_values, given[1] if labels is None else labels, **options
    )


def pair(student=None, teacher=None, **fields):
    return ViTKDForImageClassification.from_pair(
        make_classifier() if student is None else student, make_classifier() if teacher is None else teacher, **fields
    )


LOGITS, OTHER, CLASSES = torch.randn(3, 4), torch.randn(3, 5), torch.arange(3)
MAP = torch.randn(2, 4, 4, 8)
NAN = float("nan")
BAD = {
    "layers": (lambda: config_of(mimic_layers=[]), ValueError, "`mimic_layers` must name at least one"),
    "teacher layers": (lambda: config_of(teacher_mimic_layers=[0]), ValueError, "`teacher_mimic_layers`.*got 1 for 2"),
    "ratio 0": (lambda: config_of(mask_ratio=0.0), ValueError, r"`mask_ratio` must be in \(0, 1\], got 0.0"),
    "ratio 2": (lambda: config_of(mask_ratio=2), ValueError, "`mask_ratio`"),
    "ratio nan": (lambda: config_of(mask_ratio=NAN), ValueError, "`mask_ratio`"),
    "weight": (lambda: config_of(mimic_weight=-1.0), ValueError, "`mimic_weight` must be a finite number"),
    "weight nan": (lambda: config_of(generation_weight=NAN), ValueError, "`generation_weight`"),
    "weight text": (lambda: config_of(mimic_weight="1"), StrictDataclassFieldValidationError, "mimic_weight"),
    "temperature": (lambda: config_of(nkd_temperature=0), ValueError, "`nkd_temperature` must be a positive"),
    "alpha": (lambda: config_of(kd_alpha=1.5), ValueError, r"`kd_alpha` must be in \[0, 1\]"),
    "smoothing": (lambda: config_of(label_smoothing=1.0), ValueError, "`label_smoothing`"),
    "loss": (lambda: config_of(logit_loss="mse"), StrictDataclassFieldValidationError, "logit_loss"),
    "taps": (lambda: config_of(student_taps={"blocks": "x"}), ValueError, "`student_taps` must have the keys"),
    "width": (lambda: config_of(student_hidden_size=0), ValueError, "`student_hidden_size`"),
    "no teacher": (lambda: config_of(teacher_config=None), ValueError, "`teacher_config` must be given"),
    "classes": (lambda: config_of(teacher_config={**TEACHER, "num_labels": 4}), ValueError, "5 classes.*got 4"),
    "num_labels": (lambda: config_of(num_labels=3), ValueError, "`num_labels` must be that of `student_config`, 5, got 3"),
    "model type": (lambda: config_of(student_config={"model_type": "x"}), ValueError, "`student_config` must name a model"),
    "no model type": (lambda: config_of(teacher_config={}), ValueError, "`teacher_config`.*got None"),
    "no classifier": (
        lambda: ViTKDModel(config_of(student_config={**STUDENT, "model_type": "dinov3_vit"})),
        ValueError,
        "`student_config` must be that of an image classifier",
    ),
    "student type": (lambda: pair(student="deit"), ValueError, "`student` must be a model of transformers, got str"),
    "student class": (lambda: pair(student=ViTModel(ViTConfig(**SIZES))), ValueError, "must be a ViTForImageClass"),
    "teacher type": (lambda: pair(teacher="deit"), ValueError, "`teacher` must be a model of transformers, got str"),
    "teacher classes": (lambda: pair(teacher=make_classifier(num_labels=4)), ValueError, "`teacher_config`.*5 classes"),
    "deep layer": (lambda: pair(generation_layer=7), ValueError, r"must be in \[-3, 3\), got 7"),
    "attach width": (
        lambda: make_pair().attach_teacher(make_classifier()), ValueError, "`teacher` must have tokens of width 24"
    ),
    "attach classes": (
        lambda: make_pair().attach_teacher(make_classifier(hidden_size=24, num_labels=4)), ValueError, "5 classes"
    ),
    "attach none": (lambda: make_pair().attach_teacher(None), ValueError, "`teacher`.*NoneType"),
    "processor": (lambda: make_pair().save_student("x", "processor"), ValueError, "`processor` must be an image"),
    "pixels list": (lambda: forward([[1.0]]), TypeError, "`pixel_values` must be a floating-point tensor, got list"),
    "pixels integer": (lambda: forward(torch.ones(2, 3, 32, 32).byte()), TypeError, "`pixel_values`.*torch.uint8"),
    "pixels rank": (lambda: forward(torch.ones(3, 32, 32)), ValueError, "`pixel_values` must have shape"),
    "pixels empty": (lambda: forward(torch.ones(0, 3, 32, 32)), ValueError, "at least one picture"),
    "teacher pixels": (lambda: forward(teacher_pixel_values=[1]), TypeError, "`teacher_pixel_values`"),
    "unknown": (lambda: forward(mask=None), TypeError, r"takes no arguments \['mask'\]"),
    "labels list": (lambda: forward(labels=[0, 1]), ValueError, "`labels` must be a tensor.*got list"),
    "labels count": (lambda: forward(labels=torch.zeros(3).long()), ValueError, r"`labels`.*\(2,\).*\(2, 5\), got \(3,\)"),
    "labels floats": (lambda: forward(labels=torch.zeros(2)), ValueError, "`labels` must be whole numbers"),
    "labels scores": (lambda: forward(labels=torch.zeros(2, 5).long()), ValueError, "floats where they are scores"),
    "labels range": (lambda: forward(labels=torch.tensor([0, 5])), ValueError, r"`labels` must be in \[0, 5\)"),
    "labels nan": (lambda: forward(labels=torch.full((2, 5), NAN)), ValueError, "`labels` must be finite"),
    "noise shape": (lambda: forward(mask_noise=torch.rand(2, 9)), ValueError, r"`mask_noise`.*\(2, 16\), got \(2, 9\)"),
    "noise type": (lambda: forward(mask_noise=[1]), ValueError, "`mask_noise` must be a tensor"),
    "logits": (lambda: nkd_loss(LOGITS, OTHER, CLASSES), ValueError, "must both have shape"),
    "kd logits": (lambda: kd_loss(LOGITS, OTHER), ValueError, r"\(3, 4\) and \(3, 5\)"),
    "logits rank": (lambda: dkd_loss(LOGITS[0], LOGITS[0], CLASSES), ValueError, r"\(batch, classes\)"),
    "one class": (lambda: wsld_loss(LOGITS[:, :1], LOGITS[:, :1], CLASSES * 0), ValueError, "at least 2 classes"),
    "uskd": (lambda: uskd_loss(LOGITS, OTHER, CLASSES), ValueError, "`weak_logits`"),
    "uskd classes": (lambda: uskd_loss(LOGITS[:, :1], LOGITS[:, :1], CLASSES * 0), ValueError, "more than 1 classes"),
    "map": (lambda: ViTKDLoss(8, 8).generate(MAP[0], MAP), ValueError, "`student_deep` must be a map"),
    "map width": (lambda: ViTKDLoss(8, 12).generate(MAP, MAP), ValueError, "`teacher_deep` must be a map.*12"),
    "map batch": (lambda: ViTKDLoss(8, 8).generate(MAP[:1], MAP), ValueError, "batch of `teacher_deep`, 2, got 1"),
    "map none": (lambda: ViTKDLoss(8, 8)(None, [MAP] * 2, MAP, MAP), ValueError, "2 maps each, got 0 and 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_wrong_inputs(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()
