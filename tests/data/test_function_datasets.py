"""Datasets of Python functions: what an evaluation needs is checked before the training."""

import numpy as np
import pytest
from commands import SHAPES_CONFIG, as_arguments
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from input_errors import ANY, check_error, input_error
from own_data import TINY

from fcos_d2.data.function_datasets import check_function_dataset, find_record_faults
from fcos_d2.engine import prepare_config

NAME = "test_function_datasets"


def make_records(number=4):
    return [
        {
            "file_name": f"{i}.png",
            "image_id": i,
            "width": 96,
            "height": 64,
            "annotations": [
                {"bbox": [1, 2, 30, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
            ],
        }
        for i in range(number)
    ]


@pytest.fixture
def register():
    """Return a function that registers a function, or one that returns records, under NAME."""

    def add(records):
        DatasetCatalog.register(NAME, records if callable(records) else lambda: records)
        MetadataCatalog.get(NAME).set(thing_classes=["cat"])

    yield add
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], ["a", "b", "c", "1"], np.arange(4), [1, "1", 2, -3]])
def test_ids_that_are_numbers_or_texts_are_accepted(ids):
    records = make_records()
    for record, image_id in zip(records, ids, strict=True):
        record["image_id"] = image_id
    assert list(find_record_faults(records)) == []
    assert list(find_record_faults([])) == []


@pytest.mark.parametrize("field", ["image_id", "width", "height"])
def test_a_missing_field_is_reported_with_the_first_index(field):
    records = make_records()
    for index in (1, 3):
        del records[index][field]
    (text,) = find_record_faults(records)
    assert all(x in text for x in ("2 of 4", f"no '{field}'", "index 1 (1.png)")), text


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
    ],
)
def test_a_wrong_value_is_reported_with_it(field, value):
    records = make_records()
    records[2][field] = value
    (text,) = find_record_faults(records)
    assert all(x in text for x in ("1 of 4", f"index 2 (2.png) with {field} = {value!r}")), text


def test_repeated_ids_are_reported_with_the_first_pair():
    records = make_records()
    for index in (2, 3):
        records[index]["image_id"] = 1
    (text,) = find_record_faults(records)
    assert all(x in text for x in ("2 of 4", "index 2 (2.png) with image_id = 1", "index 1 ")), text


def test_all_faults_are_in_one_error_before_the_training(register, monkeypatch):
    records = make_records()
    del records[0]["width"], records[1]["image_id"]
    records[3]["image_id"] = 2
    register(records)
    overrides = {"DATASETS.TRAIN": (NAME,), "DATASETS.TEST": (NAME,), "MODEL.DEVICE": "cpu"}
    with input_error(repr(NAME), key=None) as caught:
        prepare_config(SHAPES_CONFIG, as_arguments({**TINY, **overrides}))
    assert len(caught.value.faults) == 3
    check_error(caught.value, "'width'", "no 'image_id'", "another", key=ANY)


def test_a_training_set_needs_no_ids(register):
    register([{k: v for k, v in x.items() if k == "annotations"} for x in make_records()])
    overrides = {"DATASETS.TRAIN": (NAME,), "DATASETS.TEST": (), "MODEL.DEVICE": "cpu"}
    cfg = prepare_config(SHAPES_CONFIG, as_arguments({**TINY, **overrides}))
    assert cfg.MODEL.FCOS.NUM_CLASSES == 1


def test_an_error_in_the_users_function_is_not_changed(register):
    register(lambda: {}["a bug"])
    with pytest.raises(KeyError, match="a bug"):
        check_function_dataset(NAME)


def test_a_dataset_with_an_annotation_file_is_not_loaded(register):
    register(lambda: pytest.fail("it was loaded"))
    MetadataCatalog.get(NAME).set(json_file="a.json")
    check_function_dataset(NAME)
