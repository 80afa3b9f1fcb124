"""The checks of dataset dicts before they are converted."""

import numpy as np
import pytest
from detectron2.structures import BoxMode

from fcos_d2.data.coco.record_checks import find_record_faults


def make_box():
    return {"bbox": [1, 2, 30, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}


def make_records(number=4):
    return [
        {
            "file_name": f"{i}.png",
            "image_id": i,
            "width": 96,
            "height": 64,
            "annotations": [make_box(), make_box()],
        }
        for i in range(number)
    ]


def find(records, *, is_training=True, is_test=True, num_classes=2):
    """Return the faults of a dataset for training and evaluation."""
    return [*find_record_faults(records, num_classes, is_training=is_training, is_test=is_test)]


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], ["a", "b", "c", "1"], np.arange(4), [1, "1", 2, -3]])
def test_ids_that_are_numbers_or_texts_are_accepted(ids):
    records = make_records()
    for record, image_id in zip(records, ids, strict=True):
        record["image_id"] = image_id
    assert find(records) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bbox", np.array([1, 2, 3, 4])),
        ("bbox", (1, 2, 3.5, np.float32(4))),
        ("bbox_mode", 0),
        ("category_id", np.int64(1)),
        ("segmentation", []),
        ("segmentation", {"size": [64, 96], "counts": b"x"}),
        ("keypoints", None),
        ("keypoints", []),
        ("keypoints", [1, 2.5, 2]),
        ("keypoints", np.ones((2, 3))),
    ],
)
def test_valid_values_of_annotations_are_accepted(field, value):
    records = make_records()
    records[2]["annotations"][1][field] = value
    assert find(records) == []


@pytest.mark.parametrize("field", ["image_id", "width", "height", "file_name", "annotations"])
def test_a_missing_field_is_reported_with_the_first_index(field):
    records = make_records()
    for index in (1, 3):
        del records[index][field]
    (text,) = find(records)
    first = "index 1" if field == "file_name" else "index 1 (1.png)"
    assert all(x in text for x in ("2 of 4 dicts have", f"no '{field}'", first)), text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_id", None),
        ("image_id", [1]),
        ("image_id", 1.0),
        ("image_id", True),
        ("width", 0),
        ("height", -1),
        ("height", 64.0),
        ("width", "96"),
        ("annotations", None),
        ("annotations", [1]),
    ],
)
def test_a_wrong_value_is_reported_with_it(field, value):
    records = make_records()
    records[2][field] = value
    (text,) = find(records)
    words = ["1 of 4", f"a wrong '{field}'", f"index 2 (2.png) with {field} = {value!r}"]
    assert all(x in text for x in words), text


def test_a_wrong_name_of_a_file_is_reported():
    records = make_records()
    records[2]["file_name"] = None
    (text,) = find(records)
    assert "a wrong 'file_name'" in text


@pytest.mark.parametrize("field", ["bbox", "bbox_mode", "category_id"])
def test_a_missing_field_of_an_annotation_is_reported_with_its_place(field):
    records = make_records()
    del records[1]["annotations"][1][field]
    (text,) = find(records)
    words = ["1 of 8 annotations have", f"no '{field}'", "annotation 1 of index 1 (1.png)"]
    assert all(x in text for x in words), text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bbox", [1, 2, 3]),
        ("bbox", [1, 2, 3, "4"]),
        ("bbox", [1, 2, 3, 4, 5]),
        ("bbox", [[1], [2, 3]]),
        ("bbox", None),
        ("bbox_mode", BoxMode.XYXY_REL),
        ("bbox_mode", "XYXY_ABS"),
        ("category_id", -1),
        ("category_id", 2),
        ("category_id", 1.0),
        ("segmentation", None),
        ("keypoints", 5),
        ("keypoints", "abc"),
        ("keypoints", {}),
        ("keypoints", ["a", 1, 2]),
        ("keypoints", [1, 2]),
        ("keypoints", [1, 2, None]),
        ("keypoints", [1, 2, float("nan")]),
        ("keypoints", [[1, 2, 2], [3]]),
    ],
)
def test_a_wrong_value_of_an_annotation_is_reported_with_its_place(field, value):
    records = make_records()
    records[2]["annotations"][1][field] = value
    (text,) = find(records)
    words = [f"a wrong '{field}'", f"annotation 1 of index 2 (2.png) with {field} = {value!r}"]
    assert all(x in text for x in words), text


def test_repeated_ids_are_reported_with_the_first_pair():
    records = make_records()
    for index in (2, 3):
        records[index]["image_id"] = 1
    (text,) = find(records)
    assert all(x in text for x in ("2 of 4", "index 2 (2.png) with image_id = 1", "index 1 ")), text


def test_only_evaluations_need_ids_and_only_trainings_need_annotations():
    records = make_records()
    records[0]["image_id"] = 1
    del records[3]["image_id"]
    assert find(records, is_test=False) == []
    assert len(find(records)) == 2
    records = make_records()
    del records[3]["annotations"]
    assert find(records, is_training=False) == []


def test_images_may_have_another_source_than_files():
    records = make_records()
    for record in records:
        del record["file_name"]
    assert find(records) == []


@pytest.mark.parametrize(
    ("records", "word"), [(None, "returns None"), ([], "empty"), ([{}, 7], "index 1: 7")]
)
def test_what_is_not_a_list_of_dicts_is_reported(records, word):
    (text,) = find(records)
    assert word in text
