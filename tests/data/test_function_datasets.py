"""Datasets of Python functions: all that can go wrong is reported before the training."""

import numpy as np
import pytest
from commands import SHAPES_CONFIG, as_arguments
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from input_errors import ANY, check_error, input_error
from own_data import TINY

from fcos_d2.data.function_datasets import check_function_dataset, is_function_dataset
from fcos_d2.engine import Trainer, prepare_config
from fcos_d2.errors import InputError

NAMES = TRAIN, TEST = "function_train", "function_test"


@pytest.fixture
def make_records(own_data):
    """Return a function that returns dataset dicts of the four images of OwnData."""

    def make():
        box = {"bbox": [10, 12, 30, 42], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
        return [
            {
                "file_name": str(own_data.images / f"{i}.png"),
                "image_id": i,
                "width": 96,
                "height": 64,
                "annotations": [dict(box), {**box, "category_id": 1}],
            }
            for i in range(1, 5)
        ]

    return make


@pytest.fixture
def register():
    """Return a function that registers functions, or ones that return dicts, by their names."""

    def add(name, records, classes=("cat", "dog")):
        DatasetCatalog.register(name, records if callable(records) else lambda: records)
        MetadataCatalog.get(name).set(thing_classes=list(classes))

    yield add
    for name in NAMES:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def prepare(train=(), test=(), **overrides):
    """Make the checks of a training."""
    datasets = {"DATASETS.TRAIN": train, "DATASETS.TEST": test, "MODEL.DEVICE": "cpu"}
    return prepare_config(SHAPES_CONFIG, as_arguments({**TINY, **datasets, **overrides}))


def replace_in_images(**fields):
    return lambda records: [x.update(fields) for x in records]


def remove_from_images(field):
    return lambda records: [x.pop(field) for x in records]


def replace_in_boxes(**fields):
    return lambda records: [box.update(fields) for x in records for box in x["annotations"]]


# case: (change of the dicts, key words)
FAULTS = {
    "height": (remove_from_images("height"), ["4 of 4", "'height'", "index 0"]),
    "swapped sides": (replace_in_images(width=64, height=96), ["swapped", "4 of 4"]),
    "no file": (replace_in_images(file_name="/no/where.png"), ["not exist", "where.png"]),
    "class": (replace_in_boxes(category_id=2), ["8 of 8", "'category_id'", "from 0 to 1"]),
    "no box": (replace_in_images(annotations=[]), ["no box to"]),
    "box": (replace_in_boxes(bbox=[10, 12, float("nan"), 42]), ["no box to"]),
    "empty": (list.clear, ["empty list"]),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_an_error_before_the_training(register, make_records, name, case):
    change, words = FAULTS[case]
    records = {x: make_records() for x in NAMES}
    change(records[name])
    for x in NAMES:
        register(x, records[x])
    with input_error(repr(name), *words, key=ANY):
        prepare((TRAIN,), (TEST,))


def test_missing_images_of_a_function_are_left_out_only_in_training(register, make_records):
    records = {x: make_records() for x in NAMES}
    for name in NAMES:
        records[name][0]["file_name"] = "/no/where.png"
        register(name, records[name])
    key = "FCOS_TRAIN.SKIP_UNREADABLE_IMAGES"
    with input_error("where.png", f"{key} True", "file_name", file="/no/where.png") as caught:
        prepare((TRAIN,))
    assert "folder" not in caught.value.text
    with input_error("where.png", "file_name", file="/no/where.png") as caught:
        prepare((TEST,), (TEST,), **{key: True})
    assert key not in caught.value.text
    prepare((TRAIN,), **{key: True})


@pytest.mark.parametrize("name", NAMES)
def test_classes_that_the_metadata_lack_are_an_error(register, make_records, name):
    for x in NAMES:
        register(x, make_records(), () if x == name else ("cat", "dog"))
    with input_error(repr(name), "thing_classes", key=ANY):
        prepare((TRAIN,), (TEST,))


def test_all_faults_are_in_one_error(register, make_records):
    records = make_records()
    del records[0]["width"], records[1]["image_id"]
    records[3]["image_id"] = 3
    register(TEST, records)
    with input_error(repr(TEST), key=None) as caught:
        prepare((TEST,), (TEST,))
    assert len(caught.value.faults) == 3
    check_error(caught.value, "'width'", "no 'image_id'", "another", key=ANY)


def test_a_training_set_needs_no_ids_and_no_files(register, make_records):
    records = make_records()
    for record in records:
        del record["image_id"], record["file_name"]
    register(TRAIN, records)
    assert prepare((TRAIN,)).MODEL.FCOS.NUM_CLASSES == 2


def test_a_valid_dataset_causes_no_warning(register, make_records, package_log):
    register(TEST, make_records())
    check_function_dataset(TEST, is_training=False, is_test=True)
    assert package_log.messages == []


@pytest.mark.parametrize("keypoints", [None, [11, 13, 2], np.array([[11, 13, 2]])])
def test_keypoints_are_converted_or_missing(register, make_records, keypoints):
    records = make_records()
    records[0]["annotations"][0]["keypoints"] = keypoints
    register(TEST, records)
    first, *others = check_function_dataset(TEST, is_training=True, is_test=True).content[
        "annotations"
    ]
    assert first.get("keypoints") == (None if keypoints is None else [10.5, 12.5, 2])
    assert not any("keypoints" in x for x in others)


def test_images_that_are_in_both_sets_cause_a_warning(register, make_records, package_log):
    register(TRAIN, make_records())
    register(TEST, make_records())
    prepare((TRAIN,), (TEST,))
    assert "4 images are in the training set 'function_train'" in package_log.text


def test_a_dataset_with_ids_of_numpy_is_trained_on_and_evaluated(register, make_records, tmp_path):
    records = make_records()
    for record in records:
        record["image_id"] = np.int64(record["image_id"])
        record["annotations"][0]["category_id"] = np.int64(0)
    for name in NAMES:
        register(name, records)
    more = {"MODEL.FCOS.SCORE_THRESH_TEST": 0.0, "OUTPUT_DIR": tmp_path}
    cfg = prepare((TRAIN,), (TEST,), **more)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert "AP" in trainer.test(cfg, trainer.model)["bbox"]


def test_an_error_in_the_users_function_is_not_changed(register):
    register(TEST, lambda: {}["a bug"])
    with pytest.raises(KeyError, match="a bug"):
        check_function_dataset(TEST, is_training=False, is_test=True)


def test_a_dataset_with_an_annotation_file_is_no_dataset_of_a_function(register):
    register(TEST, list)
    assert is_function_dataset(TEST)
    MetadataCatalog.get(TEST).set(json_file="a.json")
    assert not is_function_dataset(TEST)
    assert not is_function_dataset("nowhere")


def test_segmentations_that_are_not_valid_are_refused_by_models_with_masks(make_records, register):
    records = make_records()
    for annotation in records[0]["annotations"]:
        annotation["segmentation"] = [[1, 2, "a", 4, 5, 6]]
    register(TRAIN, records)
    prepare((TRAIN,))
    with pytest.raises(InputError) as error:
        prepare((TRAIN,), **{"MODEL.MASK_ON": True})
    words = "no valid segmentation", "[[1, 2, 'a', 4, 5, 6]]"
    check_error(error.value, *words, key="MODEL.MASK_ON", value=True)
