"""Registration in detectron2's registries, with an error if a name is taken."""

from collections.abc import Callable
from typing import TypeVar

from fvcore.common.registry import Registry

__all__ = ["register_in"]

T = TypeVar("T")


def register_in(registry: Registry) -> Callable[[T], T]:
    """
    Return a decorator like ``@registry.register()`` that explains names that are taken.

    Args:
        registry (Registry): The registry. The name is the object's ``__name__``.

    Raises:
        ImportError: If another package has registered the name. The message names this package.
    """

    def register(obj: T) -> T:
        """Register an object and return it."""
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
