"""
Rules for the arguments of constructors and the config keys that they come from.

The rules are defined next to each constructor. An argument that comes from a config has the name of
its key in lower case. Therefore ``Arguments`` can check both with the same rules: the arguments of
a constructor, with their names in errors, and the keys of a config, with the keys in errors.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from fvcore.common.registry import Registry

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
    """
    A rule for a value.

    Attributes:
        text (str): The rule in words, as it continues "NAME = value must be ...".
        holds (Callable): Returns whether a value follows the rule.
    """

    text: str
    holds: Callable[[Any], bool]


class Arguments:
    """
    The rules for the arguments of a constructor.

    Attributes:
        rules (dict[str, Rule]): The rule for each argument.
        keys (dict[str, str]): The full config key of each argument that comes from a config.
    """

    def __init__(
        self, section: str, *, elsewhere: Mapping[str, str] | None = None, **rules: Rule
    ) -> None:
        """
        Define the rules.

        Args:
            section (str): The section of the config that has the arguments' names in upper case,
                such as "MODEL.FCOS".
            elsewhere (dict): The sections of arguments that are in another one; "" for an argument
                that is not in the config.
            **rules (Rule): The rule for each argument.
        """
        sections = {**dict.fromkeys(rules, section), **(elsewhere or {})}
        self.rules: Mapping[str, Rule] = rules
        self.keys = {name: f"{x}.{name.upper()}" for name, x in sections.items() if x}

    def check(self, values: Mapping[str, Any]) -> None:
        """
        Check the arguments of a constructor.

        Args:
            values (dict): The values by name, such as ``locals()``. Those without a rule are not
                checked.

        Raises:
            InputError: If values do not follow their rules. The message has a line for each value.
        """
        rules = {name: rule for name, rule in self.rules.items() if name in values}
        raise_faults([find_faults(rules, values.__getitem__)])

    def faults(self, cfg: Mapping[str, Any]) -> list[InputError]:
        """Return an error for each value of a config that does not follow its rule."""
        rules = {key: self.rules[name] for name, key in self.keys.items()}
        return find_faults(rules, lambda key: get(cfg, key))

    def read(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """
        Read the arguments that come from a config.

        Args:
            cfg (CfgNode): The config.

        Returns:
            dict: The values by argument.

        Raises:
            InputError: If values do not follow their rules. The message has a line for each value.
        """
        raise_faults([self.faults(cfg)])
        return {name: get(cfg, key) for name, key in self.keys.items()}


def get(cfg: Mapping[str, Any], key: str) -> Any:
    """Return the value of a full key, such as "MODEL.FCOS.NORM"."""
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


def raise_faults(faults: Iterable[Sequence[InputError]]) -> None:
    """Raise the errors of all lists as one, if there are any."""
    joined = [fault for part in faults for fault in part]
    if joined:
        raise InputError.of(joined)


def find_faults(rules: Mapping[str, Rule], get_value: Callable[[str], Any]) -> list[InputError]:
    """
    Find the values that do not follow their rules.

    Args:
        rules (dict): The rule for each key.
        get_value (Callable): Returns the value of a key.

    Returns:
        list[InputError]: An error for each of these values.
    """
    values = {key: get_value(key) for key in rules}
    return [
        InputError(f"{key} = {value!r} must be {rules[key].text}.", key=key, value=value)
        for key, value in values.items()
        if not rules[key].holds(value)
    ]


def check_registered(key: str, name: Any, registry: Registry) -> None:
    """
    Check that a registry has a name.

    Args:
        key (str): The config key or the argument with the name.
        name (str): The name.
        registry (Registry): The registry.

    Raises:
        InputError: If the registry does not have the name. The message has the most similar name.
    """
    if name not in registry:
        known = [known for known, _ in registry]
        raise InputError(
            f"{key} = {name!r} is not registered in {registry._name}. {nearest(name, known)} "
            "If it comes from another package, import that package first.",
            key=key,
            value=name,
        )


def is_integer(value: Any) -> bool:
    """Check that a value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Check that a value is a finite int or float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_list(value: Any) -> bool:
    """Check that a value is a sequence, such as a list or a tuple, and not a string."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def integer(at_least: int, or_exactly: int | None = None) -> Rule:
    """Make the rule for an integer with a minimum, or with one more value below it."""
    extra = "" if or_exactly is None else f", or {or_exactly}"
    return Rule(
        f"an integer of at least {at_least}{extra}",
        lambda value: is_integer(value) and (value >= at_least or value == or_exactly),
    )


def number(text: str, holds: Callable[[float], bool]) -> Rule:
    """Make the rule for a finite number with a property, which the text describes."""
    return Rule(f"a number {text}", lambda value: is_number(value) and holds(value))


def one_of(*choices: Any) -> Rule:
    """Make the rule for one of several values. Types must be equal: True is not 1."""
    return Rule(
        f"one of {choices}",
        lambda value: any(type(value) is type(x) and value == x for x in choices),
    )


def list_of(each: Rule, at_least: int = 0) -> Rule:
    """Make the rule for a list with at least a number of elements that follow a rule."""
    minimum = f", at least {at_least} of them" if at_least > 0 else ""
    return Rule(
        f"a list in which each is {each.text}{minimum}",
        lambda value: (
            is_list(value) and len(value) >= at_least and all(each.holds(x) for x in value)
        ),
    )


def ascending(unit: str) -> Rule:
    """Make the rule for a list of positive numbers in ascending order."""
    return Rule(
        f"a list of positive and ascending numbers of {unit}",
        lambda value: (
            is_list(value)
            and all(is_number(x) and x > 0 for x in value)
            and all(low < high for low, high in pairwise(value))
        ),
    )


FLAG = Rule("True or False", lambda value: isinstance(value, bool))
TEXT = Rule("a string", lambda value: isinstance(value, str))
NAME = Rule("a name", lambda value: isinstance(value, str) and value != "")
NOT_NEGATIVE = number("of at least 0", lambda x: x >= 0)
POSITIVE = number("above 0", lambda x: x > 0)
UNIT_INTERVAL = number("from 0 to 1", lambda x: 0 <= x <= 1)
