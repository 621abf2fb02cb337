"""What every model, configuration and processor of the package must do, written once.

A test module subclasses the classes below, names the classes under test and tiny arguments, and inherits the tests.
"""

import copy
import inspect
import io
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close
from transformers import AutoConfig

from hvmodels.methods import method_of


NOTHING = {"missing": set(), "unexpected": set(), "mismatched": set()}


def seeded(build, seed=0):
    """`build()` under one seed."""
    torch.manual_seed(seed)
    return build()


def assert_equal(actual, expected):
    """Equal tensors, or collections of tensors, bit for bit."""
    assert_close(actual, expected, atol=0, rtol=0)


def with_random_weights(model):
    """Give every parameter values that no initialisation gives, so that a weight that was not loaded shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def load(model_class, folder, **options):
    """A model and the sets of missing, unexpected and mismatched keys."""
    model, info = model_class.from_pretrained(folder, output_loading_info=True, **options)
    return model.eval(), {kind: set(info[f"{kind}_keys"]) for kind in NOTHING}


def first_row(output):
    """The first row of every tensor of an output, which may be nested."""
    if torch.is_tensor(output):
        return output[:1]
    if isinstance(output, dict):
        return {name: first_row(value) for name, value in output.items()}
    return tuple(first_row(value) for value in output)


def flatten(output):
    """All tensors of an output, which may be nested."""
    if torch.is_tensor(output):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [tensor for value in values for tensor in flatten(value)]


@pytest.fixture
def seed_of_each_module(monkeypatch):
    """Start the initialisation of every module from one seed, since constructors draw numbers and the meta device does not."""
    initialize = transformers.PreTrainedModel._initialize_weights

    def initialize_from_one_seed(self, module, *arguments):
        state = torch.get_rng_state()
        # Not torch.manual_seed, which keeps a call stack for accelerators at every call: most of the time of these tests.
        torch.default_generator.manual_seed(0)
        initialize(self, module, *arguments)
        torch.set_rng_state(state)

    monkeypatch.setattr(transformers.PreTrainedModel, "_initialize_weights", initialize_from_one_seed)


class ModelChecks:
    """Tests of a base model and its heads.

    Subclasses set `base_class` and `head_classes`, implement `make_inputs` and `make_labels`, and give a parametrised
    fixture `config` of tiny configurations.
    """

    base_class: type
    head_classes: tuple[type, ...]

    def make_inputs(self, config, batch_size):
        """Arguments of `forward` without labels; the first axis is the batch."""
        raise NotImplementedError

    def make_labels(self, config, batch_size):
        """Arguments of a head's `forward` that make it return a loss."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc):
        """Run a test that asks for `model_class` or `head_class` with each of them."""
        choices = {
            "model_class": (metafunc.cls.base_class, *metafunc.cls.head_classes),
            "head_class": metafunc.cls.head_classes,
        }
        for name in choices.keys() & set(metafunc.fixturenames):
            metafunc.parametrize(name, choices[name], ids=lambda model_class: model_class.__name__)

    def run(self, model, batch_size=3, **options):
        """Outputs for inputs that are the same at every call, without gradients."""
        inputs = seeded(lambda: self.make_inputs(model.config, batch_size), 1)
        with torch.no_grad():
            return model(**inputs, **options)

    # Construction and initial weights

    def test_default_configuration_builds(self, model_class):
        assert model_class(model_class.config_class()).num_parameters() > 0

    def test_builds_on_the_meta_device(self, model_class, config):
        with torch.device("meta"):
            model = model_class(config)
        assert model.num_parameters() > 0
        assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))

    def test_tiny(self, model_class, config):
        assert model_class(config).num_parameters() < 1_000_000

    def test_init_weights_alone_gives_what_the_constructor_gives(self, model_class, config):
        constructed = seeded(lambda: model_class(config))
        loaded = seeded(lambda: model_class.from_pretrained(None, config=copy.deepcopy(config), state_dict={}))
        assert_equal(loaded.state_dict(), constructed.state_dict())
        assert_equal(dict(loaded.named_buffers()), dict(constructed.named_buffers()))

    def test_init_weights_fills_everything_after_the_meta_device(self, model_class, config):
        constructed = seeded(lambda: model_class(config)).eval()
        with torch.device("meta"):
            model = model_class(config)
        model.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.fill_(float("nan") if tensor.is_floating_point() else 77)
        seeded(model.init_weights)
        assert_equal(model.state_dict(), constructed.state_dict())
        assert_equal(dict(model.named_buffers()), dict(constructed.named_buffers()))
        assert_equal(self.run(model.eval()), self.run(constructed))  # fails if a plain attribute holds a tensor

    # Saving and loading

    def test_save_and_load(self, model_class, config, tmp_path):
        model = with_random_weights(model_class(config))
        model.save_pretrained(tmp_path)
        loaded, keys = load(model_class, tmp_path)
        assert keys == NOTHING
        assert_equal(loaded.state_dict(), model.state_dict())
        assert_equal(self.run(loaded), self.run(model))

    def test_pickle(self, model_class, config):
        model = with_random_weights(model_class(config))
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        assert_equal(self.run(torch.load(file, weights_only=False)), self.run(model))

    def test_weights_that_are_not_contiguous(self, model_class, config, tmp_path):
        model = with_random_weights(model_class(config))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data = parameter.data.transpose(0, -1).contiguous().transpose(0, -1)
        model.save_pretrained(tmp_path)
        loaded, keys = load(model_class, tmp_path)
        assert keys == NOTHING
        assert_equal(loaded.state_dict(), model.state_dict())

    def test_base_checkpoint_into_head(self, head_class, config, tmp_path):
        base = with_random_weights(self.base_class(config))
        base.save_pretrained(tmp_path)
        head, keys = load(head_class, tmp_path)
        prefix = f"{head_class.base_model_prefix}."
        own_keys = {name for name in head.state_dict() if not name.startswith(prefix)}
        assert keys == {**NOTHING, "missing": own_keys}
        assert_equal(head.base_model.state_dict(), base.state_dict())

    def test_head_checkpoint_into_base(self, head_class, config, tmp_path):
        head = with_random_weights(head_class(config))
        head.save_pretrained(tmp_path)
        base, keys = load(self.base_class, tmp_path)
        prefix = f"{head_class.base_model_prefix}."
        own_keys = {name for name in head.state_dict() if not name.startswith(prefix)}
        assert keys == {**NOTHING, "unexpected": own_keys}
        assert_equal(base.state_dict(), head.base_model.state_dict())

    def test_auto_classes(self, config, tmp_path):
        for name, auto_class in method_of(config.model_type).auto_classes.items():
            if issubclass(auto_class, transformers.PreTrainedModel):
                auto_class(config).save_pretrained(tmp_path / name)
                assert type(getattr(transformers, name).from_pretrained(tmp_path / name)) is auto_class

    def test_weights_of_another_model_are_all_reported(self, model_class, config, tmp_path):
        model = model_class(config)
        model.config.save_pretrained(tmp_path)
        save_file({"something.else": torch.ones(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded, keys = load(model_class, tmp_path)
        assert keys == {**NOTHING, "missing": set(model.state_dict()), "unexpected": {"something.else"}}
        assert all(parameter.isfinite().all() for parameter in loaded.parameters())

    def test_mismatched_size(self, model_class, config, tmp_path):
        model = with_random_weights(model_class(config))
        model.save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        wrong = next(name for name, weight in weights.items() if weight.ndim > 0)
        weights[wrong] = torch.full([size + 1 for size in weights[wrong].shape], 77.0)
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(RuntimeError, match="size"):
            model_class.from_pretrained(tmp_path)
        loaded, keys = load(model_class, tmp_path, ignore_mismatched_sizes=True)
        assert {entry[0] for entry in keys.pop("mismatched")} == {wrong}
        assert keys == {"missing": set(), "unexpected": set()}
        state_dict, expected = loaded.state_dict(), model.state_dict()
        fresh = state_dict.pop(wrong)
        assert fresh.shape == expected.pop(wrong).shape
        assert fresh.abs().max() < 77
        assert_equal(state_dict, expected)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
    def test_dtype(self, model_class, config, dtype, tmp_path):
        model = model_class(config)
        model.save_pretrained(tmp_path / "float32")
        loaded = model_class.from_pretrained(tmp_path / "float32", dtype=dtype).eval()
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
        assert_equal(loaded.state_dict(), model.to(dtype).state_dict())
        assert all(tensor.isfinite().all() for tensor in flatten(self.run(loaded)))
        loaded.save_pretrained(tmp_path / "saved")
        for options in ({}, {"dtype": "auto"}):
            again = model_class.from_pretrained(tmp_path / "saved", **options)
            assert {parameter.dtype for parameter in again.parameters()} == {dtype}
            assert again.config.dtype == dtype

    def test_loading_inside_the_meta_device_raises(self, model_class, config, tmp_path):
        model_class(config).save_pretrained(tmp_path)
        with torch.device("meta"), pytest.raises(RuntimeError, match="meta"):
            model_class.from_pretrained(tmp_path)

    # Forward

    def test_main_input_comes_first(self, model_class):
        assert list(inspect.signature(model_class.forward).parameters)[1] == model_class.main_input_name

    def test_deterministic(self, model_class, config):
        model = model_class(config).eval()
        assert_equal(self.run(model), self.run(model))

    def test_rows_of_a_batch_are_independent(self, model_class, config):
        model = with_random_weights(model_class(config))
        inputs = self.make_inputs(config, 5)
        with torch.no_grad():
            together, alone = model(**inputs), model(**first_row(inputs))
        assert_close(dict(alone), first_row(together), atol=1e-5, rtol=1e-5)

    def test_return_dict(self, model_class, config):
        model = model_class(config).eval()
        as_dict, as_tuple = self.run(model, return_dict=True), self.run(model, return_dict=False)
        assert isinstance(as_tuple, tuple)
        assert len(as_tuple) > 0
        assert_equal(as_tuple, as_dict.to_tuple())
        model.config.return_dict = False
        assert_equal(self.run(model), as_tuple)

    def test_embeddings(self, model_class, config):
        model = model_class(config)
        assert isinstance(model.get_input_embeddings(), nn.Module)
        assert model.get_output_embeddings() is None

    # Training

    def test_loss_gives_every_parameter_a_gradient(self, head_class, config):
        model = head_class(config).train()
        outputs = model(**self.make_inputs(config, 3), **self.make_labels(config, 3))
        assert next(iter(outputs)) == "loss"
        assert outputs.loss.ndim == 0
        assert outputs.loss > 0
        outputs.loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name

    def test_trainer_divides_the_loss_by_accumulation_steps(self, model_class):
        assert model_class.accepts_loss_kwargs is False


class ConfigChecks:
    """Tests of a configuration class.

    Subclasses set `config_class` and `config_arguments`, JSON-able values that are not the defaults.
    """

    config_class: type
    config_arguments: dict

    def test_default_construction_prints_nothing(self, capfd):
        self.config_class()
        assert capfd.readouterr() == ("", "")

    def test_arguments_are_stored_and_not_defaults(self):
        config, default = self.config_class(**self.config_arguments), self.config_class()
        for name, value in self.config_arguments.items():
            assert getattr(config, name) == value != getattr(default, name), name

    def test_round_trips(self, tmp_path):
        config = self.config_class(**self.config_arguments)
        config.to_json_file(tmp_path / "config_file.json")
        config.save_pretrained(tmp_path)
        config.save_pretrained(tmp_path / "folder" / "subfolder")
        copies = {
            "dict": self.config_class.from_dict(config.to_dict()),
            "json": self.config_class(**json.loads(config.to_json_string(use_diff=False))),
            "file": self.config_class.from_json_file(tmp_path / "config_file.json"),
            "folder": self.config_class.from_pretrained(tmp_path),
            "subfolder": self.config_class.from_pretrained(tmp_path / "folder", subfolder="subfolder"),
            "auto": AutoConfig.from_pretrained(tmp_path),
        }
        for kind, again in copies.items():
            assert type(again) is self.config_class, kind
            assert {**again.to_dict(), "_name_or_path": ""} == config.to_dict(), kind
            for name, value in self.config_arguments.items():
                assert getattr(again, name) == value, (kind, name)

    def test_common_arguments_are_stored(self):
        arguments = {
            "return_dict": False,
            "output_hidden_states": True,
            "chunk_size_feed_forward": 5,
            "architectures": ["Something"],
            "id2label": {0: "a", 1: "b", 2: "c"},
            "label2id": {"a": 0, "b": 1, "c": 2},
            "problem_type": "regression",
        }
        config = self.config_class(**arguments, dtype="float16")
        assert {name: getattr(config, name) for name in arguments} == arguments
        assert config.dtype in ("float16", torch.float16)

    def test_num_labels(self):
        config = self.config_class(num_labels=5)
        assert len(config.id2label) == len(config.label2id) == config.num_labels == 5
        config.num_labels = 3
        assert len(config.id2label) == len(config.label2id) == config.num_labels == 3


class ProcessorChecks:
    """Tests of a feature extractor or image processor.

    Subclasses set `processor_class`, the `auto_class` that loads it, and `processor_arguments`, JSON-able values that
    are not the defaults.
    """

    processor_class: type
    auto_class: type
    processor_arguments: dict

    def test_constructible_without_arguments(self):
        assert self.processor_class().to_dict() == self.processor_class().to_dict()

    def test_arguments_are_stored_and_not_defaults(self):
        processor, default = self.processor_class(**self.processor_arguments), self.processor_class()
        for name, value in self.processor_arguments.items():
            assert getattr(processor, name) == value != getattr(default, name), name

    def test_from_dict_with_overrides(self):
        settings, arguments = self.processor_class().to_dict(), self.processor_arguments
        for processor in (
            self.processor_class.from_dict({**settings, **arguments}),
            self.processor_class.from_dict(settings, **arguments),
        ):
            assert {name: getattr(processor, name) for name in arguments} == arguments

    def test_round_trips(self, tmp_path):
        processor = self.processor_class(**self.processor_arguments)
        processor.save_pretrained(tmp_path)
        text = (tmp_path / "preprocessor_config.json").read_text()
        assert text.endswith("}\n")
        assert text.startswith('{\n  "')
        copies = {
            "json": self.processor_class.from_dict(json.loads(processor.to_json_string())),
            "file": self.processor_class.from_json_file(tmp_path / "preprocessor_config.json"),
            "folder": self.processor_class.from_pretrained(tmp_path),
            "auto": self.auto_class.from_pretrained(tmp_path),
        }
        for kind, again in copies.items():
            assert type(again) is self.processor_class, kind
            assert again.to_dict() == processor.to_dict(), kind
            for name, value in self.processor_arguments.items():
                assert getattr(again, name) == value, (kind, name)

    def test_no_shared_mutable_values(self):
        for arguments in ({}, self.processor_arguments):
            one, other = self.processor_class(**arguments), self.processor_class(**arguments)
            shared = [
                name
                for name, value in vars(one).items()
                if isinstance(value, list | dict) and value is vars(other)[name]
            ]
            assert not shared
