"""The class names of trained weights, from the config that lies next to their file."""

import logging
from pathlib import Path

import yaml

from ..arguments import TEXT, list_of
from ..config_loading import configs_next_to
from .preflight import RunPlan
from .run_keys import LAZY_KEYS, YAML_KEYS

__all__ = ["with_trained_classes"]

logger = logging.getLogger(__name__)


def with_trained_classes(plan: RunPlan, num_classes: int | None) -> RunPlan:
    """
    Return the plan of an evaluation with the class names of the weights, if they can be found.

    A config without class names does not say which class has which index. The config next to the
    weights does. It is not used if it has another number of classes than the config of the run.

    Args:
        plan (RunPlan): The run. If it is a training or has class names, it is returned unchanged.
        num_classes (int | None): K in the config of the run; -1 or None if it is unknown.
    """
    if not plan.eval_only or plan.trained_classes or not (plan.weights or plan.resumes):
        return plan
    weights = Path(plan.output_dir, "last_checkpoint") if plan.resumes else Path(plan.weights)
    file = next((x for x in configs_next_to(weights) if x.is_file()), None)
    names = [] if file is None else _read_class_names(file)
    if not names or num_classes not in (-1, None, len(names)):
        return plan
    logger.info("The class names of the weights are those in %s.", file)
    return plan._replace(trained_classes=names)


class _Loader(yaml.SafeLoader):
    """A loader that reads None for tags, by which a LazyConfig names Python's objects."""


_Loader.add_constructor(None, lambda loader, node: None)


def _read_class_names(file: Path) -> list[str]:
    """Read the class names in the file of a YAML config or a LazyConfig; [] if it has none."""
    try:
        content = yaml.load(file.read_bytes(), _Loader)
    except (OSError, yaml.YAMLError):
        return []  # a file of something else
    for keys in (YAML_KEYS, LAZY_KEYS):
        names = content
        for part in keys.datasets.class_names.split("."):
            names = names.get(part) if isinstance(names, dict) else None
        if names and list_of(TEXT).holds(names):
            return list(names)
    return []
