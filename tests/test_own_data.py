"""Own data without Python code: flags, recipes, and the config that a run writes."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from commands import REPOSITORY
from detectron2.data import DatasetCatalog, MetadataCatalog
from input_errors import check_error, command_error

from fcos_d2 import get_config_file
from fcos_d2.engine import Trainer, load_config, prepare_config

RECIPES = sorted((REPOSITORY / "configs" / "own_data").glob("*.yaml"))


def test_the_written_config_has_the_number_of_classes_and_absolute_paths(trained_own_data):
    data = trained_own_data
    dumped = yaml.safe_load((data.output / "config.yaml").read_text())
    assert dumped["MODEL"]["FCOS"]["NUM_CLASSES"] == 2
    expected = [f"{name}={data.file(name)}:{data.images}" for name in ("train", "val")]
    assert dumped["FCOS_TRAIN"]["DATASETS"] == expected


def evaluation_of(data, *opts):
    """Return the arguments that evaluate the trained weights with the config next to them."""
    weights = f"MODEL.WEIGHTS={data.output}/model_final.pth"
    return ["--config-file", f"{data.output}/config.yaml", "--eval-only", weights, *opts]


def test_the_written_config_has_the_class_names_and_an_evaluation_must_have_the_same(
    trained_own_data, monkeypatch
):
    data = trained_own_data
    config = data.output / "config.yaml"
    before = config.read_text()
    assert yaml.safe_load(before)["FCOS_TRAIN"]["CLASS_NAMES"] == ["cat", "dog"]
    data.val["categories"][1]["name"] = "wolf"
    data.write()
    error = command_error(data.run, monkeypatch, evaluation_of(data))
    words = ["lacks 'dog'", "'wolf' (id 2)"]
    check_error(error, *words, key="FCOS_TRAIN.CLASS_NAMES", value=["cat", "dog"])
    data.val["categories"][1]["name"] = "dog"
    data.write()
    data.run(monkeypatch, evaluation_of(data))
    assert config.read_text() == before  # An evaluation does not change the config of the run.


ALL = ("MODEL.FCOS.SCORE_THRESH_TEST", "0.0")  # so that hardly trained weights detect something


def read_results(data):
    """Return the detections that an evaluation has written."""
    return json.loads((data.output / "inference/coco_instances_results.json").read_text())


def number_categories(split, ids):
    """Give the categories of a split new ids, by their old ones."""
    for category in split["categories"]:
        category["id"] = ids[category["id"]]
    for annotation in split["annotations"]:
        annotation["category_id"] = ids[annotation["category_id"]]


def test_an_evaluation_matches_categories_with_other_ids_by_their_names(
    trained_own_data, monkeypatch
):
    data = trained_own_data
    data.run(monkeypatch, evaluation_of(data, *ALL))
    before = read_results(data)
    assert {x["category_id"] for x in before} == {1, 2}
    number_categories(data.val, {1: 9, 2: 4})  # the other order
    data.write()
    data.run(monkeypatch, evaluation_of(data, *ALL))
    assert read_results(data) == [
        {**x, "category_id": {1: 9, 2: 4}[x["category_id"]]} for x in before
    ]


def test_training_and_test_sets_with_other_ids_are_trained_and_evaluated(
    own_data, monkeypatch, package_log
):
    """The third dataset has the images of the training set in the order of the test set."""
    data = own_data
    number_categories(data.val, {1: 9, 2: 4})
    data.write()
    dataset = f"--dataset=more={data.file('val')}:{data.images}"
    data.run(monkeypatch, data.arguments(dataset, "DATASETS.TRAIN", "('train', 'more')", *ALL))
    assert {x["category_id"] for x in read_results(data)} == {9, 4}
    warnings = [x.getMessage() for x in package_log.records if x.levelname == "WARNING"]
    assert len([x for x in warnings if "training set 'more'" in x and "'cat' with id 9" in x]) == 1
    assert len([x for x in warnings if "test set 'val'" in x and "'cat' with id 9" in x]) == 1


def test_classes_can_be_left_out_of_training_and_evaluation(own_data, monkeypatch, package_log):
    data = own_data
    for split in (data.train, data.val):  # as Roboflow does
        split["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    data.write()
    data.run(monkeypatch, data.arguments("FCOS_TRAIN.DROP_CLASSES", "['animals', 'cat']", *ALL))
    config = yaml.safe_load((data.output / "config.yaml").read_text())
    assert config["MODEL"]["FCOS"]["NUM_CLASSES"] == 1
    assert config["FCOS_TRAIN"]["CLASS_NAMES"] == ["dog"]
    assert {x["category_id"] for x in read_results(data)} == {2}
    data.run(monkeypatch, evaluation_of(data, *ALL))
    assert {x["category_id"] for x in read_results(data)} == {2}
    assert [x for x in package_log.records if x.levelname == "WARNING"] == []


def test_a_test_set_without_annotations_gets_detections(trained_own_data, monkeypatch, package_log):
    data = trained_own_data
    del data.val["annotations"]
    data.write()
    data.run(monkeypatch, evaluation_of(data, *ALL))
    assert {x["image_id"] for x in read_results(data)} == {3, 4}
    assert len([x for x in package_log.records if "no annotations" in x.getMessage()]) == 1


def test_the_written_config_evaluates_from_anywhere_and_without_the_training_set(
    trained_own_data, monkeypatch, tmp_path_factory
):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    Path(trained_own_data.file("train")).unlink()
    trained_own_data.run(monkeypatch, evaluation_of(trained_own_data, "OUTPUT_DIR=out"))
    assert Path("out/inference/coco_instances_results.json").is_file()


def test_datasets_in_the_config_file_are_registered(own_data):
    own_data.write()
    file = own_data.folder / "mine.yaml"
    text = f"train={own_data.file('train')}:{own_data.images}"
    base = f"_BASE_: {get_config_file('own_data/fcos_small_from_scratch.yaml')}\n"
    file.write_text(f"{base}FCOS_TRAIN:\n  DATASETS: ['{text}']\nDATASETS:\n  TRAIN: ('train',)\n")
    cfg = prepare_config(str(file), ["MODEL.DEVICE", "cpu", "DATASETS.TEST", "()"])
    assert cfg.MODEL.FCOS.NUM_CLASSES == 2
    DatasetCatalog.remove("train")
    MetadataCatalog.remove("train")


@pytest.mark.parametrize("recipe", RECIPES, ids=[x.stem for x in RECIPES])
def test_the_recipes_require_the_users_datasets(recipe, own_data, monkeypatch):
    assert yaml.safe_load(recipe.read_text())["DATASETS"] == {"TRAIN": "()", "TEST": "()"}
    opts = ["MODEL.DEVICE=cpu", "DATASETS.TRAIN=()"]
    error = own_data.error(monkeypatch, f"--config-file={recipe}", *opts)
    check_error(error, "empty", key="DATASETS.TRAIN")


@pytest.mark.parametrize("recipe", RECIPES, ids=[x.stem for x in RECIPES])
def test_the_recipes_can_be_trained(recipe):
    opts = ["MODEL.DEVICE=cpu", "MODEL.WEIGHTS=", "MODEL.FCOS.NUM_CLASSES=3"]
    cfg = load_config(str(recipe), opts)
    model = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    assert type(optimizer).__name__.endswith("WithGradientClip")
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    assert scheduler.get_last_lr()[0] < cfg.SOLVER.BASE_LR  # it warms up
    # The learning rate and the batch size are not scaled by the number of processes.
    assert cfg.SOLVER.REFERENCE_WORLD_SIZE == 0


def test_a_run_can_start_from_a_checkpoint_with_other_classes(trained_own_data, monkeypatch):
    data = trained_own_data
    for split in (data.train, data.val):
        split["categories"].append({"id": 3, "name": "cow"})
    weights = (data.output / "model_final.pth").rename(data.folder / "two_classes.pth")
    data.write()
    data.run(monkeypatch, data.arguments(f"MODEL.WEIGHTS={weights}"))
    lines = (data.output / "log.txt").read_text().splitlines()
    (warning,) = (x for x in lines if "another number of classes" in x)
    assert "WARNING" in warning
    assert "(2)" in warning
    assert "(3)" in warning
    trained = torch.load(data.output / "model_final.pth", weights_only=True)["model"]
    assert trained["head.cls_logits.weight"].shape[0] == 3
