"""The command line as a process: exit codes, what is printed, what is imported."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_imports import FILES, PACKAGE, imported_modules

from fcos_d2.cli import VERBS, main
from fcos_d2.cli.edge import exit_on_input_error
from fcos_d2.errors import InputError

REPOSITORY = PACKAGE.parent


def python(*arguments, **env):
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**kept, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_an_input_error_is_its_text_and_exit_code_1(capsys, monkeypatch):
    monkeypatch.delenv("FCOS_D2_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as stop, exit_on_input_error():
        raise InputError("NORM is wrong.")
    assert stop.value.code == "error: NORM is wrong."
    assert capsys.readouterr().err == ""


def test_the_traceback_is_shown_if_that_is_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("FCOS_D2_TRACEBACK", "1")
    with pytest.raises(SystemExit), exit_on_input_error():
        raise InputError("NORM is wrong.")
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_keeps_its_own_traceback():
    with pytest.raises(KeyError), exit_on_input_error():
        raise KeyError("bug")


def test_ctrl_c_is_exit_code_130(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_input_error():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert capsys.readouterr().err == ""


def test_an_unknown_verb_or_flag_is_exit_code_2(capsys):
    for arguments in (["nonsense"], [], ["convert", "--nonsense"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


def test_the_help_lists_all_verbs_and_imports_none():
    code = (
        "import sys, fcos_d2.cli\n"
        "try:\n    fcos_d2.cli.main(['--help'])\n"
        "except SystemExit:\n    print([x for x in sys.modules if x.startswith('fcos_d2.cli.')])"
    )
    process = python("-c", code)
    assert process.returncode == 0, process.stderr
    *text, modules = process.stdout.splitlines()
    assert ast.literal_eval(modules) == ["fcos_d2.cli.edge", "fcos_d2.cli.flags"]
    assert all(any(line.strip().startswith(verb) for line in text) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: fcos-d2 {verb}" in capsys.readouterr().out


def test_convert_needs_neither_opencv_nor_matplotlib(tmp_path):
    code = (
        "import sys\nsys.modules['cv2'] = sys.modules['matplotlib'] = None\n"
        f"import fcos_d2.cli\nfcos_d2.cli.main(['convert', {str(tmp_path / 'no.pth')!r}, "
        f"'-o', {str(tmp_path / 'y.pth')!r}])"
    )
    process = python("-c", code)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: The weights file")


def own_imports(path):
    """Top-level packages that a file imports by statements outside of functions."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (x.name.partition(".")[0] for x in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def import_closure(name):
    """Modules of the package that importing one of them imports, itself included."""
    seen, queue = set(), [name, "data"]  # importing the package imports data
    while queue:
        module = queue.pop()
        if module in seen or module not in FILES:
            continue
        seen.add(module)
        queue += imported_modules(*FILES[module])
        queue.append(module.rpartition(".")[0])
    return seen


@pytest.mark.parametrize(
    ("verb", "unneeded"),
    [
        ("convert", {"cv2", "matplotlib", "pycocotools", "tqdm", "tabulate"}),
        ("predict", {"pycocotools", "tqdm", "tabulate"}),
    ],
)
def test_a_verb_imports_nothing_that_it_does_not_need(verb, unneeded):
    modules = import_closure(f"cli.{verb}")
    assert "config_loading" in modules
    assert verb != "convert" or "engine" not in modules
    drawing = {x for x in modules if x.startswith("data.shapes.")}  # imported when they draw
    for module in modules - drawing:
        assert unneeded.isdisjoint(own_imports(FILES[module][0])), module


SHOW = "import os, fcos_d2_command as c; c.set_thread_defaults(); print(os.environ.get('{}'))"


def test_waiting_threads_sleep_unless_the_user_has_said_how_they_wait():
    def variable(name="GOMP_SPINCOUNT", **env):
        return python("-c", SHOW.format(name), **env).stdout.strip()

    assert variable() == "1000"
    assert variable(GOMP_SPINCOUNT="7") == "7"
    assert variable(OMP_WAIT_POLICY="active") == "None"


WATCH = """
import os, runpy, sys
class Watch:  # what the variable is when torch is imported
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch sees", os.environ.get("GOMP_SPINCOUNT"))
            sys.exit(0)
sys.meta_path.insert(0, Watch())
"""


@pytest.mark.parametrize(
    ("run", "seen"),
    [
        ("import fcos_d2_command; fcos_d2_command.main()", "1000"),
        ("runpy.run_path('train_net.py', run_name='__main__')", "1000"),
        ("import fcos_d2", "None"),
        ("import train_net", "None"),
        ("import fcos_d2_command; import fcos_d2", "None"),
    ],
)
def test_commands_set_it_before_torch_is_imported_and_libraries_never_do(run, seen):
    process = python("-c", WATCH + run)
    assert process.stdout.strip() == f"torch sees {seen}", process.stderr


def test_ctrl_c_while_a_command_runs_prints_no_traceback(tmp_path):
    code = (
        "import fcos_d2.cli.convert as verb, fcos_d2.cli, time\n"
        "verb.run = lambda args: (print('running', flush=True), time.sleep(60))\n"
        "fcos_d2.cli.main(['convert', 'x.pth', '-o', 'y.pth'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
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


def test_the_module_is_a_command_too():
    assert "usage: fcos-d2" in python("-m", "fcos_d2.cli", "--help").stdout
    assert Path(REPOSITORY, "fcos_d2", "cli", "__main__.py").is_file()
