"""A results file of an evaluation on shapes_val, for tests of pictures."""

import json

from detectron2.data import DatasetCatalog, MetadataCatalog


def write_results(path):
    """Write the annotations of shapes_val with score 0.9, and a large box with score 0.1."""
    records = DatasetCatalog.get("shapes_val")
    class_indices = MetadataCatalog.get("shapes_val").thing_dataset_id_to_contiguous_id
    category_ids = {index: category_id for category_id, index in class_indices.items()}
    detections = [
        {
            "image_id": record["image_id"],
            "category_id": category_ids[annotation["category_id"]],
            "bbox": annotation["bbox"],
            "score": 0.9,
        }
        for record in records
        for annotation in record["annotations"]
        if not annotation.get("iscrowd")
    ]
    weak = {**detections[0], "bbox": [0, 0, 200, 200], "score": 0.1}
    path.write_text(json.dumps([weak, *detections]))
    return path
