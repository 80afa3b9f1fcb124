"""Config keys, files, and the number of classes."""

import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from tiny import tiny_cfg

from fcos_d2 import get_config_file, new_cfg, resolve_num_classes

REPOSITORY = Path(__file__).resolve().parent.parent


def test_no_key_of_detectron2_changes():
    plain, ours = get_cfg(), new_cfg()
    del ours.DATASETS["TRAIN_REPEAT_FACTOR"]  # which detectron2's samplers read all the same
    del ours.DATALOADER["RANDOM_SUBSET_RATIO"]
    del ours.MODEL["FCOS"]
    del ours.MODEL["TIMM"]
    del ours.MODEL["BIFPN"]
    del ours["FCOS_TRAIN"]
    assert ours == plain


def test_config_files_are_found_by_name():
    path = Path(get_config_file("fcos_R_50_FPN_1x.yaml"))
    assert path.samefile(REPOSITORY / "configs" / "fcos_R_50_FPN_1x.yaml")
    assert Path(get_config_file("shapes/fcos_shapes_demo.yaml")).is_file()
    with pytest.raises(
        FileNotFoundError, match=r"no config 'nope.yaml'; it has: Base-FCOS.yaml"
    ) as e:
        get_config_file("nope.yaml")
    assert "adelaidet/MS_R_101_2x.yaml, " in str(e.value)


@pytest.fixture
def registered_dataset():
    name = "test_config_dataset"

    def load():
        MetadataCatalog.get(name).thing_classes = ["a", "b", "c"]
        return []

    DatasetCatalog.register(name, load)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_number_of_classes_is_taken_from_a_dataset_that_knows_them_only_when_loaded(
    registered_dataset,
):
    cfg = tiny_cfg("MODEL.FCOS.NUM_CLASSES", -1, "DATASETS.TRAIN", (registered_dataset,))
    assert resolve_num_classes(cfg) == 3
    assert build_model(cfg).num_classes == 3


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ((), "NUM_CLASSES = -1 means.*DATASETS.TRAIN is empty"),
        (("no_such_dataset",), "'no_such_dataset' of DATASETS.TRAIN is not registered"),
    ],
)
def test_an_unknown_number_of_classes_is_a_clear_error(datasets, message):
    with pytest.raises(ValueError, match=message):
        build_model(tiny_cfg("MODEL.FCOS.NUM_CLASSES", -1, "DATASETS.TRAIN", datasets))


def test_a_dataset_without_classes_is_a_clear_error():
    DatasetCatalog.register("test_config_no_classes", list)
    try:
        cfg = tiny_cfg("MODEL.FCOS.NUM_CLASSES", -1, "DATASETS.TRAIN", ("test_config_no_classes",))
        with pytest.raises(ValueError, match=r"'test_config_no_classes' has no thing_classes"):
            resolve_num_classes(cfg)
    finally:
        DatasetCatalog.remove("test_config_no_classes")


@pytest.mark.parametrize("module", ["fcos_d2", "train_net"])
def test_without_detectron2_the_import_says_how_to_get_it(module):
    code = f"import sys; sys.modules['detectron2'] = None\nimport {module}"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert process.returncode == 1
    assert "detectron2 is not installed" in process.stderr
    assert "pip install" in process.stderr


def test_importing_needs_no_opencv():
    # detectron2 does not bring it; only drawing the shapes and pictures needs it.
    code = "import sys; sys.modules['cv2'] = None\nimport fcos_d2, fcos_d2.engine"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert process.returncode == 0, process.stderr[-2000:]
