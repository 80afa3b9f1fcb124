"""Registration in detectron2's registries, with an error if a name is taken."""

from collections.abc import Callable
from typing import TypeVar

from fvcore.common.registry import Registry

__all__ = ["register_in"]

T = TypeVar("T")


def register_in(registry: Registry, name: str | None = None) -> Callable[[T], T]:
    """
    Return a decorator like ``@registry.register()`` that explains names that are taken.

    Args:
        registry (Registry): The registry.
        name (str): The name in the registry; None means the object's ``__name__``.

    Raises:
        ImportError: If another package has registered the name. The message names this package.
    """

    def register(obj: T) -> T:
        """Register an object and return it."""
        key = name or obj.__name__  # type: ignore[attr-defined]
        if key in registry:
            other = registry.get(key)
            raise ImportError(
                f"fcos_d2 cannot register {key!r} in detectron2's {registry._name} registry: "
                f"{other.__module__} has registered it already. Import only one of the two."
            )
        registry._do_register(key, obj)  # ``register`` takes no name
        return obj

    return register
