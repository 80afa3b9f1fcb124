"""What ours must reach on two CPU cores, against the best of the others in the same run."""

from typing import NamedTuple

from contest import Case

__all__ = ["DEMANDS", "OUTSIDE_NETWORK", "Demand", "find_case", "measured", "verdict"]

# Share of a training step outside backbone, neck and head, by device.
OUTSIDE_NETWORK = {"cpu": 0.03, "cuda": 0.10}


class Demand(NamedTuple):
    """
    A limit.

    Attributes:
        group, name (str): of the case, in full size.
        limit (float): of the ratio to the best other in float32, or if ``unit`` of the figure.
        contestant (str): ours, in some precision.
        unit (str): "" for a ratio, or that of the figure.
        text (str): the limit in words.
    """

    group: str
    name: str
    limit: float
    text: str
    contestant: str = "fcos_d2"
    unit: str = ""


_ONE_IMAGE = "1 image of 800x1088"
_STEP = "2 images of 512x704"
DEMANDS = [
    Demand("targets", "5 boxes an image", 1 / 10, "1/10"),
    Demand("targets", "20 boxes an image", 1 / 30, "1/30"),
    Demand("targets", "100 boxes an image", 1 / 100, "1/100"),
    Demand("targets", "500 boxes an image", 1 / 400, "1/400"),
    Demand("targets_memory", "500 boxes, one image", 10, "10 MB", unit="MB"),
    Demand("targets_memory", "500 boxes an image, batch of 16, whole box", 64, "64 MB", unit="MB"),
    Demand("losses", "with targets, forward + backward, 2 images of 20 boxes", 1 / 3, "1/3"),
    Demand("selection", "busy, 20000 candidates", 2 / 3, "2/3"),
    Demand("inference", _ONE_IMAGE, 0.80, "0.80"),
    Demand("training", _STEP, 0.85, "0.85"),
    Demand("training", _STEP, 0.50, "0.50", contestant="fcos_d2, bf16"),
]


def find_case(cases: list[Case], demand: Demand) -> Case | None:
    """The case that it is about, if that was measured."""
    for case in cases:
        if (case.group, case.name) == (demand.group, demand.name):
            return case
    return None


def measured(case: Case, demand: Demand) -> float | None:
    """What is compared with the limit; None where that was not measured."""
    if demand.contestant not in case.values:
        return None
    if demand.unit:
        return case.median_of(demand.contestant)
    return case.ratio(demand.contestant)


def verdict(case: Case, demand: Demand, value: float) -> str:
    """
    Of what ``measured`` gave: what the middle half of the rounds says with one voice, or that
    it is "within noise".
    """
    quartiles = None if demand.unit else case.quartiles(demand.contestant)
    low, high = quartiles or (value, value)
    if high <= demand.limit:
        return "met"
    return "missed" if low > demand.limit else "within noise"
