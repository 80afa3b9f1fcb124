"""The command line as a process: exit codes, printed text, and environment variables."""

import os
import runpy
import signal
import subprocess
import sys

import pytest
from commands import REPOSITORY, run_python

from fcos_d2.cli import SUBCOMMANDS, main
from fcos_d2.cli.edge import exit_on_input_error
from fcos_d2.errors import InputError


def test_an_input_error_is_printed_as_its_text_and_exits_with_code_1(capsys, monkeypatch):
    monkeypatch.delenv("FCOS_D2_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as stop, exit_on_input_error():
        raise InputError("NORM is wrong.")
    assert stop.value.code == "error: NORM is wrong."
    assert capsys.readouterr().err == ""


def test_the_traceback_is_printed_on_request(capsys, monkeypatch):
    monkeypatch.setenv("FCOS_D2_TRACEBACK", "1")
    with pytest.raises(SystemExit), exit_on_input_error():
        raise InputError("NORM is wrong.")
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError), exit_on_input_error():
        raise KeyError("bug")


def test_ctrl_c_exits_with_code_130(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_input_error():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert capsys.readouterr().err == ""


def test_an_unknown_subcommand_or_flag_exits_with_code_2(capsys):
    for arguments in (["nonsense"], [], ["convert", "--nonsense"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_each_subcommand_has_a_help_text(subcommand, capsys):
    with pytest.raises(SystemExit) as stop:
        main([subcommand, "--help"])
    assert stop.value.code == 0
    assert f"usage: fcos-d2 {subcommand}" in capsys.readouterr().out


def test_the_module_can_be_run_as_a_command_too(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fcos_d2.cli", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("fcos_d2.cli", run_name="__main__", alter_sys=True)
    assert stop.value.code == 0
    assert "usage: fcos-d2" in capsys.readouterr().out


PRINT_VARIABLE = (
    "import os, fcos_d2_command as c; c.set_thread_defaults(); print(os.environ.get('{}'))"
)


def test_waiting_threads_sleep_unless_the_user_has_set_how_they_wait():
    def variable(name="GOMP_SPINCOUNT", **env):
        return run_python("-c", PRINT_VARIABLE.format(name), **env).stdout.strip()

    assert variable() == "1000"
    assert variable(GOMP_SPINCOUNT="7") == "7"
    assert variable(OMP_WAIT_POLICY="active") == "None"


WATCH = """
import os, runpy, sys
class Watch:  # prints the variable when torch is imported
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("GOMP_SPINCOUNT is", os.environ.get("GOMP_SPINCOUNT"))
            sys.exit(0)
sys.meta_path.insert(0, Watch())
"""


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("import fcos_d2_command; fcos_d2_command.main()", "1000"),
        ("runpy.run_path('train_net.py', run_name='__main__')", "1000"),
        ("import fcos_d2", "None"),
        ("import train_net", "None"),
        ("import fcos_d2_command; import fcos_d2", "None"),
    ],
)
def test_only_commands_set_the_spin_count_and_they_do_it_before_importing_torch(code, value):
    process = run_python("-c", WATCH + code)
    assert process.stdout.strip() == f"GOMP_SPINCOUNT is {value}", process.stderr


def test_ctrl_c_while_a_command_runs_prints_no_traceback():
    code = (
        "import fcos_d2.cli.convert as subcommand, fcos_d2.cli, time\n"
        "subcommand.run = lambda args: (print('running', flush=True), time.sleep(60))\n"
        "fcos_d2.cli.main(['convert', 'x.pth', '-o', 'y.pth'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
