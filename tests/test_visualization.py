"""Pictures of detections next to annotations."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from input_errors import input_error
from PIL import Image
from shapes_results import write_results

from fcos_d2 import visualization
from fcos_d2.data.coco import register_coco_dataset
from fcos_d2.drawing import Bone, Skeleton, drawable_names
from fcos_d2.drawing.colors import class_color
from fcos_d2.evaluation_results import read_detections
from fcos_d2.visualization import draw_comparison, sample_records


def test_a_comparison_shows_annotations_left_and_detections_right(few_shapes, tmp_path):
    names = drawable_names(MetadataCatalog.get("shapes_val").thing_classes)
    records = sample_records("shapes_val", 4)
    files = [Path(x["file_name"]).name for x in records]
    assert files == ["000000.png", "000002.png", "000004.png", "000006.png"]
    results = write_results(tmp_path / "results.json")
    detections = read_detections(results, "shapes_val")[records[0]["image_id"]]
    assert [x["score"] for x in detections][-2:] == [0.9, 0.1]
    strong, weak = (
        draw_comparison(records[0], detections, names, x, Skeleton()) for x in (0.4, 0.05)
    )
    assert strong.shape == weak.shape
    left, right = strong.shape[1] // 2 - 6, strong.shape[1] // 2 + 6
    assert (strong[:, :left] == weak[:, :left]).all()
    assert (strong[:, right:] != weak[:, right:]).any()


def test_detections_are_read_by_the_ids_of_the_file(own_data, tmp_path):
    ids = {3: "c/3", 4: "d/4"}
    for image in own_data.val["images"]:
        image["id"] = ids[image["id"]]
    for category in own_data.val["categories"]:
        category["id"] = f"category {category['id']}"
    own_data.val["annotations"].clear()
    own_data.write()
    register_coco_dataset("val", own_data.file("val"), own_data.images)
    entry = {"image_id": "d/4", "category_id": "category 2", "bbox": [1, 2, 3, 4], "score": 0.5}
    (tmp_path / "results.json").write_text(json.dumps([entry]))
    try:
        found = read_detections(tmp_path / "results.json", "val")
        names = {x["image_id"]: Path(x["file_name"]).name for x in DatasetCatalog.get("val")}
    finally:
        DatasetCatalog.remove("val")
        MetadataCatalog.remove("val")
    ((image_id, detections),) = found.items()
    assert names[image_id] == "4.png"
    assert detections == [{"bbox": [1, 2, 3, 4], "score": 0.5, "class": 1}]


NAMES = drawable_names(["cat", "dog"])
LINE = Skeleton(2, [Bone(0, 1, (0.0, 0.0, 1.0))])
# A picture of this width is not enlarged.
HEIGHT, WIDTH = 320, 640


@pytest.fixture
def record(tmp_path):
    """Return the dict of a black image without annotations."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "1.png")
    return {"file_name": str(tmp_path / "1.png"), "image_id": 1, "annotations": []}


def annotation(**fields):
    """Return an annotation of a cat in the upper left corner."""
    return {"bbox": [0, 40, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, **fields}


def detection(**fields):
    """Return a detection of a dog in the upper left corner."""
    return {"bbox": [0, 40, 20, 20], "score": 0.9, "class": 1, **fields}


def fill_color(k):
    """Return the color of a mask of a class on black."""
    return np.round(0.4 * 255 * np.array(class_color(k))).tolist()


def square_mask():
    """Return a mask of 100 x 100 pixels."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[100:200, 300:400] = 1
    return mask


def run_lengths(mask):
    """Return the RLE of a mask with text, as in JSON."""
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


POLYGON = [[300, 100, 400, 100, 400, 200, 300, 200]]


@pytest.mark.parametrize("segmentation", [POLYGON, run_lengths(square_mask()), square_mask()])
@pytest.mark.parametrize(("crowd", "k"), [(0, 0), (1, -1)])
def test_masks_of_annotations_are_left_and_those_of_detections_right(
    record, segmentation, crowd, k
):
    record["annotations"] = [annotation(segmentation=segmentation, iscrowd=crowd), annotation()]
    found = [detection(segmentation=run_lengths(square_mask())), detection()]
    picture = draw_comparison(record, found, NAMES, 0.4, Skeleton())
    assert picture[150, 350].tolist() == fill_color(k)
    assert picture[150, WIDTH + 12 + 350].tolist() == fill_color(1)
    weak = [detection(segmentation=run_lengths(square_mask()), score=0.3)]
    right = draw_comparison(record, weak, NAMES, 0.4, Skeleton())[:, WIDTH + 12 :]
    assert not right[100:].any()


def test_keypoints_of_annotations_are_left_and_those_of_detections_right(record):
    record["annotations"] = [
        annotation(bbox=[0, 40, 600, 20], keypoints=[200.5, 150.5, 2, 500.5, 150.5, 1])
    ]
    # Those of results are indices of pixels, with scores; the last one is not found.
    keypoints = [200, 250, 0.9, 500, 250, 0.009]
    found = [detection(bbox=[0, 40, 600, 20], keypoints=keypoints)]
    picture = draw_comparison(record, found, NAMES, 0.4, LINE)
    left, right = picture[:, :WIDTH], picture[:, WIDTH + 12 :]
    color = [round(255 * x) for x in class_color(0)]
    assert left[150, 200].tolist() == color
    assert not left[150, 500].any()  # hollow
    assert left[145:156, 490:511].any()
    assert left[148:153, 350, 2].max() > 150  # the line
    assert right[250, 200].tolist() == [round(255 * x) for x in class_color(1)]
    assert not right[:, 300:][100:].any()


def test_detections_have_scores_and_annotations_have_none(record, monkeypatch):
    record["annotations"] = [annotation(), annotation(iscrowd=1)]
    drawn = []

    def record_objects(image, objects, *args):
        drawn.append((objects.labels, [*objects.scores]))
        return image

    monkeypatch.setattr(visualization, "draw_objects", record_objects)
    draw_comparison(record, [detection(), detection(score=0.3)], NAMES, 0.4, LINE)
    assert drawn == [(["cat", "crowd"], []), (["dog"], [0.9])]


@pytest.mark.parametrize("segmentation", [[], None, {}])
def test_an_empty_segmentation_is_no_mask(record, segmentation):
    record["annotations"] = [annotation(segmentation=segmentation, keypoints=np.zeros(0))]
    picture = draw_comparison(record, [], NAMES, 0.4, Skeleton())
    record["annotations"] = [annotation()]
    assert (picture == draw_comparison(record, [], NAMES, 0.4, Skeleton())).all()


@pytest.mark.parametrize(
    "rle",
    [run_lengths(square_mask()[:-1]), {"size": [HEIGHT, WIDTH], "counts": "damaged"}],
    ids=["size", "damaged"],
)
def test_a_mask_that_does_not_fit_the_image_is_an_error(record, rle):
    with input_error("1.png", "0.9", "640 x 320"):
        draw_comparison(record, [detection(segmentation=rle)], NAMES, 0.4, Skeleton())
    record["annotations"] = [annotation(segmentation=rle)]
    with input_error("1.png", "annotation", "640 x 320"):
        draw_comparison(record, [], NAMES, 0.4, Skeleton())


@pytest.fixture
def read(own_data, tmp_path):
    """Return a function that reads a detection with more fields from a file."""
    own_data.write()
    register_coco_dataset("val", own_data.file("val"), own_data.images)
    entry = {"image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}

    def read_one(**fields):
        (tmp_path / "results.json").write_text(json.dumps([{**entry, **fields}]))
        ((found,),) = read_detections(tmp_path / "results.json", "val").values()
        return found

    yield read_one
    DatasetCatalog.remove("val")
    MetadataCatalog.remove("val")


def test_masks_and_keypoints_of_results_are_read(read):
    rle, keypoints = run_lengths(square_mask()), [1, 2, 0.5, 3.5, 4, 7]
    found = read(segmentation=rle, keypoints=keypoints)
    assert (found["segmentation"], found["keypoints"]) == (rle, keypoints)
    assert read().keys() == {"bbox", "score", "class"}


def test_results_have_the_number_of_keypoints_of_the_dataset(read, tmp_path):
    vars(MetadataCatalog.get("val"))["keypoint_names"] = ["head", "tail"]
    assert len(read(keypoints=[0] * 6)["keypoints"]) == 6
    with input_error("detection 0 ", "3 keypoints", "2", file=tmp_path / "results.json"):
        read(keypoints=[0] * 9)
