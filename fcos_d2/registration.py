"""Registering in detectron2's registries, with an error that tells who came first."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

__all__ = ["register_in"]


def register_in(registry: Any) -> Callable[[T], T]:
    """
    Like ``@registry.register()``, but a name that is taken already is explained.

    Args:
        registry (fvcore.common.registry.Registry): where to register, under ``__name__``.

    Raises:
        ImportError: another package holds the name; the message says which.
    """

    def register(obj: T) -> T:
        name = obj.__name__  # type: ignore[attr-defined]
        if name in registry:
            other = registry.get(name)
            raise ImportError(
                f"fcos_d2 cannot register {name!r} in detectron2's {registry._name} registry: "
                f"{other.__module__} has registered it already. Import only one of the two."
            )
        registry.register(obj)
        return obj

    return register
