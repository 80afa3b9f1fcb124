"""Tables of names: from those of another project to ours, and back."""

import re
from collections.abc import Sequence

__all__ = ["KeyTable"]

# {i}, {i+1}, {3*i} or {3*i+1}
_PLACEHOLDER = re.compile(r"\{(?:(\d+)\*)?(\w+?)(?:\+(\d+))?\}")


class KeyTable:
    """
    Rows (their prefix, our prefix), read in both directions; the first row that fits counts.

    A placeholder in braces stands for a number. Both sides may count it differently:
    ``("layer{i}.", "res{i+1}.")``, ``("convs.{i}.", "tower.{3*i}.")``.

    Args:
        rows (list[tuple[str, str]]): what comes before the rest of a name, which stays as it is.
    """

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        self._to_ours = [(_Template(theirs), _Template(ours)) for theirs, ours in rows]
        self._to_theirs = [(ours, theirs) for theirs, ours in self._to_ours]

    def to_ours(self, name: str) -> str | None:
        """Our name for one of theirs; None: no row fits."""
        return _translate(name, self._to_ours)

    def to_theirs(self, name: str) -> str | None:
        """Their name for one of ours; None: no row fits."""
        return _translate(name, self._to_theirs)


class _Template:
    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, int, int]] = []  # (placeholder's name, factor, summand)
        pattern, end = "", 0
        for match in _PLACEHOLDER.finditer(text):
            pattern += re.escape(text[end : match.start()]) + r"(\d{1,4})"
            self._parts.append((match[2], int(match[1] or 1), int(match[3] or 0)))
            end = match.end()
        self._pattern = re.compile(pattern + re.escape(text[end:]) + "(.*)")
        self._format = _PLACEHOLDER.sub("{}", text)

    def match(self, name: str) -> tuple[dict[str, int], str] | None:
        """Values of the placeholders, and the rest of the name."""
        match = self._pattern.fullmatch(name)
        if match is None:
            return None
        *numbers, rest = match.groups()
        values = {}
        for (placeholder, factor, summand), number in zip(self._parts, numbers, strict=True):
            value, remainder = divmod(int(number) - summand, factor)
            if remainder or value < 0:
                return None
            values[placeholder] = value
        return values, rest

    def fill(self, values: dict[str, int]) -> str:
        return self._format.format(
            *(factor * values[name] + summand for name, factor, summand in self._parts)
        )


def _translate(name: str, rows: Sequence[tuple[_Template, _Template]]) -> str | None:
    for source, target in rows:
        found = source.match(name)
        if found is not None:
            values, rest = found
            return target.fill(values) + rest
    return None
