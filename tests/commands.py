"""Overrides of config keys in several forms, and commands in another process."""

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


def as_arguments(overrides):
    """Return ``{key: value}`` as command-line arguments KEY=VALUE."""
    return [f"{key}={value}" for key, value in overrides.items()]


def set_key(cfg, key, value):
    """Set a key of a config to a value of any type, without yacs's checks; return the config."""
    section, _, name = key.rpartition(".")
    dict.__setitem__(get(cfg, section), name, value)
    return cfg


def run_python(*arguments, cwd=REPOSITORY, **env):
    """
    Run Python with one thread, and return the finished process.

    Environment variables that control waiting threads are removed, because pytest may have them.
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
    """Check that a command has failed with an error of one text, and return the text."""
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr + process.stdout
    before, _, text = process.stderr.rpartition("error: ")
    assert before == "" or before.endswith("\n")
    return text
