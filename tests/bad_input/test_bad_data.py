"""Datasets that are damaged: each case says what the user is told, or that training continues."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from own_data import OwnData

from fcos_d2.data.coco import check_datasets, register_coco_dataset
from fcos_d2.errors import InputError


@pytest.fixture
def own_data(tmp_path):
    return OwnData(tmp_path)


def without(name, key):
    return lambda data: data.train[name][0].pop(key)


def with_bbox(bbox, split="train"):
    return with_value("annotations", "bbox", bbox, split)


def with_value(name, key, value, split="train", index=0):
    return lambda data: getattr(data, split)[name][index].update({key: value})


def with_value_everywhere(key, value, split="train"):
    def damage(data):
        for annotation in getattr(data, split)["annotations"]:
            annotation[key] = value

    return damage


def encoded(encoding):
    def damage(data):
        text = json.dumps(data.train)
        file("train.json", text.encode(encoding))(data)

    return damage


def file(path, content):
    def damage(data):
        if path == "train.json":
            data.train = None
        if content is None:
            (data.folder / path).unlink(missing_ok=True)
        else:
            (data.folder / path).write_bytes(content)

    return damage


def rename_category(data):
    data.val["categories"][1]["name"] = "wolf"


def renumber_category(data):
    data.val["categories"][1]["id"] = 7
    for annotation in data.val["annotations"]:
        annotation["category_id"] = {1: 1, 2: 7}[annotation["category_id"]]


def third_category(data):
    data.val["categories"].append({"id": 3, "name": "cow"})


def all_crowds(data):
    for annotation in data.train["annotations"]:
        annotation["iscrowd"] = 1


def same_annotation_ids(data):
    data.train["annotations"][1]["id"] = data.train["annotations"][0]["id"]


BEFORE_TRAINING = [
    (file("train.json", None), r"The annotation file .*train.json does not exist"),
    (file("train.json", b""), r"The annotation file .*train.json is empty \(0 bytes\)"),
    (file("train.json", b"<xml/>"), r"train.json is not JSON: Expecting value: line 1"),
    (file("train.json", b"\xff\xfe\x00"), r"train.json looks like UTF-16: save it as UTF-8 w"),
    (file("train.json", b'{"images": ["\xe9"]}'), r"train.json is not UTF-8: .* Save it as UTF-8"),
    (encoded("utf-8-sig"), r"looks like UTF-8 with a BOM: save it as UTF-8 without BOM"),
    (encoded("utf-16"), r"train.json looks like UTF-16: save it as UTF-8 without BOM"),
    (encoded("utf-16-be"), r"train.json looks like UTF-16-BE: save it as UTF-8 without BOM"),
    (file("train.json", b"[" * 200_000), r"train.json is not JSON that .* nested too deeply"),
    (file("train.json", b'{"images": ['), r"train.json is not JSON"),
    (file("train.json", b"[]"), r"is not in COCO's format: it must be an object with the lists"),
    (file("train.json", b"{}"), r"is not in COCO's format"),
    (lambda data: data.train.pop("annotations"), r"is not in COCO's format"),
    (lambda data: data.train["images"].clear(), r"train.json: the list 'images' is empty"),
    (lambda data: data.train["categories"].clear(), r"train.json: the list 'categories' is empty"),
    (lambda data: data.train["annotations"].clear(), r"'train' .*has no box to learn from"),
    (all_crowds, r"'train' .*has no box to learn from"),
    (without("images", "file_name"), r"train.json: images\[0\] has no 'file_name'"),
    (without("images", "height"), r"train.json: images\[0\] has no 'height'"),
    (lambda data: data.train["images"][0].update(width="96"), r"image 1 .*width = '96'"),
    (lambda data: data.train["images"][0].update(height=0), r"image 1 .*height = 0"),
    (lambda data: data.train["images"][0].update(id=[1]), r"has id = \[1\], which is not an in"),
    (lambda data: data.train["images"][0].update(file_name=7), r"file_name = 7, which is not a te"),
    (lambda data: data.train["annotations"][0].update(category_id=None), r"category_id = None"),
    (with_value("images", "width", 10**400), r"width = 10+\.\.\.; it must be a whole number of pi"),
    (with_value("images", "width", float("nan")), r"width = nan; it must be a whole number of pix"),
    (with_value("images", "width", float("inf")), r"width = inf; it must be a whole number of pix"),
    (with_value("images", "width", 95.5), r"width = 95.5; it must be a whole number of pixels"),
    (with_value("images", "file_name", ""), r"images\[0\] has file_name = '', which names no file"),
    (with_value("images", "file_name", "."), r"file_name = '.', which names no file"),
    (with_value("images", "file_name", "a\0.png"), r"file_name = 'a\\x00.png', which names no fi"),
    (with_value("images", "file_name", "\ud800.png"), r"do not exist; the first is .*ud800.png"),
    (with_value("images", "file_name", "a" * 999), r"1 of the 2 images .* cannot be opened \(File"),
    (with_value("images", "file_name", ".."), r"1 of the 2 images .* are not files \(but folders"),
    (with_value("images", "file_name", "/dev/null"), r"are not files \(.* first is '/dev/null'"),
    (with_value("images", "id", True), r"images\[0\] has id = True, which is not an integer or a"),
    (with_value("images", "id", "1"), r"images have integers and texts as ids, such as 2 and '1'"),
    (with_value("annotations", "id", "x"), r"annotations have integers and texts as ids, such as"),
    (with_value("categories", "id", "1"), r"categories have integers and texts as ids, such as 2"),
    (
        with_value("annotations", "image_id", "1"),
        r"1 annotations have another type of image_id .* = '1' \(a text\), .* 1 \(an integer\)",
    ),
    (
        with_value("annotations", "category_id", "1"),
        r"1 annotations have another type of category_id than the ids of the categories",
    ),
    (with_value("annotations", "iscrowd", 2), r"annotations\[0\] has iscrowd = 2; it must be 0"),
    (with_value("annotations", "iscrowd", None), r"has iscrowd = None; it must be 0"),
    (with_value("annotations", "iscrowd", "0"), r"has iscrowd = '0'; it must be 0"),
    (with_value("annotations", "ignore", 1), r"has ignore = 1, which detectron2 does not support"),
    (with_value("annotations", "segmentation", 5), r"1 boxes have a segmentation that is no"),
    (with_value("annotations", "segmentation", [5, 6, 7, 8, 9, 10]), r"that is not one"),
    (with_value("annotations", "segmentation", {"counts": [3]}), r"segmentation that is not one"),
    (with_value("annotations", "segmentation", {"counts": ["3"], "size": [1, 3]}), r"is not one"),
    (with_value("annotations", "keypoints", "abc"), r"1 boxes have keypoints that are not a list"),
    (with_value("annotations", "keypoints", ["1", 2, 3]), r"keypoints that are not a list of numb"),
    (with_value_everywhere("segmentation", [[]]), r"'train' .*has no box to learn from"),
    (without("annotations", "bbox"), r"train.json: annotations\[0\] has no 'bbox'"),
    (without("categories", "name"), r"train.json: categories\[0\] has no 'name'"),
    (lambda data: data.train["images"][1].update(id=1), r"train.json: 2 images have the id 1"),
    (same_annotation_ids, r"train.json: 2 annotations have the id 10"),
    (lambda data: data.train["categories"][1].update(name="cat"), r"2 categories have the name"),
    (
        lambda data: data.train["annotations"][2].update(category_id=9),
        r"1 annotations are of a category .* annotation 20 with category_id = 9. The file has",
    ),
    (with_bbox("10,10,20,20"), r"1 boxes are not four numbers; .* annotation 10 of '1.png'"),
    (with_bbox([1, 2, 3]), r"1 boxes are not four numbers"),
    (with_bbox([1, 2, 3, "4"]), r"1 boxes are not four numbers"),
    (with_bbox([1, 2, 3, None]), r"1 boxes are not four numbers"),
    (with_bbox([1, 2, True, 4]), r"1 boxes are not four numbers"),
    (with_bbox([1, 2, 10**400, 4]), r"1 boxes are not finite: .* bbox = \[1, 2, 10+\.\.\."),
    (with_bbox([1, 2, 10**30, 4]), r"1 boxes are not finite: they have huge integers"),
    (
        lambda data: data.train["images"][0].update(file_name="no.png"),
        r"1 of the 2 images that .*train.json lists do not exist; the first is .*no.png",
    ),
    (file("images/2.png", b""), r"1 of the 2 images that .* are empty \(0 bytes\); .*2.png"),
    (rename_category, r"different categories: id 2: 'dog' / 'wolf'"),
    (renumber_category, r"different categories: id 2: 'dog' / 'none'; id 7: 'none' / 'dog'"),
    (third_category, r"NUM_CLASSES = 2, but the dataset 'val' has 3 classes \(cat, dog, cow\)"),
    (lambda data: data.val["annotations"][1].pop("area"), r"1 annotations have no 'area'"),
    (lambda data: data.val["annotations"][1].pop("iscrowd"), r"1 annotations have no 'iscrowd'"),
    (with_value("annotations", "area", None, "val"), r"1 annotations have a wrong 'area', .* None"),
    (with_value("annotations", "area", "600", "val"), r"area = '600'. .* needs area as a finite"),
    (with_value("annotations", "area", float("inf"), "val"), r"1 annotations have a wrong 'area'"),
    (with_value("annotations", "iscrowd", None, "val"), r"val.json: .*iscrowd = None; it must be"),
    (with_value("annotations", "id", -1, "val"), r"1 annotations have a wrong 'id', .* an integer"),
]


@pytest.mark.parametrize(("damage", "message"), BEFORE_TRAINING, ids=lambda x: str(x)[:40])
def test_a_dataset_that_cannot_work_is_explained_before_training(
    own_data, monkeypatch, damage, message
):
    damage(own_data)
    own_data.check_error(monkeypatch, message)
    assert not own_data.output.exists()


@pytest.fixture
def registered(own_data):
    """Registers both datasets as they are now."""

    def register():
        own_data.write()
        return {
            name: register_coco_dataset(name, own_data.folder / f"{name}.json", own_data.images)
            for name in ("train", "val")
        }

    yield register
    for name in {"train", "val"} & set(DatasetCatalog):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_faults_of_a_file_are_told_at_once(own_data, registered):
    same_annotation_ids(own_data)
    with_value("annotations", "category_id", 9)(own_data)
    with_value("annotations", "keypoints", "abc", index=1)(own_data)
    with_value("images", "file_name", "no.png")(own_data)
    with pytest.raises(InputError) as error:
        registered()
    json_file = str(own_data.folder / "train.json")
    assert [fault.file for fault in error.value.faults] == [
        *[json_file] * 3,
        str(own_data.images / "no.png"),
    ]


def test_the_first_wrong_entry_of_each_list_is_told(own_data, registered):
    for entry in own_data.train["images"]:
        entry["id"] = None
    without("categories", "name")(own_data)
    with pytest.raises(InputError) as error:
        registered()
    assert ["[0]" in fault.text for fault in error.value.faults] == [True, True]


def test_faults_of_several_datasets_are_told_at_once(own_data, registered):
    own_data.train["annotations"].clear()
    with_value("annotations", "area", None, "val")(own_data)
    third_category(own_data)
    own = registered()
    with pytest.raises(InputError) as error:
        check_datasets(2, ["train", "nowhere"], ["val"], own)
    assert [(x.key, x.value, x.file and Path(x.file).name) for x in error.value.faults] == [
        ("DATASETS.TRAIN", ["train", "nowhere"], None),  # not registered
        ("MODEL.FCOS.NUM_CLASSES", 2, None),  # val has 3
        ("DATASETS.TEST", ["val"], None),  # other categories than train
        ("DATASETS.TRAIN", ["train", "nowhere"], "train.json"),  # no boxes
        ("DATASETS.TEST", ["val"], "val.json"),  # area
    ]


def test_links_to_the_same_image_are_found_in_both_sets(own_data, registered, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fcos_d2"), "propagate", True)
    (own_data.images / "3.png").unlink()
    (own_data.images / "3.png").symlink_to("1.png")
    check_datasets(2, ["train"], ["val"], registered())
    assert "1 images are in the training set 'train' and in the test set 'val'" in caplog.text


def test_a_missing_image_folder_is_explained(own_data, monkeypatch):
    own_data.check_error(
        monkeypatch,
        r"The images' folder /.*nowhere of the dataset 'more' does not exist",
        f"--dataset=more={own_data.folder}/train.json:nowhere",
        "DATASETS.TRAIN",
        "('more',)",
    )


def test_a_name_that_is_taken_is_explained(own_data, monkeypatch):
    own_data.check_error(
        monkeypatch,
        r"The dataset name 'shapes_train' is taken",
        f"--dataset=shapes_train={own_data.folder}/train.json:{own_data.images}",
        "DATASETS.TRAIN",
        "('shapes_train',)",
    )


def without_boxes(data):
    data.train["annotations"] = [x for x in data.train["annotations"] if x["image_id"] == 2]


def every_box_reaches_out(data):
    with_value_everywhere("bbox", [60, 40, 90, 20])(data)


def two_images_in_both(data):
    data.val["images"] = data.train["images"]
    data.val["annotations"] = data.train["annotations"]


WARNED = [
    (with_bbox([float("nan"), 2, 3, 4]), r"1 boxes are not finite; .* annotation 10 of '1.png'"),
    (with_bbox([float("inf"), 2, 3, 4]), r"1 boxes are not finite"),
    (with_bbox([40, 40, -20, 10]), r"1 boxes have a negative width or height"),
    (with_bbox([40, 40, 0, 10]), r"1 boxes have no area"),
    (with_bbox([200, 40, 10, 10]), r"1 boxes lie outside of their image"),
    (with_bbox([-30, 40, 10, 10]), r"1 boxes lie outside of their image"),
    (with_bbox([60, 40, 90, 20]), r"1 boxes reach out of their image"),
    (with_bbox([40, 40, 0, 10], "val"), r"val.json: 1 boxes have no area"),
    (lambda data: data.train["annotations"][0].update(id=0), r"an annotation has the id 0"),
    (
        lambda data: data.train["annotations"][0].update(image_id=77),
        r"1 annotations belong to no im",
    ),
    (two_images_in_both, r"2 images are in the training set 'train' and in the test set 'val'"),
    (two_images_in_both, r"2 image ids are in the training set 'train' and in the test set 'val'"),
    (without_boxes, r""),  # nothing to say
    (every_box_reaches_out, r"4 boxes reach out of their image"),
    (
        with_value("annotations", "segmentation", [[]]),
        r"1 boxes have a segmentation without a polygon .* annotation 10 of '1.png': .* = \[\[\]\]",
    ),
    (with_value("annotations", "segmentation", "abc"), r"1 boxes have a segmentation without a po"),
    (with_value("annotations", "segmentation", [[1, 2, 3, 4]]), r"1 boxes have a segmentation wi"),
    (
        with_value("images", "file_name", "./2.png"),
        r"1 files are listed more than once; the first is '2.png' \(images 1, 2\)",
    ),
]


@pytest.mark.parametrize(("damage", "message"), WARNED, ids=lambda x: str(x)[:40])
def test_what_training_accepts_is_counted_and_training_continues(
    own_data, monkeypatch, caplog, damage, message
):
    damage(own_data)
    own_data.write()
    with caplog.at_level(logging.INFO):
        for name in ("fcos_d2", "detectron2"):
            monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        own_data.run(monkeypatch, own_data.arguments("TEST.EVAL_PERIOD", "2"))
    assert re.search(message, caplog.text)
    metrics = [json.loads(x) for x in (own_data.output / "metrics.json").read_text().splitlines()]
    losses = [x["total_loss"] for x in metrics if "total_loss" in x]
    assert losses
    assert np.isfinite(losses).all()
    assert (own_data.output / "model_final.pth").is_file()
