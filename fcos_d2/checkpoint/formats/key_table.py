"""Tables that translate names of weights between another project and this one."""

import re
from collections.abc import Sequence

__all__ = ["KeyTable"]

# Matches {i}, {i+1}, {3*i} or {3*i+1}.
_PLACEHOLDER = re.compile(r"\{(?:(\d+)\*)?(\w+?)(?:\+(\d+))?\}")


class KeyTable:
    """
    A table of pairs (their prefix, our prefix), used in both directions.

    The first row that matches a name is used. A placeholder in braces stands for a number, which
    the two sides may count differently: ``("layer{i}.", "res{i+1}.")``, ``("convs.{i}.",
    "tower.{3*i}.")``.
    """

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        """
        Compile the rows of a table.

        Args:
            rows (list[tuple[str, str]]): Pairs of prefixes. The rest of a name stays the same.
        """
        self._to_ours = [(_Template(theirs), _Template(ours)) for theirs, ours in rows]
        self._to_theirs = [(ours, theirs) for theirs, ours in self._to_ours]

    def to_ours(self, name: str) -> str | None:
        """Return our name for one of theirs; None if no row matches."""
        return _translate(name, self._to_ours)

    def to_theirs(self, name: str) -> str | None:
        """Return their name for one of ours; None if no row matches."""
        return _translate(name, self._to_theirs)


class _Template:
    """A prefix with placeholders, which can be matched and filled in."""

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, int, int]] = []  # (name, factor, summand)
        pattern, end = "", 0
        for match in _PLACEHOLDER.finditer(text):
            pattern += re.escape(text[end : match.start()]) + r"(\d{1,4})"
            self._parts.append((match[2], int(match[1] or 1), int(match[3] or 0)))
            end = match.end()
        self._pattern = re.compile(pattern + re.escape(text[end:]) + "(.*)")
        self._format = _PLACEHOLDER.sub("{}", text)

    def match(self, name: str) -> tuple[dict[str, int], str] | None:
        """Return the values of the placeholders and the rest of the name; None if they differ."""
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
        """Return the prefix with these values of the placeholders."""
        return self._format.format(
            *(factor * values[name] + summand for name, factor, summand in self._parts)
        )


def _translate(name: str, rows: Sequence[tuple[_Template, _Template]]) -> str | None:
    """Translate a name with the first row that matches it; None if there is none."""
    for source, target in rows:
        match = source.match(name)
        if match is not None:
            values, rest = match
            return target.fill(values) + rest
    return None
