"""Write the published settings of SmoothNet and DeciWatch, one table each, as recipe files.

python make_recipes.py recipes
"""

import argparse
import json
from pathlib import Path
from typing import Any


# hidden_size, intermediate_size, num_hidden_layers, hidden_dropout_prob, batch_size, learning_rate
SMOOTHNET = {
    "aist_vibe_3D": (512, 128, 5, 0.25, 128, 1e-3),
    "h36m_fcn_3D": (512, 128, 5, 0.25, 1024, 1e-3),
    "pw3d_spin_3D": (512, 16, 1, 0.5, 128, 1e-4),
}
WINDOW_SIZES = (32, 8, 16, 64)  # the first one is the default

# num_joints, hidden_size, layers, pre_norm, num_intervals, window_stride_intervals, batch_size, decay, recover_loss_weight
DECIWATCH = {
    "aist_spin_3D": (14, 128, 5, True, 10, 1, 512, 0.95, 5.0),
    "aist_spin_smpl": (24, 128, 5, False, 10, 10, 512, 0.95, 2.0),
    "h36m_fcn_3D": (17, 128, 5, True, 10, 1, 512, 0.95, 1.0),
    "jhmdb_simplepose_2D": (15, 128, 5, False, 1, 1, 16, 0.95, 5.0),
    "pw3d_eft_3D": (14, 12, 5, True, 10, 1, 256, 0.95, 2.5),
    "pw3d_eft_smpl": (24, 128, 3, False, 10, 10, 512, 0.99, 1.0),
    "pw3d_pare_3D": (14, 32, 5, True, 10, 1, 512, 0.95, 1.0),
    "pw3d_pare_smpl": (24, 16, 3, False, 10, 10, 1024, 0.99, 1.0),
    "pw3d_spin_3D": (14, 32, 5, True, 10, 1, 256, 0.95, 2.5),
    "pw3d_spin_smpl": (24, 32, 3, False, 10, 10, 1024, 0.99, 3.0),
}
# num_intervals of the checkpoints with sample_interval 1 to 20
NUM_INTERVALS = (100, 50, 33, 25, 20, 16, 14, 12, 11, 10, 9, 8, 7, 7, 6, 6, 5, 5, 5, 5)
NUM_INTERVALS_JHMDB = (10, 5, 3, 2, 2, *[1] * 15)

DIMS = {"2D": 2, "3D": 3, "smpl": 6}
COMMON = {"epochs": 70, "seed": 4321, "sampler": "original"}


def describe(name: str) -> dict[str, Any]:
    dataset, estimator, representation = name.split("_")
    return {"dataset": dataset, "estimator": estimator, "representation": representation}


def smoothnet_recipe(name: str) -> dict[str, Any]:
    hidden, inner, layers, dropout, batch_size, learning_rate = SMOOTHNET[name]
    return {
        "method": "smoothnet",
        "release": "smoothnet",
        **describe(name),
        "config": {
            "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "hidden_dropout_prob": dropout, "position_loss_weight": 1.0, "acceleration_loss_weight": 0.1,
        },
        "window_size": WINDOW_SIZES[0],
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "learning_rate_decay": 0.95,
        **COMMON,
        "settings": {f"window_{size}": {"window_size": size} for size in WINDOW_SIZES[1:]},
    }  # fmt: skip


def deciwatch_recipe(name: str) -> dict[str, Any]:
    joints, hidden, layers, pre_norm, intervals, stride, batch_size, decay, weight = DECIWATCH[name]
    described = describe(name)
    counts = NUM_INTERVALS_JHMDB if described["dataset"] == "jhmdb" else NUM_INTERVALS
    settings = {}
    for interval, count in enumerate(counts, start=1):
        if (interval, count) != (10, intervals):
            changes = {"sample_interval": interval, "num_intervals": count}
            if stride > count:  # a window must begin where the one before it ends, at the latest
                changes["window_stride_intervals"] = count
            settings[f"interval_{interval}"] = changes
    return {
        "method": "deciwatch",
        "release": "deciwatch",
        **described,
        "config": {
            "num_joints": joints, "joint_dim": DIMS[described["representation"]], "hidden_size": hidden,
            "encoder_layers": layers, "decoder_layers": layers, "pre_norm": pre_norm, "dropout": 0.1,
            "denoise_loss_weight": 1.0, "recover_loss_weight": weight,
        },
        "sample_interval": 10,
        "num_intervals": intervals,
        "window_stride_intervals": stride,
        "batch_size": batch_size,
        "learning_rate": 1e-3,
        "learning_rate_decay": decay,
        **COMMON,
        "settings": settings,
    }  # fmt: skip


def recipes() -> dict[str, dict[str, Any]]:
    """Content of each file by its name."""
    published = {f"smoothnet_{name}": smoothnet_recipe(name) for name in SMOOTHNET}
    return published | {f"deciwatch_{name}": deciwatch_recipe(name) for name in DECIWATCH}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    folder = parser.parse_args().output_dir
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in recipes().items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
