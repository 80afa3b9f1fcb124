"""The pictures, and the command that makes them."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fcos_d2 import cli
from fcos_d2.errors import InputError
from fcos_d2.output_files import flat_names, name_outputs
from fcos_d2.visualization import draw_boxes, draw_comparison, read_detections, sample_records


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
    names = MetadataCatalog.get("shapes_val").thing_classes
    records = sample_records("shapes_val", 4)
    assert [Path(x["file_name"]).name for x in records] == [
        "000000.png",
        "000002.png",
        "000004.png",
        "000006.png",
    ]
    detections = read_detections(results_file, "shapes_val")[records[0]["image_id"]]
    assert [x["score"] for x in detections][:2] == [0.1, 0.9]
    strong, weak = (draw_comparison(records[0], detections, names, x) for x in (0.4, 0.05))
    assert strong.shape == weak.shape
    left, right = strong.shape[1] // 2 - 6, strong.shape[1] // 2 + 6
    assert (strong[:, :left] == weak[:, :left]).all()
    assert (strong[:, right:] != weak[:, right:]).any()


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
        ({"--dataset": "shapes_vall"}, "not registered. Did you mean 'shapes_val'"),
        ({"--output": __file__}, f"--output {__file__} cannot be written to"),
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


def test_a_picture_is_named_by_the_stem_and_by_the_whole_name_where_stems_clash():
    def named(*files):
        return [x.name for x in name_outputs(flat_names(files), files, Path("nowhere"))]

    assert named("in/x.jpg", "in/y.png") == ["x.png", "y.png"]
    assert named("in/x.jpg", "in/x.png", "in/y.png") == ["x.jpg.png", "x.png.png", "y.png"]
    assert named("in/a/x.png", "in/b/x.png") == ["a_x.png", "b_x.png"]
    with pytest.raises(InputError, match=r"in/x\.jpg and in/x\.jpg\.webp would both be"):
        named("in/x.jpg", "in/x.png", "in/x.jpg.webp")


def test_names_are_relative_to_the_images_folder(tmp_path):
    assert flat_names([tmp_path / "a" / "x.png"], tmp_path) == ["a_x.png"]
    assert flat_names(["/one/a/x.png", "/one/b/y.png"], tmp_path) == ["a_x.png", "b_y.png"]
    assert flat_names([]) == []


@pytest.fixture
def subfolders(tmp_path):
    """A dataset of pictures of one name in two folders, and the argument that names it."""
    images = tmp_path / "images"
    for folder in ("a", "b"):
        (images / folder).mkdir(parents=True)
        Image.new("RGB", (96, 64)).save(images / folder / "x.png")
    content = {
        "images": [
            {"id": i, "file_name": f"{folder}/x.png", "height": 64, "width": 96}
            for i, folder in ((1, "a"), (2, "b"))
        ],
        "annotations": [],
        "categories": [{"id": 7, "name": "cat"}],
    }
    (tmp_path / "sub.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text("[]")  # nothing was detected
    yield tmp_path
    if "sub" in DatasetCatalog:
        DatasetCatalog.remove("sub")
        MetadataCatalog.remove("sub")


def visualize(folder, output):
    cli.main(
        [
            "visualize",
            "--dataset",
            f"sub={folder}/sub.json:{folder}/images",
            "--results",
            str(folder / "results.json"),
            "--output",
            str(output),
        ]
    )


def test_pictures_of_subfolders_do_not_replace_each_other(subfolders):
    visualize(subfolders, subfolders / "out")
    assert sorted(x.name for x in (subfolders / "out").iterdir()) == ["a_x.png", "b_x.png"]


def test_a_picture_does_not_replace_an_image_of_the_dataset(subfolders):
    images = subfolders / "images"
    for folder in ("a", "b"):
        (images / folder / "x.png").rename(images / f"{folder}.png")
    text = (subfolders / "sub.json").read_text().replace("/x.png", ".png")
    (subfolders / "sub.json").write_text(text)
    before = (images / "a.png").read_bytes()
    with pytest.raises(SystemExit, match=r"a\.png would take the place of the image"):
        visualize(subfolders, images)
    assert (images / "a.png").read_bytes() == before


def test_a_damaged_image_is_named(subfolders):
    (subfolders / "images" / "a" / "x.png").write_text("no image")
    with pytest.raises(SystemExit, match=r"error: The image .*a/x\.png cannot be read"):
        visualize(subfolders, subfolders / "out")


DETECTION = {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "are not a JSON file"),
        ("{}", "are not a list of detections.*coco_instances_results.json"),
        ([{"file": "x.png", "class": "cat", "score": 1, "bbox": []}], "0 has no 'image_id'"),
        ([3], "detection 0 is not an object"),
        ([DETECTION, {**DETECTION, "category_id": 8}], "1 has category_id = 8, which .*'sub'"),
        ([{**DETECTION, "category_id": 0}], "category_id = 0"),
        ([{**DETECTION, "category_id": [7]}], r"category_id = \[7\]"),
        ([{**DETECTION, "image_id": 33}], "no detection is of an image of the dataset 'sub'"),
        ([{**DETECTION, "bbox": [1, 2, 3]}], r"bbox = \[1, 2, 3\], which are not four numbers"),
        ([{**DETECTION, "bbox": [1, 2, 3, float("nan")]}], "nan.*not four numbers"),
        ([{**DETECTION, "score": "high"}], "score = 'high'"),
    ],
)
def test_results_that_are_none_are_explained(subfolders, content, message):
    text = content if isinstance(content, str) else json.dumps(content)
    (subfolders / "results.json").write_text(text)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        visualize(subfolders, subfolders / "out")
    assert not (subfolders / "out").exists()


def test_detections_of_some_other_images_are_left_out(subfolders, caplog):
    content = [DETECTION, {**DETECTION, "image_id": 33}]
    (subfolders / "results.json").write_text(json.dumps(content))
    visualize(subfolders, subfolders / "out")
    assert len(list((subfolders / "out").iterdir())) == 2
