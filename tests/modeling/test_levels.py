"""The levels of a model: wrong arguments, and boxes that stay finite."""

import math

import pytest
import torch
from tiny import STRIDES, predictions_of

from fcos_d2.errors import InputError
from fcos_d2.modeling.levels import Levels
from fcos_d2.modeling.losses.box import box_loss
from fcos_d2.modeling.postprocessing import FCOSPostProcessor


def test_a_wrong_location_offset_is_an_error():
    with pytest.raises(InputError) as caught:
        Levels(STRIDES, location_offset=0.3)
    assert (caught.value.key, caught.value.value) == ("location_offset", 0.3)


@pytest.mark.parametrize("strides", [[8.5, 16], [0, 8], [8, -4], ["8"]])
def test_strides_that_are_not_positive_integers_are_an_error(strides):
    with pytest.raises(InputError) as caught:
        Levels(strides)
    assert caught.value.key == "strides"


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
    logits = [torch.zeros(1, 1, 4, 4)]
    maps = predictions_of((logits, [torch.full((1, 4, 4, 4), 1e20)], logits))
    (found,) = processor(maps, [(32, 32)])
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 32, 32]]
