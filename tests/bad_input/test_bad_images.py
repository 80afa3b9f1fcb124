"""Images that cannot be used, where files are looked for, and how a dataset is given."""

import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from own_data import OwnData
from PIL import Image
from torch.utils.data import DataLoader

from fcos_d2.data import FCOSDatasetMapper
from fcos_d2.data.coco import dataset_text, parse_dataset, register_coco_dataset
from fcos_d2.data.coco.file_checks import sorted_categories
from fcos_d2.errors import InputError, find_input_error


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
    (truncate, r"The image .*images/1.png cannot be read: .*truncated"),
    (not_an_image, r"The image .*images/1.png cannot be read: .*cannot identify image"),
    (swapped_size, r"The image .*1.png is \(64, 96\) .* sides are swapped: .* EXIF rotation"),
    (other_size, r"The image .*images/1.png is \(32, 32\) .* for \(96, 64\)"),
]


@pytest.mark.parametrize(("damage", "message"), AT_THE_SAMPLE)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_damaged_image_is_named(own_data, monkeypatch, capfd, damage, message, workers):
    damage(own_data)
    own_data.check_error(monkeypatch, message, "DATALOADER.NUM_WORKERS", workers)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert "Traceback" in (own_data.output / "log.txt").read_text()


@pytest.fixture
def sample(own_data):
    """The first dataset dict of the training set."""
    own_data.write()
    register_coco_dataset("more", own_data.folder / "train.json", own_data.images)
    (sample, _) = DatasetCatalog.get("more")
    DatasetCatalog.remove("more")
    MetadataCatalog.remove("more")
    return sample


def mapper_with(*augmentations):
    return FCOSDatasetMapper(is_train=True, augmentations=list(augmentations), image_format="BGR")


def test_an_image_that_has_gone_is_an_error_with_its_file(sample):
    Path(sample["file_name"]).unlink()
    with pytest.raises(InputError) as error:
        mapper_with()(sample)
    assert error.value.file == sample["file_name"]
    assert isinstance(error.value.__cause__, FileNotFoundError)


class Faulty(T.Augmentation):
    """An augmentation of a user that has a bug."""

    def get_transform(self, image):
        return {}["no such key"]


def test_a_bug_of_an_augmentation_keeps_its_type_and_traceback_and_names_the_image(sample):
    with pytest.raises(KeyError, match="no such key") as error:
        mapper_with(Faulty())(sample)
    assert error.traceback[-1].name == "get_transform"
    if sys.version_info >= (3, 11):
        (note,) = error.value.__notes__
        assert sample["file_name"] in note


def test_a_bug_of_an_augmentation_in_a_worker_shows_its_traceback(sample):
    loader = DataLoader([sample], num_workers=1, collate_fn=mapper_of_batch)
    with pytest.raises(KeyError) as error:
        next(iter(loader))
    assert find_input_error(error.value) is None
    text = str(error.value)
    assert 'return {}["no such key"]' in text
    if sys.version_info >= (3, 11):
        assert sample["file_name"] in text


def mapper_of_batch(batch):
    return [mapper_with(Faulty())(sample) for sample in batch]


@pytest.mark.parametrize(
    ("augmentation", "annotation", "type_of_error"),
    [
        (T.RandomCrop("absolute", (5, -1)), {}, ValueError),
        (T.ResizeShortestEdge([800, 800], 0), {}, ValueError),
        (T.NoOpTransform(), {"bbox": [1]}, AssertionError),
    ],
)
def test_settings_that_cannot_be_applied_are_not_blamed_on_the_image(
    sample, augmentation, annotation, type_of_error
):
    sample["annotations"][0].update(annotation)
    with pytest.raises(type_of_error) as error:
        mapper_with(augmentation)(sample)
    assert find_input_error(error.value) is None


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
