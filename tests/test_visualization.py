"""Pictures: boxes, colors, and detections next to annotations."""

import json
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from shapes_results import write_results

from fcos_d2.data.coco import register_coco_dataset
from fcos_d2.visualization import draw_boxes, draw_comparison, read_detections, sample_records


def test_small_images_and_their_boxes_are_enlarged():
    image = np.zeros((64, 128, 3), dtype=np.uint8)
    picture = draw_boxes(image, np.array([[32.0, 16.0, 96.0, 48.0]]), [0], [""])
    assert picture.shape == (320, 640, 3)
    rows, columns = np.nonzero(picture.sum(axis=2) > 100)
    # The box is enlarged by 5; the tolerance is the width of its lines.
    assert abs(columns.min() - 160) <= 5
    assert abs(columns.max() - 480) <= 5
    assert abs(rows.min() - 80) <= 5
    assert abs(rows.max() - 240) <= 5


def test_each_class_has_its_color_and_a_crowd_is_gray():
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    box = np.array([[8.0, 8.0, 56.0, 56.0]])
    shown = [draw_boxes(image, box, [k], [""]).reshape(-1, 3).max(axis=0) for k in (0, 1, 2, -1)]
    assert len({tuple(color) for color in shown}) == 4
    assert len(set(shown[3].tolist())) == 1


def test_a_comparison_shows_annotations_left_and_detections_right(few_shapes, tmp_path):
    names = MetadataCatalog.get("shapes_val").thing_classes
    records = sample_records("shapes_val", 4)
    files = [Path(x["file_name"]).name for x in records]
    assert files == ["000000.png", "000002.png", "000004.png", "000006.png"]
    results = write_results(tmp_path / "results.json")
    detections = read_detections(results, "shapes_val")[records[0]["image_id"]]
    assert [x["score"] for x in detections][:2] == [0.1, 0.9]
    strong, weak = (draw_comparison(records[0], detections, names, x) for x in (0.4, 0.05))
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
