"""Configuration of the fully connected lifting baseline of Martinez et al."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class MartinezFCNConfig(PreTrainedConfig):
    """Configuration of the fully connected baseline (arXiv 1705.03098); the defaults are the published model.

    Args:
        num_joints: Joints of the input.
        in_channels: Numbers of a joint of the input.
        input_joints: Joints of the input that the network reads, in its order; all if None. The default leaves out the nose of
            Human3.6M's 17 joints, as the original's data do.
        num_output_joints: Joints of the output, the root among them.
        root_index: Joint that positions are relative to, which the network does not put out.
        hidden_size: Width of the layers.
        num_hidden_layers: Residual blocks of two layers.
        hidden_dropout_prob: Share of the activations that training sets to 0.
        max_norm: Whether every weight matrix is shrunk to a Frobenius norm of at most 1 before use, as in the original for
            TensorFlow; its port to PyTorch does not.
        needs_statistics: Whether the mean and deviation of the training data are not known, so that the network's
            numbers cannot be turned to metres; of converted checkpoints, which do not hold them.

    Raises:
        ValueError: If values do not fit each other.
    """

    model_type = "martinez_fcn"

    num_joints: int = 17
    in_channels: int = 2
    input_joints: list[int] | tuple[int, ...] | None = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16)
    num_output_joints: int = 17
    root_index: int = 0
    hidden_size: int = 1024
    num_hidden_layers: int = 2
    hidden_dropout_prob: float | int = 0.5
    max_norm: bool = False
    needs_statistics: bool = False

    def __post_init__(self, **kwargs):
        self.input_joints = list(range(self.num_joints) if self.input_joints is None else self.input_joints)
        self.validate_values()  # here too, so that construction raises a plain ValueError
        super().__post_init__(**kwargs)

    @property
    def num_frames(self) -> int:
        """Frames that one pose depends on: its own."""
        return 1

    def validate_values(self):
        """Check that values fit each other."""
        for name in ("num_joints", "in_channels", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        joints = self.input_joints
        if not joints or len(set(joints)) < len(joints) or not all(0 <= joint < self.num_joints for joint in joints):
            raise ValueError(
                f"`input_joints` must be different joints from 0 to {self.num_joints - 1}, one at least, got {joints}."
            )
        if self.num_output_joints < 2:
            raise ValueError(
                f"`num_output_joints` must be at least 2, the root and one more, got {self.num_output_joints}."
            )
        if not 0 <= self.root_index < self.num_output_joints:
            raise ValueError(
                f"`root_index` must be a joint from 0 to {self.num_output_joints - 1}, got {self.root_index}."
            )
        if self.num_hidden_layers < 0:
            raise ValueError(f"`num_hidden_layers` must be 0 or more, got {self.num_hidden_layers}.")
        if not 0 <= self.hidden_dropout_prob < 1:
            raise ValueError(f"`hidden_dropout_prob` must be in [0, 1), got {self.hidden_dropout_prob}.")


__all__ = ["MartinezFCNConfig"]
