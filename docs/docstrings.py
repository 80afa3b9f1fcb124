"""For the API pages: two habits of our docstrings that mkdocstrings does not know."""

import re
from typing import Any

import griffe

__all__ = ["HouseDocstrings"]

_ROLE = re.compile(r":(?:func|class|meth|mod|attr):`([\w.]+)`")
# "low, high (Tensor): their meaning", and the lines that are indented deeper.
_JOINT = re.compile(r"^( +)(\w+(?:, \w+)+)((?: \(.*?\))?:.*(?:\n\1 +.*)*)", re.MULTILINE)


class HouseDocstrings(griffe.Extension):
    """
    Cross-references such as ``:func:`name``` become links, or plain code where there is no page. A
    name is looked up in its own module, and with a leading dot in the module's package.

    Parameters that share one description are listed one by one.
    """

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        self._rewrite(pkg)

    def _rewrite(self, obj: Any) -> None:
        if obj.docstring:
            text = _ROLE.sub(lambda match: _link(obj, match[1]), obj.docstring.value)
            obj.docstring.value = _JOINT.sub(_split, text)
        for member in obj.members.values():
            if not member.is_alias:
                self._rewrite(member)


def _link(obj: Any, name: str) -> str:
    shown = name.rsplit(".", 1)[-1]
    scope = obj.module.parent.path if name.startswith(".") else obj.module.path
    for path in (f"{scope}.{name.lstrip('.')}", name):
        try:
            return f"[`{shown}`][{obj.modules_collection[path].canonical_path}]"
        except (KeyError, ValueError):
            continue
    return f"`{shown}`"


def _split(match: re.Match[str]) -> str:
    indent, names, rest = match.groups()
    return "\n".join(f"{indent}{name}{rest}" for name in names.split(", "))
