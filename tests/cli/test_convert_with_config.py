"""``fcos-d2 convert --config-file``: models of this project, and classifiers as backbones."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from commands import REPOSITORY
from convert_command import BIFPN, as_opts, check_refusal, convert, save_config, save_own
from detectron2.modeling import build_backbone
from weights_files import MMDET, assert_same_weights

from fcos_d2.checkpoint import read_checkpoint
from fcos_d2.config_loading import load_config


@pytest.mark.parametrize("opts", [{"MODEL.FPN.FUSE_TYPE": "avg"}, BIFPN], ids=["FPN", "BiFPN"])
def test_all_weights_of_a_model_of_this_project_are_converted_with_its_config(folder, capsys, opts):
    save_own(opts)
    convert("own.pth", "--config-file", "own.yaml", "-o", "y.pth")
    weights, before = (read_checkpoint(x)["model"] for x in ("y.pth", "own.pth"))
    assert_same_weights(weights, {k: x for k, x in before.items() if not k.startswith("losses.")})
    assert "all weights" in capsys.readouterr().out
    more = as_opts({"MODEL.FCOS.NUM_CLASSES": 7})
    words = ["own.pth", "--config-file", "head.cls_logits.weight"]
    check_refusal("own.pth", "--config-file", "own.yaml", "-o", "z.pth", *more, words=words)


def test_a_config_is_required_if_the_weights_do_not_show_the_parts_of_a_model(folder, capsys):
    save_own(BIFPN)
    check_refusal("own.pth", "-o", "y.pth", words=["--config-file"])
    save_own()
    convert("own.pth", "-o", "y.pth")
    assert "MODEL.FPN.FUSE_TYPE = sum" in capsys.readouterr().out  # assumed


def test_a_config_is_refused_for_a_detector_of_another_project(folder):
    save_own()
    words = ["detector of mmdetection", "--config-file"]
    check_refusal(MMDET, "--config-file", "own.yaml", "-o", "y.pth", words=words)


RESNET18 = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.FCOS.NUM_CLASSES": -1,
}


def test_a_classifier_becomes_the_backbone_of_a_detector(folder, capsys):
    source = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(source, "resnet18.pth")
    convert("resnet18.pth", "--config-file", save_config(RESNET18), "-o", "y.pth")
    weights = read_checkpoint("y.pth")["model"]
    weight = weights["backbone.bottom_up.res3.0.conv2.weight"]
    assert torch.equal(weight, source["layer2.0.conv2.weight"])
    assert all(name.startswith("backbone.bottom_up.") for name in weights)
    assert len(weights) == len(source) - 2  # weight and bias of the class layer are dropped


def test_a_config_that_does_not_fit_the_training_of_the_backbone_causes_warnings(folder, capsys):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), "resnet18.pth")
    convert("resnet18.pth", "--config-file", save_config(RESNET18), "-o", "y.pth")
    warnings = [x for x in capsys.readouterr().out.splitlines() if x.startswith("warning: ")]
    for text in (
        "MODEL.RESNETS.STRIDE_IN_1X1 = False, the config has True",
        "INPUT.FORMAT = 'RGB', the config has 'BGR'",
        "MODEL.PIXEL_STD = [58.395, 57.12, 57.375]",
    ):
        assert len([x for x in warnings if text in x and "torchvision" in x]) == 1
    recipe = REPOSITORY / "configs" / "torchvision" / "fcos_resnet50_fpn.yaml"
    documented = f"--config-file {recipe.relative_to(REPOSITORY)} -o backbone.pth"
    assert documented in (REPOSITORY / "docs" / "checkpoints.md").read_text()
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), "resnet50.pth")
    convert("resnet50.pth", "--config-file", recipe, "-o", "backbone.pth")
    assert "warning" not in capsys.readouterr().out


def rename_to_caffe2(name):
    """Return the name of a weight of a ResNet in detectron2's model zoo."""
    blob = name.replace(".shortcut.", "_branch1.")
    for k, branch in enumerate("abc", start=1):
        blob = re.sub(rf"(res.*)\.conv{k}\.", rf"\1_branch2{branch}.", blob)
    blob = blob.replace("stem.conv1.norm.", "res_conv1_bn_").replace("stem.", "")
    blob = blob.replace(".", "_").replace("_norm_", "_bn_")
    blob = blob.replace("bn_weight", "bn_s").replace("bn_bias", "bn_b")
    return blob.replace("_weight", "_w")


def test_a_backbone_of_detectron2s_model_zoo_is_converted(folder):
    # Its file has the names of Caffe2, and no statistics of norms.
    config = save_config({"MODEL.RESNETS.NORM": "FrozenBN"})
    rng = np.random.default_rng(0)
    state = build_backbone(load_config(config, [])).bottom_up.state_dict()
    blobs = {
        rename_to_caffe2(name): rng.normal(size=x.shape).astype(np.float32)
        for name, x in state.items()
        if "running" not in name
    }
    Path("R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs}))
    convert("R-50.pkl", "--config-file", config, "-o", "y.pth")
    weights = read_checkpoint("y.pth")["model"]
    assert len(weights) == len(state)
    expected = torch.from_numpy(blobs["res3_0_branch2b_w"])
    assert torch.equal(weights["backbone.bottom_up.res3.0.conv2.weight"], expected)
    del blobs["res3_0_branch2b_w"]
    Path("R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs}))
    words = ["R-50.pkl", "backbone.bottom_up.res3.0.conv2.weight"]
    check_refusal("R-50.pkl", "--config-file", config, "-o", "z.pth", words=words)
