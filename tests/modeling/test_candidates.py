"""Candidates: their selection, their scores and their boxes."""

import math

import pytest
import torch
from tiny import predictions_of, random_maps

from fcos_d2.modeling import candidates as candidates_module
from fcos_d2.modeling.candidates import Candidates, Selection
from fcos_d2.modeling.levels import Levels, flatten_levels
from fcos_d2.modeling.postprocessing import FCOSPostProcessor, suppress

SIZES = [(6, 8), (3, 4)]
STRIDES = [8, 16]


def maps_of(channels, seed=0):
    return random_maps(channels, SIZES, seed=seed, scale=2.0)


def select_candidates(cls_logits, quality_logits, thresh, topk, with_quality=False):
    """Return the selection of a post-processor, without the boxes."""
    raw_ltrb = [torch.zeros(len(x), 4, *x.shape[2:]) for x in cls_logits]
    processor = FCOSPostProcessor(
        levels=Levels([8 * 2**i for i in range(len(cls_logits))]),
        score_thresh_test=thresh,
        topk_candidates_test=topk,
        thresh_with_ctr=with_quality,
    )
    candidates = processor.candidates(predictions_of((cls_logits, raw_ltrb, quality_logits)))
    return Selection(*(getattr(candidates, name) for name in Selection._fields))


def decode_candidates(selection, raw_ltrb, levels):
    raw = flatten_levels(raw_ltrb)[selection.image_idxs, selection.location_idxs]
    sizes = [x.shape[2:] for x in raw_ltrb]
    return candidates_module.decode_candidates(selection, raw, sizes, levels)


def plain_candidates(cls_logits, quality_logits, image, thresh, topk, with_quality=False):
    """Select candidates in loops; return {(level, location, class): score} of one image."""
    selected = {}
    start = 0
    for level, logits in enumerate(cls_logits):
        scores = {}
        for cell in range(logits[0, 0].numel()):
            quality = 1.0
            if quality_logits:
                quality = quality_logits[level][image, 0].flatten()[cell].sigmoid().item()
            for k in range(logits.shape[1]):
                p = logits[image, k].flatten()[cell].sigmoid().item()
                if (p * quality if with_quality else p) > thresh:
                    score = math.sqrt(p * quality) if quality_logits else p
                    scores[(level, start + cell, k)] = score
        best = sorted(scores, key=scores.get, reverse=True)[:topk]
        selected.update({key: scores[key] for key in best})
        start += logits[0, 0].numel()
    return selected


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("with_quality", [False, True])
@pytest.mark.parametrize("has_quality", [True, False])
@pytest.mark.parametrize(("thresh", "topk"), [(0.05, 1000), (0.6, 1000), (0.3, 5), (0.0, 7)])
def test_selection_equals_plain_loops(thresh, topk, has_quality, with_quality, memory_format):
    cls_logits, quality_logits = maps_of(3), maps_of(1, seed=1) if has_quality else None
    stored = [
        maps and [x.to(memory_format=memory_format) for x in maps]
        for maps in (cls_logits, quality_logits)
    ]
    selection = select_candidates(*stored, thresh, topk, with_quality)
    for image in range(2):
        is_here = selection.image_idxs == image
        keys = zip(
            selection.level_idxs[is_here].tolist(),
            selection.location_idxs[is_here].tolist(),
            selection.classes[is_here].tolist(),
            strict=True,
        )
        scores = dict(zip(keys, selection.scores[is_here].tolist(), strict=True))
        assert scores == pytest.approx(
            plain_candidates(cls_logits, quality_logits, image, thresh, topk, with_quality),
            rel=1e-5,
        )


def test_threshold_and_score_by_hand():
    # The class score is 0.5 and the quality is 0.2. The product is 0.1, and its root is 0.316.
    cls_logits = [torch.zeros(1, 1, 1, 1)]
    quality_logits = [torch.full((1, 1, 1, 1), math.log(0.25))]

    def scores(quality, thresh, with_quality=False):
        return select_candidates(cls_logits, quality, thresh, 10, with_quality).scores.tolist()

    assert scores(quality_logits, 0.49) == pytest.approx([math.sqrt(0.1)])
    assert scores(quality_logits, 0.51) == []
    assert scores(quality_logits, 0.09, with_quality=True) == pytest.approx([math.sqrt(0.1)])
    assert scores(quality_logits, 0.11, with_quality=True) == []
    assert scores(None, 0.49) == [0.5]  # The score is the class score, not a root.
    assert scores(None, 0.51) == []
    for dtype in (torch.bfloat16, torch.float16):  # extreme logits
        low, high = (torch.full((1, 1, 1, 1), x, dtype=dtype) for x in (-6e4, 6e4))
        for cls, quality, survives in ((high, high, 1), (high, low, 0), (low, high, 0)):
            assert len(select_candidates([cls], [quality], 0.9, 1, True).scores) == survives


def test_without_scores_above_the_threshold_nothing_is_detected():
    cls_logits = [x * 0 - 10 for x in maps_of(3)]
    candidates = select_candidates(cls_logits, maps_of(1), 0.05, 1000)
    assert len(candidates.scores) == 0
    boxes = decode_candidates(candidates, maps_of(4), Levels(STRIDES, 0.5, "relu"))
    assert boxes.shape == (0, 4)
    assert len(suppress(Candidates(*candidates, boxes), (48, 64), 0.6, 100)) == 0


def test_the_maps_of_the_head_are_not_changed():
    maps = maps_of(3), maps_of(1), maps_of(4)
    copies = [[x.clone() for x in level] for level in maps]
    candidates = select_candidates(maps[0], maps[1], 0.05, 1000)
    decode_candidates(candidates, maps[2], Levels(STRIDES, 0.5, "relu"))
    for level, copy in zip(maps, copies, strict=True):
        for a, b in zip(level, copy, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("activation", "raw", "expected"),
    [
        # The location of cell (1, 2) of level 1 is ((2 + .5) * 16, (1 + .5) * 16) = (40, 24).
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
    cls_logits = [x.bfloat16() for x in maps_of(3)]
    raw = [x.bfloat16() * 3 for x in maps_of(4)]
    levels = Levels([7, 14], 0.5, activation)
    with torch.autocast("cpu", torch.bfloat16):
        candidates = select_candidates(cls_logits, [x[:, :1] for x in cls_logits], 0.3, 10)
        # In bfloat16, the products with these strides would be rounded, and exp even more.
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


def test_selection_equals_a_topk_of_each_level_and_image():
    cls_logits, quality_logits = maps_of(5, seed=3), maps_of(1, seed=4)
    selection = select_candidates(cls_logits, quality_logits, 0.1, 20)
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
    rows.sort(key=lambda row: (row[0], row[1]))  # stable: the scores are in order already
    for values, expected in zip(selection, zip(*rows, strict=True), strict=True):
        assert values.tolist() == pytest.approx(list(expected), rel=1e-6)


def test_joined_candidates_are_those_of_all_parts_with_their_fields():
    maps = [maps_of(3), maps_of(4, seed=1), maps_of(1, seed=2)]
    processor = FCOSPostProcessor(levels=Levels(STRIDES))
    predictions = predictions_of(maps)._replace(extra={"own": maps_of(7, seed=3)})
    candidates = processor.candidates(predictions)
    assert len(candidates) > 20
    for parts in ([candidates], [candidates[:9], candidates[9:9], candidates[9:]]):
        joined = Candidates.cat(parts)
        for name in ("image_idxs", "level_idxs", "location_idxs", "classes", "scores", "boxes"):
            assert torch.equal(getattr(joined, name), getattr(candidates, name)), name
        assert joined.fields.keys() == {"own"}
        assert torch.equal(joined.fields["own"], candidates.fields["own"])
