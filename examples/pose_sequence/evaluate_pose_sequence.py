"""Measure SmoothNet, DeciWatch and plain filters on an archive of motion capture and on real detections, in one table.

    python evaluate_pose_sequence.py --data cmu_test.npz --detections real_detections.npz --output_dir outputs/evaluation

3-D errors are over all joints but the pelvis, relative to which the poses are. The acceleration error is the length of the
second difference of the error, per frame squared. "Clean" is the error where the true poses are the input.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pose_sequence_recipe import refine_pair, write_json
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

import hvmodels
from hvmodels.datasets.pose_sequence import PosePair, read_detections, read_motion
from hvmodels.metrics.pose_sequence import acceleration_errors, joint_errors
from hvmodels.models.pose_sequence import DeciWatchFeatureExtractor
from hvmodels.models.pose_sequence.feature_extraction_pose_sequence import interpolate_missing
from hvmodels.smoothing.filters import GaussianFilter, OneEuroFilter, SavitzkyGolayFilter


UNITS = {"3D": "mm", "2D": "px"}
FILTERS = {
    "Gaussian, sigma 1": GaussianFilter(1.0),
    "Gaussian, sigma 2": GaussianFilter(2.0),
    "Savitzky-Golay, 11 frames, order 2": SavitzkyGolayFilter(11, 2),
    "median 5, then Gaussian, sigma 1": GaussianFilter(1.0, median_size=5, median_padding="mirror"),
    "median 9, then Gaussian, sigma 2": GaussianFilter(2.0, median_size=9, median_padding="mirror"),
}
SMOOTHNET, DECIWATCH = "SmoothNet", "DeciWatch"
LARGEST_LAG = 10  # frames

# Gives a track's poses when called with what is known of it and with its input poses.
Method = Callable[[PosePair, np.ndarray], np.ndarray]


class Refiner:
    """A model with its feature extractor, as a `Method`."""

    def __init__(self, folder: str):
        self.model = AutoModelForTimeSeriesPrediction.from_pretrained(folder).eval()
        self.extractor = AutoFeatureExtractor.from_pretrained(folder)

    def __call__(self, pair: PosePair, poses: np.ndarray) -> np.ndarray:
        return refine_pair(pair, self.model, self.extractor, poses)

    def seen_share(self, pairs: list[PosePair]) -> float:
        """Share of the frames whose poses are looked at."""
        if not isinstance(self.extractor, DeciWatchFeatureExtractor):
            return 1.0
        lengths = [len(pair.poses) for pair in pairs]
        seen = [len(self.extractor.frame_indices(n, pair.frame_rate)) for n, pair in zip(lengths, pairs, strict=True)]
        return sum(seen) / sum(lengths)


def then(first: Method, second: Method) -> Method:
    return lambda pair, poses: second(pair, first(pair, poses))


def one_euro(pair: PosePair, poses: np.ndarray) -> np.ndarray:
    """With the settings and units of SmoothNet's comparison: metres, or halves of the picture."""
    unit = {"metre": 1.0, "millimetre": 1000.0}.get(pair.unit) or max(pair.image_size) / 2
    return OneEuroFilter(0.04, 0.7).filter(poses / unit) * unit


def make_methods(smoothnet: Refiner | None, deciwatch: Refiner | None) -> dict[str, Method]:
    """All rows of the table."""
    methods = {"none": lambda pair, poses: poses}
    for name, plain in FILTERS.items():
        methods[name] = lambda pair, poses, plain=plain: plain.filter(poses)
    methods["One-Euro, 0.04 and 0.7"] = one_euro
    if smoothnet is not None:
        methods[SMOOTHNET] = smoothnet
    if deciwatch is not None:
        methods[DECIWATCH] = deciwatch
    if smoothnet is not None and deciwatch is not None:
        methods[f"{DECIWATCH}, then {SMOOTHNET}"] = then(deciwatch, smoothnet)
    return methods


def measure(pairs: list[PosePair], method: Method, joints: slice) -> dict[str, float]:
    """Mean error, mean acceleration error, and mean error where the input is the truth."""
    refined = [method(pair, pair.poses)[:, joints] for pair in pairs]
    clean = [method(pair, pair.targets)[:, joints] for pair in pairs]
    targets = [pair.targets[:, joints] for pair in pairs]
    return {
        name: float(np.concatenate([function(*both).ravel() for both in zip(poses, targets, strict=True)]).mean())
        for name, function, poses in (
            ("error", joint_errors, refined),
            ("acceleration error", acceleration_errors, refined),
            ("clean error", joint_errors, clean),
        )
    }


def lag_of(tracks: list[np.ndarray], references: list[np.ndarray]) -> float:
    """Frames by which tracks (frames, joints, dims) come behind references, to a tenth.

    It is the shift at which they differ least, but for a constant of each coordinate.
    """
    shifts = np.arange(-10 * LARGEST_LAG, 10 * LARGEST_LAG + 1) / 10
    costs = np.zeros(len(shifts))
    for track, reference in zip(tracks, references, strict=True):
        frames = np.arange(LARGEST_LAG, len(track) - LARGEST_LAG)
        for index, shift in enumerate(shifts):
            times = frames - shift
            before = np.floor(times).astype(int)
            weight = (times - before)[:, None, None]
            after = np.minimum(before + 1, len(track) - 1)
            moved = reference[before] * (1 - weight) + reference[after] * weight
            difference = track[frames] - moved
            costs[index] += np.abs(difference - np.median(difference, axis=0)).sum()
    return float(shifts[costs.argmin()])


def measure_detections(pairs: list[PosePair], method: Method) -> dict[str, float]:
    """Jitter, lag behind the reference and distance to it, over the views of one detector.

    Jitter is the mean length of the second difference of the poses, all joints, pixels per frame squared. Lag and distance
    are over the joints whose reference can be trusted. Joints that were not found are interpolated first, for all methods.
    """
    filled = [interpolate_missing(pair.poses, pair.scores <= 0) for pair in pairs]
    refined = [method(pair, poses) for pair, poses in zip(pairs, filled, strict=True)]
    valid = [pair.valid_joints for pair in pairs]
    trusted = [poses[:, joints] for poses, joints in zip(refined, valid, strict=True)]
    references = [pair.targets[:, joints] for pair, joints in zip(pairs, valid, strict=True)]
    errors = [joint_errors(*both).ravel() for both in zip(trusted, references, strict=True)]
    jitter = [acceleration_errors(poses, np.zeros_like(poses)).ravel() for poses in refined]
    return {
        "jitter": float(np.concatenate(jitter).mean()),
        "lag": lag_of(trusted, references),
        "error": float(np.concatenate(errors).mean()),
        "median error": float(np.median(np.concatenate(errors))),
    }


def plot_coordinate(pair: PosePair, joint: int, axis: int, tracks: dict[str, np.ndarray], unit: str, path: Path):
    """One coordinate over time: as estimated, as refined, and the truth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    seconds = np.arange(len(pair.poses)) / (pair.frame_rate or 1)
    axes.plot(seconds, pair.poses[:, joint, axis], color="0.7", linewidth=1, label="estimated")
    axes.plot(seconds, pair.targets[:, joint, axis], color="black", linewidth=1.2, label="truth")
    for name, poses in tracks.items():
        axes.plot(seconds, poses[:, joint, axis], linewidth=1.2, label=name)
    axes.set(xlabel="seconds" if pair.frame_rate else "frame", ylabel=unit, title=f"{pair.name}, joint {joint}")
    axes.legend(frameon=False, ncols=4)
    figure.savefig(path, dpi=110)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def motion_table(report: dict[str, dict]) -> str:
    names = {"error": "error", "acceleration error": "accel", "clean error": "clean"}
    rows = []
    for method in dict.fromkeys(name for kind in UNITS for name in report[kind]):
        entries = [report[kind].get(method, {}) for kind in UNITS]
        cells = [f"{entry[name]:.2f}" if name in entry else "" for entry in entries for name in names]
        rows.append([method, *cells])
    return table(["method", *(f"{kind} {name} {UNITS[kind]}" for kind in UNITS for name in names.values())], rows)


def detections_table(report: dict[str, dict]) -> str:
    rows = [
        [detector, method, *(f"{entry[name]:.2f}" for name in ("jitter", "lag", "error", "median error"))]
        for detector, entries in report.items()
        for method, entry in entries.items()
    ]
    return table(["detector", "method", "jitter px", "lag frames", "error px", "median error px"], rows)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="archive of motion capture, such as cmu_test.npz")
    parser.add_argument("--detections", help="archive of real detections, such as real_detections.npz")
    for name, default in (
        ("smoothnet", "smoothnet-any-pose"),
        ("deciwatch_2d", "deciwatch-2d"),
        ("deciwatch_3d", "deciwatch-3d"),
    ):
        parser.add_argument(
            f"--{name}",
            default=default,
            help=f"folder of a model, or one inside the package ({default}); none without",
        )
    parser.add_argument("--plot_sequence", type=int, default=0, help="sequence to draw a coordinate of")
    parser.add_argument("--plot_joint", type=int, default=16, help="joint to draw")
    parser.add_argument("--output_dir", default="outputs/evaluation")
    options = parser.parse_args(arguments)
    output_dir = Path(options.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    def load(name: str) -> Refiner | None:
        if name == "none":
            return None
        return Refiner(name if Path(name).is_dir() else hvmodels.default_model(name))

    smoothnet = load(options.smoothnet)
    deciwatch = {"3D": load(options.deciwatch_3d), "2D": load(options.deciwatch_2d)}
    report = {"data": {}, "detections": {}, "share of frames DeciWatch looks at": {}}
    for kind, unit in UNITS.items():
        pairs = read_motion(options.data, kind)
        methods = make_methods(smoothnet, deciwatch[kind])
        joints = slice(1 if kind == "3D" else 0, None)
        report["data"][kind] = {name: measure(pairs, method, joints) for name, method in methods.items()}
        if deciwatch[kind] is not None:
            report["share of frames DeciWatch looks at"][kind] = deciwatch[kind].seen_share(pairs)
        pair = pairs[options.plot_sequence]
        drawn = {name: methods[name](pair, pair.poses) for name in (SMOOTHNET, DECIWATCH) if name in methods}
        plot_coordinate(pair, options.plot_joint, 1, drawn, unit, output_dir / f"coordinate_{kind}.png")
    text = [motion_table(report["data"])]
    for kind, share in report["share of frames DeciWatch looks at"].items():
        text.append(f"{DECIWATCH} looks at {100 * share:.1f} % of the frames in {kind}.")
    if options.detections is not None:
        pairs = read_detections(options.detections)
        for detector in dict.fromkeys(pair.name.partition("/")[0] for pair in pairs):
            views = [pair for pair in pairs if pair.name.startswith(f"{detector}/")]
            methods = make_methods(smoothnet, None)  # DeciWatch's joints are others
            report["detections"][detector] = {
                name: measure_detections(views, method) for name, method in methods.items()
            }
        text.append(detections_table(report["detections"]))
    write_json(report, output_dir / "evaluation.json")
    (output_dir / "evaluation.md").write_text("\n\n".join(text) + "\n")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
