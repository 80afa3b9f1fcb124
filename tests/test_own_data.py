"""Own data without a line of Python: flags, recipes, and the commands around them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from own_data import OwnData
from PIL import Image

from fcos_d2 import cli
from fcos_d2.data.coco import parse_dataset
from fcos_d2.engine import Trainer, load_config, prepare_config

RECIPES = sorted((Path(__file__).resolve().parent.parent / "configs" / "own_data").glob("*.yaml"))


@pytest.fixture
def own_data(tmp_path):
    return OwnData(tmp_path)


@pytest.fixture
def trained(own_data, monkeypatch):
    """Trained by relative paths, in the folder of the data."""
    own_data.write()
    monkeypatch.chdir(own_data.folder)
    flags = ["--dataset=train=train.json:images", "--dataset=val=val.json:images"]
    arguments = [x for x in own_data.arguments() if not x.startswith("--dataset")]
    own_data.run(monkeypatch, [*arguments[:2], *flags, *arguments[2:]])
    return own_data


def test_a_dataset_is_a_name_and_two_paths():
    assert parse_dataset("a=x/b.json:y/z/") == ("a", Path("x/b.json"), Path("y/z"))
    assert parse_dataset("a=x:1/b.json:y")[1] == Path("x:1/b.json")


def test_number_of_classes_and_datasets_are_written_down(trained):
    dumped = yaml.safe_load((trained.output / "config.yaml").read_text())
    assert dumped["MODEL"]["FCOS"]["NUM_CLASSES"] == 2
    assert dumped["FCOS_TRAIN"]["DATASETS"] == [
        f"{name}={trained.folder}/{name}.json:{trained.images}" for name in ("train", "val")
    ]


def test_class_names_are_written_down_and_an_evaluation_must_have_the_same(trained, monkeypatch):
    config = trained.output / "config.yaml"
    before = config.read_text()
    assert yaml.safe_load(before)["FCOS_TRAIN"]["CLASS_NAMES"] == ["cat", "dog"]
    for category, name in zip(trained.val["categories"], ["dog", "cat"], strict=True):
        category["name"] = name
    trained.write()
    arguments = [
        "--config-file",
        str(config),
        "--eval-only",
        "MODEL.WEIGHTS",
        str(trained.output / "model_final.pth"),
    ]
    with pytest.raises(SystemExit, match=r"trained for the classes cat, dog .* has dog, cat"):
        trained.run(monkeypatch, arguments)
    for category, name in zip(trained.val["categories"], ["cat", "dog"], strict=True):
        category["name"] = name
    trained.write()
    trained.run(monkeypatch, arguments)
    assert config.read_text() == before  # an evaluation leaves the training's config alone


def test_the_written_config_evaluates_from_anywhere_and_without_the_training_set(
    trained, monkeypatch, tmp_path_factory
):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    (trained.folder / "train.json").unlink()
    trained.run(
        monkeypatch,
        [
            "--config-file",
            str(trained.output / "config.yaml"),
            "--eval-only",
            "MODEL.WEIGHTS",
            str(trained.output / "model_final.pth"),
            "OUTPUT_DIR",
            "out",
        ],
    )
    assert Path("out/inference/coco_instances_results.json").is_file()


def test_datasets_of_the_yaml_are_registered_too(own_data, monkeypatch):
    own_data.write()
    file = own_data.folder / "mine.yaml"
    text = f"train={own_data.folder}/train.json:{own_data.images}"
    file.write_text(f"FCOS_TRAIN:\n  DATASETS: ['{text}']\nDATASETS:\n  TRAIN: ('train',)\n")
    from detectron2.data import DatasetCatalog, MetadataCatalog

    cfg = prepare_config(str(file), ["MODEL.DEVICE", "cpu", "DATASETS.TEST", "()"])
    assert cfg.MODEL.FCOS.NUM_CLASSES == 2
    DatasetCatalog.remove("train")
    MetadataCatalog.remove("train")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda x: x.stem)
def test_the_recipes_wait_for_the_users_datasets(recipe, own_data, monkeypatch):
    own_data.write()
    assert yaml.safe_load(recipe.read_text())["DATASETS"] == {"TRAIN": "()", "TEST": "()"}
    own_data.check_error(
        monkeypatch,
        "DATASETS.TRAIN is empty",
        f"--config-file={recipe}",
        "MODEL.DEVICE",
        "cpu",
        "DATASETS.TRAIN",
        "()",
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda x: x.stem)
def test_the_recipes_can_be_trained(recipe):
    cfg = load_config(
        str(recipe), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.FCOS.NUM_CLASSES", "3"]
    )
    model = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    assert type(optimizer).__name__.endswith("WithGradientClip")
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    assert scheduler.get_last_lr()[0] < cfg.SOLVER.BASE_LR  # it warms up
    # The LR of 16 images on 8 processes, or of this batch, is not scaled a second time.
    assert cfg.SOLVER.REFERENCE_WORLD_SIZE == 0


def test_predict_draws_and_writes_down(trained, tmp_path, capsys):
    output = tmp_path / "predictions"
    cli.main(
        [
            "predict",
            "--config-file",
            str(trained.output / "config.yaml"),
            "--weights",
            str(trained.output / "model_final.pth"),
            "--output",
            str(output),
            "--score-thresh",
            "0",
            str(trained.images),
            "--opts",
            "MODEL.FCOS.SCORE_THRESH_TEST",
            "0.0",
        ]
    )
    found = json.loads((output / "predictions.json").read_text())
    assert {Path(x["file"]).name for x in found} == {"1.png", "2.png", "3.png", "4.png"}
    assert {x["class"] for x in found} <= {"cat", "dog"}
    x, y, w, h = found[0]["bbox"]
    assert 0 <= x <= x + w <= 96
    assert 0 <= y <= y + h <= 64
    assert len(list(output.glob("*.png"))) == 4
    assert f"{len(found)} objects in 4 images" in capsys.readouterr().out


def test_predict_needs_no_annotations_to_name_classes(trained, tmp_path):
    for name in ("train", "val"):
        (trained.folder / f"{name}.json").unlink()
    cli.main(
        [
            "predict",
            "--config-file",
            str(trained.output / "config.yaml"),
            "--weights",
            str(trained.output / "model_final.pth"),
            "--output",
            str(tmp_path / "p"),
            str(trained.images / "1.png"),
            "--score-thresh",
            "0",
        ]
    )
    found = json.loads((tmp_path / "p" / "predictions.json").read_text())
    assert {x["class"] for x in found} <= {"cat", "dog"}


@pytest.mark.parametrize(
    ("images", "weights", "message"),
    [
        ("nowhere.png", None, "error: The image .*nowhere.png does not exist"),
        ("empty", None, "error: There is no image in .*empty"),
        ("text.png", None, "error: 1 of 1 images could not be used"),
        ("images", "nowhere.pth", "error: MODEL.WEIGHTS = '.*nowhere.pth' cannot be opened"),
    ],
)
def test_predict_explains_what_it_cannot_do(trained, tmp_path, images, weights, message):
    (trained.folder / "empty").mkdir()
    (trained.folder / "text.png").write_text("no image")
    weights = trained.folder / weights if weights else trained.output / "model_final.pth"
    with pytest.raises(SystemExit, match=message):
        cli.main(
            [
                "predict",
                "--config-file",
                str(trained.output / "config.yaml"),
                "--weights",
                str(weights),
                "--output",
                str(tmp_path / "p"),
                str(trained.folder / images),
            ]
        )


def test_visualize_takes_files_too(trained, tmp_path):
    results = tmp_path / "results.json"
    results.write_text(
        json.dumps([{"image_id": 3, "category_id": 2, "bbox": [5, 5, 20, 20], "score": 0.9}])
    )
    text = f"vis={trained.folder}/val.json:{trained.images}"
    output = tmp_path / "pictures"
    cli.main(["visualize", "--dataset", text, "--results", str(results), "--output", str(output)])
    assert sorted(x.name for x in output.iterdir()) == ["3.png", "4.png"]


def test_check_dataset_describes_and_finds_damaged_images(own_data, capsys):
    own_data.train["annotations"][0]["bbox"] = [3, 3, 0, 5]
    own_data.write()
    arguments = ["check-dataset", str(own_data.folder / "train.json"), str(own_data.images)]
    cli.main(arguments)
    printed = capsys.readouterr().out
    assert "2 images, 0 of them without boxes; 4 boxes" in printed
    (row,) = (line for line in printed.splitlines() if line.startswith("| cat"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["cat", "1", "0", "0", "0", "1"]
    assert "No mistake that would stop training was found." in printed
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(own_data.images / "2.png")
    cli.main(arguments)  # without --decode nothing is opened
    with pytest.raises(SystemExit, match="1 of 2 images cannot be used"):
        cli.main([*arguments, "--decode"])
    assert "2.png is (9, 9) pixels large" in capsys.readouterr().out


def test_a_checkpoint_with_other_classes_starts_a_new_training(trained, monkeypatch, caplog):
    for split in (trained.train, trained.val):
        split["categories"].append({"id": 3, "name": "cow"})
    first = torch.load(trained.output / "model_final.pth", weights_only=True)["model"]
    weights = trained.folder / "two_classes.pth"
    torch.save({"model": first}, weights)
    trained.write()
    trained.run(monkeypatch, trained.arguments("MODEL.WEIGHTS", str(weights)))
    assert "was trained for 2 classes, the model has 3" in (trained.output / "log.txt").read_text()
    again = torch.load(trained.output / "model_final.pth", weights_only=True)["model"]
    assert again["head.cls_logits.weight"].shape[0] == 3
