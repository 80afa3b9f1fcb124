"""
SyncBN on devices for which PyTorch does not have it.

tests/engine/test_distributed.py compares two processes with one.
"""

import logging

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from tiny import random_input, seeded_model
from torch import nn

from fcos_d2.modeling.layers.norms import sync_norms_for_device

SYNC, PLAIN = ({"MODEL.RESNETS.NORM": norm, "MODEL.FPN.NORM": norm} for norm in ("SyncBN", "BN"))


def logged_norms(caplog):
    """Return the only message of the log about norms."""
    (record,) = (x for x in caplog.records if "SyncBN" in x.getMessage())
    return record.getMessage()


@pytest.mark.parametrize("deformable", [False, True])
def test_on_a_cpu_the_backbone_has_no_synchronized_norm_of_pytorch(deformable, caplog):
    opts = {
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, deformable],
        "MODEL.BACKBONE.FREEZE_AT": 2,
    }
    with caplog.at_level(logging.INFO, logger="fcos_d2.modeling.layers.norms"):
        model = seeded_model(SYNC, opts)
    kinds = [type(x) for x in model.backbone.modules() if "BatchNorm" in type(x).__name__]
    naive = sum(issubclass(kind, NaiveSyncBatchNorm) for kind in kinds)
    # A ResNet-50 has 16 blocks of three norms and 4 shortcuts, but the 3 blocks and the shortcut of
    # res2 are frozen. The FPN has two norms for each of P3 to P5.
    assert naive == 13 * 3 + 3 + 6
    assert nn.SyncBatchNorm not in kinds
    assert f"{naive} SyncBN of FPN" in logged_norms(caplog)
    expected = seeded_model(PLAIN, opts)
    assert list(model.state_dict()) == list(expected.state_dict())
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        n for n, p in expected.named_parameters() if p.requires_grad
    ]


def test_synchronized_norms_in_one_process_compute_the_same_as_batch_norm():
    inputs = [random_input(3), random_input(2, seed=1)]
    sync, plain = seeded_model(SYNC), seeded_model(PLAIN)
    losses, expected = sync(inputs), plain(inputs)
    for name, value in expected.items():
        assert torch.equal(losses[name], value), name
    for name, value in plain.state_dict().items():
        assert torch.equal(sync.state_dict()[name], value), name


def test_parameters_statistics_and_mode_are_kept():
    net = nn.Sequential(nn.Sequential(nn.SyncBatchNorm(3, eps=0.1, momentum=0.2)))
    old = net[0][0]
    old.running_mean.fill_(5.0)
    old.eval()  # like a frozen norm in a network in training mode
    sync_norms_for_device(net, "cpu")
    new = net[0][0]
    assert isinstance(new, NaiveSyncBatchNorm)
    assert not new.training
    assert net[0].training
    assert new.weight is old.weight
    assert new.running_mean is old.running_mean
    assert (new.eps, new.momentum, new.num_features) == (0.1, 0.2, 3)


def test_a_gpu_keeps_the_norms_of_pytorch():
    net = nn.Sequential(nn.SyncBatchNorm(3))
    sync_norms_for_device(net, "cuda:0")
    assert type(net[0]) is nn.SyncBatchNorm


def test_the_norms_of_the_head_are_those_of_the_device_too(caplog):
    with caplog.at_level(logging.INFO, logger="fcos_d2.modeling.layers.norms"):
        model = seeded_model("MODEL.FCOS.NORM", "SyncBN")
    norms = [x for x in model.head.modules() if "BatchNorm" in type(x).__name__]
    assert len(norms) == 2 * 5  # one convolution per tower, five levels
    assert all(isinstance(x, NaiveSyncBatchNorm) for x in norms)
    assert "10 SyncBN of FCOSHead" in logged_norms(caplog)
