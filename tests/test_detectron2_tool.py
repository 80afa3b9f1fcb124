"""The wrapper runs detectron2's tools, which do not import fcos_d2, with configs of fcos_d2."""

import runpy
import sys

import pytest
from commands import REPOSITORY, run_python
from detectron2.config import get_cfg

CONFIG = REPOSITORY / "configs" / "fcos_R_50_FPN_1x_iccv.yaml"
# The tools of detectron2 call get_cfg() of detectron2.config.
TOOL = """
import sys
from detectron2.config import get_cfg
from detectron2.modeling import build_model
cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
cfg.MODEL.DEVICE = "cpu"
print("built", type(build_model(cfg)).__name__)
"""


def test_a_tool_runs_through_the_wrapper(tmp_path):
    (tmp_path / "tool.py").write_text(TOOL)
    process = run_python("-m", "fcos_d2.detectron2_tool", "tool.py", CONFIG, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "built FCOS" in process.stdout


def test_without_the_wrapper_the_keys_of_fcos_d2_are_unknown():
    with pytest.raises(KeyError, match=r"MODEL\.FCOS"):
        get_cfg().merge_from_file(str(CONFIG))


def test_the_wrapper_without_a_tool_prints_its_usage(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["detectron2_tool.py", "no_such_tool.py"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("fcos_d2.detectron2_tool", run_name="__main__")
    assert "usage: python -m fcos_d2.detectron2_tool TOOL.py" in stop.value.code
