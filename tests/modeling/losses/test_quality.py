"""The targets of the quality that the head predicts."""

import pytest
import torch

from fcos_d2.modeling.losses.quality import centerness_targets


def test_centerness_is_one_in_the_middle_and_decreases_toward_the_sides():
    ltrb = torch.tensor([[5.0, 3.0, 5.0, 3.0], [1.0, 2.0, 4.0, 2.0], [1.0, 1.0, 4.0, 9.0]])
    # sqrt(1 * 1), sqrt(1/4 * 1), sqrt(1/4 * 1/9)
    assert centerness_targets(ltrb).tolist() == pytest.approx([1.0, 0.5, 1 / 6])
