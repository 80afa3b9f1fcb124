"""Models with FrozenBN that has random statistics, for the tests of folding."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from tiny import seeded_model

RESNET = {"MODEL.RESNETS.NORM": "FrozenBN", "MODEL.FPN.NORM": "FrozenBN"}
TIMM = {"MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_backbone", "MODEL.TIMM.NORM": "FrozenBN"}
NETWORKS = {
    "resnet": RESNET,
    "frozen stages": {"MODEL.BACKBONE.FREEZE_AT": 3},  # The other stages have BN.
    "deformable": {**RESNET, "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True]},
    "basic blocks": {**RESNET, "MODEL.RESNETS.DEPTH": 18},
    "timm resnet": {**TIMM, "MODEL.TIMM.NAME": "resnet18"},
    "timm with activations": {**TIMM, "MODEL.TIMM.NAME": "tf_efficientnet_lite0"},
    "timm, pre-activation": {**TIMM, "MODEL.TIMM.NAME": "resnetv2_18"},
}


def frozen_norms(model):
    """Return the FrozenBN layers of a model."""
    return [x for x in model.modules() if isinstance(x, FrozenBatchNorm2d)]


def model_with_statistics(opts):
    """Build a model whose FrozenBN layers have random weights and statistics."""
    if "MODEL.TIMM.NAME" in opts:
        pytest.importorskip("timm")
    model = seeded_model(opts)
    for norm in frozen_norms(model):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.1)
    return model


def pair_of_models(name):
    """Build a model of ``NETWORKS`` with folding and one without, with the same weights."""
    folded, plain = (
        model_with_statistics({**NETWORKS[name], "MODEL.FCOS.FOLD_FROZEN_BN": fold})
        for fold in (True, False)
    )
    assert folded.state_dict().keys() == plain.state_dict().keys()
    return folded, plain


def pair_of(conv):
    """Return the object that folds a convolution and its norm, and keeps the folded weights."""
    return conv.forward.__self__


def stem_of(model):
    """Return the first convolution of a detectron2 ResNet."""
    return model.backbone.bottom_up.stem.conv1


@torch.no_grad()
def scale_all(tensors):
    """Multiply tensors in place by 1.1."""
    for x in tensors:
        x.mul_(1.1)


def scaled_state(model):
    """Return the state dict of a model with all floating-point values times 1.1."""
    return {
        key: value * 1.1 if value.dtype.is_floating_point else value
        for key, value in model.state_dict().items()
    }


def assert_close_to_largest(a, b, tolerance=1e-5):
    """Check that no difference is larger than ``tolerance`` times the largest value of ``b``."""
    assert (a - b).abs().max() <= tolerance * b.abs().max()
