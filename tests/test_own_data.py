"""Own data without Python code: flags, recipes, and the config that a run writes."""

from pathlib import Path

import pytest
import torch
import yaml
from commands import REPOSITORY
from detectron2.data import DatasetCatalog, MetadataCatalog
from input_errors import check_error, command_error

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
    file.write_text(f"FCOS_TRAIN:\n  DATASETS: ['{text}']\nDATASETS:\n  TRAIN: ('train',)\n")
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
    (warning,) = (x for x in (data.output / "log.txt").read_text().splitlines() if "classes," in x)
    assert "WARNING" in warning
    assert "2 classes" in warning
    assert " 3" in warning
    trained = torch.load(data.output / "model_final.pth", weights_only=True)["model"]
    assert trained["head.cls_logits.weight"].shape[0] == 3
