"""Norms by name; SyncBN where PyTorch has none. Two processes: tests/engine/test_distributed.py."""

import logging

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling import build_model
from tiny import random_input, tiny_cfg
from torch import nn

from fcos_d2.modeling.layers.norms import sync_norms_for_device

SYNC = ("MODEL.RESNETS.NORM", "SyncBN", "MODEL.FPN.NORM", "SyncBN")


def build(*opts):
    torch.manual_seed(0)
    return build_model(tiny_cfg(*opts))


@pytest.mark.parametrize("deformable", [False, True])
def test_on_a_cpu_no_norm_of_the_backbone_is_pytorchs(deformable, caplog):
    opts = ("MODEL.RESNETS.DEPTH", 50, "MODEL.BACKBONE.FREEZE_AT", 2)
    opts = (*opts, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, deformable])
    with caplog.at_level(logging.INFO, logger="fcos_d2.modeling.layers.norms"):
        model = build(*SYNC, *opts)
    kinds = [type(x) for x in model.backbone.modules() if "BatchNorm" in type(x).__name__]
    naive = sum(issubclass(kind, NaiveSyncBatchNorm) for kind in kinds)
    # 16 blocks of three and 4 shortcuts, less the 3 and 1 of res2 (frozen); two each for P3 to P5.
    assert naive == 13 * 3 + 3 + 6
    assert nn.SyncBatchNorm not in kinds
    assert f"{naive} SyncBN of FPN are detectron2's NaiveSyncBatchNorm" in caplog.text
    expected = build("MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN", *opts)
    assert list(model.state_dict()) == list(expected.state_dict())
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        n for n, p in expected.named_parameters() if p.requires_grad
    ]


def test_of_one_process_it_is_batch_norm():
    norms = ("MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN")
    inputs = [random_input(3), random_input(2, seed=1)]
    sync, plain = build(*SYNC), build(*norms)
    losses, expected = sync(inputs), plain(inputs)
    for name, value in expected.items():
        assert torch.equal(losses[name], value), name
    for name, value in plain.state_dict().items():
        assert torch.equal(sync.state_dict()[name], value), name


def test_parameters_and_statistics_stay():
    net = nn.Sequential(nn.Sequential(nn.SyncBatchNorm(3, eps=0.1, momentum=0.2)))
    old = net[0][0]
    old.running_mean.fill_(5.0)
    old.eval()  # frozen, in a network that trains
    sync_norms_for_device(net, "cpu")
    new = net[0][0]
    assert isinstance(new, NaiveSyncBatchNorm)
    assert not new.training
    assert net[0].training
    assert new.weight is old.weight
    assert new.running_mean is old.running_mean
    assert (new.eps, new.momentum, new.num_features) == (0.1, 0.2, 3)


def test_a_gpu_keeps_pytorchs():
    net = nn.Sequential(nn.SyncBatchNorm(3))
    sync_norms_for_device(net, "cuda:0")
    assert type(net[0]) is nn.SyncBatchNorm


def test_the_head_has_those_of_the_device_too(caplog):
    with caplog.at_level(logging.INFO, logger="fcos_d2.modeling.layers.norms"):
        model = build("MODEL.FCOS.NORM", "SyncBN")
    norms = [x for x in model.head.modules() if "BatchNorm" in type(x).__name__]
    assert len(norms) == 2 * 5  # a convolution a tower, five levels
    assert all(isinstance(x, NaiveSyncBatchNorm) for x in norms)
    assert "10 SyncBN of FCOSHead are detectron2's NaiveSyncBatchNorm on cpu" in caplog.text
