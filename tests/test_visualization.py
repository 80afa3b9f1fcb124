"""Pictures of detections next to annotations."""

import json
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from shapes_results import write_results

from fcos_d2.data.coco import register_coco_dataset
from fcos_d2.drawing import drawable_names
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
