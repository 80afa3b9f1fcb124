#!/usr/bin/env python3
"""
Write docs/config.md: the keys of fcos_d2/config.py, with what their constructors take.

    python docs/config_page.py
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fcos_d2  # noqa: F401  # registers what the rules look at
from fcos_d2 import config
from fcos_d2.engine.config_rules import OWN_RULES

_PAGE = Path(__file__).with_name("config.md")
_NODES = {"fcos": "MODEL.FCOS", "timm": "MODEL.TIMM", "bifpn": "MODEL.BIFPN", "train": "FCOS_TRAIN"}
_INTRODUCTION = """# Config keys

All keys that the project adds to detectron2's. A value that breaks the rule of its key is an error
with key, value and rule, before anything is built; all such errors of a config come together.
[How FCOS works](algorithm.md) explains what is behind those of the algorithm.

"Elsewhere" is what others call the same: the original FCOS, AdelaiDet (both under `MODEL.FCOS`),
torchvision's `FCOS` and mmdet's `FCOSHead`, with its train and test settings. Their defaults may
differ.

How many detections an image keeps is detectron2's `TEST.DETECTIONS_PER_IMAGE`.

This page is made from `fcos_d2/config.py` by `docs/config_page.py`.
"""
_TABLE = """
| key | default | must be | what it does | elsewhere |
|---|---|---|---|---|
"""


class Key(NamedTuple):
    """A key, or a section (whose name is empty)."""

    section: str
    name: str
    comment: str
    default: str


def read_keys(source: str) -> Iterator[Key]:
    """Read keys and their comments from the text of config.py."""
    comment: list[str] = []
    for line in source.splitlines():
        key = re.fullmatch(r"    (\w+)\.([A-Z0-9_]+) = (.*)", line)
        section = re.fullmatch(r"    (\w+) = cfg\.[A-Z_.]+ = CfgNode\(\)", line)
        if line.startswith("    # "):
            comment.append(line.removeprefix("    # "))
            continue
        if key:
            yield Key(_NODES[key[1]], key[2], " ".join(comment), key[3])
        elif section:
            yield Key(_NODES[section[1]], "", " ".join(comment), "")
        comment = []


def config_page(source: str) -> str:
    """Write the page from the text of config.py."""
    page = _INTRODUCTION
    for key in read_keys(source):
        if not key.name:
            page += f"\n## {key.section}\n\n{key.comment}\n{_TABLE}"
            continue
        what, _, elsewhere = key.comment.partition(" Elsewhere: ")
        rule = OWN_RULES[f"{key.section}.{key.name}"]
        cells = (f"`{key.name}`", f"`{key.default}`", rule.text, what, elsewhere or "-")
        page += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    return page


if __name__ == "__main__":
    _PAGE.write_text(config_page(Path(config.__file__).read_text()))
