"""The projects from which FCOS weights can be converted, one module each."""

from collections.abc import Iterable

from .adelaidet import ADELAIDET
from .detectron2 import DETECTRON2
from .mmdet import MMDET
from .original import ORIGINAL
from .own import OWN
from .source import RECIPES, STYLES, SameAs, Settings, Source, Weights
from .torchvision import TORCHVISION

__all__ = [
    "RECIPES",
    "SOURCES",
    "STYLES",
    "SameAs",
    "Settings",
    "Source",
    "Weights",
    "recognize_source",
]

SOURCES = {
    source.name: source for source in (ORIGINAL, ADELAIDET, MMDET, TORCHVISION, DETECTRON2, OWN)
}


def recognize_source(names: Iterable[str]) -> Source | None:
    """Return the source that uses these names of weights; None if there is none."""
    names = list(names)
    for source in SOURCES.values():
        if all(any(name.startswith(prefix) for name in names) for prefix in source.signature):
            return source
    return None
