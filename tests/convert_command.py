"""Run ``fcos-d2 convert`` in the working directory, and check its files and errors."""

from pathlib import Path

import torch
import yaml
from commands import as_arguments
from detectron2.modeling import build_model
from input_errors import check_error, command_error
from tiny import tiny_cfg

from fcos_d2.cli import main

BIFPN = {"MODEL.BACKBONE.NAME": "build_fcos_resnet_bifpn_backbone", "MODEL.BIFPN.OUT_CHANNELS": 64}


def convert(*arguments):
    main(["convert", *map(str, arguments)])


def convert_back(target, source="own", output="z.pth"):
    """Convert SOURCE.pth with SOURCE.yaml into the format of another project."""
    convert(f"{source}.pth", "--to", target, "--config-file", f"{source}.yaml", "-o", output)


def check_refusal(*arguments, words=(), **fields):
    """Check the error of the command, and that the command writes no file."""
    before = sorted(Path().iterdir())
    error = command_error(convert, *arguments)
    assert sorted(Path().iterdir()) == before
    check_error(error, *words, **fields)


def as_opts(overrides):
    """Return ``{key: value}`` as the flag --opts and its values; without overrides, return []."""
    return ["--opts", *as_arguments(overrides)] if overrides else []


def save_own(overrides=None):
    """Write own.pth and own.yaml of a tiny model of this project with random weights."""
    cfg = tiny_cfg(overrides or {})
    torch.save({"model": build_model(cfg).state_dict()}, "own.pth")
    Path("own.yaml").write_text(cfg.dump())


def save_config(overrides):
    """Write model.yaml, and return its name."""
    Path("model.yaml").write_text(yaml.safe_dump(yaml.safe_load(tiny_cfg(overrides).dump())))
    return "model.yaml"
