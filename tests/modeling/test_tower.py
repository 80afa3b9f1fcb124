"""The towers, and their norms, which are separate for each level."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from tiny import random_tensor
from torch import nn
from two_processes import run_in_two_processes

from fcos_d2 import FCOSHead
from fcos_d2.modeling.tower import NormPerLevel, build_tower

BATCH_NORMS = ["BN", "SyncBN", "naiveSyncBN"]


def test_a_tower_without_convolutions_returns_its_input():
    tower = build_tower(4, 8, 0, "BN", 3)
    assert not tower.state_dict()
    x = random_tensor(1, 4, 3, 3)
    assert tower(x, 2) is x


def test_the_first_convolution_adapts_the_channels():
    tower = build_tower(4, 8, 3, "BN", 2)
    channels = [(m.in_channels, m.out_channels) for m in tower if isinstance(m, nn.Conv2d)]
    assert channels == [(4, 8), (8, 8), (8, 8)]
    assert tower(random_tensor(1, 4, 3, 3), 1).shape == (1, 8, 3, 3)


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_only_the_statistics_of_the_level_change(norm):
    norms = NormPerLevel(norm, 4, 3)
    norms(3 + random_tensor(2, 4, 5, 5), 1)
    means = [norms[level].running_mean.mean().item() for level in range(3)]
    assert means == [0, pytest.approx(0.3, abs=0.05), 0]  # momentum 0.1


def test_batch_norms_normalize_each_level_separately():
    tower = build_tower(4, 8, 1, "BN", 2)
    tower[0].bias.data.zero_()
    fine, coarse = random_tensor(2, 4, 8, 8), 100 * random_tensor(2, 4, 8, 8)
    # The values of one level are a hundred times larger, but the outputs are equal, except for eps.
    torch.testing.assert_close(tower(fine, 0), tower(coarse, 1), rtol=1e-3, atol=1e-3)


def test_inference_uses_the_statistics_of_the_level():
    norms = NormPerLevel("BN", 1, 2).eval()
    norms[1].running_mean.fill_(5.0)
    x = torch.full((1, 1, 1, 1), 7.0)
    assert norms(x, 0).item() == pytest.approx(7, rel=1e-4)
    assert norms(x, 1).item() == pytest.approx(2, rel=1e-4)


def test_state_dicts_of_all_batch_norms_are_interchangeable():
    towers = [build_tower(4, 8, 2, norm, 2) for norm in BATCH_NORMS]
    for source in towers:
        for target in towers:
            target.load_state_dict(source.state_dict())
    kinds = [type(tower[1][0]) for tower in towers]
    assert kinds[:2] == [nn.BatchNorm2d, nn.SyncBatchNorm]
    x = random_tensor(2, 4, 5, 5)
    for tower in towers[1:]:  # In one process, all of them compute the same.
        torch.testing.assert_close(tower(x, 1), towers[0](x, 1))


def normalize_in_bfloat16(norm):
    """Normalize values with mean 20 and variance 1: in bfloat16, 401 - 400 would not be 1."""
    norms = NormPerLevel(norm, 4, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norms((20 + random_tensor(2, 4, 16, 16)).bfloat16(), 0)
    assert norms[0].running_mean.dtype == torch.float32
    return y


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_under_autocast_batch_norms_stay_accurate(norm):
    y = normalize_in_bfloat16(norm)
    assert y.dtype == torch.bfloat16
    assert y.float().var().item() == pytest.approx(1, abs=0.05)


# The next tests compare two processes with one.


def build(norm):
    torch.manual_seed(0)
    levels = [ShapeSpec(channels=32)] * 3
    options = {"num_share_convs": 1, "num_cls_convs": 1, "num_box_convs": 1, "norm": norm}
    return FCOSHead(input_shape=levels, num_classes=2, **options).double()


def maps_of(num_images):
    return [random_tensor(num_images, 32, 8 // s, 8 // s, seed=s).double() for s in (1, 2, 4)]


def outputs_and_gradients(head, maps):
    maps = [x.clone().requires_grad_() for x in maps]
    outputs = [x for kind in head(maps)[:3] for x in kind]
    sum(x.pow(2).sum() for x in outputs).backward()
    gradients = {name: p.grad for name, p in head.named_parameters()}
    gradients.update({f"map {i}": x.grad for i, x in enumerate(maps)})
    return [x.detach() for x in outputs], gradients


def run_head_on_half(rank, _):
    """Run a head on two of the four images."""
    head = build("naiveSyncBN")
    outputs, gradients = outputs_and_gradients(head, [x[2 * rank :][:2] for x in maps_of(4)])
    return outputs, gradients, head.state_dict(), normalize_in_bfloat16("naiveSyncBN")


@pytest.fixture(scope="module")
def results_of_two_processes(tmp_path_factory):
    return run_in_two_processes(run_head_on_half, tmp_path_factory.mktemp("two_processes"))


def test_two_processes_compute_the_outputs_and_gradients_of_one(results_of_two_processes):
    head = build("BN")
    outputs, gradients = outputs_and_gradients(head, maps_of(4))
    joined = [torch.cat(x) for x in zip(*(r[0] for r in results_of_two_processes), strict=True)]
    torch.testing.assert_close(joined, outputs)
    for name, expected in gradients.items():
        pair = [r[1][name] for r in results_of_two_processes]
        # Each process has the gradient of the outputs of its images; gradients of weights add up.
        both = torch.cat(pair) if name.startswith("map") else sum(pair)
        torch.testing.assert_close(both, expected, msg=name)


def test_two_processes_stay_accurate_under_autocast(results_of_two_processes):
    expected = normalize_in_bfloat16("BN")  # both processes have the same images
    for result in results_of_two_processes:
        assert result[3].dtype == torch.bfloat16
        torch.testing.assert_close(result[3], expected, rtol=0.02, atol=0.02)


def test_two_processes_keep_the_statistics_of_one(results_of_two_processes):
    head = build("BN")
    head(maps_of(4))
    first, second = (r[2] for r in results_of_two_processes)
    for name, expected in head.state_dict().items():
        if name.endswith("running_mean"):
            torch.testing.assert_close(first[name], expected)
        if name.endswith("running_var"):
            # PyTorch averages n / (n - 1) times the variance, detectron2 the variance.
            cells = (4 * 64, 4 * 16, 4 * 4)[int(name.split(".")[2])]
            ratio = (expected - 0.9) / (first[name] - 0.9)
            torch.testing.assert_close(ratio, torch.full_like(ratio, cells / (cells - 1)))
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(first[name], second[name])
