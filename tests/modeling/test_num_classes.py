"""The number of classes that NUM_CLASSES = -1 takes from the training set."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from input_errors import input_error
from tiny import tiny_cfg

from fcos_d2 import resolve_num_classes

NAME = "test_num_classes"


@pytest.fixture
def register():
    """Return a function that registers the dataset NAME; loading the dataset sets its metadata."""

    def add(**metadata):
        DatasetCatalog.register(NAME, lambda: MetadataCatalog.get(NAME).set(**metadata) and [])

    yield add
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def cfg_for(*datasets):
    return tiny_cfg("MODEL.FCOS.NUM_CLASSES", -1, "DATASETS.TRAIN", datasets)


def test_a_dataset_whose_metadata_is_set_by_loading_has_a_number_of_classes(register):
    register(thing_classes=["a", "b", "c"])
    assert resolve_num_classes(cfg_for(NAME)) == 3
    assert build_model(cfg_for(NAME)).num_classes == 3


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ((), ["DATASETS.TRAIN", "empty"]),
        (("shapes_trian",), ["'shapes_trian'", "registered", "'shapes_train'?"]),
    ],
)
def test_no_dataset_and_an_unknown_dataset_are_errors(datasets, words):
    with input_error(*words, key="MODEL.FCOS.NUM_CLASSES", value=-1):
        build_model(cfg_for(*datasets))


def test_a_dataset_without_classes_is_an_error(register):
    register()
    with input_error(repr(NAME), "thing_classes", key="MODEL.FCOS.NUM_CLASSES", value=-1):
        resolve_num_classes(cfg_for(NAME))
