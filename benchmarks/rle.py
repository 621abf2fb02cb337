"""RLE against the original: crops, decoding, flow with loss, inference and training of the COCO model, OKS-NMS.

    python benchmarks/rle.py --original res-loglikelihood-regression

One thread. The original's crops and decoding need OpenCV (`pip install opencv-python-headless`) beside the package's own requirements; up to
version 4 its crops are the package's to the last bit. What the two give is compared before anything is timed. Times are CPU
seconds, measured in turn.
"""

import argparse
import importlib
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace


os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from timing import cpu_seconds, print_times

from hvmodels import RLEConfig, RLEForPoseEstimation
from hvmodels.conversion.rle import convert_state_dict
from hvmodels.metrics.oks import oks_nms
from hvmodels.models.rle.cropping_rle import crop_matrices, decode_keypoints, warp_crops
from hvmodels.models.rle.image_processing_rle import RLEImageProcessor


PARTS = ("crops", "decoding", "loss", "inference", "training", "nms")
CROP_SIZE, IMAGE_SIZE = (256, 192), (480, 640)
NUM_BOXES, NUM_POSES, NUM_KEYPOINTS = 32, 64, 17


# The original


def import_original(folder: Path) -> SimpleNamespace:
    """The modules of the original that need no more than OpenCV, without those beside them that do."""
    import cv2

    cv2.setNumThreads(1)
    sys.path.insert(0, str(folder.resolve()))
    presets = type(sys)("rlepose.utils.presets")
    presets.__path__ = [str(folder.resolve() / "rlepose" / "utils" / "presets")]
    sys.modules["rlepose.utils.presets"] = presets
    modules = {name: importlib.import_module(f"rlepose.utils.{name}") for name in ("transforms", "bbox")}
    simple = importlib.import_module("rlepose.utils.presets.simple_transform").SimpleTransform
    heatmap_size = (CROP_SIZE[0] // 4, CROP_SIZE[1] // 4)
    dataset = SimpleNamespace(joint_pairs=[])
    transform = simple(dataset, 0, CROP_SIZE, heatmap_size, rot=0, sigma=2, train=False)
    return SimpleNamespace(cv2=cv2, transform=transform, heatmap_size=heatmap_size, **modules)


# Measurements


def make_image() -> np.ndarray:
    """Smooth structures and noise, (height, width, 3) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 24, 32, generator=generator)
    image = torch.nn.functional.interpolate(coarse, size=IMAGE_SIZE, mode="bilinear")[0].permute(1, 2, 0)
    image = 255 * image + 10 * torch.randn(image.shape, generator=generator)
    return image.clamp(0, 255).to(torch.uint8).contiguous().numpy()


def make_boxes(count: int) -> np.ndarray:
    """x, y, width, height of persons of 60 to 250 pixels in width, partly beyond the image."""
    generator = np.random.default_rng(0)
    widths = generator.uniform(60, 250, count)
    heights = widths * generator.uniform(1, 1.6, count)
    centers = generator.uniform((80, 80), (IMAGE_SIZE[1] - 80, IMAGE_SIZE[0] - 80), (count, 2))
    sizes = np.stack([widths, heights], axis=1)
    return np.concatenate([centers - sizes / 2, sizes], axis=1)


def benchmark_crops(original: SimpleNamespace, repeats: int):
    image, boxes = make_image(), make_boxes(NUM_BOXES)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    processor, nested = RLEImageProcessor(size=dict(zip(("height", "width"), CROP_SIZE, strict=True))), [boxes]

    def crop_originally():
        return [original.transform.test_transform(image, box)[0] for box in corners]

    def crop():
        return processor(image, nested, return_tensors="pt")["pixel_values"]

    difference = (torch.stack(crop_originally()) - crop()).abs()
    print(
        f"crops, largest difference {difference.max():.1e}; {(difference > 1e-6).double().mean():.1e} of the values differ",
        flush=True,
    )
    print_times(
        f"{NUM_BOXES} crops {CROP_SIZE[0]}x{CROP_SIZE[1]} of one image, normalised",
        cpu_seconds({"original": crop_originally, "ours": crop}, repeats),
    )

    scales = 1.25 * np.maximum(boxes[:, 2], 0.75 * boxes[:, 3])[:, None].repeat(2, axis=1)
    matrices = crop_matrices(boxes[:, :2] + boxes[:, 2:] / 2, scales, np.full(NUM_BOXES, 20.0), CROP_SIZE)

    def warp_originally():
        size = CROP_SIZE[::-1]
        return [original.cv2.warpAffine(image, matrix, size, flags=original.cv2.INTER_LINEAR) for matrix in matrices]

    def warp():
        return warp_crops(image, matrices, CROP_SIZE)

    differing = np.stack(warp_originally()) != warp()
    print(f"turned crops, {differing.mean():.1e} of the values differ", flush=True)
    print_times(
        f"{NUM_BOXES} turned crops, as integers", cpu_seconds({"original": warp_originally, "ours": warp}, repeats)
    )


def benchmark_decoding(original: SimpleNamespace, repeats: int):
    generator = np.random.default_rng(0)
    keypoints = generator.uniform(-0.5, 0.5, (NUM_POSES, NUM_KEYPOINTS, 2)).astype(np.float32)
    scores = generator.uniform(size=(NUM_POSES, NUM_KEYPOINTS, 1)).astype(np.float32)
    centers, widths = generator.uniform(100, 400, (NUM_POSES, 2)), generator.uniform(60, 300, (NUM_POSES, 1))
    scales = np.concatenate([widths, widths * CROP_SIZE[0] / CROP_SIZE[1]], axis=1)
    boxes = np.concatenate([centers - scales / 2, centers + scales / 2], axis=1).astype(np.float32)

    def decode_originally():
        return np.concatenate(
            [
                original.transforms.heatmap_to_coord(
                    torch.from_numpy(pose), torch.from_numpy(score), original.heatmap_size, box.tolist()
                )[0]
                for pose, score, box in zip(keypoints, scores, boxes, strict=True)
            ]
        )

    def decode():
        return decode_keypoints(keypoints, boxes, CROP_SIZE)

    difference = np.abs(decode_originally() - decode()).max()
    print(f"decoding, largest difference {difference:.1e} px", flush=True)
    print_times(
        f"decoding of {NUM_POSES}x{NUM_KEYPOINTS} keypoints",
        cpu_seconds({"original": decode_originally, "ours": decode}, repeats),
    )


def import_original_models(folder: Path) -> SimpleNamespace:
    """Model and loss of the original, with stubs for the two packages that it needs only to load weights and name outputs."""

    class EasyDict(dict):
        __getattr__ = dict.__getitem__

    stubs = {name: type(sys)(name) for name in ("torchvision", "torchvision.models", "easydict", "rlepose")}
    stubs["torchvision"].models = stubs["torchvision.models"]
    stubs["torchvision.models"].resnet50 = lambda pretrained: torch.nn.Module()
    stubs["easydict"].EasyDict = EasyDict
    stubs["rlepose"].__path__ = [str(folder.resolve() / "rlepose")]
    sys.modules.update(stubs)
    preset = {"NUM_JOINTS": NUM_KEYPOINTS, "IMAGE_SIZE": CROP_SIZE, "HEATMAP_SIZE": (64, 48)}
    model = importlib.import_module("rlepose.models.regression_nf").RegressFlow(
        NUM_LAYERS=50, NUM_FC_FILTERS=[-1], HIDDEN_LIST=-1, PRESET=preset
    )
    loss = importlib.import_module("rlepose.models.criterion").RLELoss()
    nms = importlib.import_module("rlepose.utils.nms")
    # A stub must not look like an installed torchvision to transformers.
    del sys.modules["torchvision"], sys.modules["torchvision.models"]
    return SimpleNamespace(model=model, loss=loss, nms=nms, outputs=EasyDict)


def benchmark_nms(original: SimpleNamespace, repeats: int):
    generator = np.random.default_rng(0)
    images = []
    for _ in range(50):
        poses = generator.uniform(0, 200, (10, NUM_KEYPOINTS, 2)).repeat(2, axis=0)
        poses += generator.normal(scale=3, size=poses.shape)
        images.append((poses, generator.permutation(20) / 20, generator.uniform(5e3, 4e4, 20)))
    records = [
        [
            {"keypoints": np.insert(pose, 2, 1, axis=1).reshape(-1), "score": score, "area": area}
            for pose, score, area in zip(*image, strict=True)
        ]
        for image in images
    ]
    sigmas = np.array(RLEConfig().keypoint_sigmas)

    def suppress_originally():
        return [original.nms.oks_nms(image, 0.9) for image in records]

    def suppress():
        return [oks_nms(*image, sigmas, 0.9) for image in images]

    equal = all(map(np.array_equal, suppress_originally(), suppress()))
    print(f"OKS-NMS, the same persons stay: {equal}", flush=True)
    print_times(
        "OKS-NMS of 50 images with 20 persons",
        cpu_seconds({"original": suppress_originally, "ours": suppress}, repeats),
    )


def benchmark_model(original: SimpleNamespace, parts: list[str], repeats: int):
    config, state = convert_state_dict(original.model.state_dict(), {})
    model = RLEForPoseEstimation(config)
    model.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    shape = (32, NUM_KEYPOINTS, 2)
    labels, keypoints = (0.1 * torch.randn(shape, generator=generator) for _ in range(2))
    sigmas, weights = 0.05 + 0.3 * torch.rand(shape, generator=generator), torch.ones(shape)
    weights[:3] = 0
    pixel_values = torch.randn(8, 3, *CROP_SIZE, generator=generator)
    targets = {"target_uv": labels, "target_uv_weight": weights}
    first = {name: value[:8] for name, value in targets.items()}

    def loss_originally():
        points, deviations = (value.clone().requires_grad_() for value in (keypoints, sigmas))
        density = original.model.flow.log_prob(((points - labels) / deviations).reshape(-1, 2)).reshape(*shape[:2], 1)
        outputs = original.outputs(pred_jts=points, sigma=deviations, nf_loss=deviations.log() - density)
        original.model.flow.zero_grad()
        return _differentiate(original.loss(outputs, targets))

    def compute_loss():
        points, deviations = (value.clone().requires_grad_() for value in (keypoints, sigmas))
        model.criterion.zero_grad()
        return _differentiate(model.criterion(points, deviations, labels, weights))

    @torch.no_grad()
    def infer_originally():
        return original.model(pixel_values).sigma + original.model(pixel_values.flip(-1)).sigma

    @torch.no_grad()
    def infer():
        return 2 * model(pixel_values, flip_test=True).sigmas

    def train_originally():
        original.model.zero_grad()
        return _differentiate(original.loss(original.model(pixel_values, first), first))

    def train():
        model.zero_grad()
        return _differentiate(model(pixel_values, labels[:8], weights[:8]).loss)

    model.config.flip_swaps_sigmas = False
    for part, title, contenders in (
        ("loss", "flow and loss of 32x17 keypoints, both ways", (loss_originally, compute_loss)),
        ("inference", "8 crops with flip test", (infer_originally, infer)),
        ("training", "training step of 8 crops", (train_originally, train)),
    ):
        if part in parts:
            for module in (original.model, model):
                module.train(part != "inference")
            theirs, ours = (contender() for contender in contenders)
            print(f"{part}, largest relative difference {((theirs - ours) / theirs).abs().max():.1e}", flush=True)
            times = cpu_seconds(dict(zip(("original", "ours"), contenders, strict=True)), repeats, warmups=0)
            print_times(title, times)


def _differentiate(loss: torch.Tensor) -> torch.Tensor:
    loss.backward()
    return loss.detach()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--original", type=Path, required=True, help="clone of github.com/Jeff-sjtu/res-loglikelihood-regression"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, NumPy {np.__version__}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, 1 thread"
    )
    if {"crops", "decoding"} & set(args.parts):
        original = import_original(args.original)
        print(f"OpenCV {original.cv2.__version__}")
        if "crops" in args.parts:
            benchmark_crops(original, args.repeats)
        if "decoding" in args.parts:
            benchmark_decoding(original, args.repeats)
    if set(args.parts) - {"crops", "decoding"}:
        original = import_original_models(args.original)
        benchmark_model(original, args.parts, args.repeats)
        if "nms" in args.parts:
            benchmark_nms(original, args.repeats)


if __name__ == "__main__":
    main()
