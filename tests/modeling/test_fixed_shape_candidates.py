"""The selection of candidates whose number does not depend on the image."""

import math

import pytest
import torch
from tiny import predictions_of, random_maps

from fcos_d2.modeling.levels import Levels
from fcos_d2.modeling.postprocessing import FCOSPostProcessor

SIZES = [(6, 8), (3, 4)]
STRIDES = [8, 16]


@pytest.mark.parametrize("with_quality", [False, True])
@pytest.mark.parametrize("has_quality", [True, False])
@pytest.mark.parametrize(("thresh", "topk"), [(0.05, 1000), (0.6, 1000), (0.3, 5), (0.0, 7)])
def test_fixed_shape_selection_equals_the_exact_selection(thresh, topk, has_quality, with_quality):
    cls_logits, raw_ltrb, quality_logits = (
        random_maps(channels, SIZES, seed=seed, scale=2.0)
        for channels, seed in ((3, 0), (4, 2), (1, 1))
    )
    maps = predictions_of((cls_logits, raw_ltrb, quality_logits if has_quality else None))
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
    for values, expected in (
        (fixed.location_idxs, exact.location_idxs),
        (fixed.classes, exact.classes),
        (fixed.scores, exact.scores),
        (fixed.boxes, exact.boxes),
    ):
        torch.testing.assert_close(values[images, places], expected, rtol=1e-6, atol=0)
    assert set(fixed.scores[fixed.scores < 0].tolist()) <= {-1.0}
