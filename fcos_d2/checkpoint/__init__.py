"""Safe reading of weights, checks that they fit the model, and conversion between projects."""

from .back_conversion import WRITABLE, pack_for, weights_for
from .backbone_keys import rename_backbone_keys
from .checkpointer import FCOSCheckpointer
from .conversion import Converted, load_any
from .converted_files import check_output, save_converted, save_weights
from .formats import RECIPES, SOURCES, STYLES
from .safe_reading import read_checkpoint

__all__ = [
    "RECIPES",
    "SOURCES",
    "STYLES",
    "WRITABLE",
    "Converted",
    "FCOSCheckpointer",
    "check_output",
    "load_any",
    "pack_for",
    "read_checkpoint",
    "rename_backbone_keys",
    "save_converted",
    "save_weights",
    "weights_for",
]
