"""The package timm: pretrained weights, and errors about its networks."""

import sys

import pytest
from commands import run_python
from detectron2.modeling import build_backbone
from tiny import timm_cfg

from fcos_d2 import TimmBackbone
from fcos_d2.errors import InputError

timm = pytest.importorskip("timm")


def test_pretrained_weights_are_loaded_by_timm(monkeypatch):
    calls = []
    create = timm.create_model

    def record(*args, pretrained=False, **kwargs):
        calls.append(pretrained)
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", record)
    backbone = build_backbone(timm_cfg("resnet18", "MODEL.TIMM.PRETRAINED", True))
    assert isinstance(backbone.bottom_up, TimmBackbone)
    assert calls == [False, True]  # The first network is only inspected.


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="pip install timm") as caught:
        build_backbone(timm_cfg("resnet18"))
    assert caught.value.key == "MODEL.TIMM.NAME"


def test_importing_fcos_d2_does_not_import_timm():
    code = "import sys, fcos_d2, fcos_d2.engine\nassert 'timm' not in sys.modules"
    process = run_python("-c", code)
    assert process.returncode == 0, process.stderr[-2000:]
