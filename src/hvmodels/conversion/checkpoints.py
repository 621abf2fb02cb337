"""Read a foreign checkpoint safely and write the converted model, or nothing at all."""

import ast
import json
import pickle
import re
import shutil
import tempfile
import zipfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..methods import METHODS


WRAPPER_KEYS = ("state_dict", "model", "model_state_dict", "model_pos")


def open_checkpoint(path: str | PathLike, allowed_types: Sequence[type] = ()) -> Any:
    """Open a `.pth`, `.pt`, `.ckpt` or `.safetensors` file on the CPU.

    Pickles are opened with `weights_only=True`: no code in the file runs.

    Args:
        path: The file.
        allowed_types: Further harmless types that the pickle may hold.

    Returns:
        What the file holds, usually a mapping.

    Raises:
        ValueError: If the file is absent, damaged, or holds a type that is not allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`checkpoint` must be a file, and {str(path)!r} is none.")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            with torch.serialization.safe_globals(list(allowed_types)):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))  # the rest of PyTorch's advice is to run the code after all
        raise ValueError(
            f"`checkpoint` {str(path)!r} holds more than weights{f' ({found[1]})' if found else ''}, or is no PyTorch "
            "file, and was not opened, since its pickle could run code. If you trust it, save its weights alone: "
            "`torch.save(model.state_dict(), path)`."
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError, IndexError,
            SafetensorError, zipfile.BadZipFile, MemoryError, UnicodeDecodeError) as error:  # fmt: skip
        raise ValueError(
            f"`checkpoint` {str(path)!r} cannot be read: it is damaged, cut off, or not a PyTorch or safetensors file "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'})."
        ) from error
    return content


def take_weights(content: Any, path: str | PathLike, entry: str | None = None) -> dict[str, torch.Tensor]:
    """Take the weights out of what `open_checkpoint` gives.

    A wrapper dictionary (`state_dict`, `model`, `model_states` with `net`) and the prefix `module.` of a parallel model are taken off.

    Args:
        content: What the file holds.
        path: The file, for messages.
        entry: Name of the entry that holds the weights, such as `"ema_model"`; found by itself if None.

    Raises:
        ValueError: If the entry is absent, holds anything but tensors, or values that are not finite.
    """
    if isinstance(content, Mapping) and isinstance(content.get("model_states"), Mapping):
        content, entry = content["model_states"], entry or "net"  # of several networks side by side
    if entry is not None:
        if not isinstance(content, Mapping) or not isinstance(content.get(entry), Mapping):
            found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise ValueError(f"`checkpoint` {str(path)!r} has no weights under {entry!r}; it holds {found[:12]}.")
        content = content[entry]
    for key in WRAPPER_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"`checkpoint` {str(path)!r} must hold a state dict, got {type(content).__name__}.")
    weights = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not torch.is_tensor(tensor):
            raise ValueError(
                f"`checkpoint` {str(path)!r} must hold only tensors; its entry {name!r} is a {type(tensor).__name__}."
            )
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(f"`checkpoint` {str(path)!r}: the entry {name!r} must be an ordinary dense tensor.")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"`checkpoint` {str(path)!r}: the entry {name!r} has NaN or infinite values.")
        if name.removeprefix("module.") in weights:
            raise ValueError(f"`checkpoint` {str(path)!r} holds {name!r} twice, with and without `module.`.")
        weights[name.removeprefix("module.")] = tensor
    return weights


def read_checkpoint(
    path: str | PathLike, allowed_types: Sequence[type] = (), entry: str | None = None
) -> dict[str, torch.Tensor]:
    """Weights of a file; arguments and errors as in `open_checkpoint` and `take_weights`."""
    return take_weights(open_checkpoint(path, allowed_types), path, entry)


def check_fits(state_dict: Mapping[str, torch.Tensor], model: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """Check that converted weights are those of a model.

    Args:
        state_dict: Weights by our names.
        model: The model, which may be on the meta device.
        prefix: What the names of the weights have before those of the model.

    Returns:
        The weights, with a count of 0 where a batch norm of an old file counts no batches.

    Raises:
        ValueError: If weights are missing or surplus, a shape differs, or floating-point dtypes differ.
    """
    expected = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    state_dict = dict(state_dict)
    for name, tensor in expected.items():
        if name.endswith(".num_batches_tracked"):
            state_dict.setdefault(name, torch.zeros((), dtype=tensor.dtype))
    missing, surplus = sorted(expected.keys() - state_dict.keys()), sorted(state_dict.keys() - expected.keys())
    if missing or surplus:
        raise ValueError(f"`checkpoint`: the weights {missing[:6]} are missing, and {surplus[:6]} have no place.")
    dtypes = set()
    for name, tensor in state_dict.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"`checkpoint`: {name!r} has the shape {tuple(tensor.shape)}, but the other weights ask for "
                f"{tuple(expected[name].shape)}."
            )
        if expected[name].is_floating_point():
            dtypes.add(tensor.dtype)
        elif tensor.is_floating_point():
            raise ValueError(f"`checkpoint`: {name!r} must be an integer, got {tensor.dtype}.")
    if len(dtypes) != 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(
            f"`checkpoint`: all weights must have the same floating-point dtype, got {sorted(map(str, dtypes))}."
        )
    return state_dict


def stored_options(content: Any) -> dict[str, Any]:
    """The options that training code keeps beside the weights; empty if there are none.

    They are under `args` or `hyper_parameters`. mmengine keeps its configuration as text under `meta`; it is given as
    `config_text`, see `read_python_config`, and the names of the classes as `class_names`.
    """
    options = {}
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if isinstance(meta, Mapping):
        dataset = meta.get("dataset_meta")
        names = dataset.get("classes", dataset.get("CLASSES")) if isinstance(dataset, Mapping) else meta.get("CLASSES")
        found = {"config_text": meta.get("cfg", meta.get("config")), "class_names": names}
        options = {name: value for name, value in found.items() if value is not None}
    for key in ("args", "hyper_parameters"):
        found = content.get(key) if isinstance(content, Mapping) else None
        options |= vars(found) if isinstance(found, Namespace) else found if isinstance(found, Mapping) else {}
    return options


def read_python_config(text: Any) -> dict[str, Any]:
    """Values of a configuration that is Python text, as mmengine keeps it in checkpoints; none of it is run.

    Only literals and `dict(...)` of literals count; anything else is left out, and text that is no Python gives nothing.
    """

    def evaluate(node: ast.expr) -> Any:
        match node:
            case ast.Call(func=ast.Name(id="dict"), args=arguments, keywords=keywords) if len(arguments) < 2:
                values = dict(evaluate(arguments[0])) if arguments else {}
                for keyword in keywords:
                    value = evaluate(keyword.value)
                    values |= value if keyword.arg is None else {keyword.arg: value}
                return values
            case ast.Dict(keys=keys, values=values):
                return {evaluate(key): evaluate(value) for key, value in zip(keys, values, strict=True)}
            case ast.List(elts=elements):
                return [evaluate(element) for element in elements]
            case ast.Tuple(elts=elements):
                return tuple(evaluate(element) for element in elements)
            case _:
                return ast.literal_eval(node)

    options = {}
    if isinstance(text, str):
        with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            for statement in ast.parse(text).body:
                match statement:
                    case ast.Assign(targets=[ast.Name(id=name)], value=value):
                        with suppress(ValueError, TypeError, RecursionError, MemoryError):
                            options[name] = evaluate(value)
    return options


def flatten_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of all nested mappings by their own names; the outer ones win."""
    flat = {}
    for value in options.values():
        if isinstance(value, Mapping):
            flat = {**flatten_options(value), **flat}
    return {**flat, **{name: value for name, value in options.items() if not isinstance(value, Mapping)}}


def read_original_config(config: str | PathLike | Mapping | None) -> dict[str, Any]:
    """The original's options from a JSON file or a mapping, empty for None.

    Raises:
        ValueError: If the file is absent or holds no JSON object.
    """
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(config)
    try:
        options = json.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"`original_config` {str(config)!r} must be a JSON file: {error}") from error
    if not isinstance(options, dict):
        raise ValueError(f"`original_config` {str(config)!r} must hold a JSON object, got {type(options).__name__}.")
    return options


def convert_checkpoint(
    method: str,
    checkpoint: str | PathLike,
    output_dir: str | PathLike,
    original_config: str | PathLike | Mapping | None = None,
) -> Path:
    """Convert a checkpoint of an original repository into a folder that `from_pretrained` loads.

    Args:
        method: A key of `METHODS`, e.g. `"ltsf-linear"`.
        checkpoint: File of weights, see `read_checkpoint`.
        output_dir: Folder to write; it must be absent or empty.
        original_config: JSON file or mapping with the original's own option names, which win over those that the file
            holds. Unknown options are ignored, and sizes read from the tensors win over both. `checkpoint_entry` names the entry of the file to take the weights
            from where there are several, such as `"ema_model"`.

    Returns:
        The folder.

    Raises:
        ValueError: If the method is unknown, the folder is not empty, or the checkpoint or its options do not fit;
            nothing is written then.
    """
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {sorted(METHODS)}, got {method!r}.")
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"`output_dir` {str(output_dir)!r} must be absent or an empty folder; choose another one.")
    options = read_original_config(original_config)
    entry = options.pop("checkpoint_entry", None)
    content = open_checkpoint(checkpoint, METHODS[method].checkpoint_types)
    weights = take_weights(content, checkpoint, entry)
    options = {**stored_options(content), **options}
    model, processor, *others = METHODS[method].load_converter()(weights, options, source=Path(checkpoint))
    folders = {"": (model, processor), **(others[0] if others else {})}
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that an interruption leaves no half of a model.
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-") as folder:
        staging = Path(folder) / "model"
        for name, (model, processor) in folders.items():
            model.save_pretrained(staging / name)
            processor.save_pretrained(staging / name)
        if output_dir.exists():
            output_dir.rmdir()
        shutil.move(staging, output_dir)
    return output_dir


__all__ = ["convert_checkpoint", "flatten_options", "read_checkpoint", "read_original_config"]
