"""The categories of a dataset that are classes, and their order."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fcos_d2.data.coco import register_coco_dataset
from fcos_d2.data.coco.classes import select_categories

CATEGORIES = {1: "cat", 2: "dog", 5: "cow"}


@pytest.mark.parametrize(
    ("class_names", "drop_classes", "expected"),
    [
        ([], [], CATEGORIES),
        (["dog", "cow", "cat"], [], {2: "dog", 5: "cow", 1: "cat"}),
        (["dog", "cat"], [], CATEGORIES),  # other classes: the checks report the difference
        ([], ["cat", "bird"], {2: "dog", 5: "cow"}),
        (["cow", "dog"], ["cat"], {5: "cow", 2: "dog"}),
        ([], ["cow", "dog", "cat"], {}),
    ],
)
def test_the_order_is_that_of_the_class_names(class_names, drop_classes, expected):
    selected = select_categories(CATEGORIES, class_names, drop_classes)
    assert list(selected.items()) == list(expected.items())


def test_the_loader_gives_the_selected_classes_and_their_annotations(own_data, register_own):
    own_data.val["categories"][0]["id"] = 7  # so that "dog" (2) is before "cat" (7)
    for annotation in own_data.val["annotations"]:
        annotation["category_id"] = {1: 7, 2: 2}[annotation["category_id"]]
    register_own()

    def classes_of_first_image(**kwargs):
        DatasetCatalog.remove("val")
        MetadataCatalog.remove("val")
        register_coco_dataset("val", own_data.file("val"), own_data.images, **kwargs)
        return [x["category_id"] for x in DatasetCatalog.get("val")[0]["annotations"]]

    assert classes_of_first_image() == [1, 0]
    assert classes_of_first_image(model_classes=["cat", "dog"]) == [0, 1]
    assert MetadataCatalog.get("val").thing_classes == ["cat", "dog"]
    assert classes_of_first_image(drop_classes=["dog"]) == [0]
    assert MetadataCatalog.get("val").thing_classes == ["cat"]
