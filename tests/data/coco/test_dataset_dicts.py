"""The conversion of dataset dicts into COCO content."""

import copy

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.structures import BoxMode
from input_errors import input_error
from pycocotools import mask

from fcos_d2.data.coco import normalize
from fcos_d2.data.coco.dataset_dicts import convert_dataset_dicts

NAME = "test_dataset_dicts"


@pytest.fixture
def register():
    """Return a function that registers dataset dicts with metadata under NAME."""

    def add(records, **metadata):
        DatasetCatalog.register(NAME, lambda: copy.deepcopy(records))
        MetadataCatalog.get(NAME).set(**metadata)

    DatasetCatalog.pop(NAME, None)
    yield add
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


POLYGON = [10.0, 20.0, 40.0, 20.0, 40.0, 50.0]
BOXES = [
    {"bbox": [1, 2, 31.25, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 1},
    {
        "bbox": np.array([10, 20, 30.5, 30]),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "segmentation": [POLYGON],
        "keypoints": [10, 20, 2, 11, 21, 0],
    },
    {
        "bbox": (0, 0, 2, 2),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 0,
        "segmentation": mask.encode(np.asfortranarray(np.eye(64, 96, dtype=np.uint8))),
    },
]
RECORDS = [
    {"file_name": "a.png", "image_id": "a", "width": 96, "height": 64, "annotations": BOXES},
    {"file_name": "b.png", "image_id": "b", "width": np.int64(5), "height": 6, "annotations": []},
]


@pytest.mark.parametrize("ids", [None, {7: 1, 9: 0}])
def test_the_content_equals_that_of_detectron2(register, ids):
    more = {} if ids is None else {"thing_dataset_id_to_contiguous_id": ids}
    register(RECORDS, thing_classes=["cat", "dog"], **more)
    before = copy.deepcopy(RECORDS)
    content = convert_dataset_dicts(NAME, RECORDS)
    assert repr(before) == repr(RECORDS)  # it is not changed
    expected = convert_to_coco_dict(NAME)
    for name in ("images", "categories"):
        assert content[name] == expected[name]
    found, _ = normalize(content)
    for converted, box in zip(found["annotations"], expected["annotations"], strict=True):
        area = box.pop("area")
        assert converted.pop("area") == pytest.approx(area), area
        assert {k: v for k, v in converted.items() if k in box} == {
            **box,
            "image_id": converted["image_id"],
            "category_id": converted["category_id"],
        }


def test_numbers_of_numpy_become_numbers_of_python(register):
    box = {**BOXES[0], "category_id": np.int64(1), "iscrowd": np.int64(0)}
    records = [{**RECORDS[0], "image_id": np.int64(4), "annotations": [box]}]
    register(records, thing_classes=["cat", "dog"])
    content = convert_dataset_dicts(NAME, records)
    (box,) = content["annotations"]
    values = [*content["images"][0].values(), *box.values(), *box["bbox"]]
    assert {type(x) for x in values} == {int, str, float, list}


def test_images_of_a_training_set_are_numbered(register):
    register(RECORDS, thing_classes=["cat", "dog"])
    content = convert_dataset_dicts(NAME, RECORDS, is_training=True, is_test=False)
    assert [x["id"] for x in content["images"]] == [0, 1]
    assert {x["image_id"] for x in content["annotations"]} == {0}


def test_a_test_set_without_annotations_has_no_list_of_them(register):
    records = [{k: v for k, v in x.items() if k != "annotations"} for x in RECORDS]
    register(records, thing_classes=["cat"])
    assert "annotations" not in convert_dataset_dicts(NAME, records)


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({}, "no thing_classes"),
        ({"thing_classes": ["a", "b", "a"]}, "more than once: a"),
        (
            {"thing_classes": ["a", "b"], "thing_dataset_id_to_contiguous_id": {7: 0}},
            "from 0 to 1",
        ),
    ],
)
def test_faults_of_the_metadata_are_reported(register, metadata, word):
    register(RECORDS, **metadata)
    with input_error(NAME, word):
        convert_dataset_dicts(NAME, RECORDS)
