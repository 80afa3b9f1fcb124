"""The flags of ``fcos-d2 train`` and ``train_net.py``."""

import sys

import pytest
from commands import SHAPES_CONFIG
from detectron2.engine import default_argument_parser
from input_errors import check_error, command_error

from fcos_d2.cli import train
from fcos_d2.cli.train import build_parser, invoke_main
from fcos_d2.engine import prepare_run


@pytest.mark.parametrize("arguments", [[], ["--eval-only", "--dataset=a=b.json:c"]])
def test_only_a_training_on_own_data_needs_no_config(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["train_net.py", *arguments])
    check_error(command_error(invoke_main), "--dataset my_train=", key="--config-file")


def test_own_data_is_trained_on_with_no_other_flag(own_data, monkeypatch, package_log):
    own_data.write()
    monkeypatch.chdir(own_data.folder)
    checked = []
    monkeypatch.setattr(train, "launch_run", lambda run, args: checked.append(prepare_run(args)))
    flags = [x for x in own_data.arguments() if x.startswith("--dataset=")]
    own_data.run(monkeypatch, flags)
    (cfg,) = checked
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("train",), ("val",))
    assert (cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.SOLVER.MAX_ITER) == ("cpu", "", 800)
    assert "DATASETS.TRAIN = ('train',), DATASETS.TEST = ('val',)" in package_log.text
    assert "fcos_small_from_scratch.yaml" in package_log.text


@pytest.mark.parametrize(
    ("opts", "warns"),
    [(("DATASETS.TEST=()",), False), (("DATASETS.TRAIN=('val',)", "DATASETS.TEST=('val',)"), True)],
)
def test_a_test_set_that_is_left_out_on_purpose_is_no_warning(
    own_data, monkeypatch, package_log, opts, warns
):
    own_data.write()
    monkeypatch.setattr(train, "launch_run", lambda run, args: prepare_run(args))
    own_data.run(monkeypatch, own_data.arguments(*opts))
    (record,) = (x for x in package_log.records if "is not used" in x.getMessage())
    assert (record.levelname == "WARNING") == warns


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
        "config_file",  # is None by default here
        "dist_url",  # has a free port by default
    }
