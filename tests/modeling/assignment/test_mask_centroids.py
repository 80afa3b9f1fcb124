"""Center sampling around masks: their centroids, and the locations around the centroids."""

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, PolygonMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import dense_matched_idxs
from PIL import Image
from tiny import STRIDES, make_instances, random_input, seeded_model

from fcos_d2.data.dataset_mapper import FCOSDatasetMapper
from fcos_d2.errors import InputError
from fcos_d2.modeling.assignment.fcos import FCOSAssigner
from fcos_d2.modeling.assignment.mask_centroids import centers_of_masks, mask_centroids
from fcos_d2.modeling.assignment.size_ranges import size_ranges_from_sizes
from fcos_d2.modeling.levels import Levels

BORDERS = [64, 128, 256, 512]
BOX = Boxes(torch.tensor([[0.0, 0.0, 90.0, 60.0]]))  # its center is (45, 30)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            [[0, 0, 90, 0, 0, 60]],
            (30, 20),
        ),  # a third of the way from the right angle to the other corners
        ([[0, 60, 90, 0, 0, 0]], (30, 20)),  # in the other direction
        # 10 x 10 at (5, 5), and 20 x 10 at (50, 25): with the weights 1/3 and 2/3.
        ([[0, 0, 10, 0, 10, 10, 0, 10], [40, 20, 40, 30, 60, 30, 60, 20]], (35, 55 / 3)),
        # An L: 20 x 60 at (10, 30) and 40 x 20 at (40, 50).
        ([[0, 0, 20, 0, 20, 40, 60, 40, 60, 60, 0, 60]], (22, 38)),
        ([[0, 0, 90, 60, 45, 30]], (45, 30)),  # a line has no area: the center of the box is used
        ([], (45, 30)),
    ],
)
def test_centroids_of_polygons_by_hand(parts, expected):
    masks = PolygonMasks([[np.array(part, dtype=float) for part in parts]])
    assert mask_centroids(masks, BOX)[0].tolist() == pytest.approx(expected)


def test_centroids_of_bit_masks_equal_the_mean_of_their_pixels():
    generator = torch.Generator().manual_seed(0)
    bits = torch.rand(5, 40, 70, generator=generator) < 0.3
    bits[3], bits[4] = False, False
    bits[4, 7, 11] = True
    boxes = Boxes(torch.tensor([[0.0, 0.0, 70.0, 40.0]] * 5))
    expected = [
        (mask.nonzero().float().mean(0).flip(0) + 0.5).tolist() if mask.any() else [35.0, 20.0]
        for mask in bits
    ]
    torch.testing.assert_close(mask_centroids(BitMasks(bits), boxes), torch.tensor(expected))


def test_polygons_and_their_bits_agree():
    triangle = [np.array([100.0, 50.0, 400.0, 120.0, 180.0, 330.0])]
    bits = BitMasks.from_polygon_masks([triangle], 400, 500)
    both = [mask_centroids(masks, BOX) for masks in (PolygonMasks([triangle]), bits)]
    torch.testing.assert_close(*both, rtol=0, atol=0.3)


def test_a_centroid_outside_of_the_box_is_moved_into_it():
    masks = PolygonMasks([[np.array([100.0, 0, 140, 0, 140, 60, 100, 60])]])
    assert centers_of_masks(make_instances(BOX.tensor, masks=masks)).tolist() == [[90, 30]]


unit = st.floats(0, 1, width=32)
corner = st.integers(-8, 100).map(lambda i: i * 4.0)
extent = st.floats(1, 500, width=32)
# A box (x, y, w, h), and three points in it, in units of its extent.
shape = st.tuples(corner, corner, extent, extent, *[unit] * 6)


@settings(max_examples=150, deadline=None)
@given(
    shapes_per_image=st.lists(st.lists(shape, max_size=8), min_size=1, max_size=2),
    radius=st.sampled_from([0.7, 1.0, 1.5, 2.5]),
    offset=st.sampled_from([0.5, 0.0]),
)
def test_targets_equal_the_dense_rule_around_the_same_centers(shapes_per_image, radius, offset):
    sizes = [(512 // stride, 512 // stride) for stride in STRIDES]
    batch = []
    for shapes in shapes_per_image:
        # The masks are one triangle in each box.
        boxes = [[x, y, x + w, y + h] for x, y, w, h, *_ in shapes]
        triangles = [
            [np.array([x + a * w, y + b * h, x + c * w, y + d * h, x + e * w, y + f * h])]
            for x, y, w, h, a, b, c, d, e, f in shapes
        ]
        batch.append(make_instances(boxes, masks=PolygonMasks(triangles)))
    assigner = FCOSAssigner(
        levels=Levels(STRIDES, offset),
        sizes_of_interest=BORDERS,
        center_sampling_radius=radius,
        center_of_mask=True,
    )
    targets = assigner(batch, sizes)
    matched = targets.matched_idxs()
    ranges = size_ranges_from_sizes(BORDERS, len(STRIDES))
    start = 0
    for image, instances in enumerate(batch):
        boxes, centers = instances.gt_boxes.tensor, centers_of_masks(instances)
        oracle = dense_matched_idxs(boxes, sizes, STRIDES, ranges, radius, offset, centers)
        assert torch.equal(matched[image], torch.where(oracle >= 0, oracle + start, -1))
        start += len(instances)


def test_positives_are_near_the_centroid():
    # A thin triangle in the lower left of a box of 200 x 200: centroid (70, 130).
    triangle = PolygonMasks([[np.array([0.0, 0.0, 10, 190, 200, 200])]])
    assigner = FCOSAssigner(levels=Levels(STRIDES), center_of_mask=True)
    sizes = [(512 // stride, 512 // stride) for stride in STRIDES]
    targets = assigner([make_instances([[0, 0, 200, 200]], masks=triangle)], sizes)
    ltrb = targets.ltrb[targets.is_positive]
    assert len(ltrb) > 0
    # They are on P5, where center sampling reaches 1.5 * 32 pixels.
    assert ((ltrb[:, 0] - 70).abs() < 48).all()
    assert ((ltrb[:, 1] - 130).abs() < 48).all()


def test_the_centroid_is_computed_from_the_transformed_mask(tmp_path):
    Image.fromarray(np.zeros((100, 120, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    annotation = {
        "bbox": [0, 0, 90, 60],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
        "segmentation": [[0, 0, 90, 0, 0, 60]],
    }
    record = {
        "file_name": str(tmp_path / "image.png"),
        "height": 100,
        "width": 120,
        "annotations": [annotation],
    }
    for mask_format, atol in (("polygon", 1e-3), ("bitmask", 0.5)):
        mapper = FCOSDatasetMapper(
            True,
            image_format="BGR",
            use_instance_mask=True,
            instance_mask_format=mask_format,
            augmentations=[T.Resize((200, 240)), T.RandomFlip(prob=1.0)],
        )
        center = centers_of_masks(mapper(record)["instances"])
        # The image is enlarged by 2, then mirrored: (30, 20) -> (60, 40) -> (180, 40).
        torch.testing.assert_close(center, torch.tensor([[180.0, 40.0]]), rtol=0, atol=atol)


def test_the_key_reaches_the_assigner_and_images_without_objects_need_no_masks():
    model = seeded_model("MODEL.FCOS.CENTER_OF_MASK", True)
    assert model.assigner.center_of_mask
    sample = random_input(1)
    x1, y1, x2, y2 = sample["instances"].gt_boxes.tensor[0].tolist()
    sample["instances"].gt_masks = PolygonMasks([[np.array([x1, y1, x2, y1, x1, y2])]])
    assert all(value.isfinite() for value in model([sample, random_input(0)]).values())
    with pytest.raises(InputError, match="without gt_masks") as caught:
        model([random_input(2)])
    assert caught.value.key == "MODEL.FCOS.CENTER_OF_MASK"


def test_centers_of_masks_without_center_sampling_are_an_error():
    with pytest.raises(InputError, match="CENTER_SAMPLING_RADIUS = 0") as caught:
        FCOSAssigner(levels=Levels(STRIDES), center_of_mask=True, center_sampling_radius=0)
    assert caught.value.key == "MODEL.FCOS.CENTER_OF_MASK"


def test_masks_of_an_unknown_type_are_an_error():
    with pytest.raises(InputError, match="Tensor"):
        mask_centroids(torch.zeros(1, 2, 2), BOX)
