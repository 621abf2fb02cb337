"""Train an embedded model of pose sequences on motion capture with simulated estimates.

    python examples/pose_sequence/train_default_poses.py smoothnet-any-pose data/motion/cmu_train.npz outputs/smoothnet-any-pose
    python examples/pose_sequence/train_default_poses.py deciwatch-2d data/motion/cmu_train.npz outputs/deciwatch-2d
    python examples/pose_sequence/train_default_poses.py deciwatch-3d data/motion/cmu_train.npz outputs/deciwatch-3d

One thread, fixed seeds. With `--validate`, the sequences of `VALIDATION` are kept aside and measured on the way: the choices
below were made with it. Without, all sequences are trained on, as for the embedded weights.

Both networks start from weights that already do something sensible, which a short training does not find by itself, and
are trained on what they are used for: whole sequences, each frame the mean of all windows that cover it.
"""

import argparse
import copy
import math
import time
from functools import partial
from pathlib import Path

import torch
from motion_windows import Augmentation, MotionWindows, extent
from safetensors.torch import load_file, save_file

from hvmodels import (
    DeciWatchConfig,
    DeciWatchFeatureExtractor,
    DeciWatchForPoseRecovery,
    SmoothNetConfig,
    SmoothNetFeatureExtractor,
    SmoothNetForPoseRefinement,
)
from hvmodels.datasets.pose_sequence import read_motion
from hvmodels.keypoint_sets import HUMAN36M17
from hvmodels.models.pose_sequence.windows_pose_sequence import overlap_average


# Subjects 10, 39, some sequences of the others and of each action of unknown subjects.
VALIDATION = frozenset(
    [1, 10, *range(30, 43), 53, 55, 57, 60, 63, 66, 68, 72, 76, 78, 81, 85, 86, 89, 94, 96, 100, 106, 112, 113, 117]
)


def norm(values: torch.Tensor) -> torch.Tensor:
    """Length of the vectors in the last axis, with a gradient at 0."""
    return (values.square().sum(-1) + 1e-9).sqrt()


@torch.no_grad()
def scale_biases(model: torch.nn.Module, factor: float):
    """Make the network do with `factor` times the input, and give `factor` times as much, what it does now."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.mul_(factor)


class SmoothNetTraining:
    """SmoothNet on a few joints of 12 sequences in 2D and 12 in 3D.

    The network starts as a shrinkage of cosine coefficients. The encoder holds the cosine transform of the window and its
    negative; the decoder takes each coefficient times its share of signal (Wiener); the block adds the rest of the
    coefficient where it exceeds the noise, told by the mean size of the highest coefficients. So clean input passes.
    """

    steps, learning_rate, average = 16000, 2e-3, 0.999
    stored_as_half = False
    sequences, joints, stride = 12, 4, 4
    acceleration_weight, clean_weight = 4.0, 2.0
    augmentation = Augmentation(stored=0.5, clean=0.25)
    # Weights and learning rate are of order 1 for biases too if the person's size is 10 while training.
    size = 10.0
    noise_ratio, clean_noise = 10.0, 5e-4

    def __init__(self, motion: MotionWindows, generator: torch.Generator):
        self.motion, self.generator = motion, generator
        motion.remove_offsets()
        self.model = SmoothNetForPoseRefinement(
            SmoothNetConfig(
                window_size=64,
                hidden_size=128,
                intermediate_size=64,
                num_hidden_layers=1,
                hidden_dropout_prob=0.0,
                acceleration_loss_weight=self.acceleration_weight,
                window_normalization="person",
            )
        )
        self.extractor = SmoothNetFeatureExtractor()
        self.initialize()

    @torch.no_grad()
    def initialize(self):
        """Weights as the class says, with a little noise of the usual initial weights."""
        network, config = self.model.smoothnet, self.model.config
        size, block = config.window_size, network.layers[0]
        rows = torch.arange(size)
        transform = torch.cos(math.pi / size * (rows + 0.5) * rows[:, None]) * math.sqrt(2 / size)
        transform[0] /= math.sqrt(2)
        products = squares = 0
        for dims in [2, 3] * 60:
            noisy, clean = self.motion.sample(
                24, size, dims, Augmentation(stored=0.5, clean=0.0, errors=(1.0, 1.0)), self.generator
            )
            scales = extent(noisy).median(1).values[:, None, None, None]
            noisy, clean = (
                torch.einsum("kt,ntjd->knjd", transform, (poses - noisy.mean(1, keepdim=True)) / scales)
                for poses in (noisy, clean)
            )
            products, squares = products + (noisy * clean).mean((1, 2, 3)), squares + noisy.square().mean((1, 2, 3))
        signal = (products / squares).clamp(0.02, 1)

        for parameter in network.parameters():
            parameter.mul_(0.02 if parameter.ndim > 1 else 0)
        slope, high, gates = (
            config.encoder_negative_slope,
            torch.arange(size // 2 + 8, size),
            config.intermediate_size // 2,
        )
        network.encoder.weight[:size] += transform
        network.encoder.weight[size : 2 * size] -= transform
        # Coefficient = (unit - negative unit) / (1 + slope), its size = (unit + negative unit) / (1 - slope).
        reading = transform.T * signal / (1 + slope)
        network.decoder.weight[:, :size] += reading
        network.decoder.weight[:, size : 2 * size] -= reading
        for gate in range(gates):
            for sign, row, unit in ((1, gate, gate), (-1, gates + gate, size + gate)):
                weights = block.intermediate.weight[row]
                weights[gate] += sign / (1 + slope)
                weights[size + gate] -= sign / (1 + slope)
                weights[torch.cat([high, size + high])] -= self.noise_ratio / len(high) / (1 - slope)
                block.intermediate.bias[row] = self.noise_ratio * self.clean_noise
                block.output.weight[unit, row] += (1 - signal[gate]) / signal[gate].clamp(min=0.1)
        scale_biases(self.model, self.size)

    def loss(self, step: int) -> torch.Tensor:
        """Mean distance plus mean difference of accelerations, in sizes of the person, of the averaged sequences."""
        window = self.model.config.window_size
        # The ends, where few windows meet, in some steps more than in others.
        frames = 2 * window if step % 3 else window + 4 * self.stride
        total = 0
        for dims in (3, 2):
            noisy, clean = self.motion.sample(self.sequences, frames, dims, self.augmentation, self.generator)
            joints = torch.rand(self.sequences, 17, generator=self.generator).argsort(1)[:, : self.joints]
            refined = self.refine(noisy, joints)
            errors = (refined - clean.take_along_dim(joints[:, None, :, None], 2)) / extent(noisy).median(1).values[
                :, None, None, None
            ]
            is_clean = (noisy == clean).flatten(1).all(1)
            weights = torch.where(is_clean, self.clean_weight, 1.0)[:, None, None]
            total = (
                total
                + (weights * norm(errors)).mean()
                + self.acceleration_weight * norm(errors.diff(n=2, dim=1)).mean()
            )
        return total

    def refine(self, poses: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
        """Some joints (sequences, joints) of sequences (sequences, frames, 17, dims), by every fourth window."""
        network, window = self.model.smoothnet, self.model.config.window_size
        scales = extent(poses).unfold(1, window, self.stride).median(-1).values.flatten() / self.size
        windows = poses.unfold(1, window, self.stride).take_along_dim(joints[:, None, :, None, None], 2)
        refined = network.refine_channels(windows.flatten(0, 1).flatten(1, 2), scales).unflatten(0, windows.shape[:2])
        starts = range(0, poses.shape[1] - window + 1, self.stride)
        sequence = overlap_average(refined.permute(1, 3, 0, 2), starts, poses.shape[1])
        return sequence.transpose(0, 1).unflatten(2, windows.shape[2:4])

    def finished(self, model: SmoothNetForPoseRefinement) -> SmoothNetForPoseRefinement:
        """A copy for people of size 1."""
        model = copy.deepcopy(model).eval()
        scale_biases(model, 1 / self.size)
        return model


class DeciWatchTraining:
    """DeciWatch on 64 single windows and on 16 sequences of five windows in turn.

    The decoder starts by rounding the corners that straight lines between seen poses make: its convolution takes each
    coordinate's mean over five frames minus the coordinate, and its head adds that. Attention starts by nearness in time,
    each head with its own width.
    """

    average = 0.998
    stored_as_half = True
    widths = (3.0, 5.0, 9.0, 15.0)  # frames
    # What the first units of the decoder are for: the position code, constants that keep the layer norm from changing with
    # the poses, and what is learnt; the last ones hold the corners, `corner_scale` times.
    positions, constants, corner_scale = 4, 8, 10.0

    def __init__(self, motion: MotionWindows, generator: torch.Generator, dims: int):
        self.motion, self.generator, self.dims = motion, generator, dims
        # Poses in the picture, of which a person's path is a part, take longer to learn.
        if dims == 2:
            self.steps, self.learning_rate, self.acceleration_weight = 9000, 2e-3, 2.0
            self.augmentation = Augmentation(errors=(0.3, 1.3))
        else:
            self.steps, self.learning_rate, self.acceleration_weight = 5000, 1e-3, 5.0
            self.augmentation = Augmentation()
        self.model = DeciWatchForPoseRecovery(
            DeciWatchConfig(
                num_joints=17,
                joint_dim=dims,
                sample_interval=10,
                num_intervals=5,
                hidden_size=80,
                encoder_layers=3,
                decoder_layers=2,
                intermediate_size=160,
                dropout=0.0,
                memory_mask_type="boolean",
                recover_loss_weight=5.0,
                window_normalization="person",
            )
        )
        names = [*HUMAN36M17.keypoints]
        self.extractor = DeciWatchFeatureExtractor(sample_interval=10, keypoint_names=names, joint_dim=dims)
        self.initialize()

    @torch.no_grad()
    def initialize(self):
        """Weights as the class says; those it does not name are the usual ones, or a part of them."""
        network, config = self.model.deciwatch, self.model.config
        size, head_dim = config.hidden_size, config.hidden_size // config.num_attention_heads
        free = slice(0, self.positions + self.constants)
        corners = torch.arange(size - config.pose_dim, size)
        embedding = network.decoder_embedding
        embedding.bias.zero_()
        embedding.bias[self.positions : free.stop] = torch.tensor([2.0, -2.0]).repeat(self.constants // 2)
        embedding.weight[free] = 0
        embedding.weight[corners] = 0
        rounding = torch.full((5,), 0.2)
        rounding[2] -= 1
        embedding.weight[corners, torch.arange(config.pose_dim)] = self.corner_scale * rounding

        # Both first pairs of the position code turn with the frame, the second 1.8 times as slowly; together they make a
        # bump of this curvature around the query's frame.
        frame_angle = 2 * math.pi / (config.window_size - 1)
        curvature = 1 + 10000 ** (-4 / (size // 2))
        for stack in (network.encoder, network.decoder):
            for module in stack.modules():
                if type(module).__name__ != "DeciWatchAttention":
                    continue
                for head, width in enumerate(self.widths):
                    sharpness = math.sqrt(head_dim) / curvature / (width * frame_angle) ** 2
                    rows = torch.arange(self.positions) + head * head_dim
                    for project in (module.q_proj, module.k_proj):
                        project.weight[rows] *= 0.1
                        project.weight[rows, torch.arange(self.positions)] = math.sqrt(sharpness)
                if stack is network.decoder:
                    module.o_proj.weight.mul_(0.1)
        for layer in network.decoder.layers:
            layer.feed_forward.fc2.weight.mul_(0.1)

        noisy, _ = self.motion.sample(64, config.window_size, self.dims, self.augmentation, self.generator)
        poses = noisy[:, :: config.sample_interval]
        poses = (poses - poses.mean((1, 2), keepdim=True)) / extent(poses).median(1).values[:, None, None, None]
        states = embedding((network.interpolation @ poses.flatten(2)).transpose(1, 2))
        network.decoder_head.weight.mul_(0.01)
        network.decoder_head.weight[torch.arange(config.pose_dim), corners] = states.std(1).mean() / self.corner_scale
        network.encoder_head.weight.mul_(0.01)
        for head in (network.decoder_head, network.encoder_head):
            head.bias.zero_()

    def loss(self, step: int) -> torch.Tensor:
        """Weighted distances of seen and of all poses, and of accelerations, in sizes of the person."""
        config = self.model.config
        interval, window = config.sample_interval, config.window_size
        count, more = (64, 0) if step % 2 else (16, 4)
        frames = window + more * interval
        noisy, clean = self.motion.sample(count, frames, self.dims, self.augmentation, self.generator)
        samples = noisy[:, ::interval]
        size = extent(samples).median(1).values[:, None, None, None]

        def windows(sequence: torch.Tensor, length: int, step: int) -> torch.Tensor:
            return sequence.unfold(1, length, step).movedim(-1, 2)

        seen = windows(samples, config.num_intervals + 1, 1)
        output = self.model.deciwatch.recover(seen.flatten(0, 1))
        starts = range(0, frames - window + 1, interval)
        recovered = output.recovered_poses.unflatten(0, seen.shape[:2]).permute(1, 2, 0, 3, 4)
        errors = (overlap_average(recovered, starts, frames).transpose(0, 1) - clean) / size
        denoised = output.denoised_poses.unflatten(0, seen.shape[:2])
        seen_errors = (denoised - windows(clean[:, ::interval], config.num_intervals + 1, 1)) / size[:, None]
        recover_loss = norm(errors).mean() + self.acceleration_weight * norm(errors.diff(n=2, dim=1)).mean()
        return config.denoise_loss_weight * norm(seen_errors).mean() + config.recover_loss_weight * recover_loss

    def finished(self, model: DeciWatchForPoseRecovery) -> DeciWatchForPoseRecovery:
        """A copy."""
        return copy.deepcopy(model).eval()


TRAININGS = {
    "smoothnet-any-pose": (SmoothNetTraining, ("3D", "2D")),
    "deciwatch-2d": (partial(DeciWatchTraining, dims=2), ("2D",)),
    "deciwatch-3d": (partial(DeciWatchTraining, dims=3), ("3D",)),
}


def halve(path: Path):
    """Store weights as float16, half the size; they load as the float32 of `config.json`."""
    save_file({name: value.half() for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


def measure(model: torch.nn.Module, path: Path, kind: str) -> str:
    """Error, difference of accelerations, and error on true poses, on the validation sequences; pelvis left out in 3D."""
    sums, counts = torch.zeros(3), torch.zeros(3)
    joints = slice(1, None) if kind == "3D" else slice(None)
    for index, pair in enumerate(read_motion(path, kind)):
        if index not in VALIDATION:
            continue
        poses, truth = torch.from_numpy(pair.poses), torch.from_numpy(pair.targets)
        with torch.inference_mode():
            refined, clean = (model(values[None])[0][0] for values in (poses, truth))
        errors = (refined - truth)[:, joints]
        for place, values in enumerate((errors, errors.diff(n=2, dim=0), (clean - truth)[:, joints])):
            sums[place] += values.norm(dim=-1).mean(1).sum()
            counts[place] += len(values)
    error, acceleration, clean = (sums / counts).tolist()
    return f"{kind}: error {error:.3f}, acceleration {acceleration:.3f}, clean {clean:.3f}"


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=TRAININGS)
    parser.add_argument("data", type=Path, help="cmu_train.npz")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--steps", type=int, help="optimizer steps, in place of the recipe's")
    parser.add_argument(
        "--report-steps", type=int, default=500, help="steps from one report, and saved model, to the next"
    )
    parser.add_argument("--validate", action="store_true", help="keep the validation sequences aside and measure")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    recipe, kinds = TRAININGS[args.name]
    sequences = None
    if args.validate:
        sequences = [index for index in range(len(read_motion(args.data, "3D"))) if index not in VALIDATION]
    training = recipe(MotionWindows(args.data, sequences), torch.Generator().manual_seed(args.seed))
    training.extractor.save_pretrained(args.output_dir)
    model, steps = training.model, args.steps or training.steps
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate, amsgrad=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * (0.505 + 0.5 * math.cos(math.pi * min(step / steps, 1)))
    )
    averaged, losses = copy.deepcopy(model), []
    for step in range(1, steps + 1):
        loss = training.loss(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        kept = min(training.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for ours, new in zip(averaged.parameters(), model.parameters(), strict=True):
                ours.lerp_(new, 1 - kept)
        losses.append(loss.item())
        if step % args.report_steps == 0 or step == steps:
            result = training.finished(averaged)
            result.save_pretrained(args.output_dir)
            if training.stored_as_half:
                halve(args.output_dir / "model.safetensors")
            figures = [measure(result, args.data, kind) for kind in kinds] if args.validate else []
            loss = f"loss {sum(losses) / len(losses):.4f}"
            print(f"step {step}", loss, *figures, f"{time.process_time():.0f} s of CPU", sep="; ", flush=True)
            losses.clear()


if __name__ == "__main__":
    main()
