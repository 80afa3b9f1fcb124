"""Checks of training and test sets together."""

import os
from pathlib import Path

import pytest
from input_errors import input_error

from fcos_d2.data.coco import ModelLimits, check_datasets
from fcos_d2.errors import InputError


def warnings_of(train_names, test_names, checked, log, **limits):
    """Check datasets, and return the warnings."""
    log.clear()
    check_datasets(ModelLimits(2, **limits), train_names, test_names, checked)
    return [x.getMessage() for x in log.records if x.levelname == "WARNING"]


def test_all_faults_of_several_datasets_are_in_one_error(own_data, register_own):
    own_data.train["annotations"].clear()
    own_data.val["annotations"].clear()
    own_data.val["categories"].append({"id": 3, "name": "cow"})
    own = register_own()
    with pytest.raises(InputError) as error:
        check_datasets(ModelLimits(3), ["train", "nowhere"], ["val"], own)
    assert [(x.key, x.value, x.file and Path(x.file).name) for x in error.value.faults] == [
        ("DATASETS.TRAIN", ["train", "nowhere"], None),  # not registered
        # val has other categories than train; NUM_CLASSES cannot fit both
        ("DATASETS.TEST", ["val"], None),
        ("DATASETS.TRAIN", ["train", "nowhere"], "train.json"),  # no boxes
        ("DATASETS.TEST", ["val"], "val.json"),  # no boxes
    ]


def test_an_image_that_is_in_both_sets_by_a_link_causes_a_warning(
    own_data, register_own, package_log
):
    (own_data.images / "3.png").unlink()
    (own_data.images / "3.png").symlink_to("1.png")
    (warning,) = warnings_of(["train"], ["val"], register_own(), package_log)
    assert [x for x in ("1 image is", "'train'", "'val'") if x not in warning] == []


IDS = {  # image ids of train.json and val.json -> is there a warning of the common ids?
    "counted from 0": ([0, 1], [0, 1], False),
    "counted from 1": ([1, 2], [2, 1], False),
    "one is counted": ([7, 2], [1, 2], False),
    "neither is counted": ([7, 2], [9, 7], True),
    "counted from 2": ([2, 3], [9, 3], True),
    "from 1, with a gap": ([1, 7], [9, 7], True),
}


@pytest.mark.parametrize("case", IDS)
def test_common_image_ids_cause_a_warning_unless_they_are_only_counted(
    own_data, register_own, package_log, case
):
    train_ids, test_ids, is_warned = IDS[case]
    for split, ids in ((own_data.train, train_ids), (own_data.val, test_ids)):
        new = dict(zip([x["id"] for x in split["images"]], ids, strict=True))
        for image in split["images"]:
            image["id"] = new[image["id"]]
        for annotation in split["annotations"]:
            annotation["image_id"] = new[annotation["image_id"]]
    warnings = warnings_of(["train"], ["val"], register_own(), package_log)
    assert ["1 image id is" in x for x in warnings] == [True] * is_warned


def test_test_images_with_more_objects_than_are_kept_cause_a_warning(
    own_data, register_own, package_log
):
    own_data.val["annotations"].append({**own_data.val["annotations"][-1], "id": 99})
    crowd = {**own_data.val["annotations"][0], "id": 100, "iscrowd": 1}
    own_data.val["annotations"].append(crowd)  # image 3 has two objects and a crowd
    checked = register_own()
    assert warnings_of(["train"], ["val"], checked, package_log, detections_per_image=3) == []
    assert warnings_of(["val"], [], checked, package_log, detections_per_image=2) == []
    (text,) = warnings_of(["train"], ["val"], checked, package_log, detections_per_image=2)
    words = ["1 image has more than 2", "'val'", "'4.png' has 3", "TEST.DETECTIONS_PER_IMAGE"]
    assert [x for x in words if x not in text] == []


def test_objects_of_classes_that_are_left_out_need_no_detections(
    own_data, register_own, package_log
):
    for i in (98, 99):
        own_data.val["annotations"].append({**own_data.val["annotations"][0], "id": i})  # cats
    checked = register_own()
    assert len(warnings_of([], ["val"], checked, package_log, detections_per_image=2)) == 1
    dogs = checked["val"].description._replace(categories={2: "dog"})
    checked["val"] = checked["val"]._replace(description=dogs)
    assert warnings_of([], ["val"], checked, package_log, detections_per_image=2) == []


def test_a_test_set_without_the_list_of_annotations_is_accepted(own_data, register_own):
    own_data.val.pop("annotations")
    check_datasets(ModelLimits(2), ["train"], ["val"], register_own())


def test_a_training_set_without_the_list_of_annotations_is_refused(own_data, register_own):
    own_data.train.pop("annotations")
    own = register_own()
    with input_error("'annotations'", key="DATASETS.TRAIN", file=own_data.file("train")):
        check_datasets(ModelLimits(2), ["train"], ["val"], own)


@pytest.mark.parametrize("uses_masks", [True, False])
def test_an_image_of_which_only_some_boxes_have_a_segmentation_cannot_be_trained_with_masks(
    own_data, register_own, uses_masks
):
    first, second, *others = own_data.train["annotations"]
    first["segmentation"] = [[10, 10, 30, 10, 30, 30]]
    second["segmentation"] = [[1, 2, 3, 4]]  # is dropped
    assert all("segmentation" not in x for x in others)  # an image without any is another case
    own = register_own()
    limits = ModelLimits(2, uses_masks=uses_masks)
    if not uses_masks:
        check_datasets(limits, ["train"], ["val"], own)
        return
    file = own_data.file("train")
    with input_error("1 box ", "annotation 11", key="MODEL.MASK_ON", value=True, file=file):
        check_datasets(limits, ["train"], ["val"], own)


def test_each_image_is_identified_once(register_own, monkeypatch):
    own = register_own()
    files = [file for dataset in own.values() for file in dataset.files()]
    seen = []
    status = os.stat

    def count(file, **options):
        seen.append(file)
        return status(file, **options)

    monkeypatch.setattr("os.stat", count)
    check_datasets(ModelLimits(2), ["train"], ["val", "val"], own)
    assert sorted(x for x in seen if x in files) == sorted(files)
