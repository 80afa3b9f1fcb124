"""Horizontal flips are turned off if it is unknown which keypoints they swap."""

import logging

import pytest
from commands import SHAPES_CONFIG, as_arguments
from detectron2.data import DatasetCatalog, MetadataCatalog
from own_data import TINY
from tiny import tiny_cfg

from fcos_d2.data.coco import register_coco_dataset
from fcos_d2.engine.keypoint_settings import disable_unpaired_flips
from fcos_d2.engine.yaml_config import prepare_config
from fcos_d2.errors import InputError


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


# detectron2's Keypoint R-CNN on the small backbone.
KEYPOINT_RCNN = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128]],
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 2,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
}


def prepare_keypoint_rcnn(own_data, names, **keys):
    """Prepare a training with three keypoints, and return the config."""
    for split in (own_data.train, own_data.val):
        for category in split["categories"]:
            category["keypoints"] = names
        for annotation in split["annotations"]:
            annotation.setdefault("keypoints", [12, 14, 2, 13, 14, 1, 0, 0, 0])
    own_data.write()
    names = {"DATASETS.TRAIN": ("train",), "DATASETS.TEST": ("val",)}
    overrides = {**TINY, **KEYPOINT_RCNN, **names, "OUTPUT_DIR": own_data.output, **keys}
    datasets = [f"{x}={own_data.file(x)}:{own_data.images}/" for x in own_data.NAMES]
    try:
        return prepare_config(SHAPES_CONFIG, as_arguments(overrides), datasets)
    finally:
        own_data.forget()


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["nose", "left_eye", "right_eye"], "horizontal"), (["a", "b", "c"], "none")],
)
def test_a_training_with_keypoints_is_prepared(own_data, names, expected):
    assert expected == prepare_keypoint_rcnn(own_data, names).INPUT.RANDOM_FLIP


def test_faults_of_keypoints_and_sigmas_are_reported_together_before_training(own_data):
    own_data.train["annotations"][0]["keypoints"] = [1, 2, 2]
    with pytest.raises(InputError) as error:
        prepare_keypoint_rcnn(
            own_data, ["nose", "left_eye", "right_eye"], **{"TEST.KEYPOINT_OKS_SIGMAS": [0.1, 0.2]}
        )
    keys = ["MODEL.KEYPOINT_ON", "TEST.KEYPOINT_OKS_SIGMAS"]
    assert [x.key for x in error.value.faults] == keys
