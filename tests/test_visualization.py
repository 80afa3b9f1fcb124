"""The pictures, and the command that makes them."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fcos_d2 import cli
from fcos_d2.visualization import draw_boxes, draw_comparisons


def test_small_images_are_enlarged_and_boxes_follow():
    image = np.zeros((64, 128, 3), dtype=np.uint8)
    picture = draw_boxes(image, np.array([[32.0, 16.0, 96.0, 48.0]]), [0], [""])
    assert picture.shape == (320, 640, 3)
    rows, columns = np.nonzero(picture.sum(axis=2) > 100)
    # Five times the box, give or take the width of the line.
    assert abs(columns.min() - 160) <= 5
    assert abs(columns.max() - 480) <= 5
    assert abs(rows.min() - 80) <= 5
    assert abs(rows.max() - 240) <= 5


def test_classes_have_colours_of_their_own_and_a_crowd_is_grey():
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    box = np.array([[8.0, 8.0, 56.0, 56.0]])
    shown = [draw_boxes(image, box, [k], [""]).reshape(-1, 3).max(axis=0) for k in (0, 1, 2, -1)]
    assert len({tuple(color) for color in shown}) == 4
    assert len(set(shown[3].tolist())) == 1


@pytest.fixture
def results_file(few_shapes, tmp_path):
    """The annotations of shapes_val as detections of 90 %, and one of 10 % that must not show."""
    records = DatasetCatalog.get("shapes_val")
    ids = {
        v: k for k, v in MetadataCatalog.get("shapes_val").thing_dataset_id_to_contiguous_id.items()
    }
    detections = [
        {
            "image_id": record["image_id"],
            "category_id": ids[annotation["category_id"]],
            "bbox": annotation["bbox"],
            "score": 0.9,
        }
        for record in records
        for annotation in record["annotations"]
        if not annotation.get("iscrowd")
    ]
    weak = {**detections[0], "bbox": [0, 0, 200, 200], "score": 0.1}
    path = tmp_path / "results.json"
    path.write_text(json.dumps([weak, *detections]))
    return path


def test_comparison_shows_annotations_left_and_detections_right(results_file):
    pictures = dict(draw_comparisons("shapes_val", results_file, 0.4, 4))
    assert list(pictures) == ["000000.png", "000002.png", "000004.png", "000006.png"]
    with_weak = dict(draw_comparisons("shapes_val", results_file, 0.05, 1))
    assert with_weak["000000.png"].shape == pictures["000000.png"].shape
    assert (with_weak["000000.png"] != pictures["000000.png"]).any()


def test_the_command_writes_pictures(results_file, tmp_path, capsys):
    output = tmp_path / "pictures"
    arguments = ["--dataset", "shapes_val", "--results", str(results_file), "--output", str(output)]
    cli.main(["visualize", *arguments, "--num-images", "3"])
    files = sorted(output.iterdir())
    assert len(files) == 3
    assert all(Image.open(file).size[0] > 640 for file in files)
    assert "3 pictures in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--results": "nowhere.json"}, "nowhere.json: no such file"),
        ({"--num-images": "0"}, "--num-images 0 must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(results_file, tmp_path, change, message):
    arguments = {
        "--dataset": "shapes_val",
        "--results": str(results_file),
        "--output": str(tmp_path / "pictures"),
        **change,
    }
    with pytest.raises(SystemExit, match=message):
        cli.main(["visualize", *(x for pair in arguments.items() for x in pair)])
