"""The names and lines of keypoints, which training writes into its config for predictions."""

import pytest
from commands import SHAPES_CONFIG, as_arguments
from detectron2.data import DatasetCatalog, MetadataCatalog
from own_data import TINY

from fcos_d2.data.coco import register_coco_dataset
from fcos_d2.engine.yaml_config import load_prediction_config, prepare_config
from fcos_d2.prediction import keypoint_metadata

NAMES = ["head", "left_foot", "right_foot"]
SETTINGS = {
    "keypoint_names": NAMES,
    "keypoint_flip_map": [("left_foot", "right_foot")],
    "keypoint_connection_rules": [("head", "left_foot", (255, 0, 0))],
}


KEYPOINT_RCNN = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.KEYPOINT_ON": True,
    "MODEL.RPN.IN_FEATURES": ["p3"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32]],
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p3"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 2,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
}


@pytest.fixture
def prepare(own_data):
    """Register a dataset with keypoints, and return a function that prepares a training on it."""
    for annotation in own_data.train["annotations"]:
        annotation |= {"keypoints": [15, 20, 2, 12, 30, 1, 0, 0, 0], "num_keypoints": 2}
    own_data.write()
    register_coco_dataset("points", own_data.file("train"), own_data.images)
    vars(MetadataCatalog.get("points")).update(SETTINGS)

    def run(overrides):
        keys = {**TINY, "DATASETS.TRAIN": ("points",), "DATASETS.TEST": (), **overrides}
        return prepare_config(SHAPES_CONFIG, as_arguments(keys))

    yield run
    DatasetCatalog.remove("points")
    MetadataCatalog.remove("points")


def test_training_writes_the_keypoints_of_its_dataset_for_predictions(prepare, tmp_path):
    cfg = prepare(KEYPOINT_RCNN)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    loaded = load_prediction_config(str(tmp_path / "config.yaml"), ["MODEL.DEVICE=cpu"])
    assert loaded.FCOS_TRAIN.KEYPOINT_NAMES == NAMES
    assert loaded.FCOS_TRAIN.KEYPOINT_SKELETON == [["head", "left_foot", [255, 0, 0]]]
    assert keypoint_metadata(loaded) == (NAMES, [["head", "left_foot", [255, 0, 0]]])


def test_a_model_without_keypoints_has_no_names_of_keypoints(prepare):
    cfg = prepare({})
    assert cfg.FCOS_TRAIN.KEYPOINT_NAMES == cfg.FCOS_TRAIN.KEYPOINT_SKELETON == []
