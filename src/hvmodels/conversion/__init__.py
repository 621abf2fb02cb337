"""Import checkpoints of the original repositories."""

from .checkpoints import convert_checkpoint, read_checkpoint


__all__ = ["convert_checkpoint", "read_checkpoint"]
