"""Registration in detectron2's registries, and checks of what is registered."""

from collections.abc import Callable
from typing import TypeGuard, TypeVar

from fvcore.common.registry import Registry

__all__ = ["is_class_of", "register_in"]

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


def is_class_of(value: object, base: type[T]) -> TypeGuard[type[T]]:
    """Return whether a registered object is a class, or a subclass of it."""
    return isinstance(value, type) and issubclass(value, base)
