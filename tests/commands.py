"""Overrides of configs, and commands in another process."""

import os
import subprocess
import sys
from pathlib import Path

from fcos_d2.arguments import get

REPOSITORY = Path(__file__).resolve().parent.parent
SHAPES_CONFIG = str(REPOSITORY / "configs" / "shapes" / "fcos_shapes_demo.yaml")
# Overrides that make the network of SHAPES_CONFIG small.
SMALL_NETWORK = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.FCOS.NUM_CLS_CONVS": 1,
    "MODEL.FCOS.NUM_BOX_CONVS": 1,
}


def flatten(overrides):
    """Return ``{key: value}`` as [key, value, key, value, ...], which ``merge_from_list`` takes."""
    return [x for pair in overrides.items() for x in pair]


def as_arguments(overrides):
    """Return ``{key: value}`` as arguments KEY=VALUE of a command line."""
    return [f"{key}={value}" for key, value in overrides.items()]


def set_key(cfg, key, value):
    """Set a key of a config to a value of any type, and return the config."""
    section, _, name = key.rpartition(".")
    dict.__setitem__(get(cfg, section), name, value)
    return cfg


def run_python(*arguments, cwd=REPOSITORY, **env):
    """
    Run Python with one thread, and return the finished process.

    Variables that say how waiting threads behave are removed: pytest may run with them.
    """
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


def subprocess_error(process):
    """Return the text of the error that a command printed last, after checking its exit code."""
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr + process.stdout
    before, _, text = process.stderr.rpartition("error: ")
    assert before == "" or before.endswith("\n")
    return text
