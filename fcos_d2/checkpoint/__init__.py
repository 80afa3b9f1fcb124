"""Reading weights safely, and checking that they belong to the model."""

from .checkpointer import FCOSCheckpointer
from .safe_reading import read_checkpoint

__all__ = ["FCOSCheckpointer", "read_checkpoint"]
