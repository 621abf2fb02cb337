"""The moving average of a model's weights, in `Trainer` or in a loop of one's own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


AVERAGE_FILE = "average.safetensors"


class ExponentialMovingAverage(TrainerCallback):
    """Moving average of the weights, `average = decay * average + (1 - decay) * weight` after each step.

    Each trainable parameter is averaged once a step. ED-Pose's code averages its state dict, in which shared modules
    appear under several names: there the decoder's heads are averaged twice a step (a decay of decay^2) and the head of
    keypoint sizes eight times (decay^8), so its averages of these follow the weights somewhat faster. Parameters that do
    not train, and buffers unless `buffers` says so, need no average: they are those of the model.

    As a callback of `Trainer` it saves its averages with each checkpoint and takes them up when training is resumed. In
    a plain loop call `start` before and `update` after each step. Parameters must be whole in each process, so it
    works with DDP, but not with FSDP or DeepSpeed's stage 3.

    Args:
        decay: Share of the average that stays at each step.
        resume_from: Folder whose averages a resumed training starts from; None for the checkpoint of the step it
            resumes at, in the output folder.
        buffers: Whether floating-point buffers, such as the statistics of batch norms, are averaged as well.
        copy_first: Whether the average begins with the weights after the first step, as in MMEngine, instead of those
            before it.
    """

    def __init__(
        self,
        decay: float = 0.9997,
        resume_from: str | Path | None = None,
        buffers: bool = False,
        copy_first: bool = False,
    ):
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be at least 0 and below 1, got {decay}.")
        self.decay = decay
        self.resume_from = resume_from
        self.buffers = buffers
        self.copy_first = copy_first
        self._began = False
        self.averages: dict[str, torch.Tensor] = {}
        self._average_all = get_ema_multi_avg_fn(decay)

    def _tensors(self, model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        """What is averaged, by name."""
        yield from ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
        if self.buffers:
            yield from ((name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point())

    def start(self, model: nn.Module) -> None:
        """Begin with the weights as they are, in float32 even if the model is in half precision."""
        self.averages = {
            name: tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
            for name, tensor in self._tensors(model)
        }
        self._began = not self.copy_first

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        if not self._began:
            self.start(model)
            self._began = True
            return
        weights = dict(self._tensors(model))
        self._average_all(
            list(self.averages.values()),
            [weights[name].detach().to(average.dtype) for name, average in self.averages.items()],
            None,
        )

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give `model` the averaged weights inside a `with` block, and its own back after it."""
        weights = dict(self._tensors(model))
        kept = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            with torch.no_grad():
                for name, average in self.averages.items():
                    weights[name].copy_(average)
            yield
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(kept[name])

    def save(self, folder: str | Path) -> None:
        """Write the averages into `folder`, by parameter name."""
        averages = {name: average.cpu().contiguous() for name, average in self.averages.items()}
        save_file(averages, Path(folder) / AVERAGE_FILE)

    def load(self, folder: str | Path) -> None:
        """Replace the averages, which `start` has made, by those of `folder`.

        Raises:
            FileNotFoundError: If there are none.
            ValueError: If they belong to another model, or to other trainable parameters.
        """
        path = Path(folder) / AVERAGE_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no {path} to resume the moving average from; pass `resume_from`, the checkpoint's folder."
            )
        stored = load_file(path)
        shapes = {name: average.shape for name, average in self.averages.items()}
        if shapes != {name: average.shape for name, average in stored.items()}:
            differing = sorted(shapes.keys() ^ stored.keys()) or "their shapes differ"
            raise ValueError(f"{path} does not hold the averages of the model's trainable parameters: {differing}.")
        self.take_up(stored)

    def take_up(self, averages: Mapping[str, torch.Tensor]) -> None:
        """Go on with these averages, of the same parameters."""
        for name, average in self.averages.items():
            average.copy_(averages[name])
        self._began = True

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Begin, or take up what a checkpoint has."""
        self.start(model)
        if state.global_step > 0:
            self.load(self.resume_from or self._checkpoint(args, state))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Take in the weights."""
        self.update(model)

    def on_save(self, args, state, control, **kwargs):
        """Write the averages into the checkpoint."""
        if state.is_world_process_zero:
            self.save(self._checkpoint(args, state))

    @staticmethod
    def _checkpoint(args, state) -> Path:
        return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


__all__ = ["AVERAGE_FILE", "ExponentialMovingAverage"]
