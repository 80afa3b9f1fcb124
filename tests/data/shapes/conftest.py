"""Scenes that several test files of drawing share."""

import pytest

from fcos_d2.data.shapes.annotation import annotate_scene
from fcos_d2.data.shapes.scene import draw_scene


@pytest.fixture(scope="session")
def scenes():
    """Draw 150 scenes of each split, and return them with their annotations."""
    drawn = {split: [draw_scene(split, i) for i in range(150)] for split in ("train", "val")}
    return {split: [(s, annotate_scene(s)) for s in drawn[split]] for split in drawn}
