"""The names of the metrics that the evaluations of a run have, before the first evaluation."""

import logging
from collections.abc import Collection, Mapping, Sequence

from detectron2.data import MetadataCatalog

from ..errors import InputError, listed, nearest

__all__ = ["check_can_stop_early", "is_validation_loss", "list_metrics", "resolve_best_metric"]

logger = logging.getLogger(__name__)

_COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_PROPOSALS = tuple(f"AR{area}@{limit}" for limit in (100, 1000) for area in ("", "s", "m", "l"))
# The metrics of the evaluators in ``evaluators.build_evaluator``, by evaluator_type and task.
_METRICS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "coco": {
        "bbox": _COCO,
        "segm": _COCO,
        "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
        "box_proposals": _PROPOSALS,
    },
    "lvis": {"bbox": (*_COCO, "APr", "APc", "APf"), "segm": (*_COCO, "APr", "APc", "APf")},
    "pascal_voc": {"bbox": ("AP", "AP50", "AP75")},
}
_MOST_LISTED = 12
_AVERAGED, _LOSS = "ema/", "val_loss/"


def is_validation_loss(metric: str) -> bool:
    """Return whether a metric is a loss on the test data, of the weights or of their average."""
    return metric.removeprefix(_AVERAGED).startswith(_LOSS)


def list_metrics(
    test_names: Sequence[str],
    tasks: Sequence[str] = ("bbox",),
    unscored: Collection[str] = (),
) -> list[str]:
    """
    List the metrics of the evaluations, without those of averaged weights and the losses.

    With several test sets, the name of the set comes first, such as "my_val/bbox/AP".

    Args:
        test_names (list[str]): The registered test sets.
        tasks (list[str]): What is scored, see ``evaluators.evaluation_tasks``.
        unscored (Collection[str]): The test sets without annotations, which have no metrics.
    """
    names = []
    for test_name in (x for x in test_names if x not in unscored):
        metadata = MetadataCatalog.get(test_name)
        kind = metadata.get("evaluator_type")
        classes = metadata.get("thing_classes", ())
        by_task = _METRICS.get(kind, _METRICS["coco"])
        prefix = f"{test_name}/" if len(test_names) > 1 else ""
        for task in (task for task in tasks if task in by_task):
            names += [f"{prefix}{task}/{metric}" for metric in by_task[task]]
            if by_task is _METRICS["coco"] and len(classes) > 1 and task != "box_proposals":
                names += [f"{prefix}{task}/AP-{x}" for x in classes]
    return names


def check_can_stop_early(
    patience: int, key: str, test_names: Sequence[str], unscored: Collection[str]
) -> None:
    """
    Check that early stopping has scores to compare.

    Args:
        patience (int): The number of evaluations; 0 means no early stopping.
        key (str): Its config key.
        test_names (list[str]): The test sets.
        unscored (Collection[str]): Those without annotations.

    Raises:
        InputError: If no test set has annotations.
    """
    if patience and set(test_names) <= set(unscored):
        raise InputError(
            f"{key} = {patience} compares the scores of evaluations, but {listed(test_names)} has "
            "no annotations. Set the key to 0.",
            key=key,
            value=patience,
        )


def resolve_best_metric(
    metric: str,
    test_names: Sequence[str],
    tasks: Sequence[str],
    key: str,
    *,
    losses: Sequence[str] | None = None,
    unscored: Collection[str] = (),
) -> str:
    """
    Check that the evaluations will have the best metric, and return its full name.

    With several test sets, a name without that of a set is the metric of the first one that is
    scored.

    Args:
        metric (str): The metric in the config, such as "bbox/AP" or "ema/val_loss/total_loss".
        test_names (list[str]): The registered test sets, at least one.
        tasks (list[str]): See ``list_metrics``.
        key (str): Config key of the metric, for messages.
        losses (list[str] | None): The names of the losses of the model; None if they are unknown.
        unscored (Collection[str]): The test sets without annotations.

    Raises:
        InputError: If there will be no such metric. The message lists those that there will be.
    """
    prefix = _AVERAGED if metric.startswith(_AVERAGED) else ""
    scored = [x for x in test_names if x not in unscored]
    if is_validation_loss(metric):
        prefix += _LOSS
        known = _list_losses(metric.removeprefix(prefix), test_names, scored, losses)
    else:
        known = list_metrics(test_names, tasks, unscored)
    name = metric.removeprefix(prefix)
    of_first = f"{scored[0]}/{name}" if scored else name
    if name in known:
        return metric
    if of_first not in known:
        names_a_set = len(test_names) == 1 or any(name.startswith(f"{x}/") for x in test_names)
        meant = prefix + (name if names_a_set else of_first)
        raise _unknown_metric(key, metric, meant, [prefix + x for x in known], test_names)
    resolved = f"{prefix}{of_first}"
    logger.warning(
        "%s = %r names none of the test sets %s, so it is the metric of the first one%s: %r.",
        key,
        metric,
        listed(test_names),
        " with annotations" if unscored else "",
        resolved,
    )
    return resolved


def _list_losses(
    name: str, test_names: Sequence[str], scored: Sequence[str], losses: Sequence[str] | None
) -> list[str]:
    """
    List the validation losses, without a prefix.

    Args:
        name (str): The loss in the config. If the losses of the model are unknown, it may be any.
        test_names (list[str]): See ``resolve_best_metric``.
        scored (list[str]): The test sets with annotations.
        losses (list[str] | None): See ``resolve_best_metric``.
    """
    names = ["total_loss", *(["loss_fcos_cls"] if losses is None else losses)]
    loss = next((name.removeprefix(f"{x}/") for x in scored if name.startswith(f"{x}/")), name)
    if losses is None and loss.startswith("loss_"):
        names.append(loss)
    return [f"{x}/{loss}" for x in scored for loss in names] if len(test_names) > 1 else names


def _unknown_metric(
    key: str, metric: str, meant: str, known: Sequence[str], test_names: Sequence[str]
) -> InputError:
    """
    Return the error for a best metric that the evaluations will not have.

    Args:
        key (str): The config key of the metric.
        metric (str): The metric in the config.
        meant (str): The same, with the name of the first test set if it names none of several.
        known (list[str]): The metrics that there will be.
        test_names (list[str]): The test sets.
    """
    there_will_be = (
        f"{nearest(meant, known)} There will be: {listed(known, _MOST_LISTED)}"
        if known
        else f"{listed(test_names)} has no annotations, so there are no scores. Set {key} to ''"
    )
    return InputError(
        f"{key} = {metric!r}: the evaluations will not have this metric. {there_will_be}.",
        key=key,
        value=metric,
    )
