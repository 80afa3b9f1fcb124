"""Damaged datasets: errors before training, and warnings after which training continues."""

import json

import numpy as np
import pytest
from commands import as_arguments
from input_errors import ANY, check_error
from tiny import read_metrics

TRAIN, TEST, NUM_CLASSES = "DATASETS.TRAIN", "DATASETS.TEST", "MODEL.FCOS.NUM_CLASSES"


# Functions that return a function that damages the content of an annotation file, or a file.


def change(name, /, index=0, split="train", **fields):
    """Damage an entry of images, annotations or categories: set fields."""
    return lambda data: getattr(data, split)[name][index].update(fields)


def change_all(split="train", **fields):
    """Damage all annotations: set fields."""
    return lambda data: [x.update(fields) for x in getattr(data, split)["annotations"]]


def remove(name, key, index=0, split="train"):
    """Damage an entry: remove a field."""
    return lambda data: getattr(data, split)[name][index].pop(key)


def change_bbox(*bbox, split="train"):
    return change("annotations", bbox=list(bbox), split=split)


def clear(name):
    return lambda data: data.train[name].clear()


def encode(encoding):
    """Write train.json in another encoding."""
    return lambda data: write("train.json", json.dumps(data.train).encode(encoding))(data)


def write(path, content):
    """Write bytes into a file; None deletes it."""

    def damage(data):
        if path == "train.json":
            data.train = None
        if content is None:
            (data.folder / path).unlink(missing_ok=True)
        else:
            (data.folder / path).write_bytes(content)

    return damage


def renumber_category(data):
    data.val["categories"][1]["id"] = 7
    for annotation in data.val["annotations"]:
        annotation["category_id"] = {1: 1, 2: 7}[annotation["category_id"]]


def add_category(data):
    data.val["categories"].append({"id": 3, "name": "cow"})


# name of the case: (damage, keywords of the text). The error has the file train.json and no key.
ANNOTATION_FILE = {
    "missing": (write("train.json", None), ["exist"]),
    "empty": (write("train.json", b""), ["empty (0 bytes)"]),
    "XML": (write("train.json", b"<xml/>"), ["not JSON", "line 1"]),
    "two bytes of UTF-16": (write("train.json", b"\xff\xfe\x00"), ["UTF-16", "UTF-8"]),
    "Latin-1": (write("train.json", b'{"images": ["\xe9"]}'), ["not UTF-8"]),
    "UTF-8 with a BOM": (encode("utf-8-sig"), ["UTF-8 with a BOM"]),
    "UTF-16": (encode("utf-16"), ["UTF-16:"]),
    "UTF-16 without a BOM": (encode("utf-16-be"), ["UTF-16-BE"]),
    "deep": (write("train.json", b"[" * 200_000), ["nested"]),
    "truncated": (write("train.json", b'{"images": ['), ["not JSON"]),
    "a list": (write("train.json", b"[]"), ["COCO", "'annotations'"]),
    "nothing inside": (write("train.json", b"{}"), ["COCO", "'annotations'"]),
    "no annotations": (lambda data: data.train.pop("annotations"), ["COCO", "'annotations'"]),
    "no image": (clear("images"), ["'images' is empty"]),
    "no category": (clear("categories"), ["'categories' is empty"]),
}
FIELDS = {
    "no file name": (remove("images", "file_name"), ["images[0]", "no 'file_name'"]),
    "no height": (remove("images", "height"), ["images[0]", "no 'height'"]),
    "width is a text": (change("images", width="96"), ["image 1 ", "width = '96'"]),
    "height is 0": (change("images", height=0), ["image 1 ", "height = 0"]),
    "width is huge": (change("images", width=10**400), ["width = 1000", "..."]),
    "width is NaN": (change("images", width=float("nan")), ["width = nan"]),
    "width is infinite": (change("images", width=float("inf")), ["width = inf"]),
    "width has a fraction": (change("images", width=95.5), ["width = 95.5"]),
    "id is a list": (change("images", id=[1]), ["images[0]", "id = [1]"]),
    "id is a bool": (change("images", id=True), ["images[0]", "id = True"]),
    "file name is a number": (change("images", file_name=7), ["images[0]", "file_name = 7"]),
    "file name is empty": (change("images", file_name=""), ["images[0]", "file_name = ''"]),
    "file name is a dot": (change("images", file_name="."), ["images[0]", "file_name = '.'"]),
    "file name has a zero": (change("images", file_name="a\0.png"), ["'a\\x00.png'"]),
    "ids of images are mixed": (change("images", id="1"), ["images", "such as 2 and '1'"]),
    "ids of annotations are mixed": (change("annotations", id="x"), ["annotations", "and 'x'"]),
    "ids of categories are mixed": (change("categories", id="1"), ["categories", "2 and '1'"]),
    "image_id is a text": (
        change("annotations", image_id="1"),
        ["1 annotations", "image_id = '1'", "1 (an integer)"],
    ),
    "category_id is a text": (
        change("annotations", category_id="1"),
        ["1 annotations", "category_id = '1'", "categories"],
    ),
    "category_id is None": (change("annotations", category_id=None), ["category_id = None"]),
    "category_id is unknown": (
        change("annotations", index=2, category_id=9),
        ["1 annotations", "annotation 20", "category_id = 9"],
    ),
    "iscrowd is 2": (change("annotations", iscrowd=2), ["annotations[0]", "iscrowd = 2"]),
    "iscrowd is None": (change("annotations", iscrowd=None), ["iscrowd = None"]),
    "iscrowd is a text": (change("annotations", iscrowd="0"), ["iscrowd = '0'"]),
    "ignore is 1": (change("annotations", ignore=1), ["ignore = 1", "detectron2"]),
    "segmentation is a number": (
        change("annotations", segmentation=5),
        ["1 boxes", "segmentation = 5"],
    ),
    "segmentation is flat": (
        change("annotations", segmentation=[5, 6, 7, 8, 9, 10]),
        ["1 boxes", "segmentation = [5, 6,"],
    ),
    "segmentation lacks a size": (
        change("annotations", segmentation={"counts": [3]}),
        ["1 boxes", "segmentation = {'counts': [3]}"],
    ),
    "segmentation counts in texts": (
        change("annotations", segmentation={"counts": ["3"], "size": [1, 3]}),
        ["1 boxes", "segmentation = {'counts': ['3']"],
    ),
    "keypoints are a text": (
        change("annotations", keypoints="abc"),
        ["1 boxes", "keypoints = 'abc'"],
    ),
    "keypoints have a text": (
        change("annotations", keypoints=["1", 2, 3]),
        ["1 boxes", "keypoints = ['1', 2, 3]"],
    ),
    "no bbox": (remove("annotations", "bbox"), ["annotations[0]", "no 'bbox'"]),
    "no name": (remove("categories", "name"), ["categories[0]", "no 'name'"]),
    "image id twice": (change("images", index=1, id=1), ["2 images", "id 1."]),
    "annotation id twice": (change("annotations", index=1, id=10), ["2 annotations", "id 10."]),
    "name twice": (change("categories", index=1, name="cat"), ["2 categories", "'cat'"]),
    "bbox is a text": (
        change("annotations", bbox="10,10,20,20"),
        ["1 boxes", "four numbers", "annotation 10", "'1.png'"],
    ),
    "bbox of three": (change_bbox(1, 2, 3), ["1 boxes", "four numbers"]),
    "bbox with a text": (change_bbox(1, 2, 3, "4"), ["1 boxes", "four numbers"]),
    "bbox with None": (change_bbox(1, 2, 3, None), ["1 boxes", "four numbers"]),
    "bbox with a bool": (change_bbox(1, 2, True, 4), ["1 boxes", "four numbers"]),
    "bbox beyond floats": (
        change_bbox(1, 2, 10**400, 4),
        ["1 boxes", "finite", "bbox = [1, 2, 1000", "..."],
    ),
    "bbox beyond int64": (change_bbox(1, 2, 10**30, 4), ["1 boxes", "finite", "huge"]),
}
# name of the case: (damage, file at fault in the folder of the dataset, keywords)
IMAGE_FILES = {
    "missing": (change("images", file_name="no.png"), "images/no.png", ["1 of 2", "exist"]),
    "no Unicode": (change("images", file_name="\ud800.png"), ANY, ["1 of 2", "ud800.png"]),
    "too long": (change("images", file_name="a" * 999), ANY, ["1 of 2", "opened", "(File"]),
    "a folder": (change("images", file_name=".."), ANY, ["1 of 2", "folders"]),
    "a device": (change("images", file_name="/dev/null"), "/dev/null", ["1 of 2", "not files"]),
    "empty": (write("images/2.png", b""), "images/2.png", ["1 of 2", "empty (0 bytes)"]),
}
# name of the case: (damage, key at fault, file at fault, keywords)
DATASETS = {
    "no annotation": (clear("annotations"), TRAIN, "train.json", ["no box"]),
    "only crowds": (change_all(iscrowd=1), TRAIN, "train.json", ["no box"]),
    "no polygon": (change_all(segmentation=[[]]), TRAIN, "train.json", ["no box"]),
    "another name": (
        change("categories", index=1, name="wolf", split="val"),
        TEST,
        None,
        ["id 2: 'dog' / 'wolf'"],
    ),
    "another id": (
        renumber_category,
        TEST,
        None,
        ["id 2: 'dog' / 'none'", "id 7: 'none' / 'dog'"],
    ),
    "a third category": (add_category, NUM_CLASSES, None, ["2", "'val'", "3 classes", "cow"]),
    "no area": (
        remove("annotations", "area", index=1, split="val"),
        TEST,
        "val.json",
        ["1 annotations", "no 'area'"],
    ),
    "no iscrowd": (
        remove("annotations", "iscrowd", index=1, split="val"),
        TEST,
        "val.json",
        ["1 annotations", "no 'iscrowd'"],
    ),
    "area is None": (
        change("annotations", area=None, split="val"),
        TEST,
        "val.json",
        ["1 annotations", "a wrong 'area'", "area = None"],
    ),
    "area is a text": (
        change("annotations", area="600", split="val"),
        TEST,
        "val.json",
        ["1 annotations", "a wrong 'area'", "area = '600'", "finite"],
    ),
    "area is infinite": (
        change("annotations", area=float("inf"), split="val"),
        TEST,
        "val.json",
        ["1 annotations", "a wrong 'area'", "area = inf"],
    ),
    "id is negative": (
        change("annotations", id=-1, split="val"),
        TEST,
        "val.json",
        ["1 annotations", "a wrong 'id'", "integer"],
    ),
    "iscrowd is None": (
        change("annotations", iscrowd=None, split="val"),
        None,
        "val.json",
        ["iscrowd = None"],
    ),
}
BEFORE_TRAINING = {
    **{f"train.json, {k}": (x[0], None, "train.json", x[1]) for k, x in ANNOTATION_FILE.items()},
    **{f"field, {k}": (x[0], None, "train.json", x[1]) for k, x in FIELDS.items()},
    **{f"image, {k}": (x[0], None, *x[1:]) for k, x in IMAGE_FILES.items()},
    **{f"dataset, {k}": x for k, x in DATASETS.items()},
}


@pytest.mark.parametrize("case", BEFORE_TRAINING)
def test_the_error_about_a_damaged_dataset_comes_before_training_and_names_the_fault(
    own_data, monkeypatch, case
):
    damage, key, file, words = BEFORE_TRAINING[case]
    damage(own_data)
    path = own_data.folder / file if isinstance(file, str) else file
    check_error(own_data.error(monkeypatch), *words, key=key, file=path)
    assert not own_data.output.exists()


def test_the_error_about_a_missing_image_folder_names_it(own_data, monkeypatch):
    dataset = f"--dataset=more={own_data.file('train')}:nowhere"
    error = own_data.error(monkeypatch, dataset, "DATASETS.TRAIN=('more',)")
    check_error(error, "'more'", "nowhere", "exist", file="nowhere")


def test_a_name_that_is_registered_already_is_an_error(own_data, monkeypatch):
    dataset = f"--dataset=shapes_train={own_data.file('train')}:{own_data.images}"
    error = own_data.error(monkeypatch, dataset, "DATASETS.TRAIN=('shapes_train',)")
    check_error(error, "shapes_train", key="name", value="shapes_train")


def keep_boxes_of_one_image(data):
    data.train["annotations"] = [x for x in data.train["annotations"] if x["image_id"] == 2]


def use_training_set_as_test_set(data):
    data.val["images"] = data.train["images"]
    data.val["annotations"] = data.train["annotations"]


# name of the case: (damage, keywords of the warning)
WARNED = {
    "bbox with NaN": (change_bbox(float("nan"), 2, 3, 4), ["1 boxes", "finite", "annotation 10"]),
    "bbox with infinity": (change_bbox(float("inf"), 2, 3, 4), ["1 boxes", "finite", "inf"]),
    "negative width": (change_bbox(40, 40, -20, 10), ["1 boxes", "negative"]),
    "width 0": (change_bbox(40, 40, 0, 10), ["1 boxes", "area"]),
    "width 0 in val": (change_bbox(40, 40, 0, 10, split="val"), ["val.json", "1 boxes", "area"]),
    "right of the image": (change_bbox(200, 40, 10, 10), ["1 boxes", "outside"]),
    "left of the image": (change_bbox(-30, 40, 10, 10), ["1 boxes", "outside"]),
    "over the border": (change_bbox(60, 40, 90, 20), ["1 boxes", "[x1, y1, x2, y2]"]),
    "all over the border": (
        change_all(bbox=[60, 40, 90, 20]),
        ["4 boxes", "[x1, y1, x2, y2]"],
    ),
    "annotation id 0": (change("annotations", id=0), ["annotation", "id 0"]),
    "annotation of no image": (
        change("annotations", image_id=77),
        ["1 annotations", "image_id = 77"],
    ),
    "same images": (use_training_set_as_test_set, ["2 images", "'train'", "'val'"]),
    "same image ids": (use_training_set_as_test_set, ["2 image ids", "'train'", "'val'"]),
    "no polygon": (
        change("annotations", segmentation=[[]]),
        ["1 boxes", "polygon", "annotation 10", "'1.png'", "= [[]]"],
    ),
    "segmentation is a text": (
        change("annotations", segmentation="abc"),
        ["1 boxes", "polygon", "= 'abc'"],
    ),
    "polygon of two points": (
        change("annotations", segmentation=[[1, 2, 3, 4]]),
        ["1 boxes", "polygon", "= [[1, 2, 3, 4]]"],
    ),
    "file listed twice": (
        change("images", file_name="./2.png"),
        ["1 files", "'2.png'", "1, 2"],
    ),
}


def train_and_list_warnings(own_data, monkeypatch, log):
    """Train and evaluate, check that the losses are finite, and return the warnings."""
    own_data.write()
    own_data.run(monkeypatch, own_data.arguments(*as_arguments({"TEST.EVAL_PERIOD": 2})))
    losses = [x["total_loss"] for x in read_metrics(own_data.output) if "total_loss" in x]
    assert losses
    assert np.isfinite(losses).all()
    assert (own_data.output / "model_final.pth").is_file()
    return [x.getMessage() for x in log.records if x.levelname == "WARNING"]


@pytest.mark.parametrize("case", WARNED)
def test_faults_that_training_accepts_are_counted_in_a_warning_and_training_continues(
    own_data, monkeypatch, package_log, case
):
    damage, words = WARNED[case]
    damage(own_data)
    warnings = train_and_list_warnings(own_data, monkeypatch, package_log)
    assert len([x for x in warnings if all(word in x for word in words)]) == 1, warnings


def test_images_without_boxes_are_accepted_without_a_warning(own_data, monkeypatch, package_log):
    keep_boxes_of_one_image(own_data)
    warnings = train_and_list_warnings(own_data, monkeypatch, package_log)
    assert [x for x in warnings if "train.json" in x] == []
