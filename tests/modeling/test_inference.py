"""Selection, decoding and suppression."""

import logging
import math

import pytest
import torch
from torchvision.ops import batched_nms, box_iou, nms

from fcos_d2.errors import InputError
from fcos_d2.modeling import candidates as candidates_module
from fcos_d2.modeling.candidates import Candidates, Selection
from fcos_d2.modeling.levels import Levels, flatten_levels
from fcos_d2.modeling.losses.box import box_loss
from fcos_d2.modeling.nms import class_wise_nms
from fcos_d2.modeling.postprocessing import FCOSPostProcessor, suppress
from fcos_d2.modeling.predictions import DensePredictions

SIZES = [(6, 8), (3, 4)]
STRIDES = [8, 16]


def select_candidates(cls_logits, quality_logits, thresh, topk, with_quality=False):
    """Of post-processing, whatever the boxes."""
    raw_ltrb = [torch.zeros(len(x), 4, *x.shape[2:]) for x in cls_logits]
    processor = FCOSPostProcessor(
        levels=Levels([8 * 2**i for i in range(len(cls_logits))]),
        score_thresh_test=thresh,
        topk_candidates_test=topk,
        thresh_with_ctr=with_quality,
    )
    found = processor.candidates(DensePredictions(cls_logits, raw_ltrb, quality_logits, extra={}))
    return Selection(*(getattr(found, name) for name in Selection._fields))


def decode_candidates(selection, raw_ltrb, levels):
    raw = flatten_levels(raw_ltrb)[selection.image_idxs, selection.location_idxs]
    sizes = [x.shape[2:] for x in raw_ltrb]
    return candidates_module.decode_candidates(selection, raw, sizes, levels)


def random_maps(channels, num_images=2, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_images, channels, h, w, generator=generator) * scale for h, w in SIZES]


def plain_candidates(cls_logits, quality_logits, image, thresh, topk, with_quality=False):
    """Loops over levels, locations and classes; (level, location, class) -> score."""
    chosen = {}
    start = 0
    for level, logits in enumerate(cls_logits):
        found = {}
        for cell in range(logits[0, 0].numel()):
            quality = 1.0
            if quality_logits:
                quality = quality_logits[level][image, 0].flatten()[cell].sigmoid().item()
            for k in range(logits.shape[1]):
                p = logits[image, k].flatten()[cell].sigmoid().item()
                if (p * quality if with_quality else p) > thresh:
                    score = math.sqrt(p * quality) if quality_logits else p
                    found[(level, start + cell, k)] = score
        best = sorted(found, key=found.get, reverse=True)[:topk]
        chosen.update({key: found[key] for key in best})
        start += logits[0, 0].numel()
    return chosen


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("with_quality", [False, True])
@pytest.mark.parametrize("has_quality", [True, False])
@pytest.mark.parametrize(("thresh", "topk"), [(0.05, 1000), (0.6, 1000), (0.3, 5), (0.0, 7)])
def test_selection_equals_plain_loops(thresh, topk, has_quality, with_quality, memory_format):
    cls_logits, quality_logits = random_maps(3), random_maps(1, seed=1) if has_quality else None
    stored = [
        maps and [x.to(memory_format=memory_format) for x in maps]
        for maps in (cls_logits, quality_logits)
    ]
    ours = select_candidates(*stored, thresh, topk, with_quality)
    for image in range(2):
        here = ours.image_idxs == image
        keys = zip(
            ours.level_idxs[here].tolist(),
            ours.location_idxs[here].tolist(),
            ours.classes[here].tolist(),
            strict=True,
        )
        ours_here = dict(zip(keys, ours.scores[here].tolist(), strict=True))
        assert ours_here == pytest.approx(
            plain_candidates(cls_logits, quality_logits, image, thresh, topk, with_quality),
            rel=1e-5,
        )


def test_what_the_threshold_and_the_score_mean():
    # Class score .5, quality .2: product .1, root .316.
    cls_logits, quality_logits = (
        [torch.zeros(1, 1, 1, 1)],
        [torch.full((1, 1, 1, 1), math.log(0.25))],
    )

    def scores(quality, thresh, with_quality=False):
        return select_candidates(cls_logits, quality, thresh, 10, with_quality).scores.tolist()

    assert scores(quality_logits, 0.49) == pytest.approx([math.sqrt(0.1)])
    assert scores(quality_logits, 0.51) == []
    assert scores(quality_logits, 0.09, with_quality=True) == pytest.approx([math.sqrt(0.1)])
    assert scores(quality_logits, 0.11, with_quality=True) == []
    assert scores(None, 0.49) == [0.5]  # no root, so never below the threshold
    assert scores(None, 0.51) == []
    for dtype in (torch.bfloat16, torch.float16):  # extreme logits
        low, high = (torch.full((1, 1, 1, 1), x, dtype=dtype) for x in (-6e4, 6e4))
        for cls, quality, survives in ((high, high, 1), (high, low, 0), (low, high, 0)):
            assert len(select_candidates([cls], [quality], 0.9, 1, True).scores) == survives


def test_selection_of_nothing():
    cls_logits = [x * 0 - 10 for x in random_maps(3)]
    candidates = select_candidates(cls_logits, random_maps(1), 0.05, 1000)
    assert len(candidates.scores) == 0
    boxes = decode_candidates(candidates, random_maps(4), Levels(STRIDES, 0.5, "relu"))
    assert boxes.shape == (0, 4)
    assert len(suppress(Candidates(*candidates, boxes), (48, 64), 0.6, 100)) == 0


def test_the_heads_maps_are_left_as_they_were():
    maps = random_maps(3), random_maps(1), random_maps(4)
    copies = [[x.clone() for x in level] for level in maps]
    candidates = select_candidates(maps[0], maps[1], 0.05, 1000)
    decode_candidates(candidates, maps[2], Levels(STRIDES, 0.5, "relu"))
    for level, copy in zip(maps, copies, strict=True):
        for a, b in zip(level, copy, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("activation", "raw", "expected"),
    [
        # Cell (1, 2) of level 1: location ((2 + .5) * 16, (1 + .5) * 16) = (40, 24).
        ("relu", [1.0, 0.5, 2.0, -3.0], [40 - 16, 24 - 8, 40 + 32, 24.0]),
        ("exp", [0.0, math.log(2), math.log(3), math.log(4)], [39.0, 22.0, 43.0, 28.0]),
    ],
)
def test_decoding_by_hand(activation, raw, expected):
    cls_logits = [torch.full((1, 2, h, w), -9.0) for h, w in SIZES]
    cls_logits[1][0, 1, 1, 2] = 9.0
    raw_ltrb = [torch.zeros(1, 4, h, w) for h, w in SIZES]
    raw_ltrb[1][0, :, 1, 2] = torch.tensor(raw)
    candidates = select_candidates(cls_logits, [x[:, :1] * 0 for x in cls_logits], 0.5, 10)
    boxes = decode_candidates(candidates, raw_ltrb, Levels(STRIDES, 0.5, activation))
    torch.testing.assert_close(boxes, torch.tensor([expected]))
    assert candidates.classes.tolist() == [1]


@pytest.mark.parametrize("activation", ["relu", "exp"])
def test_decoding_is_float32_when_the_maps_are_bfloat16(activation):
    cls_logits = [x.bfloat16() for x in random_maps(3)]
    raw = [x.bfloat16() * 3 for x in random_maps(4)]
    levels = Levels([7, 14], 0.5, activation)
    with torch.autocast("cpu", torch.bfloat16):
        candidates = select_candidates(cls_logits, [x[:, :1] for x in cls_logits], 0.3, 10)
        # Strides that bfloat16 would round when it multiplies, and more so exp.
        boxes = decode_candidates(candidates, raw, levels)
    assert boxes.dtype == candidates.scores.dtype == torch.float32
    exact = decode_candidates(
        candidates, [x.float() for x in raw], Levels([7, 14], 0.5, activation)
    )
    assert torch.equal(boxes, exact)


def test_a_score_equal_to_the_threshold_is_not_above_it():
    logits = [torch.tensor([0.0, 1e-3, -1e-3]).view(1, 3, 1, 1)]  # 0 is a score of exactly 0.5
    candidates = select_candidates(logits, [torch.zeros(1, 1, 1, 1)], 0.5, 10)
    assert candidates.classes.tolist() == [1]


def suppress_boxes(boxes, scores, classes, image_size=(100, 100), nms=0.6, keep=100):
    found = candidates_of(torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes))
    return suppress(found, image_size, nms, keep).to_instances(image_size)


def candidates_of(boxes, scores, classes):
    """Of one image; where they are from does not matter."""
    idxs = torch.zeros(len(scores), dtype=torch.int64)
    return Candidates(idxs, idxs, idxs, classes, scores, boxes)


def test_boxes_are_clipped_before_nms():
    # Not clipped, class-wise NMS lets the box of class 1, left of the image, hide that of class 0.
    outside, inside = [-101.0, 0.0, -1.0, 100.0], [0.0, 0.0, 100.0, 100.0]
    result = suppress_boxes([outside, inside], [0.9, 0.8], [1, 0])
    assert result.pred_classes.tolist() == [0]  # clipped, the other is empty
    # IoU 100 / 130 = .77 as they are, but 40 / 70 = .57 within the image: both stay.
    a, b = [-60.0, 0.0, 40.0, 100.0], [-60.0, 0.0, 70.0, 100.0]
    assert len(suppress_boxes([a, b], [0.9, 0.8], [0, 0])) == 2


def test_nms_is_by_class_sorted_and_limited():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(300, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(300, 2, generator=generator) * 30], dim=1)
    scores = torch.rand(300, generator=generator)
    classes = torch.randint(3, (300,), generator=generator)
    result = suppress(candidates_of(boxes, scores, classes), (100, 100), 0.6, 40).to_instances(
        (100, 100)
    )
    assert len(result) == 40
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
    for k in range(3):
        iou = box_iou(*[result.pred_boxes.tensor[result.pred_classes == k]] * 2)
        assert (iou - torch.eye(len(iou))).max() <= 0.6


@pytest.mark.parametrize(
    ("spread", "num_kept"),
    [(400.0, 5), (6.0, 5), (0.1, 2)],  # of the first 40 boxes enough remain, too few, and of all
)
def test_nms_of_the_best_boxes_equals_nms_of_all(spread, num_kept):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1000, 2, generator=generator) * spread
    boxes = torch.cat([corner, corner + 20], dim=1)
    scores = torch.rand(1000, generator=generator)
    classes = torch.randint(2, (1000,), generator=generator)
    classes[scores > 0.5] = 0
    first = scores.topk(40).indices
    enough_at_first = len(batched_nms(boxes[first], scores[first], classes[first], 0.6)) >= 5
    assert enough_at_first == (spread == 400)
    found = suppress(candidates_of(boxes.clone(), scores, classes), (500, 500), 0.6, 5)
    result = found.to_instances((500, 500))
    expected = batched_nms(boxes, scores, classes, 0.6)[:5]
    assert len(expected) == num_kept
    assert torch.equal(result.pred_boxes.tensor, boxes[expected])
    assert torch.equal(result.scores, scores[expected])
    assert torch.equal(result.pred_classes, classes[expected])


def test_selection_equals_a_topk_of_each_level_and_image():
    cls_logits, quality_logits = random_maps(5, seed=3), random_maps(1, seed=4)
    ours = select_candidates(cls_logits, quality_logits, 0.1, 20)
    rows, start = [], 0
    for level, (logits, quality) in enumerate(zip(cls_logits, quality_logits, strict=True)):
        for image in range(2):
            p = logits[image].flatten(1).sigmoid()  # (K, Hi*Wi)
            scores = (p * quality[image].flatten(1).sigmoid()).sqrt()
            best = scores.where(p > 0.1, -1.0).flatten().topk(20)
            for score, index in zip(*best, strict=True):
                k, cell = divmod(int(index), p.shape[1])
                rows.append((image, level, start + cell, k, float(score)))
        start += logits[0, 0].numel()
    rows.sort(key=lambda row: (row[0], row[1]))  # in order of score already
    for found, expected in zip(ours, zip(*rows, strict=True), strict=True):
        assert found.tolist() == pytest.approx(list(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("num_classes", "extent"), [(80, 1333.0), (1203, 1333.0), (1203, 10_000.0)]
)
def test_nms_is_that_of_each_class_alone(num_classes, extent):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(480, 2, generator=generator) * extent
    size = 4 + torch.rand(480, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + size], dim=1)
    # A neighbor each, moved by s widths: an IoU of (1 - s) / (1 + s), which is 0.6 at s = 0.25.
    shift = size[:, 0] * (0.249 + 0.002 * torch.rand(480, generator=generator))
    boxes = torch.cat([boxes, boxes + shift[:, None] * torch.tensor([1.0, 0.0, 1.0, 0.0])])
    classes = torch.randint(num_classes, (480,), generator=generator).repeat(2)
    scores = torch.rand(len(boxes), generator=generator)
    expected = torch.cat(
        [
            where[nms(boxes[where].double(), scores[where].double(), 0.6)]
            for k in range(num_classes)
            if len(where := (classes == k).nonzero().squeeze(1))
        ]
    )
    kept = class_wise_nms(boxes, scores, classes, 0.6)
    assert torch.equal(kept.sort().values, expected.sort().values)
    assert torch.equal(scores[kept], scores[kept].sort(descending=True).values)
    in_float32 = batched_nms(boxes, scores, classes, 0.6)
    assert len(expected) < len(boxes)
    assert len(set(in_float32.tolist()) ^ set(expected.tolist())) > 10  # what this is about


def maps_with(**changes):
    """One level of 4 x 4 cells and one class, of which the first row scores high."""
    cls_logits, raw_ltrb, quality_logits = (torch.zeros(1, n, 4, 4) for n in (1, 4, 1))
    cls_logits[0, 0, 1:] = -9.0
    maps = {"cls_logits": cls_logits, "raw_ltrb": raw_ltrb + 1, "quality_logits": quality_logits}
    for name, values in changes.items():
        for cell, value in values.items():
            maps[name][0, -1, 0, cell] = value
    return DensePredictions(**{name: [x] for name, x in maps.items()}, extra={})


@pytest.mark.parametrize("with_quality", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_takes_no_place_and_is_said_once(value, with_quality, caplog):
    processor = FCOSPostProcessor(
        levels=Levels([8]), topk_candidates_test=1, thresh_with_ctr=with_quality
    )
    maps = maps_with(raw_ltrb={0: value}, quality_logits={1: math.nan}, cls_logits={2: math.nan})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            (found,) = processor(maps, [(32, 32)])
            assert found.pred_boxes.tensor.tolist() == [[20, 0, 32, 12]]  # about (28, 4)
    assert [x.message[:20] for x in caplog.records] == ["3 of 4 candidates of"]


def test_a_network_that_is_all_nan_is_said(caplog):
    maps = maps_with(cls_logits=dict.fromkeys(range(4), math.nan))
    (found,) = FCOSPostProcessor(levels=Levels([8]))(maps, [(32, 32)])
    assert len(found) == 0
    assert "4 of 4 candidates" in caplog.text


@pytest.mark.parametrize("activation", ["relu", "exp"])
def test_boxes_are_bounded_whatever_the_network_predicts(activation):
    for value in (1e20, math.inf):
        raw = torch.full((1, 4), value)
        ltrb = Levels([128], 0.5, activation).activate(raw, torch.zeros(1, dtype=torch.int64))
        assert ltrb.isfinite().all()
        target = torch.full((1, 4), 50.0)
        for loss_type in ("giou", "diou", "ciou", "iou", "linear_iou"):
            assert box_loss(ltrb, target, loss_type).isfinite().all()
    processor = FCOSPostProcessor(levels=Levels([8], 0.5, activation))
    maps = maps_with()._replace(raw_ltrb=[torch.full((1, 4, 4, 4), 1e20)])
    (found,) = processor(maps, [(32, 32)])
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 32, 32]]


@pytest.mark.parametrize("function", [lambda p, q: p.double(), lambda p, q: (p * q).log().half()])
def test_scores_of_any_sign_and_type_are_ranked(function):
    maps = maps_with(cls_logits={0: 1.0, 1: 3.0, 2: 2.0})
    processor = FCOSPostProcessor(
        levels=Levels([8]), topk_candidates_test=2, score_function=function, nms_thresh_test=1.0
    )
    candidates = processor.candidates(maps)
    assert candidates.location_idxs.tolist() == [1, 2]
    assert candidates.scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [("scores", (4, 4), "named 'scores'"), ("mask", (8, 8), r"'mask' .* \[\(8, 8\)\], but the")],
)
def test_extra_outputs_that_cannot_be_fields_are_refused(name, size, message):
    maps = maps_with()._replace(extra={name: [torch.zeros(1, 2, *size)]})
    with pytest.raises(InputError, match=message):
        FCOSPostProcessor(levels=Levels([8]))(maps, [(32, 32)])


@pytest.mark.parametrize("with_quality", [False, True])
@pytest.mark.parametrize("has_quality", [True, False])
@pytest.mark.parametrize(("thresh", "topk"), [(0.05, 1000), (0.6, 1000), (0.3, 5), (0.0, 7)])
def test_selection_of_fixed_size_is_the_exact_one(thresh, topk, has_quality, with_quality):
    maps = DensePredictions(
        random_maps(3), random_maps(4, seed=2), random_maps(1, seed=1) if has_quality else None, {}
    )
    maps.raw_ltrb[0][0, 1, 2, 3] = math.nan
    processor = FCOSPostProcessor(
        levels=Levels(STRIDES),
        score_thresh_test=thresh,
        topk_candidates_test=topk,
        thresh_with_ctr=with_quality,
    )
    exact, fixed = processor.candidates(maps), processor.fixed_candidates(maps)
    assert fixed.scores.shape == (2, 2 * topk)
    assert fixed.boxes.shape == (2, 2 * topk, 4)
    images, places = (fixed.scores >= 0).nonzero().unbind(1)
    assert torch.equal(images, exact.image_idxs)
    for found, expected in (
        (fixed.location_idxs, exact.location_idxs),
        (fixed.classes, exact.classes),
        (fixed.scores, exact.scores),
        (fixed.boxes, exact.boxes),
    ):
        torch.testing.assert_close(found[images, places], expected, rtol=1e-6, atol=0)
    assert set(fixed.scores[fixed.scores < 0].tolist()) <= {-1.0}
