"""The boxes of a training set without a location: their number, and the warning about them."""

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.utils.env import seed_all_rng
from tiny import tiny_cfg
from tiny_lazy import REGNET, REGNET_ON_SHAPES

from fcos_d2.config_checks import build_model_for_checks
from fcos_d2.data.coco.descriptions import CheckedDataset, CocoDataset
from fcos_d2.engine import prepare_lazy_config
from fcos_d2.engine.box_coverage import (
    SampledImage,
    count_without_location,
    resize_images,
    sample_images,
    warn_of_boxes_without_location,
)
from fcos_d2.engine.preflight import RunPlan
from fcos_d2.engine.run_keys import YAML_KEYS
from fcos_d2.modeling import FCOSAssigner, Levels
from fcos_d2.modeling.config_checks import find_config_faults


def make_content(*boxes_per_image, **fields):
    """Make the content of an annotation file, with images of 100 x 60 pixels."""
    ids = range(len(boxes_per_image))
    return {
        "images": [{"id": f"i{i}", "width": 100, "height": 60} for i in ids],
        "annotations": [
            {"image_id": f"i{i}", "bbox": list(box), "iscrowd": 0, **fields}
            for i in ids
            for box in boxes_per_image[i]
        ],
    }


def test_the_sample_is_spread_over_all_files():
    contents = [make_content(*([(i, 0, 5, 5)] for i in range(9))), make_content([(50, 0, 5, 5)])]
    images = sample_images(contents, most=6)
    assert [x.boxes[0, 0] for x in images] == [0, 4, 8, 50]
    assert images[0][:2] == (60, 100)
    assert images[1].boxes.tolist() == [[4, 0, 9, 5]]


def test_crowds_and_boxes_that_training_leaves_out_are_not_in_the_sample():
    (image,) = sample_images([make_content([(0, 0, 5, 5)], iscrowd=1)])
    assert image.boxes.shape == (0, 4)
    (image,) = sample_images([make_content([(0, 0, 0, 5), (0, math.nan, 5, 5), (1, 1, 5, 5)])])
    assert image.boxes.tolist() == [[1, 1, 6, 6]]


class FromPixels(T.Augmentation):
    """An augmentation that looks at the pixels of a color image."""

    def get_transform(self, image):
        assert image.shape[2] == 3
        return T.NoOpTransform() if image.mean() > 0 else T.VFlipTransform(image.shape[0])


def test_augmentations_change_sizes_and_boxes():
    image = SampledImage(60, 100, np.array([[10.0, 0, 20, 30], [90, 50, 100, 60]]))
    augmentations = [
        T.ResizeShortestEdge(120),
        T.HFlipTransform(200),
        FromPixels(),
        T.PadTransform(0, 0, 56, 0),
        T.CropTransform(150, 60, 50, 40),
    ]
    (resized,) = resize_images([image], augmentations)
    assert resized[:2] == (40, 50)
    # Twice as large, the first box is x 20-40, y 0-60; flipped, x 160-180, y 60-120; in the crop,
    # x 10-30, y 0-60, of which 40 remain. The second box is outside of the crop.
    assert resized.boxes.tolist() == [[10, 0, 30, 40]]


def make_assigner(*strides, sizes=(), radius=1.5):
    return FCOSAssigner(
        levels=Levels(strides), sizes_of_interest=sizes, center_sampling_radius=radius
    )


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], 0),
        ([(0, 0, 8, 8)], 0),  # has the location (4, 4)
        ([(0, 0, 4, 4)], 1),  # the location is not strictly inside
        ([(0, 0, 8, 8), (0, 0, 8, 8)], 1),  # the first box has the location
        ([(5, 5, 7, 7), (0, 0, 30, 30)], 1),
    ],
)
def test_boxes_without_a_location_are_counted(boxes, expected):
    image = SampledImage(40, 40, np.array(boxes, dtype=float).reshape(-1, 4))
    assert count_without_location(make_assigner(8), [image]) == expected
    # in images of other sizes, and in a second batch
    others = [SampledImage(10, 90, np.zeros((0, 4)))] * 20
    assert count_without_location(make_assigner(8), [*others, image]) == expected


def warn_of(content, model, augmentations):
    """Warn of the boxes of a training set that no location gets."""
    files = CocoDataset("tr", "a.json", "images", {}, {}, frozenset())
    plan = RunPlan(YAML_KEYS, "cpu", "", "", None, train_names=("tr",), test_names=())
    registered = {"tr": CheckedDataset(files, content, [])}
    warn_of_boxes_without_location(model, augmentations, plan, registered)


def warn(log, content, augmentations=(), **opts):
    """Return the warning about the model of a tiny config."""
    cfg = tiny_cfg({"MODEL.FCOS.TOP_LEVELS": 2}, opts)
    assert find_config_faults(cfg) == []
    with torch.device("meta"):
        model = build_model_for_checks(cfg)
    warn_of(content, model, augmentations)
    return "".join(x.getMessage() for x in log.records if "no location" in x.getMessage())


TINY_BOXES = [[(x, y, 3, 3) for x in range(0, 96, 6)] for y in range(0, 56, 6)]


def test_the_warning_says_what_would_help(package_log):
    text = warn(package_log, make_content(*TINY_BOXES))
    assert "of 160 boxes" in text
    assert "measured on 10 images" in text
    for words in (YAML_KEYS.image_size, "one more level, of stride 4"):
        assert words in text


def test_the_sizes_of_training_decide(package_log):
    # Boxes of 12 x 12 pixels have a location of stride 8, wherever they are.
    assert not warn(package_log, make_content(*TINY_BOXES), [T.ResizeShortestEdge(240)])


def test_a_radius_that_is_too_small_is_named(package_log):
    # A box of 60 x 60 pixels whose center square of 0.8 x 0.8 pixels has no location.
    radius = {"MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.05}
    text = warn(package_log, make_content([(2, 0, 50, 50)]), **radius)
    assert f"0 % with {YAML_KEYS.center_sampling_radius} 0" in text


def test_large_boxes_and_other_assigners_cause_no_warning(package_log):
    assert not warn(package_log, make_content([(0, 0, 50, 50)]))
    warn_of(make_content(*TINY_BOXES), None, [])
    warn_of(make_content(), torch.nn.Linear(1, 1), [])
    assert "no location" not in package_log.text


@pytest.mark.parametrize(("num_small", "warns"), [(1, False), (2, True)])
def test_up_to_five_percent_of_the_boxes_may_have_no_location(package_log, num_small, warns):
    large = [[(0, 0, 50, 50)]] * (20 - num_small)
    assert bool(warn(package_log, make_content(*large, *[[(1, 1, 2, 2)]] * num_small))) == warns


def test_the_centers_of_boxes_stand_for_those_of_masks(package_log):
    center_of_mask = {"MODEL.FCOS.CENTER_OF_MASK": True}
    assert warn(package_log, make_content(*TINY_BOXES), **center_of_mask)


def test_the_random_state_does_not_change(package_log):
    augmentations = [T.RandomFlip(), T.RandomCrop("absolute", (20, 20))]
    seed_all_rng(1)
    expected = T.RandomFlip()._rand_range()
    seed_all_rng(1)
    warn(package_log, make_content([(0, 0, 50, 50)]), augmentations)
    assert T.RandomFlip()._rand_range() == expected


def test_yaml_configs_measure_their_training_set(own_data, monkeypatch, package_log):
    for annotation in own_data.train["annotations"]:
        annotation["bbox"][2:] = [1, 1]
    own_data.write()
    own_data.run(monkeypatch, own_data.arguments())
    assert "of 4 boxes" in package_log.text
    assert "the training set train get no location" in package_log.text


def test_lazy_configs_measure_their_training_set(own_data, package_log):
    for annotation in own_data.train["annotations"]:
        annotation["bbox"][2:] = [1, 1]
    own_data.write()
    sets = [f"{name}={own_data.file(name)}:{own_data.images}" for name in own_data.NAMES]
    names = [f"dataloader.{x}.dataset.names={y}" for x, y in (("train", "train"), ("test", "val"))]
    overrides = [
        *REGNET_ON_SHAPES,
        *names,
        "model.num_classes=2",
        f"train.output_dir={own_data.output}",
    ]
    try:
        prepare_lazy_config(str(REGNET), overrides, sets)
    finally:
        for name in own_data.NAMES:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    assert "of 4 boxes" in package_log.text
    assert "dataloader.train.mapper.augmentations" in package_log.text
