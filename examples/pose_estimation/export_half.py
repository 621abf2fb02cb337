"""Write a model in float16 weights, half the size, which load as float32: `python export_half.py FOLDER NEW_FOLDER`."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor

import hvmodels  # noqa: F401


def main(arguments: list[str]):
    source, target = map(Path, arguments)
    target.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.from_pretrained(source)
    config.dtype = torch.float32  # what the weights become when they are loaded: float16 is slow on CPUs
    config.save_pretrained(target)
    settings = json.loads((source / "preprocessor_config.json").read_text())
    auto_class = AutoFeatureExtractor if "feature_extractor_type" in settings else AutoImageProcessor
    auto_class.from_pretrained(source).save_pretrained(target)
    weights = {}
    for name, value in load_file(source / "model.safetensors").items():
        weights[name] = value.half() if value.is_floating_point() else value
        if not weights[name].isfinite().all():
            raise ValueError(f"`{name}` does not fit into float16.")
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    print(f"{sum(path.stat().st_size for path in target.iterdir()) / 1e6:.2f} MB in {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
