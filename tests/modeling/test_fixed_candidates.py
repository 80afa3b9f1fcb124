"""Selection with outputs of a fixed size."""

import math

import pytest
import torch

from fcos_d2.modeling.levels import Levels
from fcos_d2.modeling.postprocessing import FCOSPostProcessor
from fcos_d2.modeling.predictions import DensePredictions

SIZES = [(6, 8), (3, 4)]


STRIDES = [8, 16]


def random_maps(channels, num_images=2, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_images, channels, h, w, generator=generator) * scale for h, w in SIZES]


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
