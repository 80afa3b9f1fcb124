"""
What arguments must be: a rule for each, beside the constructor that takes them.

An argument that comes from a config has the name of its key in lower case. So the rules of a
constructor are those of a section of keys, and ``Arguments`` checks both: the constructor
names its arguments in an error, a config its keys.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from operator import getitem
from typing import Any, NamedTuple

from .errors import InputError, nearest

__all__ = [
    "FLAG",
    "NAME",
    "NOT_NEGATIVE",
    "POSITIVE",
    "TEXT",
    "UNIT_INTERVAL",
    "Arguments",
    "Rule",
    "ascending",
    "check_registered",
    "find_faults",
    "get",
    "integer",
    "is_integer",
    "is_list",
    "is_number",
    "list_of",
    "number",
    "one_of",
    "raise_faults",
]


class Rule(NamedTuple):
    """``text`` completes "NAME = value must be ..."; ``holds`` tells whether a value keeps it."""

    text: str
    holds: Callable[[Any], bool]


class Arguments:
    """
    The rules of a constructor's arguments.

    Args:
        section (str): of a config, that has the arguments' names in upper case: "MODEL.FCOS".
        elsewhere (dict): section of arguments that are keys of another one; "" for an argument that
            no config has.
        rules (Rule): by argument.
    """

    def __init__(
        self, section: str, *, elsewhere: Mapping[str, str] | None = None, **rules: Rule
    ) -> None:
        sections = {**dict.fromkeys(rules, section), **(elsewhere or {})}
        self.rules: Mapping[str, Rule] = rules
        self.keys = {name: f"{x}.{name.upper()}" for name, x in sections.items() if x}

    def check(self, values: Mapping[str, Any]) -> None:
        """
        Check arguments as a constructor has them.

        Args:
            values (dict): by name, such as ``locals()``; those without a rule may have any value.

        Raises:
            InputError: values that break their rules, a line for each.
        """
        rules = {name: rule for name, rule in self.rules.items() if name in values}
        raise_faults([find_faults(rules, values.__getitem__)])

    def faults(self, cfg: Any) -> list[InputError]:
        """Those of a config's values, under their full keys."""
        rules = {key: self.rules[name] for name, key in self.keys.items()}
        return find_faults(rules, lambda key: get(cfg, key))

    def read(self, cfg: Any) -> dict[str, Any]:
        """
        The arguments that are keys, from a config.

        Raises:
            InputError: values that break their rules, a line for each.
        """
        raise_faults([self.faults(cfg)])
        return {name: get(cfg, key) for name, key in self.keys.items()}


def get(cfg: Any, key: str) -> Any:
    """The value of a full key."""
    return reduce(getitem, key.split("."), cfg)


def raise_faults(faults: Iterable[Sequence[InputError]]) -> None:
    """Raise all as one error, if there are any."""
    found = [fault for each in faults for fault in each]
    if found:
        raise InputError.of(found)


def find_faults(rules: Mapping[str, Rule], get_value: Callable[[str], Any]) -> list[InputError]:
    """
    Find the values that break their rules.

    Args:
        rules (dict): by key.
        get_value (Callable): the value of a key.
    """
    values = {key: get_value(key) for key in rules}
    return [
        InputError(f"{key} = {value!r} must be {rules[key].text}.", key=key, value=value)
        for key, value in values.items()
        if not rules[key].holds(value)
    ]


def check_registered(key: str, name: Any, registry: Any) -> None:
    """
    Check that a registry has a name.

    Args:
        key (str): of the config, or the argument, that has the name.
        name (str): to look for.
        registry (Registry): fvcore's.

    Raises:
        InputError: it does not; the message has the nearest that it has.
    """
    if name not in registry:
        known = [known for known, _ in registry]
        raise InputError(
            f"{key} = {name!r} is not registered in {registry._name}. {nearest(name, known)} "
            "If it comes from a separate package, import that first.",
            key=key,
            value=name,
        )


def is_integer(value: Any) -> bool:
    """Whether a value is an int, which True is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite int or float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_list(value: Any) -> bool:
    """Whether a value is a list or a tuple, or the like."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def integer(at_least: int, or_exactly: int | None = None) -> Rule:
    """An integer from a smallest one, or one more value."""
    extra = "" if or_exactly is None else f", or {or_exactly}"
    return Rule(
        f"an integer of at least {at_least}{extra}",
        lambda value: is_integer(value) and (value >= at_least or value == or_exactly),
    )


def number(text: str, holds: Callable[[float], bool]) -> Rule:
    """A finite number with a property, which the text states."""
    return Rule(f"a number {text}", lambda value: is_number(value) and holds(value))


def one_of(*choices: Any) -> Rule:
    """One of several values; by type too, or True would pass for 1."""
    return Rule(
        f"one of {choices}",
        lambda value: any(type(value) is type(x) and value == x for x in choices),
    )


def list_of(each: Rule, at_least: int = 0) -> Rule:
    """A list whose elements keep a rule."""
    return Rule(
        f"a list in which each is {each.text}"
        + (f", at least {at_least} of them" * (at_least > 0)),
        lambda value: (
            is_list(value) and len(value) >= at_least and all(each.holds(x) for x in value)
        ),
    )


def ascending(unit: str) -> Rule:
    """A list of positive numbers, each above the one before."""
    return Rule(
        f"a list of positive and ascending numbers of {unit}",
        lambda value: (
            is_list(value)
            and all(is_number(x) and x > 0 for x in value)
            and all(low < high for low, high in pairwise(value))
        ),
    )


FLAG = Rule("True or False", lambda value: isinstance(value, bool))
TEXT = Rule("a text", lambda value: isinstance(value, str))
NAME = Rule("a name", lambda value: isinstance(value, str) and value != "")
NOT_NEGATIVE = number("of at least 0", lambda x: x >= 0)
POSITIVE = number("above 0", lambda x: x > 0)
UNIT_INTERVAL = number("from 0 to 1", lambda x: 0 <= x <= 1)
