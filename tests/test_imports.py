"""Imports: parts import only parts of lower layers, and slow packages are imported when needed."""

import ast
import json
from pathlib import Path

import pytest
import torch
from commands import REPOSITORY, run_python

from fcos_d2.cli import SUBCOMMANDS

PACKAGE = REPOSITORY / "fcos_d2"
# The layers from the bottom up. A part imports only itself and parts that are earlier in this list.
LAYERS = [
    ("errors", "registration", "atomic_write", "version"),
    ("arguments", "logs"),
    (
        "modeling.levels",
        "modeling.predictions",
        "modeling.copy_to_device",
        "modeling.module_hooks",
        "modeling.layers",
        "modeling.nms",
        "modeling.two_stage",
    ),
    (
        "modeling.assignment",
        "modeling.backbone",
        "modeling.tower",
        "modeling.candidates",
        "modeling.annotations",
        "modeling.num_classes",
        "modeling.pixel_statistics",
    ),
    ("modeling.head", "modeling.losses", "modeling.fixed_shape_candidates"),
    ("modeling.fixed_shape_detections",),
    ("modeling.postprocessing",),
    ("modeling.dense_head",),
    ("modeling.proposal_generator", "modeling.two_stage_losses"),
    ("modeling.cuda_graphs",),
    ("modeling.acceleration",),
    ("modeling.config_checks",),
    ("modeling.fcos",),
    ("modeling.build",),
    ("modeling",),  # its __init__
    # The parts outside of modeling. The command line may import all parts, and no part imports it.
    ("config", "output_files", "drawing"),
    ("config_loading", "config_checks"),
    ("checkpoint", "data"),
    ("test_time_augmentation",),
    ("evaluation_results",),
    ("visualization",),
    ("engine",),
    ("image_preparation",),
    ("prediction",),
    ("export",),
    ("detectron2_tool",),
    ("cli",),
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def find_part(module):
    """Return the longest name in LAYERS that is the module or a parent of it, or None."""
    names = [x for x in RANK if module == x or module.startswith(f"{x}.")]
    return max(names, key=len) if names else None


def list_modules():
    """Yield (path, parts of the name) of each module of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "configs" not in path.parts:
            parts = path.relative_to(PACKAGE).with_suffix("").parts
            yield path, parts[:-1] if parts[-1] == "__init__" else parts


def find_imported_modules(path, parts):
    """Yield the modules of the package that a file imports, also inside functions."""
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


FILES = {".".join(parts): (path, parts) for path, parts in list_modules() if parts}


def find_closure(name):
    """Return all modules that are imported when one module is imported, including itself."""
    seen, queue = set(), [name, "data"]  # importing the package imports data
    while queue:
        module = queue.pop()
        if module in seen or module not in FILES:
            continue
        seen.add(module)
        queue += find_imported_modules(*FILES[module])
        queue.append(module.rpartition(".")[0])
    return seen


def find_other_packages(module):
    """Yield the top-level packages that a module imports by statements outside of functions."""
    for node in ast.parse(FILES[module][0].read_text()).body:
        if isinstance(node, ast.Import):
            yield from (x.name.partition(".")[0] for x in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_every_module_is_in_a_layer():
    assert [name for name in FILES if find_part(name) is None] == []


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_only_its_own_part_and_parts_of_lower_layers(name):
    own = find_part(name)
    for imported in find_imported_modules(*FILES[name]):
        other = find_part(imported) if imported else None
        assert other == own or (other is not None and RANK[other] < RANK[own]), imported


@pytest.mark.parametrize(
    ("subcommand", "unneeded"),
    [
        ("convert", {"cv2", "matplotlib", "pycocotools", "tqdm", "tabulate"}),
        ("predict", {"pycocotools", "tqdm", "tabulate"}),
    ],
    ids=["convert", "predict"],
)
def test_a_subcommand_does_not_import_packages_that_it_does_not_need(subcommand, unneeded):
    modules = find_closure(f"cli.{subcommand}")
    assert "config_loading" in modules
    assert subcommand != "convert" or "engine" not in modules
    drawing = {x for x in modules if x.startswith("data.shapes.")}  # imported when images are drawn
    for module in modules - drawing:
        assert unneeded.isdisjoint(find_other_packages(module)), module


# All steps run in one process, because importing torch takes seconds. It prints the new modules of
# each step.
STEPS = """
import contextlib, io, json, sys
sys.modules["cv2"] = sys.modules["matplotlib"] = None

def list_new(*names):
    return sorted(x for x in sys.modules if x.startswith(names) and sys.modules[x] is not None)

result = {}
import fcos_d2
result["after import"] = list_new("fcos_d2.prediction")
fcos_d2.Predictor
result["after first use"] = list_new("fcos_d2.prediction")
import fcos_d2.data.coco, fcos_d2.data.shapes
result["of data"] = list_new(
    "pycocotools.coco", "matplotlib", "fcos_d2.data.coco.report", "fcos_d2.data.shapes.annotation"
)
import fcos_d2.cli
output = io.StringIO()
with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
    fcos_d2.cli.main(["--help"])
result["help"] = output.getvalue()
result["of the help"] = list_new("fcos_d2.cli.")
try:
    fcos_d2.cli.main(["convert", "no.pth", "-o", "y.pth"])
except SystemExit as stop:
    result["of convert"] = stop.code
import fcos_d2.engine, torch, train_net
print("imported", file=sys.stderr)
torch.jit.script(torch.nn.Identity())
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Run STEPS in a process that has neither OpenCV nor matplotlib, and return the result."""
    folder = tmp_path_factory.mktemp("nowhere")
    process = run_python("-c", STEPS, cwd=folder, PYTHONPATH=str(REPOSITORY))
    assert process.returncode == 0, process.stderr
    at_import, _, after_import = process.stderr.partition("imported\n")
    result = json.loads(process.stdout.splitlines()[-1])
    return {**result, "at import": at_import, "after import of all": after_import}


def test_the_predictor_is_imported_on_first_use(steps):
    assert steps["after import"] == []
    assert steps["after first use"] == ["fcos_d2.prediction"]


def test_the_import_prints_no_warning_and_hides_no_later_one(steps):
    assert steps["at import"] == ""
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14):  # older ones do not warn
        assert "`torch.jit.script`" in steps["after import of all"]


def test_importing_data_imports_no_slow_module(steps):
    assert steps["of data"] == []


def test_the_help_lists_all_subcommands_and_imports_none_of_them(steps):
    assert steps["of the help"] == ["fcos_d2.cli.edge", "fcos_d2.cli.flags"]
    lines = [line.strip() for line in steps["help"].splitlines()]
    assert all(any(line.startswith(name) for line in lines) for name in SUBCOMMANDS)


def test_neither_importing_nor_converting_needs_opencv_or_matplotlib(steps):
    assert "no.pth" in steps["of convert"]


@pytest.mark.parametrize("module", ["fcos_d2", "train_net"])
def test_without_detectron2_the_import_explains_how_to_get_it(module):
    code = f"import sys; sys.modules['detectron2'] = None\nimport {module}"
    process = run_python("-c", code)
    assert process.returncode == 1
    assert "detectron2" in process.stderr
    assert "pip install" in process.stderr
