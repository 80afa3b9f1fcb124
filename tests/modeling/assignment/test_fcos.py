"""Target assignment: examples computed by hand, and exact equality with the dense rule."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import dense_matched_idxs
from tiny import STRIDES, make_instances

from fcos_d2.errors import InputError
from fcos_d2.modeling.assignment import fcos
from fcos_d2.modeling.assignment.fcos import FCOSAssigner
from fcos_d2.modeling.assignment.size_ranges import size_ranges_from_sizes
from fcos_d2.modeling.assignment.windows import chunks_of_boxes
from fcos_d2.modeling.levels import Levels

# The default borders between the levels, in pixels.
BORDERS = [64, 128, 256, 512]


def sizes_for(image_size, strides):
    return [tuple(math.ceil(side / stride) for side in image_size) for stride in strides]


def match(boxes_per_image, feature_sizes, strides=STRIDES, sizes=BORDERS, offset=0.5, **kwargs):
    """Return the index of the box of each location as (N, R), -1 for none, and the targets."""
    levels = Levels(strides, offset)
    assigner = FCOSAssigner(levels=levels, sizes_of_interest=sizes, **kwargs)
    # The class of each box is its index in the image.
    instances = [make_instances(boxes, range(len(boxes))) for boxes in boxes_per_image]
    targets = assigner(instances, feature_sizes)
    dense = targets.matched_idxs()
    # Convert indices in the batch to indices in the image.
    starts = torch.tensor([0] + [len(boxes) for boxes in boxes_per_image[:-1]]).cumsum(0)
    return torch.where(dense >= 0, dense - starts[:, None], -1), targets


def assert_equals_dense_rule(boxes_per_image, feature_sizes, strides, sizes, radius, offset=0.5):
    matched, targets = match(
        boxes_per_image, feature_sizes, strides, sizes, offset, center_sampling_radius=radius
    )
    ranges = size_ranges_from_sizes(sizes, len(strides))
    for image, boxes in enumerate(boxes_per_image):
        boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        oracle = dense_matched_idxs(boxes, feature_sizes, strides, ranges, radius, offset)
        assert torch.equal(matched[image], oracle)
    return targets


# The next two tests are the ambiguous cases of the paper, at the location (100, 100) of P3 in an
# image of 512 x 512 pixels.


def at(dense, x, y, stride=8, width=64):
    """Return the index of the box of the location in the cell that contains (x, y)."""
    return dense[0, int(y // stride) * width + int(x // stride)].item()


SIZES_512 = sizes_for((512, 512), STRIDES)


def test_location_takes_the_box_whose_far_side_is_in_the_level_range():
    # The location (100, 100) is 48 px from the far (right) side of the first box, which is in the
    # range of P3 (at most 64), and 90 px from that of the second box, which is in the range of P4
    # (64 to 128). So on P3 the first box is matched, although the second one has the smaller area.
    first, second = [60.0, 60.0, 148.0, 140.0], [80.0, 96.0, 190.0, 104.0]
    dense, _ = match([[first, second]], SIZES_512, center_sampling_radius=0)
    assert at(dense, 100, 100) == 0
    dense, _ = match([[second]], SIZES_512, center_sampling_radius=0)
    assert at(dense, 100, 100) == -1


def test_location_in_two_boxes_in_range_takes_the_smaller():
    # The far sides are 24 and 40 px away, which is in the range of P3 for both boxes.
    small, large = [80.0, 80.0, 124.0, 120.0], [70.0, 70.0, 140.0, 130.0]
    for boxes, winner in (([small, large], 0), ([large, small], 1)):
        for radius in (0.0, 1.5):
            dense, _ = match([boxes], SIZES_512, center_sampling_radius=radius)
            assert at(dense, 100, 100) == winner


def test_equal_areas_go_to_the_box_listed_first():
    wide, tall = [80.0, 90.0, 124.0, 112.0], [91.0, 78.0, 113.0, 122.0]  # both 44 x 22
    dense, _ = match([[wide, tall]], SIZES_512)
    assert at(dense, 100, 100) == 0
    dense, _ = match([[tall, wide]], SIZES_512)
    assert at(dense, 100, 100) == 0


@pytest.mark.parametrize("edge", BORDERS)
def test_distance_of_exactly_a_border_is_positive_on_both_levels(edge):
    # On each of the two levels, the far sides of the box are `edge` pixels from the location in the
    # second row and second column.
    level = BORDERS.index(edge)
    sizes = sizes_for((1024, 1024), STRIDES)
    for which in (level, level + 1):
        stride = STRIDES[which]
        x = y = 1.5 * stride
        box = [x - 0.5, y - 0.5, x + edge, y + 0.5]
        _, targets = match([[box]], sizes, center_sampling_radius=0)
        hit = (targets.ltrb.amax(1) == edge) & targets.is_positive
        start = sum(h * w for h, w in sizes[:which])
        assert start + sizes[which][1] + 1 in targets.flat_location_idxs[hit].tolist()


def test_a_location_on_the_border_of_a_box_is_outside():
    box = [100.0, 92.0, 124.0, 108.0]  # left side runs through the location (100, 100)
    dense, _ = match([[box]], SIZES_512, center_sampling_radius=0)
    assert at(dense, 100, 100) == -1
    assert at(dense, 108, 100) == 0


def test_the_targets_of_a_location_are_distances_in_pixels_and_the_class_of_its_box():
    _, targets = match([[], [[60.0, 70.0, 148.0, 140.0]]], SIZES_512, center_sampling_radius=0)
    # The location (100, 100) of P3 in the second image.
    location = sum(h * w for h, w in SIZES_512) + 12 * 64 + 12
    where = (targets.flat_location_idxs == location) & targets.is_positive
    assert targets.ltrb[where].tolist() == [[40.0, 30.0, 48.0, 40.0]]
    assert targets.classes[where].tolist() == [0]


def test_a_first_box_that_is_centered_on_x_zero_does_not_affect_other_boxes():
    boxes = [[-20.0, 10.0, 20.0, 50.0], [100.0, 100.0, 140.0, 140.0]]
    dense, _ = match([boxes], SIZES_512)
    assert set(dense.unique().tolist()) == {-1, 0, 1}


def test_boxes_with_sides_over_ten_thousand_pixels_equal_the_dense_rule():
    # Other implementations lose such boxes: there, an area of 1e8 means "no match".
    sizes = sizes_for((12_032, 12_032), STRIDES)
    boxes = [[5.0, 5.0, 12_000.0, 12_000.0], [3.0, 2.0, 11_000.0, 12_001.0]]
    for radius in (0.0, 1.5):
        targets = assert_equals_dense_rule([boxes], sizes, STRIDES, BORDERS, radius)
        assert targets.is_positive.any()


@pytest.mark.parametrize("radius", [0.0, 1.5])
def test_images_without_boxes_have_no_positives(radius):
    dense, targets = match([[], []], SIZES_512, center_sampling_radius=radius)
    assert (dense == -1).all()
    assert not targets.is_positive.any()


@pytest.mark.parametrize("radius", [0.0, 1.5, 5.0])
def test_two_thousand_boxes_equal_the_dense_rule(radius):
    generator = torch.Generator().manual_seed(0)
    top_left = torch.rand(2000, 2, generator=generator) * 480
    side = 4 + torch.rand(2000, 2, generator=generator) ** 3 * 300
    boxes = torch.cat([top_left, top_left + side], dim=1)
    targets = assert_equals_dense_rule([boxes.tolist()], SIZES_512, STRIDES, BORDERS, radius)
    assert targets.is_positive.sum() > 1000


def test_matching_in_chunks_gives_the_same_result(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    top_left = torch.rand(300, 2, generator=generator) * 480
    boxes = torch.cat([top_left, top_left + torch.rand(300, 2, generator=generator) * 400], dim=1)
    whole, _ = match([boxes.tolist()], SIZES_512, center_sampling_radius=0)
    monkeypatch.setattr(fcos, "_MAX_PAIRS", 1000)
    chunked, _ = match([boxes.tolist()], SIZES_512, center_sampling_radius=0)
    assert torch.equal(whole, chunked)


def test_flipping_the_image_flips_the_targets():
    # 512 is a multiple of every stride, so that locations map onto locations.
    generator = torch.Generator().manual_seed(2)
    top_left = torch.rand(40, 2, generator=generator) * 400
    boxes = torch.cat([top_left, top_left + 8 + torch.rand(40, 2, generator=generator) * 90], dim=1)
    boxes = boxes.round()  # so that 512 - x is exact
    flipped = boxes.clone()
    flipped[:, [0, 2]] = 512 - boxes[:, [2, 0]]
    for radius in (0.0, 1.5):
        a, _ = match([boxes.tolist()], SIZES_512, center_sampling_radius=radius)
        b, _ = match([flipped.tolist()], SIZES_512, center_sampling_radius=radius)
        a, b = (x[0].split([h * w for h, w in SIZES_512]) for x in (a, b))
        for level, (h, w) in enumerate(SIZES_512):
            assert torch.equal(a[level].view(h, w), b[level].view(h, w).flip(1))


@pytest.mark.parametrize("level", range(4))
def test_a_box_with_sides_of_exactly_twice_the_border_is_matched_at_its_center(level):
    # Its center is a location of the level. There all four distances are equal to the border.
    stride, border = STRIDES[level], (64.0, 128.0, 256.0, 512.0)[level]
    x = 8.5 * stride
    box = [x - border, x - border, x + border, x + border]
    sizes = sizes_for((1024, 1024), STRIDES)
    dense, _ = match([[box]], sizes, center_sampling_radius=0)
    start = sum(h * w for h, w in sizes[:level])
    assert dense[0, start + 8 * sizes[level][1] + 8].item() == 0


def test_an_infinite_box_is_clipped_to_the_map():
    assert list(chunks_of_boxes([math.inf, 20.0], 8, (6, 9), 100)) == [
        (slice(0, 1), 9),
        (slice(1, 2), 3),
    ]
    dense, _ = match([[[0.0, 0.0, math.inf, 500.0]]], SIZES_512, center_sampling_radius=0)
    assert (dense[0, :-16] == -1).all()
    assert (dense[0, -16:] == 0).all()  # P7 has no upper limit


# Lengths of the longer side at which a level of the default config starts or stops to match boxes:
# a border, twice a border, and twice the part of it that center sampling cannot reach
# (2 (64 - 1.5 * 16) = 80).
EDGES = [64, 80, 128, 160, 256, 320, 512, 640, 1024]


@pytest.mark.parametrize("radius", [0.0, 1.5])
@pytest.mark.parametrize("aspect", [1.0, 0.3])
def test_boxes_whose_sides_are_at_the_edges_of_levels_are_matched_on_all_levels(radius, aspect):
    sides = [edge + x for edge in EDGES for x in (-0.5, -(2**-12), 0.0, 2**-12, 0.5)]
    # 640 is a corner of cells of all levels, and 604 is the center of a cell of stride 8.
    for middle in (640.0, 604.0):
        boxes = [
            [middle - x / 2, middle - aspect * x / 2, middle + x / 2, middle + aspect * x / 2]
            for x in sides
        ]
        assert_equals_dense_rule(
            [[x] for x in boxes],
            sizes_for((1280, 1280), STRIDES),
            STRIDES,
            BORDERS,
            radius,
        )


# Random boxes, compared with the dense rule. Many coordinates are at the edges of the rule.

LEVELS = {
    1: ([8], []),
    2: ([8, 16], [48]),
    3: ([8, 16, 32], [64, 128]),
    4: ([4, 8, 16, 32], [32, 64, 128]),
    5: (STRIDES, BORDERS),
    6: ([4, *STRIDES], [32, 64, 128, 256, 512]),
    # Dividing by these strides rounds: they are not powers of two (14 as in a patch of a ViT).
    "odd": ([12, 14, 23], [64, 128]),
}


border_distance = st.sampled_from([64.0, 128.0, 256.0, 512.0])


coordinate = st.one_of(
    st.floats(-30, 700, width=32),
    st.integers(-8, 160).map(lambda i: i * 4.0),  # on locations, on borders of cells
)


side = st.one_of(
    st.floats(0.03125, 900, width=32), st.integers(1, 160).map(lambda i: i * 4.0), border_distance
)


@st.composite
def box_lists(draw):
    boxes = []
    for _ in range(draw(st.integers(0, 12))):
        x1, y1, w, h = draw(coordinate), draw(coordinate), draw(side), draw(side)
        boxes.append([x1, y1, x1 + w, y1 + h])
        if draw(st.booleans()):
            # Add a neighbor of the same area, shifted by less than a cell, or transposed.
            shift = draw(st.sampled_from([0.0, 1.0, 4.0]))
            boxes.append([x1 + shift, y1, x1 + shift + h, y1 + w])
    as_float32 = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    is_valid = (as_float32[:, 2:] > as_float32[:, :2]).all(1)
    return as_float32[is_valid].tolist()


@settings(max_examples=250, deadline=None)
@given(
    boxes_per_image=st.lists(box_lists(), min_size=1, max_size=3),
    levels=st.sampled_from(list(LEVELS)),
    radius=st.sampled_from([0.0, 0.7, 1.0, 1.5, 2.5, 4.0, 4.2, 16.0]),
    offset=st.sampled_from([0.5, 0.0]),
    image_size=st.tuples(st.integers(1, 640), st.integers(1, 640)),
)
@example([[[0.0, 0.0, 128.0, 128.0]]], 5, 1.5, 0.5, (512, 512))
# This side is so close to a location that dividing it by the stride rounds to the location.
@example([[[-1.401298464324817e-45, 0.0, 1.0, 9.0]]], 1, 0.7, 0.0, (9, 1))
def test_equals_the_dense_rule(boxes_per_image, levels, radius, offset, image_size):
    strides, sizes = LEVELS[levels]
    feature_sizes = sizes_for(image_size, strides)
    assert_equals_dense_rule(boxes_per_image, feature_sizes, strides, sizes, radius, offset)


@pytest.mark.parametrize(
    ("kwargs", "key"),
    [
        ({"sizes_of_interest": [64, 128]}, "MODEL.FCOS.SIZES_OF_INTEREST"),  # 5 levels need 4
        ({"sizes_of_interest": [64, 64, 128, 256]}, "sizes_of_interest"),
        ({"sizes_of_interest": [-1, 64, 128, 256]}, "sizes_of_interest"),
        ({"center_sampling_radius": -1}, "center_sampling_radius"),
    ],
)
def test_wrong_settings_are_errors_with_their_key(kwargs, key):
    with pytest.raises(InputError) as caught:
        FCOSAssigner(levels=Levels(STRIDES), **kwargs)
    assert caught.value.key == key
