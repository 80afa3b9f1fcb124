"""Checks of training and test sets together."""

from pathlib import Path

import pytest
from input_errors import input_error

from fcos_d2.data.coco import check_datasets
from fcos_d2.errors import InputError


def test_all_faults_of_several_datasets_are_in_one_error(own_data, register_own):
    own_data.train["annotations"].clear()
    own_data.val["annotations"].clear()
    own_data.val["categories"].append({"id": 3, "name": "cow"})
    own = register_own()
    with pytest.raises(InputError) as error:
        check_datasets(2, ["train", "nowhere"], ["val"], own)
    assert [(x.key, x.value, x.file and Path(x.file).name) for x in error.value.faults] == [
        ("DATASETS.TRAIN", ["train", "nowhere"], None),  # not registered
        ("MODEL.FCOS.NUM_CLASSES", 2, None),  # val has 3
        ("DATASETS.TEST", ["val"], None),  # other categories than train
        ("DATASETS.TRAIN", ["train", "nowhere"], "train.json"),  # no boxes
        ("DATASETS.TEST", ["val"], "val.json"),  # no boxes
    ]


def test_an_image_that_is_in_both_sets_by_a_link_causes_a_warning(
    own_data, register_own, package_log
):
    (own_data.images / "3.png").unlink()
    (own_data.images / "3.png").symlink_to("1.png")
    check_datasets(2, ["train"], ["val"], register_own())
    (warning,) = (x.getMessage() for x in package_log.records if x.levelname == "WARNING")
    assert [x for x in ("1 images", "'train'", "'val'") if x not in warning] == []


def test_a_test_set_without_the_list_of_annotations_is_accepted(own_data, register_own):
    own_data.val.pop("annotations")
    check_datasets(2, ["train"], ["val"], register_own())


def test_a_training_set_without_the_list_of_annotations_is_refused(own_data, register_own):
    own_data.train.pop("annotations")
    own = register_own()
    with input_error("'annotations'", key="DATASETS.TRAIN", file=own_data.file("train")):
        check_datasets(2, ["train"], ["val"], own)
