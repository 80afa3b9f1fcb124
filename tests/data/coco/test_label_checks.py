"""Checks of the masks and keypoints of datasets."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from input_errors import input_error

from fcos_d2.data.coco import ModelLimits, check_datasets
from fcos_d2.errors import InputError

NAMES = ["nose", "left_eye", "right_eye"]
POINTS = [12, 14, 2, 13, 14, 1, 0, 0, 0]
KEY = "MODEL.KEYPOINT_ON"


@pytest.fixture
def keypoint_data(own_data):
    """Give all objects and categories of ``own_data`` keypoints."""
    for split in (own_data.train, own_data.val):
        for category in split["categories"]:
            category |= {"keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}
        for annotation in split["annotations"]:
            annotation["keypoints"] = list(POINTS)
    return own_data


def check(checked, train_names=("train",), test_names=("val",), **limits):
    """Check the datasets for a model with keypoints."""
    check_datasets(ModelLimits(2, uses_keypoints=True, **limits), train_names, test_names, checked)


def test_metadata_have_the_keypoints_of_the_categories(keypoint_data, register_own):
    check(register_own())
    metadata = MetadataCatalog.get("train")
    assert metadata.keypoint_names == tuple(NAMES)
    assert metadata.keypoint_flip_map == (("left_eye", "right_eye"),)
    rules = metadata.keypoint_connection_rules
    assert [x[:2] for x in rules] == [("nose", "left_eye"), ("nose", "right_eye")]


def test_objects_without_a_labeled_keypoint_and_crowds_without_keypoints_are_fine(
    keypoint_data, register_own
):
    first, second, *_ = keypoint_data.train["annotations"]
    first["keypoints"] = [0] * 9
    second["iscrowd"] = 1
    del second["keypoints"]
    check(register_own())


def test_classes_may_have_no_keypoints(keypoint_data, register_own):
    for split in (keypoint_data.train, keypoint_data.val):
        del split["categories"][0]["keypoints"]
        for annotation in split["annotations"]:
            if annotation["category_id"] == 1:
                del annotation["keypoints"]
    check(register_own())


def test_objects_without_keypoints(keypoint_data, register_own):
    for annotation in keypoint_data.train["annotations"][1:3]:
        del annotation["keypoints"]
    own = register_own()
    file = keypoint_data.file("train")
    with input_error("2 objects", "annotation 11 of '1.png'", key=KEY, value=True, file=file):
        check(own)
    check_datasets(ModelLimits(2), ["train"], ["val"], own)  # a model without keypoints
    check(own, ["val"], ["train"])  # in a test set, the evaluation says so


@pytest.mark.parametrize("name", ["train", "val"])
def test_another_number_of_keypoints_than_names(keypoint_data, register_own, name):
    split = getattr(keypoint_data, name)
    split["annotations"][2]["keypoints"] = POINTS[:6]
    own_id = split["annotations"][2]["id"]
    own = register_own()
    with input_error(
        "1 object ", f"annotation {own_id} ", "(3)", key=KEY, file=keypoint_data.file(name)
    ):
        check(own)


def test_keypoints_of_a_category_without_names(keypoint_data, register_own):
    keypoint_data.train["categories"][1].pop("keypoints")
    own = register_own()
    with input_error("2 objects", "annotation 11 ", "'dog'", key=KEY):
        check(own)


def test_no_names_at_all(own_data, register_own):
    own = register_own()
    with input_error("'train'", '"keypoints"', key=KEY, file=own_data.file("train")):
        check(own)


def test_faults_of_the_categories_matter_only_with_keypoints(keypoint_data, register_own):
    keypoint_data.train["categories"][0]["skeleton"] = [[0, 1]]
    own = register_own()
    check_datasets(ModelLimits(2), ["train"], ["val"], own)
    assert MetadataCatalog.get("train").keypoint_names == ()
    with input_error("[0, 1]", "'train'", key=KEY, file=keypoint_data.file("train")):
        check(own)


def test_no_labeled_keypoint(keypoint_data, register_own):
    for annotation in keypoint_data.train["annotations"]:
        annotation["keypoints"] = [0] * 9
    own = register_own()
    with input_error("'train'", "labeled", key=KEY):
        check(own)


def test_datasets_of_a_run_have_the_same_keypoints(keypoint_data, register_own):
    for category in keypoint_data.val["categories"]:
        category["keypoints"] = ["left_eye", "nose", "right_eye"]
    own = register_own()
    with input_error("test set 'val'", "training set 'train'", "left_eye, nose", key=KEY):
        check(own)


def test_all_faults_are_in_one_error(keypoint_data, register_own):
    keypoint_data.train["annotations"][0]["keypoints"] = [1, 2, 2]
    del keypoint_data.train["annotations"][1]["keypoints"]
    keypoint_data.val["annotations"][0]["keypoints"] = [1, 2, 2]
    own = register_own()
    with pytest.raises(InputError) as error:
        check(own)
    assert len(error.value.faults) == 3
    assert {x.key for x in error.value.faults} == {KEY}


def test_metadata_of_other_datasets_must_say_what_a_flip_swaps(keypoint_data, register_own):
    own = register_own()
    try:
        DatasetCatalog.register("more", list)
        metadata = MetadataCatalog.get("more").set(thing_classes=["cat", "dog"])
        with input_error("'more'", "keypoint_names", key=KEY):
            check(own, ["train", "more"])
        metadata.keypoint_names = list(NAMES)
        with input_error("keypoint_flip_map = [('left_eye', 'right_eye')]", key=KEY):
            check(own, ["more"], [])
        metadata.keypoint_flip_map = [("left_eye", "right_eye")]
        check(own, ["more"], ["val"])
        # detectron2 compares the values between training sets, and a list is not a tuple.
        with input_error("'train'", "'more'", key=KEY):
            check(own, ["train", "more"])
    finally:
        DatasetCatalog.remove("more")
        MetadataCatalog.remove("more")


def test_rles_do_not_fit_the_format_of_polygons(own_data, register_own):
    for annotation in own_data.train["annotations"]:
        annotation["segmentation"] = [[10, 10, 30, 10, 30, 30]]
    rle = {"size": [64, 96], "counts": [96 * 32, 64, 96 * 32 - 64]}
    own_data.train["annotations"][2]["segmentation"] = rle
    own = register_own()
    check_datasets(ModelLimits(2, uses_masks=True), ["train"], ["val"], own)
    limits = ModelLimits(2, uses_masks=True, mask_format="polygon")
    file = own_data.file("train")
    with input_error(
        "1 segm", "annotation 20 ", key="INPUT.MASK_FORMAT", value="polygon", file=file
    ):
        check_datasets(limits, ["train"], ["val"], own)


def test_a_mask_head_needs_a_mask_for_each_object(own_data, register_own):
    first, second, *others = own_data.train["annotations"]
    for annotation in (first, second):
        annotation["segmentation"] = [[10, 10, 30, 10, 30, 30]]
    own = register_own()
    check_datasets(ModelLimits(2, uses_masks=True), ["train"], ["val"], own)
    limits = ModelLimits(2, uses_masks=True, has_mask_head=True)
    file = own_data.file("train")
    with input_error("2 boxes", f"annotation {others[0]['id']} ", key="MODEL.MASK_ON", file=file):
        check_datasets(limits, ["train"], ["val"], own)
