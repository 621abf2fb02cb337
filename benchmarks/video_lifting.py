"""From videos to persons in space and to actions in one call, and how far lifted poses of a real recording are off.

    python benchmarks/video_lifting.py --videos folder --output folder
    python benchmarks/video_lifting.py --detections real_detections.npz

One thread, embedded models. With `--videos` each clip goes through the pipeline, with a box of each person in the first frame
where one is known; what it took is printed, and videos, pages and a picture of some frames are written. With `--detections`
the poses that two detectors found in a real recording of three cameras are lifted, and compared with a reference that was
triangulated from other detections: no measurement, but of a real person and real cameras.
"""

import argparse
import os
import time
from pathlib import Path


os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from transformers import pipeline
from transformers.utils import logging
from video_pose import BOXES

import hvmodels
from hvmodels.cameras import PinholeCamera
from hvmodels.keypoint_sets import COCO17, HUMAN36M17, convert_keypoints
from hvmodels.metrics.pose_sequence import joint_errors
from hvmodels.pose_sequences import PoseSequence, PoseTrack
from hvmodels.video import read_video


# Joints that both sets have: the others are put together from them.
LIMBS = [
    index for index, name in enumerate(HUMAN36M17.keypoints) if name.startswith(("left_", "right_"))
]  # fmt: skip
PICTURES = 4


def measure_clips(folder: Path, output: Path):
    tasks = {
        option: hvmodels.TASKS[task]
        for option, task in (("lift", "pose-lifting"), ("actions", "skeleton-action-recognition"))
    }
    options = {option: True for option, task in tasks.items() if task.default_model is not None}
    estimator = pipeline("video-pose-estimation", model=hvmodels.default_model("video-pose-estimation"), **options)
    for path in sorted(folder.glob("*.mp4")):
        drawn = output / f"{path.stem}.mp4"
        start, cpu = time.perf_counter(), time.process_time()
        found = estimator(
            str(path),
            boxes=BOXES.get(path.stem),
            output_video=drawn,
            output_page=drawn.with_suffix(".html"),
            output_3d=drawn.with_suffix(".npz"),
            progress=False,
        )
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(
            f"{path.stem}: {found.num_frames} frames, {len(found.tracks)} tracks, wall {wall:.1f} s, CPU {cpu:.1f} s"
        )
        for track in found.lifted.tracks:
            in_sight = np.ones(len(track), bool) if track.scores is None else (track.scores > 0).any(axis=1)
            is_between = in_sight[:-2] & in_sight[1:-1] & in_sight[2:]
            steps = 1000 * np.linalg.norm(np.diff(track.keypoints, 2, axis=0)[is_between], axis=2).mean()
            print(f"  track {track.track_id}: {in_sight.sum()} frames in sight, second difference {steps:.1f} mm")
        for action in found.actions or ():
            print(
                "  track {track_id}, frames {start_frame} to {end_frame}: {label}, score {score:.2f}".format(**action)
            )
        frames = [frame.image for frame in read_video(drawn)]
        chosen = np.linspace(0, len(frames) - 1, PICTURES).round().astype(int)
        Image.fromarray(np.concatenate([frames[index] for index in chosen], axis=1)).save(drawn.with_suffix(".png"))


def measure_detections(path: Path):
    lifter = pipeline("pose-lifting", model=hvmodels.default_model("pose-lifting"))
    with np.load(path) as data:
        recording = dict(data)
    print("mean error of 12 joints of arms and legs from the reference, after the best similarity in brackets, mm")
    for view, name in enumerate(recording["camera"]):
        camera = PinholeCamera(1, (0, 0), recording["R"][view], None)
        target = convert_keypoints(camera.to_camera(recording["gt3d"]), COCO17, HUMAN36M17)  # mm
        target = (target - target[:, :1])[:, LIMBS]
        for source in ("gt2d", "openpose", "mediapipe"):
            seen = recording[source][view]
            scores = seen[..., 2] if seen.shape[-1] == 3 else None
            poses = PoseSequence(
                [PoseTrack(1, 0, seen[..., :2], scores)],
                keypoint_names=COCO17.keypoints,
                frame_rate=float(recording["fps"]),
                image_size=tuple(recording["image_size"][view].tolist()),
                unit="pixel",
            )
            lifted = 1000 * lifter(poses)[1].keypoints[:, LIMBS]
            errors, aligned = (joint_errors(lifted, target, align=align) for align in (False, True))
            by_frame = np.percentile(errors.mean(axis=1), [25, 50, 75])
            print(
                f"{name}, {source}: {errors.mean():.0f} ({aligned.mean():.0f}); quartiles of frames "
                f"{', '.join(f'{value:.0f}' for value in by_frame)}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="Folder of .mp4 files.")
    parser.add_argument("--output", type=Path, default=Path("outputs/video_lifting"), help="Folder for drawings.")
    parser.add_argument("--detections", type=Path, help="`real_detections.npz`.")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    if arguments.videos is not None:
        measure_clips(arguments.videos, arguments.output)
    if arguments.detections is not None:
        measure_detections(arguments.detections)


if __name__ == "__main__":
    main()
