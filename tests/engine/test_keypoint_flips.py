"""Horizontal flips are turned off if it is unknown which keypoints they swap."""

import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiny import tiny_cfg

from fcos_d2.data.coco import register_coco_dataset
from fcos_d2.engine.keypoint_flips import disable_unpaired_flips


@pytest.fixture
def flip_after(own_data, package_log):
    """Return a function that returns INPUT.RANDOM_FLIP for keypoint names, and the warnings."""

    def check(names, **keys):
        for category in own_data.train["categories"]:
            category["keypoints"] = names
        own_data.write()
        register_coco_dataset("train", own_data.file("train"), own_data.images)
        package_log.clear()
        overrides = {"MODEL.KEYPOINT_ON": True, "DATASETS.TRAIN": ("train",), **keys}
        cfg = tiny_cfg(overrides)
        disable_unpaired_flips(cfg)
        warnings = [x.getMessage() for x in package_log.records if x.levelno == logging.WARNING]
        return cfg.INPUT.RANDOM_FLIP, warnings

    yield check
    DatasetCatalog.remove("train")
    MetadataCatalog.remove("train")


def test_names_with_pairs_are_flipped(flip_after):
    assert flip_after(["nose", "left_eye", "right_eye"]) == ("horizontal", [])


def test_names_without_pairs_are_not_flipped_which_is_said_once(flip_after):
    flip, (warning,) = flip_after(["head", "tail"])
    assert flip == "none"
    assert [x for x in ("INPUT.RANDOM_FLIP", "'train'", "head, tail") if x not in warning] == []


def test_a_side_without_the_other_one_is_said(flip_after):
    flip, (warning,) = flip_after(["left_eye", "right_eye", "left_ear", "rigth_ear"])
    assert flip == "horizontal"
    assert "left_ear" in warning
    assert "left_eye" not in warning


@pytest.mark.parametrize("keys", [{"MODEL.KEYPOINT_ON": False}, {"INPUT.RANDOM_FLIP": "vertical"}])
def test_other_configs_do_not_change(flip_after, keys):
    flip, warnings = flip_after(["head", "tail"], **keys)
    assert flip == keys.get("INPUT.RANDOM_FLIP", "horizontal")
    assert warnings == []


def test_the_metadata_of_other_datasets_decide(package_log):
    try:
        DatasetCatalog.register("more", list)
        MetadataCatalog.get("more").set(keypoint_names=["head", "tail"], keypoint_flip_map=[])
        cfg = tiny_cfg({"MODEL.KEYPOINT_ON": True, "DATASETS.TRAIN": ("more",)})
        disable_unpaired_flips(cfg)
        assert cfg.INPUT.RANDOM_FLIP == "horizontal"
    finally:
        DatasetCatalog.remove("more")
        MetadataCatalog.remove("more")
