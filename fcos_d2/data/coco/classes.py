"""The selection and the order of the categories of a dataset that are classes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["select_categories"]


def select_categories(
    categories: Mapping[Any, str], model_classes: Sequence[str], drop_classes: Iterable[str] = ()
) -> dict[Any, str]:
    """
    Select the categories of a dataset that are classes, in the order of class indices.

    If the names are those of ``model_classes``, they get the same order, whatever their ids are.

    Args:
        categories (dict): Name by category id.
        model_classes (Sequence[str]): The names of the model's classes; empty if they are unknown.
        drop_classes (Sequence[str]): The names of categories that are left out.

    Returns:
        dict: The same pairs; none if all are left out, see ``class_checks.check_has_classes``.
    """
    dropped = set(drop_classes)
    kept = {category_id: name for category_id, name in categories.items() if name not in dropped}
    if sorted(kept.values()) != sorted(model_classes):
        return kept
    ids = {name: category_id for category_id, name in kept.items()}
    return {ids[name]: name for name in model_classes}
