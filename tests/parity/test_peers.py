"""
Models with converted weights compute the recorded outputs of the projects of the weights.

Some rules of other projects differ from ours. The tests then apply the other rule to our results of
the step before, which shows that nothing else differs.
"""

import re
from pathlib import Path

import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes
from parity_models import assert_close_detections, count_common
from peer_fixtures import LEVELS, PEERS, STRIDES, load_peer

from fcos_d2.modeling.assignment.targets import LocationTargets
from fcos_d2.modeling.levels import compute_locations, flatten_levels
from fcos_d2.modeling.losses.quality import centerness_targets

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
ORIGINAL = [name for name in PEERS if name.startswith("original")]
# project: {its name of a loss: our name}
LOSSES = {
    "adelaidet": {name: name for name in ("loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr")},
    "mmdet": {
        "loss_cls": "loss_fcos_cls",
        "loss_bbox": "loss_fcos_loc",
        "loss_centerness": "loss_fcos_ctr",
    },
    "original": {
        "loss_cls": "loss_fcos_cls",
        "loss_reg": "loss_fcos_loc",
        "loss_centerness": "loss_fcos_ctr",
    },
}


@pytest.fixture(params=PEERS)
def peer(request):
    return load_peer(request.param)


def assert_maps_close(ours, theirs):
    """Compare maps to 2e-5, or to 2e-5 of the largest value: the original rounds differently."""
    for our_map, their_map in zip(ours, theirs, strict=True):
        assert their_map.std() > 0.01  # not constant
        atol = 2e-5 * max(their_map.abs().max().item(), 1)
        torch.testing.assert_close(our_map, their_map, rtol=0, atol=atol)


def test_features_are_equal(peer):
    assert_maps_close([peer.features()[x] for x in LEVELS], [peer.io[x] for x in LEVELS])


def test_head_outputs_are_equal(peer):
    cls_logits, _, centerness_logits = peer.predictions()[:3]
    assert_maps_close(cls_logits, peer.per_level("head.logits"))
    assert_maps_close(centerness_logits, peer.per_level("head.ctr"))
    assert_maps_close(peer.our_ltrb(), peer.their_ltrb())


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_eps_of_frozen_batch_norms_is_folded_into_the_variances(name, monkeypatch):
    peer = load_peer(name)
    model = peer.model
    norms = [m for m in model.backbone.modules() if type(m).__name__ == "FrozenBatchNorm2d"]
    assert len(norms) == 53
    for norm in norms:
        monkeypatch.setattr(norm, "eps", 2e-5)  # the value without the change of the variances
    with torch.no_grad():
        maps = model.backbone(model.preprocess_image(peer.inputs()).tensor)
    assert (maps["p3"] - peer.io["p3"]).abs().max() > 0.1


def test_locations_are_equal(peer):
    sizes = [tuple(peer.io[level].shape[2:]) for level in LEVELS]
    ours = compute_locations(sizes, peer.model.levels.strides, peer.model.levels.location_offset)
    assert all(map(torch.equal, ours, peer.per_level("locations")))


def our_targets(peer):
    sizes = [tuple(peer.io[level].shape[2:]) for level in LEVELS]
    return peer.model.assigner(peer.gt_instances(), sizes)


def dense_targets(peer, targets):
    """Return the boxes (-1 for none) and classes (K for none) of all locations, each as (N, R)."""
    counts = [len(x) for x in peer.gt_instances()]
    matched = targets.matched_idxs()
    classes = torch.cat(peer.per_image("gt.classes"))
    labels = torch.where(matched >= 0, classes[matched], peer.model.num_classes)
    matched[1] = torch.where(matched[1] >= 0, matched[1] - counts[0], -1)
    return matched, labels


def test_labels_of_locations_are_equal(peer):
    matched, labels = dense_targets(peer, our_targets(peer))
    their_matched = torch.cat(peer.per_level("targets.matched"), dim=1)
    their_labels = torch.cat(peer.per_level("targets.labels"), dim=1)
    assert (their_matched >= 0).sum() > 20
    differs = matched != their_matched
    if peer.project != "original":
        assert not differs.any()
        assert torch.equal(labels, their_labels)
        return
    # In the original, areas are (w + 1) (h + 1). So of boxes of 100 x 4 and 20 x 21, it selects the
    # second one.
    assert differs.sum(1).tolist() == [3, 3]
    assert torch.equal(labels[~differs], their_labels[~differs])
    for image, boxes in enumerate(peer.per_image("gt.boxes")):
        at = differs[image]
        pairs = torch.stack([matched[image][at], their_matched[image][at]], dim=1)
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        for ours, theirs in pairs.tolist():
            assert width[ours] * height[ours] < width[theirs] * height[theirs]
            their_area = (width + 1) * (height + 1)
            assert their_area[ours] > their_area[theirs]


def their_targets(peer):
    """Return the recorded targets in our form, to compare losses even if targets differ."""
    parts, level_start = [], 0
    counts = [len(x) for x in peer.gt_instances()]
    num_locations = sum(x.shape[1] for x in peer.per_level("targets.matched"))
    for level_idx, (level, stride) in enumerate(zip(LEVELS, STRIDES, strict=True)):
        matched, labels = peer.io[f"targets.matched.{level}"], peer.io[f"targets.labels.{level}"]
        images, cells = (matched >= 0).nonzero().unbind(1)
        ltrb = peer.io[f"targets.reg.{level}"][images, cells]
        if peer.model.levels.box_activation == "relu":  # The recorded distances are in strides.
            ltrb = ltrb * stride
        boxes = matched[images, cells] + torch.where(images == 1, counts[0], 0)
        gt_classes = torch.cat([x.gt_classes for x in peer.gt_instances()])
        assert torch.equal(gt_classes[boxes], labels[images, cells])
        parts.append((images, level_start + cells, torch.full_like(images, level_idx), boxes, ltrb))
        level_start += matched.shape[1]
    images, locations, level_idxs, boxes, ltrb = map(torch.cat, zip(*parts, strict=True))
    is_positive = torch.ones_like(images, dtype=torch.bool)
    return LocationTargets(
        images,
        locations,
        level_idxs,
        boxes,
        ltrb,
        is_positive.float(),
        is_positive,
        gt_classes,
        len(counts),
        num_locations,
    )


def smoothed_box_loss(peer, targets):
    """Compute the box loss of AdelaiDet and the original, with (intersection + 1) / (union + 1)."""
    strides = torch.tensor(STRIDES)[targets.level_idxs][:, None]
    pred = flatten_levels(peer.our_ltrb()).flatten(0, 1)[targets.flat_location_idxs]
    target = targets.ltrb
    if peer.model.levels.box_activation == "relu":
        pred, target = pred / strides, target / strides

    def area(ltrb):
        return (ltrb[:, :2] + ltrb[:, 2:]).prod(1)

    shared = area(torch.minimum(pred, target))
    union = area(pred) + area(target) - shared
    iou = (shared + 1) / (union + 1)
    losses = -iou.log()
    if peer.model.losses.loc_loss_type == "giou":
        hull = area(torch.maximum(pred, target))
        losses = 1 - iou + (hull - union) / hull
    weights = centerness_targets(target)
    return (losses * weights).sum() / weights.sum()


def test_losses_are_equal(peer):
    targets = their_targets(peer)
    assert targets.is_positive.sum() > 20
    losses = peer.model.losses(peer.predictions(), targets)
    for theirs, ours in LOSSES[peer.project].items():
        loss = losses[ours]
        if ours == "loss_fcos_loc" and peer.project != "mmdet":
            assert (loss - peer.io[f"loss.{theirs}"]).abs() > 1e-3
            loss = smoothed_box_loss(peer, targets)
        torch.testing.assert_close(loss, peer.io[f"loss.{theirs}"], rtol=1e-4, atol=0)


ROWS = {
    "adelaidet_gn_ctrness": "AdelaiDet, GN, improved",
    "mmdet_fcos_r50_gn": "mmdet, plain",
    "mmdet_fcos_tricks": "mmdet, improved",
    "original_fcos_dcn": "original, improved, DCNv2",
    "original_fcos_imprv": "original, improved",
    "original_fcos_v1": "original, 2019",
}


def documented(peer, table):
    """Return the cells in the row of a peer of the first or second table in the documentation."""
    text = DOCUMENTATION.read_text()
    lines = [x for x in text.splitlines() if x.startswith(f"| {ROWS[peer.name]} |")]
    return [cell.strip() for cell in lines[table].strip("|").split("|")[1:]]


def test_documented_differences_of_maps_and_labels(peer):
    features, distances, labels, _ = documented(peer, 0)
    stated, largest = re.fullmatch(r"(\S+) \((\d+)\)", features).groups()
    theirs = [peer.io[x] for x in LEVELS]
    assert round(max(x.abs().max().item() for x in theirs)) == int(largest)
    ours = [peer.features()[x] for x in LEVELS]
    for pair, most in (((ours, theirs), stated), ((peer.our_ltrb(), peer.their_ltrb()), distances)):
        differences = [(x - y).abs().max().item() for x, y in zip(*pair, strict=True)]
        # Rounding depends on the machine and on the number of threads.
        rounding = 2e-6 * max(x.abs().max().item() for x in pair[1])
        assert max(differences) <= float(most) + rounding
    matched, _ = dense_targets(peer, our_targets(peer))
    differs = matched != torch.cat(peer.per_level("targets.matched"), dim=1)
    assert f"{differs.sum()} of {differs.numel()}" == labels


@torch.no_grad()
def test_documented_differences_of_losses(peer):
    measured = []
    for targets in (their_targets(peer), our_targets(peer)):
        losses = peer.model.losses(peer.predictions(), targets)
        for theirs, ours in LOSSES[peer.project].items():
            measured.append(abs(losses[ours] / peer.io[f"loss.{theirs}"] - 1).item())
    assert [f"{100 * x:.1f} %" for x in measured] == documented(peer, 1)
    assert max([x for x in measured if x < 5e-4], default=0) < 1e-5


@pytest.mark.parametrize("name", [x for x in PEERS if x.startswith("mmdet")])
def test_a_training_step_is_equal_where_all_rules_agree(name):
    peer = load_peer(name)
    peer.model.train()
    inputs = [
        {**image, "instances": instances}
        for image, instances in zip(peer.inputs(), peer.gt_instances(), strict=True)
    ]
    losses = peer.model(inputs)
    peer.model.zero_grad()
    sum(losses.values()).backward()
    for theirs, ours in LOSSES["mmdet"].items():
        torch.testing.assert_close(losses[ours], peer.io[f"loss.{theirs}"], rtol=1e-4, atol=0)
    for ours, theirs in (
        ("cls_logits.weight", "conv_cls.weight"),
        ("bbox_pred.weight", "conv_reg.weight"),
        ("centerness.bias", "conv_centerness.bias"),
        ("cls_tower.0.weight", "cls_convs.0.conv.weight"),
        ("bbox_tower.10.weight", "reg_convs.3.gn.weight"),
        ("scales.2.scale", "scales.2.scale"),
    ):
        grad = peer.model.head.get_parameter(ours).grad
        torch.testing.assert_close(
            grad.norm(), peer.io[f"grad_norm.{theirs}"], rtol=1e-3, atol=1e-5
        )
    peer.model.eval()


def their_candidates(peer, image):
    """Select candidates from the recorded maps by the common rule: class score > .05."""
    rows, start = [], 0
    offset_ltrb = peer.their_ltrb()
    for level, ltrb in zip(LEVELS, offset_ltrb, strict=True):
        scores = peer.io[f"head.logits.{level}"][image].sigmoid().flatten(1)
        quality = peer.io[f"head.ctr.{level}"][image].sigmoid().flatten()
        classes, cells = (scores > 0.05).nonzero().unbind(1)
        xy = peer.io[f"locations.{level}"][cells]
        sides = ltrb[image].flatten(1).T[cells]
        boxes = torch.cat([xy - sides[:, :2], xy + sides[:, 2:]], dim=1)
        product = scores[classes, cells] * quality[cells]
        rows += zip((start + cells).tolist(), classes.tolist(), boxes, product, strict=True)
        start += len(quality)
    return {(cell, k): (box, score) for cell, k, box, score in rows}


def our_candidates(peer):
    """Return the candidates of our model before NMS."""
    return peer.model.postprocessor.candidates(peer.predictions())


def test_candidates_before_nms_are_equal(peer):
    candidates = our_candidates(peer)
    for image, per_level in enumerate(peer.meta["margins"]["candidates"]):
        is_here = candidates.image_idxs == image
        assert torch.bincount(candidates.level_idxs[is_here], minlength=5).tolist() == per_level
        theirs = their_candidates(peer, image)
        keys = list(
            zip(
                candidates.location_idxs[is_here].tolist(),
                candidates.classes[is_here].tolist(),
                strict=True,
            )
        )
        assert len(set(keys)) == len(keys)
        assert set(keys) == theirs.keys()
        their_boxes, products = zip(*(theirs[key] for key in keys), strict=True)
        torch.testing.assert_close(
            candidates.boxes[is_here], torch.stack(their_boxes), rtol=1e-5, atol=2e-3
        )
        torch.testing.assert_close(
            candidates.scores[is_here] ** 2, torch.stack(products), rtol=0, atol=1e-5
        )


@torch.no_grad()
def detect(peer):
    """Detect with our model and its own post-processing."""
    model = peer.model
    images = model.preprocess_image(peer.inputs())
    return model.forward_inference(images, list(peer.features().values()), peer.predictions())


@pytest.mark.parametrize("name", [x for x in PEERS if x.startswith("mmdet")])
def test_detections_are_those_of_mmdet_except_for_the_root_of_the_score(name):
    peer = load_peer(name)
    for image, ours in enumerate(detect(peer)):
        assert len(ours) == 100
        scores = peer.io[f"det.scores.{image}"].sqrt()
        assert_close_detections(
            ours, peer.io[f"det.boxes.{image}"], scores, peer.io[f"det.classes.{image}"]
        )


def detect_with_other_clipping(peer, clip, image):
    """Detect like our post-processing, but with another function that clips boxes before NMS."""
    candidates = our_candidates(peer)
    is_here = candidates.image_idxs == image
    boxes, scores, classes = (
        x[is_here] for x in (candidates.boxes, candidates.scores, candidates.classes)
    )
    boxes = clip(boxes, peer.image_sizes[image])
    keep = batched_nms(boxes, scores, classes, peer.model.postprocessor.nms_thresh_test)[:100]
    return boxes[keep], scores[keep], classes[keep]


def clip_to_last_pixel(boxes, size):
    clipped = Boxes(boxes.clone())
    clipped.clip((size[0] - 1, size[1] - 1))
    return clipped.tensor


def assert_same_rows(ours, theirs):
    """Compare detections in any order: boxes to 1e-2 pixels, scores to 1e-5, and classes."""
    our_rows, their_rows = (
        torch.cat([boxes, 1e3 * scores[:, None], 1e3 * classes[:, None]], dim=1)
        for boxes, scores, classes in (ours, theirs)
    )
    distance, partner = torch.cdist(our_rows, their_rows, p=float("inf")).min(dim=1)
    assert distance.max() < 1e-2
    assert len(partner.unique()) == len(our_rows) == len(their_rows)


@pytest.mark.parametrize("image", [0, 1])
def test_detections_are_those_of_adelaidet_without_clipping_before_nms(image):
    peer = load_peer("adelaidet_gn_ctrness")
    found = detect_with_other_clipping(peer, lambda boxes, size: boxes, image)
    theirs = [peer.io[f"det.{name}.{image}"] for name in ("boxes", "scores", "classes")]
    assert_same_rows(found, theirs)


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("name", ORIGINAL)
def test_detections_are_those_of_the_original_with_its_clipping_and_without_plus_1_in_nms(
    name, image
):
    peer = load_peer(name)
    found = detect_with_other_clipping(peer, clip_to_last_pixel, image)
    names = ("boxes", "scores", "classes")
    assert_same_rows(found, [peer.io[f"det_nms_no_plus1.{x}.{image}"] for x in names])


# The number of recorded detections in both images, and how many of them our model detects too.
NUM_COMMON = {
    "adelaidet_gn_ctrness": (197, 180),
    "mmdet_fcos_r50_gn": (200, 200),
    "mmdet_fcos_tricks": (200, 200),
    "original_fcos_dcn": (190, 179),
    "original_fcos_imprv": (200, 197),
    "original_fcos_v1": (200, 196),
}


def test_the_documented_number_of_common_detections_is_correct(peer):
    kind = "final" if peer.project == "adelaidet" else "det"
    total = num_common = 0
    for image, ours in enumerate(detect(peer)):
        boxes, scores, classes = (
            peer.io[f"{kind}.{x}.{image}"] for x in ("boxes", "scores", "classes")
        )
        if peer.project == "mmdet":
            scores = scores.sqrt()
        total += len(boxes)
        num_common += count_common(ours, boxes, scores, classes)
    assert (total, num_common) == NUM_COMMON[peer.name]
    assert f"{num_common} of {total}" == documented(peer, 0)[-1]
