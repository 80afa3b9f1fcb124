"""Reading weights safely, checking that they belong to the model, and renaming others' to fit."""

from .backbone_keys import rename_backbone_keys
from .checkpointer import FCOSCheckpointer
from .safe_reading import read_checkpoint

__all__ = ["FCOSCheckpointer", "read_checkpoint", "rename_backbone_keys"]
