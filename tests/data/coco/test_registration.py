"""Registering datasets: names, paths, and how often each annotation file is parsed."""

import pickle
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.structures import BoxMode
from input_errors import input_error
from PIL import ExifTags, Image

from fcos_d2.data.coco import (
    check_coco_dataset,
    dataset_text,
    file_ids,
    normalized_content,
    parse_dataset,
    register,
    register_coco_dataset,
)
from fcos_d2.errors import InputError


def test_a_dataset_is_parsed_as_a_name_and_two_paths():
    assert parse_dataset("a=x/b.json:y/z/") == ("a", Path("x/b.json"), Path("y/z"))
    assert parse_dataset("a=x:1/b.json:y")[1] == Path("x:1/b.json")


@pytest.mark.parametrize("name", ["x/b.json.gz", "x.d/b.zip", "a.json.d/b.json"])
def test_compressed_files_are_split_off_so_that_they_are_named_when_they_are_read(name):
    assert parse_dataset(f"a={name}:y") == ("a", Path(name), Path("y"))


@pytest.mark.parametrize(
    "text", ["a=x/b.json", "a=x/b.txt:y", "=b.json:y", "a=b.json:", "a=:y", "b.json:y", ""]
)
def test_the_error_about_a_dataset_in_another_form_shows_the_form(text):
    with input_error(repr(text), "NAME=ANNOTATIONS.json:IMAGES/"):
        parse_dataset(text)


def test_names_of_folders_may_contain_colons():
    assert parse_dataset("a=x:1/b.json:c:\\y") == ("a", Path("x:1/b.json"), Path("c:\\y"))
    text = dataset_text("a", "x:1/b.json", "b/y:2")
    assert parse_dataset(text) == ("a", Path("x:1/b.json").absolute(), Path("b/y:2").absolute())


def test_missing_files_are_shown_with_their_absolute_paths(own_data, monkeypatch):
    monkeypatch.chdir(own_data.folder)
    own_data.write()
    with input_error(f"{own_data.folder}/no.json", file="no.json"):
        register_coco_dataset("more", "no.json", "images")
    own_data.train["images"][0]["file_name"] = "no.png"
    own_data.write()
    with input_error(f"'{own_data.images}/no.png'", file="images/no.png"):
        register_coco_dataset("more", "train.json", "images")


def forget(name):
    """Remove a registered dataset."""
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def checked(register_own):
    """Register both datasets, and return the checked training set."""
    return register_own()["train"]


def test_the_first_load_uses_the_parsed_content_and_the_second_reads_the_file(
    checked, parsed_files
):
    first = DatasetCatalog.get("train")
    assert parsed_files == []
    assert DatasetCatalog.get("train") == first
    assert parsed_files == [checked.description.json_file]
    json_file, image_root = checked.description.json_file, checked.description.image_root
    assert first == load_coco_json(json_file, image_root, "train")  # It accepts our metadata.


def test_the_content_is_kept_until_it_is_used_or_dropped(checked):
    assert DatasetCatalog["train"].content is checked.content
    DatasetCatalog.get("train")
    assert DatasetCatalog["train"].content is None
    register(checked.description, checked.content)
    register(checked.description)
    assert DatasetCatalog["train"].content is None


def test_another_process_registers_without_reading(checked, parsed_files):
    metadata, dicts = MetadataCatalog.get("train").as_dict(), DatasetCatalog.get("train")
    json_file = Path(checked.description.json_file)
    moved = json_file.rename(json_file.with_suffix(".moved"))
    DatasetCatalog.remove("train")
    MetadataCatalog.remove("train")
    register(pickle.loads(pickle.dumps(checked.description)))
    assert MetadataCatalog.get("train").as_dict() == metadata
    with input_error(file=json_file):
        DatasetCatalog.get("train")
    moved.rename(json_file)
    assert DatasetCatalog.get("train") == dicts
    assert parsed_files == [str(json_file)] * 2


def test_the_content_of_a_test_set_is_kept_for_all_evaluations(own_data, parsed_files):
    own_data.write()
    try:
        checked = register_coco_dataset(
            "val", own_data.file("val"), own_data.images, is_training_set=False, is_test_set=True
        )
        contents = [checked.content]
        for description in (None, pickle.loads(pickle.dumps(checked.description))):
            if description:  # as in another process
                register(description)
            for _ in range(2):
                DatasetCatalog.get("val")
                contents.append(normalized_content("val"))
    finally:
        forget("val")
    assert len(parsed_files) == 2
    assert contents[0] is contents[2]
    assert contents[3] is contents[4]
    assert contents[0] == contents[4]


def test_a_file_that_is_changed_after_its_check_is_refused(own_data, checked):
    description = checked.description
    first = DatasetCatalog.get("train")
    own_data.train["images"][0]["height"] = 6
    own_data.write()
    for _ in range(2):
        for load in (DatasetCatalog.get, normalized_content):
            with input_error("'train'", "changed", file=own_data.file("train")):
                load("train")
        register(pickle.loads(pickle.dumps(description)))  # as another process does
    own_data.train["images"][0]["height"] = 64
    own_data.write()
    register_coco_dataset("train", own_data.file("train"), own_data.images)
    assert DatasetCatalog.get("train") == DatasetCatalog.get("train") == first


def test_the_copy_of_a_file_on_another_machine_may_have_another_time(checked):
    stamp = checked.description.stamp
    elsewhere = stamp._replace(host="elsewhere", mtime_ns=5)
    register(checked.description._replace(stamp=elsewhere))
    assert len(DatasetCatalog.get("train")) == 2
    for changed in (elsewhere._replace(size=9), stamp._replace(mtime_ns=5)):
        register(checked.description._replace(stamp=changed))
        with input_error("changed", file=checked.description.json_file):
            DatasetCatalog.get("train")


def test_a_file_that_is_registered_again_after_an_edit_is_read_again(own_data, checked):
    assert len(DatasetCatalog.get("train")) == 2
    own_data.train["images"].append({"id": 3, "file_name": "3.png", "height": 64, "width": 96})
    own_data.train["categories"].append({"id": 3, "name": "cow"})
    own_data.write()
    register_coco_dataset("train", own_data.file("train"), own_data.images)
    assert len(DatasetCatalog.get("train")) == 3
    assert MetadataCatalog.get("train").thing_classes == ["cat", "dog", "cow"]


@pytest.mark.parametrize("is_training_set", [True, False])
def test_classes_without_a_box_matter_only_in_a_training_set(
    own_data, package_log, is_training_set
):
    own_data.train["categories"].append({"id": 3, "name": "cow"})
    own_data.write()
    file, folder = own_data.file("train"), own_data.images
    register_coco_dataset("train", file, folder, is_training_set=is_training_set)
    forget("train")
    assert [x for x in package_log.messages if "cow" in x] == package_log.messages
    assert len(package_log.messages) == is_training_set


def test_the_loader_uses_the_numbers_of_ids_that_are_texts(own_data, register_own):
    for image in own_data.train["images"]:
        image["id"] = f"im{image['id']}"
    for annotation in own_data.train["annotations"]:
        annotation["image_id"] = f"im{annotation['image_id']}"
    content = register_own()["train"].content
    assert [x["image_id"] for x in DatasetCatalog.get("train")] == [1, 2]
    assert file_ids(content, "images") == {1: "im1", 2: "im2"}


def test_a_missing_size_is_read_from_the_image_as_it_is_turned(own_data, register_own):
    image = Image.new("RGB", (96, 64))
    image.getexif()[ExifTags.Base.Orientation] = 6
    image.save(own_data.images / "1.jpg", exif=image.getexif())
    own_data.train["images"][0] = {"id": 1, "file_name": "1.jpg"}
    own_data.train["annotations"] = own_data.train["annotations"][:2]
    (entry, _) = register_own()["train"].content["images"]
    assert (entry["width"], entry["height"]) == (64, 96)


def test_an_image_without_a_size_that_cannot_be_read_is_an_error(own_data, register_own):
    (own_data.images / "1.png").write_bytes(b"no image")
    own_data.train["images"][0] = {"id": 1, "file_name": "1.png"}
    with input_error("damaged", "1.png", file=own_data.images / "1.png") as error:
        register_own()
    assert len(error.value.faults) == 1


def test_a_missing_image_without_a_size_is_only_missing(own_data, register_own):
    (own_data.images / "1.png").unlink()
    own_data.train["images"][0] = {"id": 1, "file_name": "1.png"}
    own_data.train["annotations"][-1]["bbox"] = [500, 10, 20, 20]
    with input_error("1 of 2 images do not exist", file=own_data.images / "1.png") as error:
        register_own()
    assert len(error.value.faults) == 1


def test_a_missing_image_without_a_size_that_is_left_out_gives_no_boxes_outside(own_data):
    (own_data.images / "1.png").unlink()
    own_data.train["images"][0] = {"id": 1, "file_name": "1.png"}
    own_data.write()
    checked = check_coco_dataset(
        "train", own_data.file("train"), own_data.images, skip_unreadable_images=True
    )
    assert [x.kind for x in checked.findings] == ["unusable_image_missing"]


def test_the_unknown_size_of_an_image_that_was_not_opened_is_reported(own_data):
    for i in (1, 2):
        (own_data.images / f"{i}.png").write_bytes(b"no image")
        own_data.train["images"][i - 1] = {"id": i, "file_name": f"{i}.png"}
    own_data.write()
    checked = check_coco_dataset(
        "train", own_data.file("train"), own_data.images, select=lambda images: images[:1]
    )
    findings = {x.kind: x.entries for x in checked.findings}
    assert findings == {"unusable_image_damaged": ["1.png"], "image_size_unknown": ["2.png"]}


def test_normalized_content_is_that_of_the_loader_until_it_is_used(checked):
    assert normalized_content("train") is checked.content
    DatasetCatalog.get("train")
    assert normalized_content("train") == checked.content


def test_normalized_content_of_a_dataset_of_detectron2_has_its_ids_beside_the_numbers(own_data):
    own_data.train["annotations"][0]["id"] = 0
    own_data.write()
    register_coco_instances("d2", {}, own_data.file("train"), str(own_data.images))
    try:
        content = normalized_content("d2")
    finally:
        forget("d2")
    assert content["annotations"][0]["id"] > 0
    assert file_ids(content, "annotations")[content["annotations"][0]["id"]] == 0


def test_normalized_content_of_a_function_does_not_change_what_the_function_returns():
    annotation = {
        "bbox": [1.0, 2.0, 11.0, 22.0],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 0,
        "keypoints": [1.5, 2.5, 2],
    }
    dicts = [
        {"file_name": "a.png", "height": 30, "width": 40, "image_id": "a", "annotations": [x]}
        for x in [annotation]
    ]
    DatasetCatalog.register("function", lambda: dicts)
    MetadataCatalog.get("function").set(thing_classes=["cat"])
    try:
        contents = [normalized_content("function") for _ in range(2)]
    finally:
        forget("function")
    assert contents[0]["annotations"] == contents[1]["annotations"]
    assert contents[0]["annotations"][0]["bbox"] == [1, 2, 10, 20]
    assert contents[0]["annotations"][0]["keypoints"] == [1, 2, 2]
    assert list(file_ids(contents[0], "images").values()) == ["a"]
    assert annotation["keypoints"] == [1.5, 2.5, 2]


def test_a_name_that_is_registered_for_other_files_is_an_error(checked):
    with input_error(key="name", value="train"):
        register(checked.description._replace(image_root="elsewhere"))
    assert (
        DatasetCatalog["train"].content is checked.content
    )  # the registered dataset is not changed


def test_every_load_has_the_found_images_and_lacks_those_left_out(own_data):
    own_data.train["images"][0]["file_name"] = r"images\1.png"
    own_data.train["images"].append(
        {"id": 9, "file_name": "no.png", "width": 96, "height": 64},
    )
    own_data.train["annotations"].append(
        {**own_data.train["annotations"][0], "id": 9, "image_id": 9}
    )
    own_data.write()
    arguments = ("train", own_data.file("train"), own_data.images)
    try:
        checked = register_coco_dataset(*arguments, skip_unreadable_images=True)
        first, second = DatasetCatalog.get("train"), DatasetCatalog.get("train")
        register(pickle.loads(pickle.dumps(checked.description)))  # as another process does
        third = DatasetCatalog.get("train")
    finally:
        DatasetCatalog.remove("train")
        MetadataCatalog.remove("train")
    assert first == second == third
    expected = [str(own_data.images / x) for x in ("1.png", "2.png")]
    assert [x["file_name"] for x in first] == checked.files() == expected
    with input_error("1 of 3", "no.png"):
        register_coco_dataset(*arguments)


def test_all_faults_of_a_dataset_are_in_one_error(own_data, register_own):
    images, annotations = own_data.train["images"], own_data.train["annotations"]
    annotations[0]["category_id"] = 9
    annotations[1]["keypoints"] = "abc"
    images[0]["file_name"] = "no.png"
    with pytest.raises(InputError) as error:
        register_own()
    files = [own_data.file("train")] * 2 + [str(own_data.images / "no.png")]
    assert [fault.file for fault in error.value.faults] == files


def test_a_wrong_size_does_not_hide_the_boxes_outside_of_other_images(
    own_data, register_own, package_log
):
    own_data.train["images"][0].update(width=3, height=1)
    own_data.train["annotations"][-1]["bbox"] = [500, 10, 20, 20]
    with input_error("1 of 2 images", "another size"):
        register_own()
    (warning,) = [x for x in package_log.messages if "outside" in x]
    assert "1 box " in warning
    assert "[500, 10, 20, 20]" in warning


def test_a_wrong_size_does_not_hide_that_no_box_can_be_used(own_data):
    own_data.train["images"][0].update(width=95)
    for annotation in own_data.train["annotations"]:
        annotation["iscrowd"] = 1
    own_data.write()
    checked = check_coco_dataset("train", own_data.file("train"), own_data.images)
    assert [(x.kind, x.reason) for x in checked.findings] == [
        ("no_usable_box", "crowd"),
        ("image_size", None),
    ]


def test_boxes_outside_of_an_image_with_another_size_do_not_hide_those_of_others(own_data):
    own_data.train["images"][0].update(width=3, height=1)
    for annotation in own_data.train["annotations"]:
        annotation["bbox"] = [500, 10, 20, 30]
    own_data.write()
    checked = check_coco_dataset("train", own_data.file("train"), own_data.images)
    assert [(x.kind, x.count) for x in checked.findings] == [("box_outside", 2), ("image_size", 1)]


def test_wrong_sizes_are_the_cause_instead_of_boxes_outside(own_data, register_own, package_log):
    for image in own_data.train["images"]:
        image.update(width=3, height=1)
    with input_error("2 of 2 images", "another size", "96 x 64", "3 x 1") as error:
        register_own()
    assert len(error.value.faults) == 1
    assert not any("out" in x for x in package_log.messages if "box" in x)


def test_an_unreadable_image_without_a_size_is_left_out(own_data):
    (own_data.images / "1.png").write_text("no image")
    del own_data.train["images"][0]["width"]
    own_data.write()
    try:
        checked = register_coco_dataset(
            "train", own_data.file("train"), own_data.images, skip_unreadable_images=True
        )
        assert len(checked.files()) == 1
        assert [len(DatasetCatalog.get("train")) for _ in range(2)] == [1, 1]
    finally:
        DatasetCatalog.remove("train")
        MetadataCatalog.remove("train")


def test_a_missing_size_is_read_from_an_image_that_was_found(own_data):
    del own_data.train["images"][0]["width"]
    for i, image in enumerate(own_data.train["images"], 1):
        image["file_name"] = rf"C:\images\{i}.png"
    own_data.write()
    try:
        register_coco_dataset("train", own_data.file("train"), own_data.images)
        assert [DatasetCatalog.get("train")[0]["width"] for _ in range(2)] == [96, 96]
    finally:
        DatasetCatalog.remove("train")
        MetadataCatalog.remove("train")
