"""Files in the style of labeling tools: what is derived, and that they train as they are."""

import json
import shutil
from pathlib import Path

import pytest
from commands import SHAPES_CONFIG, as_arguments
from detectron2.data import DatasetCatalog, MetadataCatalog
from own_data import TINY
from PIL import Image, ImageDraw
from tiny import read_metrics

from fcos_d2 import cli
from fcos_d2.data.coco import check_coco_dataset, register_coco_dataset
from fcos_d2.engine.yaml_config import prepare_config

STYLES = Path(__file__).parent / "styles"
# style -> the kinds of findings and their numbers. Each file has 4 images with 2 boxes each.
FINDINGS = {
    "cvat_boxes": {},
    "cvat_masks": {"crowd": 4},  # every mask is marked as a crowd
    "label_studio": {"annotation_id_0": 1},
    "labelme2coco": {"segmentation_no_polygon": 4},  # rectangles are two points
    "pycococreator": {},
    "roboflow": {"annotation_id_0": 1, "class_unused": 1},  # the root class
    "via": {
        "annotation_id_0": 1,
        "annotation_reference_type": 8,  # the images have integers, the annotations texts
        "category_repeated": 2,
        "segmentation_flat": 8,
    },
}


@pytest.fixture
def make(tmp_path):
    """Return a function that draws the images of a style, and returns its NAME=FILE:FOLDER."""

    def draw(style, name="own"):
        file = shutil.copy(STYLES / f"{style}.json", tmp_path)
        content = json.loads(Path(file).read_text())
        for entry in content["images"]:
            image = Image.new("RGB", (entry["width"], entry["height"]), "gray")
            # VIA's ids of images are texts in annotations.
            for annotation in content["annotations"]:
                if str(annotation["image_id"]) == str(entry["id"]):
                    x, y, w, h = annotation["bbox"]
                    color = "red" if annotation["category_id"] % 2 else "blue"
                    ImageDraw.Draw(image).rectangle([x, y, x + w, y + h], fill=color)
            path = tmp_path / "images" / entry["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        return name, file, tmp_path / "images"

    yield draw
    if "own" in DatasetCatalog:
        DatasetCatalog.remove("own")
        MetadataCatalog.remove("own")


@pytest.mark.parametrize("style", FINDINGS)
def test_what_is_unusual_in_the_files_of_a_tool_is_derived(make, style):
    checked = check_coco_dataset(*make(style))
    assert {x.kind: x.count for x in checked.findings} == FINDINGS[style]
    assert not any(x.is_fatal for x in checked.findings)
    content = checked.content
    assert len(content["annotations"]) == 8
    assert min(x["id"] for x in content["annotations"]) >= 1
    names = {x["id"]: x["name"] for x in content["categories"]}
    used = [names[x["category_id"]] for x in content["annotations"]]
    assert used == ["circle", "square"] * 4


@pytest.mark.parametrize("style", FINDINGS)
def test_all_boxes_of_a_tool_are_loaded(make, style):
    register_coco_dataset(*make(style))
    dicts = DatasetCatalog.get("own")
    boxes = [annotation["bbox"] for x in dicts for annotation in x["annotations"]]
    content = json.loads((STYLES / f"{style}.json").read_text())
    assert boxes == [x["bbox"] for x in content["annotations"]]
    assert all(Path(x["file_name"]).is_file() for x in dicts)


@pytest.mark.parametrize("style", FINDINGS)
def test_the_checks_before_training_accept_the_files_of_a_tool(make, style, tmp_path):
    name, file, folder = make(style)
    overrides = {**TINY, "DATASETS.TRAIN": (name,), "DATASETS.TEST": (name,)}
    opts = as_arguments({**overrides, "OUTPUT_DIR": tmp_path / "out"})
    cfg = prepare_config(SHAPES_CONFIG, opts, [f"{name}={file}:{folder}"])
    assert cfg.FCOS_TRAIN.CLASS_NAMES[-2:] == ["circle", "square"]


@pytest.mark.parametrize(
    "style",
    [x if x == "roboflow" else pytest.param(x, marks=pytest.mark.slow) for x in FINDINGS],
)
def test_the_files_of_a_tool_train_evaluate_and_predict_without_an_edit(make, style, tmp_path):
    name, file, folder = make(style)
    out = tmp_path / "out"
    dataset = f"--dataset={name}={file}:{folder}"
    overrides = {**TINY, "DATASETS.TRAIN": (name,), "DATASETS.TEST": (name,), "OUTPUT_DIR": out}
    overrides["MODEL.FCOS.SCORE_THRESH_TEST"] = 0.0  # so that a new model detects something
    cli.main(["train", "--config-file", SHAPES_CONFIG, dataset, *as_arguments(overrides)])
    (score,) = (x["bbox/AP"] for x in read_metrics(out) if "bbox/AP" in x)
    assert 0 <= score <= 100  # False for NaN
    weights = str(out / "model_final.pth")
    cli.main(["evaluate", "--weights", weights, f"OUTPUT_DIR={out}"])
    results = json.loads((out / "inference" / "coco_instances_results.json").read_text())
    content = json.loads(Path(file).read_text())
    assert {x["image_id"] for x in results} == {x["id"] for x in content["images"]}
    assert {x["category_id"] for x in results} <= {x["id"] for x in content["categories"]}
    images = sorted(x for x in folder.rglob("*.jpg"))
    predictions = tmp_path / "predictions"
    cli.main(["predict", "--weights", weights, "--output", str(predictions), *map(str, images)])
    assert len(list(predictions.glob("*.png"))) == 4
