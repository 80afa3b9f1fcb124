"""The adapters of the benchmarks make all detectors do the same work; fcos_d2 needs the least."""

import math

import pytest
import speed
import torch
from measuring import Work, count_host_waits, count_operations, peak_memory
from parity_models import predict
from peers import Ours, build_peers
from workloads import FULL, QUICK, STRIDES, draw_batch, draw_maps, make_cfg

from fcos_d2 import FCOSAssigner, Levels
from fcos_d2.modeling.levels import flatten_levels

NUM_CLASSES = 5
# Multiples of 128, so that torchvision's locations are at multiples of the strides.
IMAGE_SIZE = (256, 384)


@pytest.fixture(scope="module")
def peers():
    """Build the adapters of all detectors; fcos_d2 has torchvision's locations."""
    return build_peers(make_cfg(QUICK, "cpu", "MODEL.FCOS.LOCATION_OFFSET", 0.0))


@pytest.fixture(scope="module")
def batch():
    return draw_batch(2, IMAGE_SIZE, 20, NUM_CLASSES, "cpu")


def compute_gradients(peer, batch):
    """Compute the gradients of the losses with respect to each raw map."""
    work = speed.make_losses(peer, batch, draw_maps(batch))
    leaves = work.prepare()
    work.run(leaves)
    return [[x.grad for x in levels] for levels in leaves]


def test_all_assign_the_same_classes_at_the_same_locations(peers, batch):
    ours = peers[0].assign(batch).labels(NUM_CLASSES)
    detectron2, torchvision = (torch.stack(peer.assign(batch)[0]) for peer in peers[1:])
    assert (ours < NUM_CLASSES).sum() > 100
    assert torch.equal(ours, torchvision.where(torchvision >= 0, NUM_CLASSES))
    # The locations of detectron2 are the centers of the cells.
    assert not torch.equal(ours, detectron2)
    ours_at_centers = Ours.build(make_cfg(QUICK, "cpu"))
    assert torch.equal(ours_at_centers.assign(batch).labels(NUM_CLASSES), detectron2)


@torch.no_grad()
def test_all_heads_make_the_same_predictions(peers):
    images = [x["image"] for x in draw_batch(1, IMAGE_SIZE, 1, NUM_CLASSES, "cpu").draw_inputs()]
    for peer in peers:
        peer.model.eval()
    ours, detectron2, torchvision = (predict(peer, images) for peer in peers)
    for our_maps, their_maps in zip(ours[:3], detectron2, strict=True):
        torch.testing.assert_close(our_maps, their_maps, rtol=0, atol=1e-5)
    joined = peers[2].join_maps(ours[:3])
    assert joined.keys() == torchvision.keys()
    for name, values in joined.items():
        torch.testing.assert_close(values, torchvision[name], rtol=0, atol=1e-5)


def test_class_and_quality_losses_have_the_same_gradients(peers, batch):
    ours, theirs = compute_gradients(peers[0], batch), compute_gradients(peers[2], batch)
    for branch in (0, 2):  # not the box loss, which only fcos_d2 weights by center-ness
        for our_grad, their_grad in zip(ours[branch], theirs[branch], strict=True):
            torch.testing.assert_close(our_grad, their_grad, rtol=1e-3, atol=1e-7)


def test_all_losses_reach_all_maps(peers, batch):
    for peer in peers:
        for levels in compute_gradients(peer, batch):
            total = sum(x.abs().sum() for x in levels if x is not None)
            assert 0 < total < math.inf, peer.name


def test_class_scores_and_root_scores_have_the_same_number_of_candidates(batch):
    maps = draw_maps(batch, num_candidates=500)
    assert sum((x.sigmoid() > 0.05).sum() for x in maps[0]) == 500
    root = speed.find_root_thresh(maps, 500)
    roots = [(x.sigmoid() * y.sigmoid()).sqrt() for x, y in zip(maps[0], maps[2], strict=True)]
    assert sum((flatten_levels([x]) > root).sum() for x in roots) == 500


def test_a_score_threshold_is_applied(peers, batch):
    for peer in peers:
        work = speed.make_selection(peer, batch, draw_maps(batch, num_candidates=500))
        peer.set_score_thresh(0.05)
        assert sum(len(x) for x in work.run(work.prepare())) > 0
        peer.set_score_thresh(0.9999)
        assert [len(x) for x in work.run(work.prepare())] == [0, 0]


@pytest.mark.parametrize(
    ("radius", "num_images", "limit"), [(1.5, 1, 10), (0.0, 16, 64), (16.0, 16, 64)]
)
def test_assignment_needs_little_memory(radius, num_images, limit):
    """Check the megabytes; dense rules need 300 or more for each image."""
    batch = draw_batch(num_images, FULL.image, 500, 80, "cpu")
    assign = FCOSAssigner(levels=Levels(STRIDES), center_sampling_radius=radius)
    work = Work(lambda _: assign(batch.instances, batch.feature_sizes))
    assert 0.1 < peak_memory(work, "cpu") < limit


def test_assignment_needs_less_memory_than_in_other_projects(peers, batch):
    peaks = [peak_memory(speed.make_assignment(peer, batch), "cpu") for peer in peers]
    assert peaks[0] < min(peaks[1:])


def test_losses_have_no_host_waits_and_as_many_operations_for_any_batch_size(peers):
    counts = []
    for num_images in (2, 4):
        batch = draw_batch(num_images, IMAGE_SIZE, 5, NUM_CLASSES, "cpu")
        work = speed.make_losses(peers[0], batch, draw_maps(batch))
        counts.append(count_operations(work))
        assert count_host_waits(work) == 0
    assert counts[0] == counts[1]
