"""Images that cannot be used, where files are looked for, and how a dataset is given."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from own_data import OwnData
from PIL import Image

from fcos_d2.data.coco.file_checks import sorted_categories
from fcos_d2.data.coco.registration import dataset_text, parse_dataset, register_coco_dataset
from fcos_d2.data.dataset_mapper import FCOSDatasetMapper
from fcos_d2.errors import InputError


@pytest.fixture
def own_data(tmp_path):
    return OwnData(tmp_path)


def truncate(data):
    path = data.images / "1.png"
    path.write_bytes(path.read_bytes()[:3000])


def not_an_image(data):
    (data.images / "1.png").write_text("<html>404</html>")


def other_size(data):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(data.images / "1.png")


def swapped_size(data):
    Image.fromarray(np.zeros((96, 64, 3), np.uint8)).save(data.images / "1.png")


AT_THE_SAMPLE = [
    (truncate, r"The image .*images/1.png \(id 1\) cannot be used: .*truncated"),
    (not_an_image, r"The image .*images/1.png \(id 1\) cannot be used: .*cannot identify image"),
    (swapped_size, r"The image .*1.png .*got \(64, 96\), .* sides are swapped: .* EXIF rotation"),
    (
        other_size,
        r"The image .*images/1.png \(id 1\) cannot be used: .*got \(32, 32\), expect \(96",
    ),
]


@pytest.mark.parametrize(("damage", "message"), AT_THE_SAMPLE)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_damaged_image_is_named(own_data, monkeypatch, capfd, damage, message, workers):
    damage(own_data)
    own_data.check_error(monkeypatch, message, "DATALOADER.NUM_WORKERS", workers)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert "Traceback" in (own_data.output / "log.txt").read_text()


@pytest.mark.parametrize(
    ("augmentation", "annotation", "message"),
    [
        (T.RandomCrop("absolute", (5, -1)), {}, r"is fine by itself, but the settings INPUT"),
        (T.ResizeShortestEdge([800, 800], 0), {}, r"is fine by itself, but the settings INPUT"),
        (T.NoOpTransform(), {"bbox": [1]}, r"or its annotations could not be applied .*: .*Error"),
    ],
)
def test_settings_that_cannot_be_applied_are_not_blamed_on_the_image(
    own_data, augmentation, annotation, message
):
    own_data.write()
    dataset = register_coco_dataset("more", own_data.folder / "train.json", own_data.images)
    (sample, _) = DatasetCatalog.get(dataset.name)
    DatasetCatalog.remove("more")
    MetadataCatalog.remove("more")
    sample["annotations"][0].update(annotation)
    mapper = FCOSDatasetMapper(is_train=True, augmentations=[augmentation], image_format="BGR")
    with pytest.raises(InputError, match=message) as error:
        mapper(sample)
    assert "Mend or replace" not in str(error.value)


def test_missing_files_are_shown_with_the_folder_that_they_were_looked_for_in(
    own_data, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    own_data.write()
    with pytest.raises(InputError, match=f"file {tmp_path}/no.json does not exist"):
        register_coco_dataset("more", "no.json", "images")
    own_data.train["images"][0]["file_name"] = "no.png"
    own_data.write()
    with pytest.raises(InputError, match=f"the first is '{tmp_path}/images/no.png'"):
        register_coco_dataset("more", "train.json", "images")


@pytest.mark.parametrize(
    "text", ["a=x/b.json", "a=x/b.txt:y", "=b.json:y", "a=b.json:", "a=:y", "b.json:y", ""]
)
def test_a_dataset_of_another_form_is_explained(text):
    with pytest.raises(InputError, match=r"NAME=ANNOTATIONS.json:IMAGES/.* must end in .json"):
        parse_dataset(text)


def test_folders_may_have_colons():
    assert parse_dataset("a=x:1/b.json:c:\\y") == ("a", Path("x:1/b.json"), Path("c:\\y"))
    text = dataset_text("a", "x:1/b.json", "b/y:2")
    assert parse_dataset(text) == ("a", Path("x:1/b.json").absolute(), Path("b/y:2").absolute())


def test_classes_are_in_the_order_of_ids_not_of_the_file(own_data):
    own_data.train["categories"].reverse()
    assert [x["name"] for x in sorted_categories(own_data.train)] == ["cat", "dog"]
