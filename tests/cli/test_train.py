"""The flags of ``fcos-d2 train`` and ``train_net.py``."""

import sys

import pytest
from commands import SHAPES_CONFIG
from detectron2.engine import default_argument_parser
from input_errors import check_error, command_error

from fcos_d2.cli.train import build_parser, invoke_main


def test_a_config_is_required(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_net.py"])
    with pytest.raises(SystemExit) as stop:
        invoke_main()
    assert stop.value.code == 2
    assert "--config-file" in capsys.readouterr().err


def test_several_machines_need_an_address(monkeypatch):
    command = ["train_net.py", "--config-file", SHAPES_CONFIG, "--num-machines", "2"]
    monkeypatch.setattr(sys, "argv", command)
    check_error(
        command_error(invoke_main), "--num-machines", "--dist-url", "tcp://", key="--dist-url"
    )


@pytest.mark.parametrize("number", ["0", "-1"])
def test_at_least_one_process_is_required(own_data, monkeypatch, capsys, number):
    own_data.write()
    with pytest.raises(SystemExit) as stop:
        own_data.run(monkeypatch, own_data.arguments(f"--num-gpus={number}"))
    assert stop.value.code == 2
    assert f"--num-gpus: {number}" in capsys.readouterr().err


def test_the_flags_are_those_of_detectron2_and_the_flag_dataset():
    expected, flags = (
        {x.dest: (x.option_strings, x.default, x.nargs, x.const) for x in parser._actions}
        for parser in (default_argument_parser(), build_parser())
    )
    assert flags.pop("dataset")[0] == ["--dataset"]
    assert flags.keys() == expected.keys()
    assert {name for name in expected if flags[name] != expected[name]} == {
        "config_file",  # is required here
        "dist_url",  # has a free port by default
    }
