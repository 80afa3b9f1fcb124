"""The windows of cells that target assignment checks for each box."""

import math

import pytest
import torch

from fcos_d2.modeling.assignment.windows import chunks_of_boxes, window_cells
from fcos_d2.modeling.levels import axis_locations


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_first_cell_is_exact_next_to_locations(offset):
    # Dividing by a stride that is not a power of two rounds.
    strides, cells = torch.arange(1, 201)[:, None], torch.arange(1200)
    locations = axis_locations(cells, strides, offset)
    for low, first in (
        (locations.nextafter(torch.tensor(-math.inf)), cells),
        (locations, cells + 1),
        (locations.nextafter(torch.tensor(math.inf)), cells + 1),
    ):
        low = low[None, :, 1:-1]  # (1, V, M), without the sides that are outside of the map
        windows = window_cells(
            (low, low + 1), (low, low + 1), strides, torch.tensor([[[1200]]]), offset, 1
        )
        assert (windows.cells[0, :, 0] == first[1:-1]).all()


def test_chunks_contain_all_boxes_and_respect_the_limit():
    sides = [10.0, 500.0, 30.0, 90.0] * 25
    chunks = list(chunks_of_boxes(sides, 8, (100, 120), 4000))
    assert [i for boxes, _ in chunks for i in range(100)[boxes]] == list(range(100))
    assert len(chunks) > 1
    for boxes, window in chunks:
        chunk = sides[boxes]
        assert len(chunk) == 1 or len(chunk) * window**2 <= 4000
        assert all(side // 8 + 1 <= window for side in chunk)
