"""Imports go one way: a part knows what it is built on, and nothing of what is built on it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fcos_d2"
# From the bottom up: a part imports from lines above its own, and from itself.
LAYERS = [
    ("errors", "registration", "atomic_write"),
    ("arguments", "logs"),
    (
        "modeling.levels",
        "modeling.predictions",
        "modeling.device_copies",
        "modeling.layers",
        "modeling.nms",
    ),
    (
        "modeling.assignment",
        "modeling.backbone",
        "modeling.tower",
        "modeling.candidates",
        "modeling.annotations",
        "modeling.num_classes",
        "modeling.pixels",
    ),
    ("modeling.head", "modeling.losses", "modeling.fixed_candidates"),
    ("modeling.postprocessing",),
    ("modeling.dense_head",),
    ("modeling.acceleration",),
    ("modeling.config_faults",),
    ("modeling.fcos",),
    ("modeling",),  # its __init__
    # Not of modeling: the command line may import all, and nothing imports it.
    ("config", "output_files"),
    ("config_loading", "config_checks"),
    ("checkpoint", "data"),
    ("visualization",),
    ("engine",),
    ("prediction",),
    ("detectron2_tool",),
    ("cli",),
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def part_of(module):
    """The longest name in LAYERS that a module is, or is in."""
    names = [x for x in RANK if module == x or module.startswith(f"{x}.")]
    return max(names, key=len) if names else None


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        if "configs" not in path.parts:
            parts = path.relative_to(PACKAGE).with_suffix("").parts
            yield path, parts[:-1] if parts[-1] == "__init__" else parts


def imported_modules(path, parts):
    """Modules of the package that a file imports, functions' own imports included."""
    package = parts if path.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (
                x.name.partition(".")[2] for x in node.names if x.name.startswith("fcos_d2")
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fcos_d2."):
            yield node.module.partition(".")[2]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            base = [x for x in base if x]
            for alias in node.names:
                name = ".".join([*base, alias.name])
                is_module = (PACKAGE / Path(*base, alias.name)).with_suffix(".py").is_file()
                yield name if is_module else ".".join(base)


FILES = {".".join(parts): (path, parts) for path, parts in modules() if parts}


def test_every_module_has_its_layer():
    assert [name for name in FILES if part_of(name) is None] == []


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_only_what_it_is_built_on(name):
    own = part_of(name)
    for imported in imported_modules(*FILES[name]):
        other = part_of(imported) if imported else None
        assert other == own or (other is not None and RANK[other] < RANK[own]), imported
