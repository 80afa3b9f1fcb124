"""Damaged datasets: errors before training, and warnings after which training continues."""

import gzip
import json

import numpy as np
import pytest
from commands import as_arguments
from input_errors import ANY, check_error
from tiny import read_metrics

from fcos_d2.errors import InputError

TRAIN, TEST = "DATASETS.TRAIN", "DATASETS.TEST"


# Functions that return a function that damages the content of an annotation file, or a file.


def change(name, /, index=0, split="train", **fields):
    """Damage an entry of images, annotations or categories: set fields."""
    splits = ("train", "val") if split == "both" else (split,)
    return lambda data: [getattr(data, x)[name][index].update(fields) for x in splits]


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


def remove_category(data):
    data.val["categories"].pop()
    data.val["annotations"] = [x for x in data.val["annotations"] if x["category_id"] == 1]


def add_category(data):
    data.val["categories"].append({"id": 3, "name": "cow"})


# name of the case: (damage, keywords of the text). The error has the file train.json and no key.
ANNOTATION_FILE = {
    "missing": (write("train.json", None), ["exist"]),
    "empty": (write("train.json", b""), ["empty (0 bytes)"]),
    "XML": (write("train.json", b"<xml/>"), ["not JSON", "line 1"]),
    "two bytes of UTF-16": (write("train.json", b"\xff\xfe\x00"), ["UTF-16", "UTF-8"]),
    "Latin-1": (write("train.json", b'{"images": ["\xe9"]}'), ["not UTF-8"]),
    "UTF-16": (encode("utf-16"), ["UTF-16:"]),
    "UTF-16 without a BOM": (encode("utf-16-be"), ["UTF-16-BE"]),
    "deep": (write("train.json", b"[" * 200_000), ["nested"]),
    "truncated": (write("train.json", b'{"images": ['), ["not JSON"]),
    "gzip": (write("train.json", gzip.compress(b"{}")), ["gzip"]),
    "Git LFS": (write("train.json", b"version https://git-lfs.github.com/spec/v1"), ["lfs pull"]),
    "a list": (write("train.json", b"[]"), ["COCO", "'annotations'"]),
    "nothing inside": (write("train.json", b"{}"), ["COCO", "'images'", "'categories'"]),
    "no image": (clear("images"), ["'images' is empty"]),
    "no category": (clear("categories"), ["'categories' is empty"]),
}
FIELDS = {
    "no file name": (remove("images", "file_name"), ["1 image ", "images[0]", "file_name"]),
    "image without an id": (remove("images", "id"), ["1 image ", "images[0]"]),
    "id is a list": (change("images", id=[1]), ["images[0]", "'id': [1]"]),
    "id is a bool": (change("images", id=True), ["images[0]", "'id': True"]),
    "file name is a number": (change("images", file_name=7), ["images[0]", "'file_name': 7"]),
    "file name is empty": (change("images", file_name=""), ["images[0]", "'file_name': ''"]),
    "file name is a dot": (change("images", file_name="."), ["images[0]", "'file_name': '.'"]),
    "file name has a zero": (change("images", file_name="a\0.png"), ["'a\\x00.png'"]),
    "image is a number": (lambda data: data.train["images"].append(7), ["1 image ", "= 7"]),
    "annotation is a text": (
        lambda data: data.train["annotations"].append("x"),
        ["1 annotation ", "annotations[4] = 'x'"],
    ),
    "category_id is None": (
        change("annotations", category_id=None),
        ["1 annotation ", "category_id", "annotation 10"],
    ),
    "image_id is a list": (
        change("annotations", image_id=[1]),
        ["1 annotation ", "image_id", "annotation 10"],
    ),
    "category_id is unknown": (
        change("annotations", index=2, category_id=9),
        ["1 annotation ", "annotation 20", "category_id = 9"],
    ),
    "iscrowd is 2": (change("annotations", iscrowd=2), ["annotation 10", "iscrowd = 2"]),
    "iscrowd is a word": (change("annotations", iscrowd="no"), ["iscrowd = 'no'"]),
    "iscrowd is a list": (change("annotations", iscrowd=[0]), ["iscrowd = [0]"]),
    "ignore is 1": (change("annotations", ignore=1), ["1 annotation ", "ignore = 1"]),
    "keypoints are a text": (
        change("annotations", keypoints="abc"),
        ["1 annotation ", "keypoints = 'abc'"],
    ),
    "keypoints have a text": (
        change("annotations", keypoints=["1", 2, 3]),
        ["1 annotation ", "keypoints = ['1', 2, 3]"],
    ),
    "no bbox": (remove("annotations", "bbox"), ["1 annotation ", "no bbox", "annotation 10"]),
    "no name": (remove("categories", "name"), ["1 category ", "categories[0]", "name"]),
    "half a character in a name": (
        change("categories", name="a\ud83d"),
        ["1 category ", "UTF-8", "name = 'a\\ud83d'"],
    ),
    "image id twice": (change("images", index=1, id=1), ["1 image ", "'2.png'", "id = 1"]),
    "category id twice": (change("categories", index=1, id=1), ["1 category ", "name = 'dog'"]),
    "bbox is a text": (
        change("annotations", bbox="10,10,20,20"),
        ["1 box ", "four numbers", "annotation 10", "'1.png'"],
    ),
    "bbox of three": (change_bbox(1, 2, 3), ["1 box ", "four numbers"]),
    "bbox with a text": (change_bbox(1, 2, 3, "4"), ["1 box ", "four numbers"]),
    "bbox with None": (change_bbox(1, 2, 3, None), ["1 box ", "four numbers"]),
    "bbox with a bool": (change_bbox(1, 2, True, 4), ["1 box ", "four numbers"]),
    "boxes are fractions": (change_all(bbox=[0.1, 0.2, 0.3, 0.4]), ["4 of 4 boxes ", "fractions"]),
}
# name of the case: (damage, file at fault in the folder of the dataset, keywords)
IMAGE_FILES = {
    "missing": (change("images", file_name="no.png"), "images/no.png", ["1 of 2 images", "exist"]),
    "no Unicode": (change("images", file_name="\ud800.png"), ANY, ["1 of 2 images", "ud800.png"]),
    "too long": (change("images", file_name="a" * 999), ANY, ["1 of 2 images", "opened", "(File"]),
    "a folder": (change("images", file_name=".."), ANY, ["1 of 2 images", "folders"]),
    "a device": (
        change("images", file_name="/dev/null"),
        "/dev/null",
        ["1 of 2 images", "not files"],
    ),
    "empty": (write("images/2.png", b""), "images/2.png", ["1 of 2 images", "empty (0 bytes)"]),
}
# name of the case: (damage, key at fault, file at fault, keywords)
DATASETS = {
    "no annotation": (clear("annotations"), TRAIN, "train.json", ["no box", "empty"]),
    "no list of annotations": (
        lambda data: data.train.pop("annotations"),
        TRAIN,
        "train.json",
        ["no box", "'annotations'", "test set"],
    ),
    "only crowds": (change_all(iscrowd=1), TRAIN, "train.json", ["no box", "4 of 4", "CVAT"]),
    "no annotation for testing": (
        lambda data: data.val["annotations"].clear(),
        TEST,
        "val.json",
        ["no box to evaluate on", "'val'"],
    ),
    "another name": (
        change("categories", index=1, name="wolf", split="val"),
        TEST,
        None,
        ["lacks 'dog' (id 2)", "has 'wolf' (id 2)"],
    ),
    "a third category": (add_category, TEST, None, ["'val'", "has 'cow' (id 3)"]),
    "a category less": (remove_category, TEST, None, ["'val'", "lacks 'dog' (id 2)"]),
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
    "bbox with NaN": (change_bbox(float("nan"), 2, 3, 4), ["1 box ", "finite", "annotation 10"]),
    "bbox with infinity": (change_bbox(float("inf"), 2, 3, 4), ["1 box ", "finite", "inf"]),
    "bbox beyond floats": (change_bbox(1, 2, 10**400, 4), ["1 box ", "huge", "[1, 2, 1000", "..."]),
    "bbox beyond int64": (change_bbox(1, 2, 10**30, 4), ["1 box ", "huge"]),
    "negative width": (change_bbox(40, 40, -20, 10), ["1 box ", "negative"]),
    "width 0": (change_bbox(40, 40, 0, 10), ["1 box ", "area"]),
    "width 0 in val": (change_bbox(40, 40, 0, 10, split="val"), ["val.json", "1 box ", "area"]),
    "right of the image": (change_bbox(200, 40, 10, 10), ["1 box ", "outside"]),
    "left of the image": (change_bbox(-30, 40, 10, 10), ["1 box ", "outside"]),
    "over the border": (change_bbox(60, 40, 90, 20), ["1 box ", "[x1, y1, x2, y2]"]),
    "all over the border": (
        change_all(bbox=[60, 40, 90, 20], area=1800),
        ["4 boxes ", "[x1, y1, x2, y2]"],
    ),
    "annotation id 0": (change("annotations", id=0), ["1 annotation ", "id 0"]),
    "annotation id twice": (change("annotations", index=1, id=10), ["1 annotation ", "id = 10"]),
    "annotation id is negative": (change("annotations", id=-1), ["1 annotation ", "id = -1"]),
    "no annotation id": (remove("annotations", "id"), ["1 annotation ", "no id"]),
    "annotation of no image": (
        change("annotations", image_id=77),
        ["1 annotation ", "image_id = 77"],
    ),
    "image_id is a text": (change("annotations", image_id="1"), ["1 annotation ", "another type"]),
    "ids of images are mixed": (change("images", id="a"), ["1 image ", "id = 'a'"]),
    "no height": (remove("images", "height"), ["1 image ", "width, height = (96, None)"]),
    "width is a text": (change("images", width="96"), ["1 image ", "('96', 64)", "'1.png'"]),
    "height is 0": (change("images", height=0), ["1 image ", "(96, 0)"]),
    "height is -1": (change("images", height=-1), ["1 image ", "(96, -1)"]),
    "width is huge": (change("images", width=10**400), ["1 image ", "(1000", "..."]),
    "width is NaN": (change("images", width=float("nan")), ["1 image ", "(nan, 64)"]),
    "width has a fraction": (change("images", width=95.5), ["1 image ", "(95.5, 64)"]),
    "no iscrowd": (remove("annotations", "iscrowd"), ["1 annotation ", "no iscrowd"]),
    "no area": (remove("annotations", "area", split="val"), ["val.json", "1 annotation ", "area"]),
    "area is a text": (change("annotations", area="600"), ["1 annotation ", "area = '600'"]),
    "area is infinite": (change("annotations", area=float("inf")), ["area = inf"]),
    "area of points": (change_all(area=9999), ["4 annotations ", "does not fit", "area = 9999"]),
    "one crowd": (change("annotations", iscrowd=1), ["1 of 4 boxes ", "iscrowd = 1", "CVAT"]),
    "name twice": (
        change("categories", index=1, name="cat", split="both"),
        ["train.json", "more than once"],
    ),
    "a class without a box": (change_all(category_id=1), ["1 of 2 classes ", "dog"]),
    "boxes of a pixel": (change_all(bbox=[5, 6, 1, 1]), ["4 of 4 boxes ", "2 pixels"]),
    "same images": (use_training_set_as_test_set, ["2 images ", "'train'", "'val'"]),
    "segmentation is a number": (
        change("annotations", segmentation=5),
        ["1 box ", "segmentation = 5"],
    ),
    "segmentation is a text": (
        change("annotations", segmentation="abc"),
        ["1 box ", "segmentation = 'abc'"],
    ),
    "segmentation lacks a size": (
        change("annotations", segmentation={"counts": [3]}),
        ["1 box ", "segmentation = {'counts': [3]}"],
    ),
    "segmentation counts in texts": (
        change("annotations", segmentation={"counts": ["3"], "size": [1, 3]}),
        ["1 box ", "segmentation = {'counts': ['3']"],
    ),
    "polygon has NaN": (
        change("annotations", segmentation=[[1, 2, 3, 4, 5, float("nan")]]),
        ["1 box ", "segmentation = [[1, 2, 3, 4, 5, nan]]"],
    ),
    "no polygon": (
        change("annotations", segmentation=[[]]),
        ["1 box ", "polygon", "annotation 10", "'1.png'", "= [[]]"],
    ),
    "polygon of two points": (
        change("annotations", segmentation=[[1, 2, 3, 4]]),
        ["1 box ", "polygon", "= [[1, 2, 3, 4]]", "detection does not need them"],
    ),
    "flat segmentation": (
        change("annotations", segmentation=[10, 12, 30, 12, 30, 42, 10, 42]),
        ["1 box ", "single polygon"],
    ),
    "file listed twice": (
        change("images", file_name="./2.png"),
        ["1 file ", "'2.png'", "1, 2"],
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
def test_what_is_derived_or_left_out_is_counted_in_one_warning_before_training(
    own_data, package_log, case
):
    damage, words = WARNED[case]
    damage(own_data)
    own_data.prepare()
    warnings = [x.getMessage() for x in package_log.records if x.levelname == "WARNING"]
    assert len([x for x in warnings if all(word in x for word in words)]) == 1, warnings


@pytest.mark.parametrize(
    ("split", "keeps", "words", "others"),
    [
        (
            "train",
            False,
            ["not trained on", "KEEP_CROWD_BOXES True", "LazyConfig keep_crowd_boxes"],
            ["metrics"],
        ),
        (
            "train",
            True,
            ["not trained on", "LazyConfig keep_crowd_boxes", "which is set"],
            ["KEEP_CROWD_BOXES True"],
        ),
        ("val", True, ["COCO's metrics ignore"], ["trained", "KEEP_CROWD_BOXES"]),
    ],
)
@pytest.mark.parametrize("index", [slice(1), slice(None)])
def test_the_report_of_crowds_fits_their_use(
    own_data, package_log, split, keeps, words, others, index
):
    for annotation in getattr(own_data, split)["annotations"][index]:
        annotation["iscrowd"] = 1
    opts = [f"FCOS_TRAIN.KEEP_CROWD_BOXES={keeps}"]
    if index == slice(1):
        own_data.prepare(*opts)
        (text,) = (x for x in package_log.messages if "1 of 4 boxes " in x)
    else:
        with pytest.raises(InputError) as error:
            own_data.prepare(*opts)
        (text,) = (x.text for x in error.value.faults)
        assert "4 of 4 boxes are" in text
    assert [x for x in ("CVAT", *words) if x not in text] == []
    assert [x for x in others if x in text] == []


def test_findings_in_a_file_that_is_training_and_test_set_are_logged_once(own_data, package_log):
    for entry in own_data.train["annotations"]:
        del entry["iscrowd"]
    own_data.train["annotations"][0]["iscrowd"] = 1
    own_data.train["categories"].append({"id": 3, "name": "cow"})
    same = f"--dataset=more={own_data.file('train')}:{own_data.images}"
    own_data.prepare(same, "DATASETS.TEST=('more',)")
    lines = [x for x in package_log.messages if "train.json: " in x]
    words = ["1 of 4 boxes", "no iscrowd", "cow"]
    assert [len([x for x in lines if word in x]) for word in words] == [1, 1, 1]
    assert len(lines) == 3


@pytest.mark.parametrize(
    "case", ["bbox with NaN", "negative width", "width 0", "image_id is a text", "no polygon"]
)
def test_training_continues_after_a_warning(own_data, monkeypatch, package_log, case):
    damage, words = WARNED[case]
    damage(own_data)
    warnings = train_and_list_warnings(own_data, monkeypatch, package_log)
    assert len([x for x in warnings if all(word in x for word in words)]) == 1, warnings


def test_images_without_boxes_are_accepted_without_a_warning(own_data, monkeypatch, package_log):
    keep_boxes_of_one_image(own_data)
    warnings = train_and_list_warnings(own_data, monkeypatch, package_log)
    assert [x for x in warnings if "train.json" in x] == []


def test_masks_of_only_some_boxes_of_an_image_are_an_error_before_training(own_data, monkeypatch):
    own_data.train["annotations"][0]["segmentation"] = [[10, 12, 30, 12, 30, 42]]
    own_data.write()
    error = own_data.error(monkeypatch, "MODEL.MASK_ON=True")
    check_error(error, "1 box ", key="MODEL.MASK_ON", value=True, file=own_data.file("train"))


def test_the_error_about_masks_says_why_a_segmentation_was_dropped(own_data, monkeypatch):
    for annotation in own_data.train["annotations"]:
        annotation["segmentation"] = [[10, 12, 30, 12, 30, 42]]
    own_data.train["annotations"][1]["segmentation"] = [[1, 2, "a", 4, 5, 6]]
    own_data.write()
    error = own_data.error(monkeypatch, "MODEL.MASK_ON=True")
    words = "1 box has no valid segmentation", "segmentation = [[1, 2, 'a', 4, 5, 6]]"
    check_error(error, *words, key="MODEL.MASK_ON", value=True, file=own_data.file("train"))
