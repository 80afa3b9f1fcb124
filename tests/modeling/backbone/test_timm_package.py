"""What is said when a network of timm cannot be had."""

import subprocess
import sys

import pytest
from detectron2.modeling import build_backbone
from tiny import tiny_cfg

from fcos_d2 import TimmBackbone


def timm_cfg(name, *opts):
    opts = ("MODEL.BACKBONE.NAME", "build_fcos_timm_fpn_backbone", "MODEL.TIMM.NAME", name, *opts)
    return tiny_cfg(*opts)


def test_pretrained_weights_come_from_timm_s_loader(monkeypatch):
    asked = []
    create = timm.create_model

    def record(*args, pretrained=False, **kwargs):
        asked.append(pretrained)
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", record)
    backbone = build_backbone(timm_cfg("resnet18", "MODEL.TIMM.PRETRAINED", True))
    assert isinstance(backbone.bottom_up, TimmBackbone)
    assert asked == [False, True]  # the first network is only looked at


def test_without_timm_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="pip install timm"):
        build_backbone(timm_cfg("resnet18"))


def test_importing_does_not_import_timm():
    code = "import sys, fcos_d2, fcos_d2.engine\nassert 'timm' not in sys.modules"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
