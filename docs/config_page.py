#!/usr/bin/env python3
"""
Write docs/config.md, a table of the keys in fcos_d2/config.py with the rules for their values.

    python docs/config_page.py
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fcos_d2  # noqa: F401  # fills the registries that the rules use
from fcos_d2 import config
from fcos_d2.engine.config_rules import OWN_RULES

_PAGE = Path(__file__).with_name("config.md")
_NODES = {"fcos": "MODEL.FCOS", "timm": "MODEL.TIMM", "bifpn": "MODEL.BIFPN", "train": "FCOS_TRAIN"}
_INTRODUCTION = """# Config keys

These are all keys that the project adds to detectron2's config. If a value breaks the rule of its
key, an error names the key, the value and the rule before anything is built. All such errors in a
config are reported together. [How FCOS works](algorithm.md) explains the algorithm that the keys
configure.

The column "elsewhere" has the names of the same settings in other projects: the original FCOS and
AdelaiDet (both under `MODEL.FCOS`), torchvision's `FCOS`, and mmdet's `FCOSHead` with its train and
test settings. Their defaults may differ.

The number of detections of an image is limited by detectron2's `TEST.DETECTIONS_PER_IMAGE`.

`docs/config_page.py` writes this page from `fcos_d2/config.py`.
"""
_TABLE = """
| key | default | must be | what it does | elsewhere |
|---|---|---|---|---|
"""


class Key(NamedTuple):
    """A key, or a section, which has an empty name."""

    section: str
    name: str
    comment: str
    default: str


def read_keys(source: str) -> Iterator[Key]:
    """Yield the keys and sections in the text of config.py, with their comments."""
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
    """Return the text of the page, written from the text of config.py."""
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
