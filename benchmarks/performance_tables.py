"""The tables of docs/performance.md, as Markdown."""

from benchmark import median_costs
from contest import Case
from demands import DEMANDS, find_case, measured, verdict
from measuring import growth_exponent

__all__ = [
    "GROUP_TITLES",
    "cases_table",
    "demands_table",
    "figure",
    "format_table",
    "growth_table",
]

GROUP_TITLES = {
    "targets": "Targets of a batch",
    "targets_memory": "Peak memory of targets",
    "losses": "Losses",
    "calls": "What targets and losses ask a device for, forward + backward",
    "selection": "Selection and NMS, one image",
    "inference": "Inference, images to detections",
    "training": "Training step: forward, backward, SGD",
    "model_memory": "Peak memory of the whole model, above its weights",
    "settings": "Settings of ours, against its defaults",
    "settings_memory": "Peak memory with these settings",
    "imports": "Import",
    "build": "Building the model",
    "mapper": "Reading and augmenting",
    "loader": "The data loader, with nothing to wait for it",
}
# Group -> what it grows with, what is measured, the power that is asked for.
_GROWTH = {
    "targets": ("boxes", "targets", 0.0),
    "area_targets": ("image area", "targets", 1.0),
    "area_losses": ("image area", "losses", 1.0),
    "area_selection": ("image area", "selection, idle", 1.0),
    "classes_losses": ("classes", "losses", 1.0),
    "classes_selection": ("classes", "selection + NMS, busy", 1.0),
}
_SAME_POWER = 0.1  # by so much powers may be higher than what is asked for
_WHOLE_MODEL = ("inference", "training", "settings")  # groups with images/s


def format_table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure(value: float) -> str:
    """Three digits, none of them after the point where there are three before it."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def demands_table(cases: list[Case]) -> str:
    """Each demand beside what was measured, and whether that meets it."""
    rows = []
    for demand in DEMANDS:
        case = find_case(cases, demand)
        value = measured(case, demand) if case else None
        work = f"{GROUP_TITLES[demand.group]}: {demand.name}"
        if demand.contestant != "fcos_d2":
            work += f" ({demand.contestant.removeprefix('fcos_d2, ')})"
        if case is None or value is None:
            rows.append([work, f"<= {demand.text}", "-", "not measured"])
            continue
        found = f"{figure(value)} {demand.unit}" if demand.unit else _ratio(case, demand.contestant)
        rows.append([work, f"<= {demand.text}", found, verdict(case, demand, value)])
    return format_table(["work", "asked for", "measured", ""], rows)


def _ratio(case: Case, contestant: str) -> str:
    """The median; in brackets between which values it is in the middle half of the rounds."""
    ratio, quartiles = case.ratio(contestant), case.quartiles(contestant)
    if ratio is None:
        return "-"
    text = _as_fraction(ratio)
    return text if quartiles is None else f"{text} ({' to '.join(map(_as_fraction, quartiles))})"


def _as_fraction(ratio: float) -> str:
    if ratio == 0:
        return "0"
    return f"1/{1 / ratio:.0f}" if ratio < 0.1 else f"{ratio:.2f}"


def cases_table(cases: list[Case]) -> str:
    """A row a contestant, a column a case; below, the ratios of ours to the best of the others."""
    contestants = list(dict.fromkeys(name for case in cases for name in case.values))
    rows = [[name, *(_cell(case, name) for case in cases)] for name in contestants]
    for name in contestants:
        cells = [_ratio(case, name) if name in case.values else "-" for case in cases]
        if set(cells) != {"-"}:
            rows.append([f"ratio of {name}", *cells])
    table = format_table([cases[0].unit, *(case.name for case in cases)], rows)
    notes = [
        f"- Left out of {case.name}: {name}, {reason}.\n"
        for case in cases
        for name, reason in case.skipped.items()
    ]
    return table + ("\n" + "".join(notes) if notes else "")


def _cell(case: Case, contestant: str) -> str:
    if contestant not in case.values:
        return "-"
    value = case.median_of(contestant)
    if case.group not in _WHOLE_MODEL:
        return figure(value)
    return f"{figure(value)} ({figure(case.images / value * 1000)} images/s)"


def growth_table(cases: list[Case], is_quick: bool) -> str:
    """
    The power with which cost grows from the smallest to the largest measured, and whether that is
    what was asked for, which small sizes cannot say.
    """
    rows, contestants = [], ["fcos_d2", "detectron2", "torchvision"]
    for group, (variable, work, asked) in _GROWTH.items():
        costs = median_costs(cases, group)
        if len(costs.get("fcos_d2", [])) < 2:
            continue
        cells = []
        for name in contestants:
            points = costs.get(name, [])
            known = len(points) > 1
            cells.append(f"{growth_exponent(*zip(*points, strict=True)):.2f}" if known else "-")
        is_met = growth_exponent(*zip(*costs["fcos_d2"], strict=True)) <= asked + _SAME_POWER
        verdict_of_ours = "met" if is_met else "missed"
        cells += ["" if is_quick else verdict_of_ours]
        rows.append([f"{work}, against {variable}", f"<= {asked:.0f}", *cells])
    if not rows:
        return ""
    text = (
        "Power p of cost ~ size^p, from the smallest to the largest size: 0 is flat, 1 linear. "
        "Targets cannot be flat against boxes, each of which has cells of its own to look at; "
        "the others look at all locations for each.\n\n"
    )
    return text + format_table(["work", "asked for", *contestants, ""], rows)
