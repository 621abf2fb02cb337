"""Poses in videos: detector calls and time with and without DeciWatch, and memory on a clip looped to 10,000 frames.

    python benchmarks/video_pose.py --videos folder [--parts clips memory] [--output folder]

One thread. `clips` runs the default pose model on each clip in every frame and in every tenth, with a box of each person in
the first frame where one is known, and prints what it took and how much the poses jitter: the mean second difference of the
keypoints, in shares of the person's size. `memory` prints the process's peak after a hundred and after all frames of the first
clip, looped; the poses are given there, since the model's share of memory does not depend on the length.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from transformers import pipeline
from transformers.utils import logging

import hvmodels
from hvmodels.pose_sequences import PoseSequence
from hvmodels.video import read_video


BOXES = {
    "outdoor_jump": [(208, 22, 58, 148)],
    "two_people": [(145, 140, 140, 290), (10, 225, 130, 330)],
    "balance_beam": [(150, 140, 130, 285)],
}
INTERVAL, LOOPED = 10, 10_000


def peak_megabytes() -> float:
    """Highest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def jitter(sequence: PoseSequence) -> float:
    """Mean second difference of the keypoints in percent of the person's size."""
    values = []
    for track in sequence.tracks:
        size = np.ptp(track.keypoints, axis=1).max(axis=1)[:, None]
        steps = np.linalg.norm(np.diff(track.keypoints, 2, axis=0), axis=2)
        values.append(steps / size[1:-1])
    return 100 * float(np.nanmean(np.concatenate(values)))


def measure_clips(folder: Path, output: Path | None):
    estimator = pipeline("video-pose-estimation", model=hvmodels.default_model("video-pose-estimation"))
    estimator([np.zeros((64, 64, 3), np.uint8)] * 2, boxes=[(0, 0, 64, 64)])  # warm
    for path in sorted(folder.glob("*.mp4")):
        options = {"boxes": BOXES.get(path.stem), "progress": False}
        for name, settings in {
            "every frame": {"smooth": None},
            "every frame, SmoothNet": {},
            f"every {INTERVAL}th frame, straight lines": {"interval": INTERVAL, "recover": None, "smooth": None},
            f"every {INTERVAL}th frame, DeciWatch": {"interval": INTERVAL},
        }.items():
            start, cpu = time.perf_counter(), time.process_time()
            sequence = estimator(str(path), **options, **settings)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            print(
                f"{path.stem}, {name}: looked at {sequence.num_detected_frames} of {sequence.num_frames} frames, "
                f"{len(sequence.tracks)} tracks, wall {wall:.1f} s, CPU {cpu:.1f} s, jitter {jitter(sequence):.2f} %",
                flush=True,
            )
        if output is not None:
            for name, interval in (("all", 1), ("deciwatch", INTERVAL)):
                estimator(
                    str(path), **options, interval=interval, trails=30, output_video=output / f"{path.stem}_{name}.mp4"
                )


def looped(path: Path, count: int) -> Iterator[np.ndarray]:
    video = read_video(path)
    index = 0
    while True:
        for frame in video:
            if index == count:
                return
            index += 1
            yield frame.image


def given_poses(num_frames: int) -> Iterator[list[dict]]:
    """A person who sways about the middle of the picture, by COCO's keypoints."""
    names, random = hvmodels.keypoint_sets.COCO17.keypoints, np.random.default_rng(0)
    figure = random.uniform((290, 80), (350, 280), (len(names), 2))
    for index in range(num_frames):
        points = figure + random.normal((100 * np.sin(index / 60), 0), 2, figure.shape)
        low, high = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        yield [
            {
                "score": 0.9,
                "label": "person",
                "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), (*low, *high), strict=True)),
                "keypoints": [
                    {"label": name, "x": x, "y": y, "score": 0.8}
                    for name, (x, y) in zip(names, points.tolist(), strict=True)
                ],
            }
        ]


def measure_memory(videos: Path, folder: Path, count: int, interval: int, draw: bool):
    """In a process of its own."""
    estimator = pipeline("video-pose-estimation", model=hvmodels.default_model("video-pose-estimation"))
    start = time.perf_counter()
    options = {"output_video": folder / "drawn.mp4"} if draw else {}
    path = sorted(videos.glob("*.mp4"))[0]
    sequence = estimator(
        looped(path, count), poses=given_poses(count), interval=interval, frame_rate=30, progress=False, **options
    )
    drawn = ", drawn" if draw else ""
    print(
        f"{path.stem} looped to {sequence.num_frames} frames, looked at {sequence.num_detected_frames}{drawn}: peak "
        f"{peak_megabytes():.0f} MB, {time.perf_counter() - start:.0f} s",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="Folder of .mp4 files.")
    parser.add_argument("--parts", nargs="+", default=["clips", "memory"], choices=["clips", "memory"])
    parser.add_argument("--output", type=Path, help="Folder for drawn videos.")
    parser.add_argument("--frames", type=int, default=LOOPED)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    if arguments.one:
        count, interval, draw = map(int, arguments.one)
        measure_memory(arguments.videos, arguments.output, count, interval, bool(draw))
        return
    if "clips" in arguments.parts:
        measure_clips(arguments.videos, arguments.output)
    if "memory" in arguments.parts:
        output = arguments.output or Path("outputs")
        output.mkdir(parents=True, exist_ok=True)
        for interval, draw in ((INTERVAL, 0), (1, 0), (INTERVAL, 1)):
            for count in (300, arguments.frames):
                command = [sys.executable, __file__, "--videos", str(arguments.videos), "--output", str(output)]
                subprocess.run([*command, "--one", str(count), str(interval), str(draw)], check=True)


if __name__ == "__main__":
    main()
