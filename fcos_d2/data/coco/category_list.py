"""Normalization of the list of categories of an annotation file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import listed, short_repr
from .findings import Finding, Kind, make_entry_finding, make_finding
from .numbering import Numbering, is_id, number_ids, other_ids

__all__ = ["Categories", "class_names", "normalize_categories"]

_EMPTY = "The list 'categories' is empty. Export the file again, with the names of the classes."
WRONG_ENTRY = Kind(
    "category_entry",
    "{category of the file is|categories of the file are} not valid: a category needs an id (a "
    "number or a text) and a name (a text)",
    "Complete or delete {it|them}.",
    is_fatal=True,
)
NO_UNICODE = Kind(
    "category_name",
    "{category has a name|categories have names} that cannot be written as UTF-8",
    "A code such as \\ud83d is half of a character. Correct {it|them}.",
    is_fatal=True,
    field="name",
)
OTHER_NAME = Kind(
    "category_id_repeated",
    "{category has|categories have} the id of an earlier category with another name",
    "Give each category a different id.",
    is_fatal=True,
    field="name",
)
REPEATED = Kind(
    "category_repeated",
    "{category is|categories are} listed more than once",
    "All entries with the same name are one class.",
)
OTHER_ID = Kind(
    "category_id",
    "{category has an id|categories have ids} that {is not an integer|are not integers} from 0 to "
    "2^53",
    "Numbers such as 1.0 and texts such as '1' keep their value, others get new numbers. Results "
    "have the ids of the file.",
    field="id",
)


class Categories(NamedTuple):
    """
    The normalized categories of an annotation file.

    Attributes:
        entries (list[dict]): The categories, with unique ids and names.
        numbering (Numbering): Number by the file's own id. Repeated categories have the same one.
        file_ids (dict[int, Any]): The file's own ids that differ from the numbers, by number.
        findings (list[Finding]): What was found.
    """

    entries: list[dict[str, Any]]
    numbering: Numbering
    file_ids: dict[int, Any]
    findings: list[Finding]


def normalize_categories(entries: Sequence[Any]) -> Categories:
    """
    Normalize the list of categories; see ``normalize``.

    Args:
        entries (list): The list of the file.
    """
    findings = []
    if not entries:
        findings.append(Finding("no_categories", True, 1, _EMPTY))
    valid = [x for x in entries if _is_valid(x)]
    if len(valid) < len(entries):
        rows = [row for row, x in enumerate(entries) if not _is_valid(x)]
        findings.append(make_entry_finding(WRONG_ENTRY, "categories", entries, rows))
    numbering = number_ids([x["id"] for x in valid])
    numbers = numbering.look_up([x["id"] for x in valid]).tolist()
    first_with_id: dict[int, dict[str, Any]] = {}
    numbers_by_name: dict[str, list[int]] = {}
    ids_by_name: dict[str, list[Any]] = {}
    renamed = []
    for number, entry in zip(numbers, valid, strict=True):
        if first_with_id.setdefault(number, entry)["name"] != entry["name"]:
            renamed.append(entry)
            continue
        numbers_by_name.setdefault(entry["name"], []).append(number)
        ids_by_name.setdefault(entry["name"], []).append(entry["id"])
    kept = {number: min(same) for same in numbers_by_name.values() for number in same}
    by_number = {
        number: entry
        for number, entry in first_with_id.items()
        if kept.get(number, number) == number
    }
    own_ids = other_ids({number: entry["id"] for number, entry in by_number.items()})
    normalized = [
        {**entry, "id": number} if number in own_ids else entry
        for number, entry in by_number.items()
    ]
    broken = [x for x in valid if not _is_unicode(x["name"])]
    if broken:
        ids = [x["id"] for x in broken]
        findings.append(
            make_finding(NO_UNICODE, ids, f"id {short_repr(ids[0])}", value=broken[0]["name"])
        )
    others = [by_number[number] for number in own_ids]
    repeated = {name: ids for name, ids in ids_by_name.items() if len(ids) > 1}
    findings += _find(renamed, repeated, others)
    merged = Numbering(
        {own_id: kept.get(x, x) for own_id, x in numbering.numbers.items()},
        {text: kept.get(x, x) for text, x in numbering.by_text.items()},
        numbering.is_own and all(key == value for key, value in kept.items()),
    )
    return Categories(normalized, merged, own_ids, findings)


def _is_valid(entry: Any) -> bool:
    """Check that a category has an id and a name."""
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and is_id(entry.get("id"))


def _is_unicode(text: str) -> bool:
    """Check that a text has no half of a surrogate pair, which JSON can write alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _find(
    renamed: Sequence[dict[str, Any]],
    repeated: Mapping[str, Sequence[Any]],
    others: Sequence[dict[str, Any]],
) -> Iterator[Finding]:
    """Yield the findings about ids and names."""
    if renamed:
        ids = [x["id"] for x in renamed]
        yield make_finding(OTHER_NAME, ids, f"id {short_repr(ids[0])}", value=renamed[0]["name"])
    if repeated:
        name, same = next(iter(repeated.items()))
        shown = listed([short_repr(x) for x in dict.fromkeys(same)])
        yield make_finding(REPEATED, [*repeated], f"{short_repr(name)} with id {shown}")
    if others:
        ids = [x["id"] for x in others]
        yield make_finding(OTHER_ID, ids, short_repr(others[0]["name"]), value=ids[0])


def class_names(categories: Iterable[dict[str, Any]]) -> dict[int, str]:
    """Return name by id of normalized categories, in the order of class indices, which is by id."""
    return {x["id"]: x["name"] for x in sorted(categories, key=lambda x: x["id"])}
