"""Towers and the norms that every level has of its own."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from process_group import one_of_two
from torch import nn

from fcos_d2 import FCOSHead
from fcos_d2.modeling.tower import NormPerLevel, build_tower

BATCH_NORMS = ["BN", "SyncBN", "naiveSyncBN"]


def x_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_tower_without_convolutions_gives_back_what_it_gets():
    tower = build_tower(4, 8, 0, "BN", 3)
    assert not tower.state_dict()
    x = x_of(1, 4, 3, 3)
    assert tower(x, 2) is x


def test_the_first_convolution_adapts_the_channels():
    tower = build_tower(4, 8, 3, "BN", 2)
    assert [(m.in_channels, m.out_channels) for m in tower if isinstance(m, nn.Conv2d)] == [
        (4, 8),
        (8, 8),
        (8, 8),
    ]
    assert tower(x_of(1, 4, 3, 3), 1).shape == (1, 8, 3, 3)


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_statistics_move_only_for_the_level_that_was_seen(norm):
    norms = NormPerLevel(norm, 4, 3)
    norms(3 + x_of(2, 4, 5, 5), 1)
    means = [norms[level].running_mean.mean().item() for level in range(3)]
    assert means == [0, pytest.approx(0.3, abs=0.05), 0]  # momentum 0.1


def test_batch_norms_normalise_each_level_by_itself():
    tower = build_tower(4, 8, 1, "BN", 2)
    tower[0].bias.data.zero_()
    fine, coarse = x_of(2, 4, 8, 8), 100 * x_of(2, 4, 8, 8)
    # Up to eps, a level of a hundred times the values gives the same.
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
    x = x_of(2, 4, 5, 5)
    for tower in towers[1:]:  # of one process all are the same
        torch.testing.assert_close(tower(x, 1), towers[0](x, 1))


def normalise_in_bfloat16(norm):
    """Values whose variance is lost when it is 401 - 400 of bfloat16."""
    norms = NormPerLevel(norm, 4, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norms((20 + x_of(2, 4, 16, 16)).bfloat16(), 0)
    assert norms[0].running_mean.dtype == torch.float32
    return y


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_under_autocast_batch_norms_stay_accurate(norm):
    y = normalise_in_bfloat16(norm)
    assert y.dtype == torch.bfloat16
    assert y.float().var().item() == pytest.approx(1, abs=0.05)


# Two processes.


def build(norm):
    torch.manual_seed(0)
    levels = [ShapeSpec(channels=32)] * 3
    options = {"num_share_convs": 1, "num_cls_convs": 1, "num_box_convs": 1, "norm": norm}
    return FCOSHead(input_shape=levels, num_classes=2, **options).double()


def maps_of(num_images):
    return [x_of(num_images, 32, 8 // s, 8 // s, seed=s).double() for s in (1, 2, 4)]


def outputs_and_gradients(head, maps):
    maps = [x.clone().requires_grad_() for x in maps]
    outputs = [x for kind in head(maps)[:3] for x in kind]
    sum(x.pow(2).sum() for x in outputs).backward()
    gradients = {name: p.grad for name, p in head.named_parameters()}
    gradients.update({f"map {i}": x.grad for i, x in enumerate(maps)})
    return [x.detach() for x in outputs], gradients


def work(rank, folder):
    """One of two processes, with 2 of the 4 images."""
    with one_of_two(rank, folder):
        head = build("naiveSyncBN")
        outputs, gradients = outputs_and_gradients(head, [x[2 * rank :][:2] for x in maps_of(4)])
        half = normalise_in_bfloat16("naiveSyncBN")
        torch.save((outputs, gradients, head.state_dict(), half), folder / f"{rank}.pth")


@pytest.fixture(scope="module")
def results_of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    torch.multiprocessing.spawn(work, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pth") for rank in range(2)]


def test_two_processes_normalise_as_one(results_of_two_processes):
    head = build("BN")
    outputs, gradients = outputs_and_gradients(head, maps_of(4))
    theirs = [torch.cat(x) for x in zip(*(r[0] for r in results_of_two_processes), strict=True)]
    torch.testing.assert_close(theirs, outputs)
    for name, expected in gradients.items():
        pair = [r[1][name] for r in results_of_two_processes]
        # Each has the gradient of its own images' outputs: of weights they add up.
        both = torch.cat(pair) if name.startswith("map") else sum(pair)
        torch.testing.assert_close(both, expected, msg=name)


def test_two_processes_stay_accurate_under_autocast(results_of_two_processes):
    expected = normalise_in_bfloat16("BN")  # both have the same images here
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
            # PyTorch's average is of n / (n - 1) times the variance, detectron2's of the variance.
            cells = (4 * 64, 4 * 16, 4 * 4)[int(name.split(".")[2])]
            ratio = (expected - 0.9) / (first[name] - 0.9)
            torch.testing.assert_close(ratio, torch.full_like(ratio, cells / (cells - 1)))
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(first[name], second[name])
