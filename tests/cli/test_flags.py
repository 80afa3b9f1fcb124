"""Overrides on the command line, and where a config file is looked for."""

from pathlib import Path

import pytest
from input_errors import input_error

from fcos_d2 import get_config_file
from fcos_d2.cli.flags import (
    config_for_weights,
    parse_arguments,
    resolve_config_file,
    split_overrides,
)
from fcos_d2.cli.train import build_parser
from fcos_d2.config_loading import load_config

RECIPE = "fcos_R_50_FPN_1x.yaml"
FLAGS = {"--output", "-o", "--dataset"}  # flags that take a value


@pytest.mark.parametrize(
    ("command", "rest", "overrides"),
    [
        ("--opts A.B=1 C 2 x.jpg y.jpg", "x.jpg y.jpg", "A.B=1 C=2"),
        ("x.jpg --opts A.B 1", "x.jpg", "A.B=1"),
        ("--opts A=1 --opts B 2 --output o x.jpg", "--output o x.jpg", "A=1 B=2"),
        ("--opts A.B -1 x.jpg", "x.jpg", "A.B=-1"),
        ("--opts a.b=1 x.jpg", "x.jpg", "a.b=1"),
        ("--opts A.B --output o", "--output o", "A.B"),  # The missing value is an error later.
        # Without --opts, an override is recognized only if its key is in upper case and the first
        # part of the key is a section of the config.
        ("x.jpg MODEL.DEVICE cpu y.jpg", "x.jpg y.jpg", "MODEL.DEVICE=cpu"),
        ("SEED=3 --dataset A=b:c SOLVER.X 1", "--dataset A=b:c", "SEED=3 SOLVER.X=1"),
        ("A.B 1 a.b=1", "A.B 1 a.b=1", ""),
        ("--output MODEL -o TEST x.jpg", "--output MODEL -o TEST x.jpg", ""),
        ("--resume SEED 3 --output o", "--resume --output o", "SEED=3"),
        ("--opts A=1 -- --opts B 2", "-- --opts B 2", "A=1"),
    ],
)
def test_overrides_are_found_anywhere_and_other_arguments_are_kept(command, rest, overrides):
    assert split_overrides(command.split(), FLAGS) == (rest.split(), overrides.split())


@pytest.mark.parametrize("command", ["--opts a.b 1", "x.jpg --opts", "--opts --output o"])
def test_opts_without_an_override_is_refused(command):
    with input_error("--opts", "KEY=VALUE"):
        split_overrides(command.split(), FLAGS)


def test_an_override_may_be_long_and_come_after_a_flag_without_a_value():
    names = ", ".join(["'shapes_val'"] * 40)
    test_sets = f"DATASETS.TEST=({names})"
    flags = ["--config-file", RECIPE, "--resume"]
    args = parse_arguments(build_parser(), [*flags, test_sets, "--eval-only", "SEED", "3"])
    assert args.opts == [test_sets, "SEED=3"]
    assert args.resume
    assert args.eval_only


def test_the_name_of_a_photo_is_not_taken_for_a_key(folder):
    Path("DSC_0001.JPG").touch()
    command = ["--opts", "A", "1", "DSC_0001.JPG", "x.jpg"]
    assert split_overrides(command, FLAGS) == (["DSC_0001.JPG", "x.jpg"], ["A=1"])
    Path("DSC_0001.JPG").unlink()
    assert split_overrides(["DSC_0001.JPG", "x.jpg"], FLAGS) == (["DSC_0001.JPG", "x.jpg"], [])


def test_a_config_of_the_project_is_found_by_its_name(folder):
    assert resolve_config_file(RECIPE) == get_config_file(RECIPE)
    assert resolve_config_file(f"configs/{RECIPE}") == get_config_file(RECIPE)
    assert resolve_config_file("nowhere.yaml") == "nowhere.yaml"
    Path(RECIPE).touch()  # a file of the user has priority
    assert resolve_config_file(RECIPE) == RECIPE


def test_every_config_of_the_project_loads_by_its_name(folder):
    configs = Path(get_config_file(RECIPE)).parent
    names = sorted(str(x.relative_to(configs)) for x in configs.rglob("*.yaml"))
    assert len(names) > 50
    for name in names:
        load_config(resolve_config_file(f"configs/{name}"), [])


def test_the_config_next_to_the_weights_is_used_and_its_path_is_printed(tmp_path, capsys):
    weights = tmp_path / "model.pth"
    with input_error("model.yaml", "config.yaml", str(weights)):
        config_for_weights(weights, None)
    for name in ("config.yaml", "model.yaml"):  # model.yaml, which `convert` writes, has priority
        (tmp_path / name).write_text("MODEL: {}\n")
        assert config_for_weights(weights, None) == str(tmp_path / name)
        assert str(tmp_path / name) in capsys.readouterr().out
    assert config_for_weights(weights, "mine.yaml") == "mine.yaml"
    assert capsys.readouterr().out == ""


def test_the_config_yaml_that_a_run_of_a_lazy_config_writes_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("model:\n  _target_: fcos_d2.FCOS\n")
    with input_error("LazyConfig", "config.yaml"):
        config_for_weights(tmp_path / "model.pth", None)
