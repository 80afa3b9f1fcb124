"""Pictures of detections next to annotations."""

from pathlib import Path

from detectron2.data import MetadataCatalog
from shapes_results import write_results

from fcos_d2.drawing import drawable_names
from fcos_d2.visualization import draw_comparison, read_detections, sample_records


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
