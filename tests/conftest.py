"""Fixtures that several test files share."""

import logging
import shutil

import pytest
from detectron2.data import DatasetCatalog
from own_data import OwnData
from PIL import Image

from fcos_d2.data import register_shapes
from fcos_d2.data.coco import dataset_checks, loading
from fcos_d2.data.coco.reading import parse_json

_NUM_IMAGES = {"train": 24, "val": 8}


@pytest.fixture(scope="session")
def _shapes_root(tmp_path_factory):
    """Draw a few images of shapes once, and return their folder."""
    root = tmp_path_factory.mktemp("datasets")
    register_shapes(root, _NUM_IMAGES)
    for name in ("shapes_train", "shapes_val"):
        DatasetCatalog.get(name)  # draws the images
    register_shapes()
    return root


@pytest.fixture(scope="module")
def few_shapes(_shapes_root):
    """Register shapes_train and shapes_val with 24 and 8 images while a test file runs."""
    register_shapes(_shapes_root, _NUM_IMAGES)
    yield _shapes_root
    register_shapes()


@pytest.fixture
def package_log(caplog, monkeypatch):
    """
    Return caplog, and make it record what fcos_d2 and detectron2 log at level INFO or above.

    caplog records only the root logger. After detectron2's ``setup_logger``, which an earlier test
    may have called, the records of these two packages do not reach the root logger.
    """
    loggers = [logging.getLogger(name) for name in ("fcos_d2", "detectron2")]
    for logger in loggers:
        monkeypatch.setattr(logger, "propagate", False)
        logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    for logger in loggers:
        logger.removeHandler(caplog.handler)


@pytest.fixture
def own_data(tmp_path):
    """Return a small dataset whose annotation files are not written yet."""
    return OwnData(tmp_path)


@pytest.fixture(scope="session")
def _trained_once(tmp_path_factory):
    """Train on ``OwnData`` with relative paths of the datasets, and return the data."""
    data = OwnData(tmp_path_factory.mktemp("own_data"))
    data.write()
    prefix = f"{data.folder}/"
    arguments = data.arguments()
    relative = [x.replace(prefix, "") if x.startswith("--dataset") else x for x in arguments]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(data.folder)
        data.run(monkeypatch, relative)
    return data


@pytest.fixture
def trained_own_data(_trained_once, own_data, monkeypatch):
    """Return ``OwnData`` with the output folder of a training run; a test may change all files."""
    own_data.write()
    shutil.copytree(_trained_once.output, own_data.output)
    config = own_data.output / "config.yaml"
    config.write_text(config.read_text().replace(str(_trained_once.folder), str(own_data.folder)))
    monkeypatch.chdir(own_data.folder)
    return own_data


@pytest.fixture
def images(tmp_path):
    """Return a folder of two images, 1.png and 2.jpg."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("1.png", "2.jpg"):
        Image.new("RGB", (96, 64), "red").save(folder / name)
    return folder


@pytest.fixture
def parsed_files(monkeypatch):
    """Return the list of annotation files that are parsed from now on."""
    files = []

    def parse(file):
        files.append(file)
        return parse_json(file)

    for module in (dataset_checks, loading):
        monkeypatch.setattr(module, "parse_json", parse)
    return files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make an empty folder the working directory, and return it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
