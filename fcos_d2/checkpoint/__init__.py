"""Reading weights safely, checking that they belong to the model, and renaming others' to fit."""

from .backbone_keys import rename_backbone_keys
from .checkpointer import FCOSCheckpointer
from .conversion import Converted, load_any
from .safe_reading import read_checkpoint

__all__ = [
    "Converted",
    "FCOSCheckpointer",
    "load_any",
    "read_checkpoint",
    "rename_backbone_keys",
]
