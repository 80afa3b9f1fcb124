"""The evaluator on the normalized content of a dataset."""

import json
import logging
import sys
from collections import Counter

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from input_errors import input_error

from fcos_d2.data.coco import register_coco_dataset
from fcos_d2.engine.coco_evaluator import NormalizedCOCOEvaluator

SIZE = (64, 96)


@pytest.fixture
def register():
    """Return a function that registers dataset dicts under a name, until the test ends."""
    names = []

    def add(name, function, **metadata):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        names.append(name)
        DatasetCatalog.register(name, function)
        MetadataCatalog.get(name).set(**metadata)

    yield add
    for name in set(names):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def register_file(own_data, register):
    """Return a function that writes val.json and registers it as the dataset "val"."""

    def add(**kwargs):
        register("val", list)  # which removes it at the end of the test
        DatasetCatalog.remove("val")
        MetadataCatalog.remove("val")
        own_data.write()
        register_coco_dataset("val", own_data.file("val"), own_data.images, **kwargs)
        return DatasetCatalog.get("val")

    return add


def detections_of(record, classes=None, repeat=1):
    """Return the objects of a dataset dict as detections."""
    objects = record.get("annotations", []) * repeat
    boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in objects]
    classes = classes or [x["category_id"] for x in objects]
    return Instances(
        (record["height"], record["width"]),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.linspace(0.9, 0.1, len(boxes)),
        pred_classes=torch.tensor(classes[: len(boxes)], dtype=torch.int64),
    )


def evaluate(evaluator, records, find=detections_of):
    """Evaluate a model that finds ``find(record)`` in an image."""
    evaluator.reset()
    evaluator.process(records, [{"instances": find(record)} for record in records])
    return evaluator.evaluate()


def messages(log, level=logging.INFO):
    return [x.getMessage() for x in log.records if x.levelno >= level]


@pytest.mark.parametrize("package", ["hotcoco", "pycocotools"])
def test_the_results_are_those_of_detectron2(
    few_shapes, tmp_path, monkeypatch, package_log, package
):
    if package == "pycocotools":
        monkeypatch.setitem(sys.modules, "hotcoco", None)
    generator = torch.Generator().manual_seed(0)

    def find(record):
        """Find each object twice, shifted, and misclassify some."""
        found = detections_of(record, repeat=2)
        found.pred_boxes.tensor += torch.randn(len(found), 4, generator=generator) * 4
        is_wrong = torch.rand(len(found), generator=generator) < 0.2
        found.pred_classes[is_wrong] = (found.pred_classes[is_wrong] + 1) % 6
        return found

    records = DatasetCatalog.get("shapes_val")
    results = evaluate(
        NormalizedCOCOEvaluator("shapes_val", output_dir=str(tmp_path)), records, find
    )
    generator.manual_seed(0)
    ours = (tmp_path / "coco_instances_results.json").read_text()
    reference = COCOEvaluator("shapes_val", output_dir=str(tmp_path), use_fast_impl=False)
    expected = evaluate(reference, records, find)
    assert 10 < expected["bbox"]["AP"] < 90
    assert repr(results) == repr(expected)  # which compares nan as well
    assert json.loads(ours) == json.loads((tmp_path / "coco_instances_results.json").read_text())
    (table,) = (x for x in messages(package_log) if "Average Precision" in x)
    assert table.count("maxDets=100") == 10


def test_hotcoco_is_used_where_it_is_installed(few_shapes, monkeypatch):
    hotcoco = pytest.importorskip("hotcoco")
    calls = []

    class Counting:
        COCO = hotcoco.COCO

        @staticmethod
        def COCOeval(*args):
            calls.append(args)
            return hotcoco.COCOeval(*args)

    monkeypatch.setitem(sys.modules, "hotcoco", Counting)
    evaluate(NormalizedCOCOEvaluator("shapes_val"), DatasetCatalog.get("shapes_val"))
    assert len(calls) == 1


@pytest.mark.parametrize("package", ["hotcoco", "pycocotools"])
def test_detections_that_are_not_finite_are_left_out(
    register, tmp_path, monkeypatch, package_log, package
):
    if package == "pycocotools":
        monkeypatch.setitem(sys.modules, "hotcoco", None)
    register("cells", lambda: cells(3), thing_classes=["cell"])

    def find(record):
        found = detections_of(record)
        found.scores[0] = float("nan")
        found.pred_boxes.tensor[1, 2] = float("inf")
        return found

    evaluator = NormalizedCOCOEvaluator("cells", output_dir=str(tmp_path))
    results = evaluate(evaluator, cells(3), find)
    assert results["bbox"]["AP"] == pytest.approx(100 / 3, abs=1)
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 1
    (warning,) = messages(package_log, logging.WARNING)
    assert "2 of 3" in warning


def without_objects(record):
    return {**record, "annotations": []}


def cells(count):
    """Return one image with a number of objects."""
    boxes = [[20 * (i % 30), 40 * (i // 30), 12, 12] for i in range(count)]
    mode = BoxMode.XYWH_ABS
    annotations = [{"bbox": x, "bbox_mode": mode, "category_id": 0} for x in boxes]
    size = {"height": 480, "width": 640}
    return [{"file_name": "1.png", "image_id": 1, **size, "annotations": annotations}]


@pytest.mark.parametrize(("kept", "ap"), [(50, 33.7), (100, 33.7), (300, 100), (None, 100)])
def test_more_than_100_detections_of_an_image_count_if_the_model_returns_them(
    register, package_log, kept, ap
):
    register("cells", lambda: cells(300), thing_classes=["cell"])
    evaluator = NormalizedCOCOEvaluator("cells", detections_per_image=kept)
    assert evaluate(evaluator, cells(300))["bbox"]["AP"] == pytest.approx(ap, abs=0.05)
    assert any("not COCO's" in x and "300" in x for x in messages(package_log)) == (ap == 100)


@pytest.mark.parametrize("has_detections", [False, True])
def test_without_detections_ap_is_0_only_where_there_are_objects(register, has_detections):
    records = cells(2)
    register("cells", lambda: records, thing_classes=["cell", "rare"])
    seen = records if has_detections else [without_objects(records[0])]
    results = evaluate(NormalizedCOCOEvaluator("cells"), seen)["bbox"]
    ap = 100 if has_detections else 0
    values = (ap, ap, pytest.approx(float("nan"), nan_ok=True))
    assert (results["AP"], results["AP-cell"], results["AP-rare"]) == values
    assert results["APs"] == ap
    assert results["APl"] != results["APl"]  # nan: there are no large objects


def test_a_corrected_dataset_of_a_function_is_evaluated_from_memory(register, tmp_path):
    def run(box):
        record = {**cells(1)[0], "annotations": [{**cells(1)[0]["annotations"][0], "bbox": box}]}
        register("cells", lambda: [record], thing_classes=["cell"])
        evaluator = NormalizedCOCOEvaluator("cells", output_dir=str(tmp_path))
        return evaluate(evaluator, [record], lambda _: detections_of(cells(1)[0]))["bbox"]["AP"]

    assert run([300, 300, 20, 20]) == 0
    assert run([0, 0, 12, 12]) == pytest.approx(100)
    names = ["coco_instances_results.json", "instances_predictions.pth"]
    assert sorted(x.name for x in tmp_path.iterdir()) == names
    assert not hasattr(MetadataCatalog.get("cells"), "json_file")


def test_the_results_have_the_ids_of_the_file(own_data, register_file, tmp_path):
    ids = {3: "a/3", 4: "b/4"}
    for image in own_data.val["images"]:
        image["id"] = ids[image["id"]]
    for annotation in own_data.val["annotations"]:
        annotation["image_id"] = ids[annotation["image_id"]]
        annotation["category_id"] += 6
    for category in own_data.val["categories"]:
        category["id"] += 6
    records = register_file()
    evaluator = NormalizedCOCOEvaluator("val", output_dir=str(tmp_path))
    assert evaluate(evaluator, records)["bbox"]["AP"] == pytest.approx(100)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {x["image_id"] for x in written} == {"a/3", "b/4"}
    assert {x["category_id"] for x in written} == {7, 8}


def test_an_annotation_id_of_0_does_not_change_the_scores(own_data, register_file):
    for i, annotation in enumerate(own_data.val["annotations"]):
        annotation["id"] = i
    records = register_file()
    assert evaluate(NormalizedCOCOEvaluator("val"), records)["bbox"]["AP"] == pytest.approx(100)


def test_a_file_without_annotations_gets_results_and_no_scores(
    own_data, register_file, tmp_path, package_log
):
    del own_data.val["annotations"]
    records = register_file()
    evaluator = NormalizedCOCOEvaluator("val", output_dir=str(tmp_path))
    box = {"bbox": [1, 2, 30, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    assert evaluate(evaluator, [{**x, "annotations": [box]} for x in records]) == {}
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [(x["image_id"], x["category_id"]) for x in written] == [(3, 2), (4, 2)]
    assert len([x for x in messages(package_log) if "no annotations" in x]) == 1


MASK = [[10, 10, 40, 10, 40, 50, 10, 50]]
POINTS = [float(x) for i in range(17) for x in (10 + i, 20 + i, 2)]


def with_masks_and_keypoints(record):
    """Return the objects of a dataset dict as detections that have the same mask and keypoints."""
    found = detections_of(record)
    masks = torch.zeros(len(found), *SIZE, dtype=torch.bool)
    masks[:, 10:50, 10:40] = True
    points = torch.tensor(POINTS).reshape(1, 17, 3).repeat(len(found), 1, 1)
    points[:, :, :2] += 0.5  # detectron2's keypoints are the centers of pixels
    found.pred_masks, found.pred_keypoints = masks, points
    return found


def test_masks_and_keypoints_are_scored_where_the_detections_have_them(own_data, register_file):
    for annotation in own_data.val["annotations"]:
        annotation |= {"bbox": [10, 10, 30, 40], "segmentation": MASK, "area": 1200}
        annotation |= {"keypoints": POINTS}  # without num_keypoints
    records = register_file()
    evaluator = NormalizedCOCOEvaluator("val")
    results = evaluate(evaluator, records, with_masks_and_keypoints)
    assert {task: results[task]["AP"] for task in results} == {
        task: pytest.approx(100) for task in ("bbox", "keypoints", "segm")
    }
    assert set(evaluate(evaluator, records)) == {"bbox"}


def test_tasks_that_the_annotations_do_not_allow_are_left_out_with_a_warning(
    own_data, register_file, package_log
):
    for annotation in own_data.val["annotations"][1:]:
        annotation["segmentation"] = MASK
    records = register_file()
    package_log.clear()
    results = evaluate(NormalizedCOCOEvaluator("val"), records, with_masks_and_keypoints)
    assert set(results) == {"bbox"}
    masks, keypoints = sorted(messages(package_log, logging.WARNING), reverse=True)
    assert [x for x in ("1 of 4", "'val'", "segmentation", "30") if x not in masks] == []
    assert [x for x in ("4 of 4", "'val'", "keypoints", "30") if x not in keypoints] == []


def with_five_keypoints(shift=0.0):
    """Return a function that returns an image's objects as detections with shifted keypoints."""

    def find(record):
        found = with_masks_and_keypoints(record)
        found.pred_keypoints = found.pred_keypoints[:, :5].clone()
        found.pred_keypoints[..., 0] += shift
        found.remove("pred_masks")
        return found

    return find


@pytest.fixture
def five_keypoints(own_data, register_file):
    """Register val.json with five keypoints for each object, and return its dicts."""
    for annotation in own_data.val["annotations"]:
        annotation["keypoints"] = POINTS[:15]
    return register_file()


@pytest.mark.parametrize("package", ["hotcoco", "pycocotools"])
def test_another_number_of_keypoints_than_cocos_gets_equal_sigmas(
    five_keypoints, package_log, package, monkeypatch
):
    if package == "pycocotools":
        monkeypatch.setitem(sys.modules, "hotcoco", None)
    package_log.clear()
    derived = evaluate(NormalizedCOCOEvaluator("val"), five_keypoints, with_five_keypoints(2.5))
    (line,) = [x for x in messages(package_log) if "KEYPOINT_OKS_SIGMAS" in x]
    assert [x for x in ("'val'", "0.067", " 5 ") if x not in line] == []
    results = {}
    for sigma in (0.067, 0.03):
        evaluator = NormalizedCOCOEvaluator("val", kpt_oks_sigmas=[sigma] * 5)
        results[sigma] = evaluate(evaluator, five_keypoints, with_five_keypoints(2.5))["keypoints"]
    assert derived["keypoints"] == pytest.approx(results[0.067], nan_ok=True)
    # By hand: d = 2.5 and area 600. With 0.067, OKS = exp(-2.5^2 / (2 * 600 * 0.134^2)) = 0.748,
    # which matches at 0.50 ... 0.70; with 0.03, exp(-6.25 / (1200 * 0.06^2)) = 0.235, at none.
    assert results[0.067]["AP"] == pytest.approx(50)
    assert results[0.03]["AP"] == 0


def test_17_keypoints_have_cocos_sigmas(own_data, register_file, package_log):
    for annotation in own_data.val["annotations"]:
        annotation["keypoints"] = POINTS
    records = register_file()
    package_log.clear()
    evaluate(NormalizedCOCOEvaluator("val"), records, with_masks_and_keypoints)
    assert not any("KEYPOINT_OKS_SIGMAS" in x for x in messages(package_log))


def test_the_keypoints_of_model_and_dataset_must_be_as_many_as_the_sigmas(five_keypoints):
    key = "TEST.KEYPOINT_OKS_SIGMAS"
    evaluator = NormalizedCOCOEvaluator("val", kpt_oks_sigmas=[0.1] * 4)
    with input_error("4", "dataset are 5", key=key, value=[0.1] * 4):
        evaluate(evaluator, five_keypoints, with_five_keypoints())
    with input_error("5", "model are 17", key=key):
        evaluate(NormalizedCOCOEvaluator("val"), five_keypoints, with_masks_and_keypoints)


def test_crowds_and_classes_without_keypoints_do_not_count(own_data, register_file, package_log):
    cat, dog, crowd, _ = own_data.val["annotations"]
    own_data.val["categories"][0]["keypoints"] = list("abcde")
    own_data.val["annotations"] = [cat, dog, crowd]  # of the classes cat, dog, cat
    cat["keypoints"], crowd["iscrowd"] = POINTS[:15], 1
    records = register_file()
    package_log.clear()
    results = evaluate(NormalizedCOCOEvaluator("val"), records, with_five_keypoints())
    assert results["keypoints"]["AP"] == pytest.approx(100)
    assert messages(package_log, logging.WARNING) == []


def test_detections_that_do_not_fit_the_dataset_are_an_error(register):
    register("cells", lambda: cells(1), thing_classes=["cell"])
    evaluator = NormalizedCOCOEvaluator("cells")
    with input_error("class 1", "'cells'", "1 class"):
        evaluate(evaluator, cells(1), lambda record: detections_of(record, classes=[1]))
    with input_error("1 image", "'cells'", "'other'"):
        evaluate(evaluator, [{**cells(1)[0], "image_id": "other"}])


def evaluate_ids(register, tmp_path, ids, categories):
    """Evaluate perfect detections of a function's dataset, and return AP and the results."""
    records = [{**cells(i + 1)[0], "image_id": image_id} for i, image_id in enumerate(ids)]
    register(
        "cells",
        lambda: records,
        thing_classes=["cell", "nucleus"],
        thing_dataset_id_to_contiguous_id=categories,
    )
    evaluator = NormalizedCOCOEvaluator("cells", output_dir=str(tmp_path))
    ap = evaluate(evaluator, records)["bbox"]["AP"]
    return ap, json.loads((tmp_path / "coco_instances_results.json").read_text())


def test_a_number_may_be_an_own_id_and_a_normalized_id_of_another_image(register, tmp_path):
    ids = ["a", 1, 3, 2]  # normalized to 1, 2, 3, 4
    ap, written = evaluate_ids(register, tmp_path, ids, {0: 0, 1: 1})
    assert ap == pytest.approx(100)
    assert Counter(x["image_id"] for x in written) == {"a": 1, 1: 2, 3: 3, 2: 4}


def test_text_ids_of_categories_are_in_the_order_of_the_classes(register, tmp_path):
    ap, written = evaluate_ids(register, tmp_path, [5], {"n": 1, "c": 0})
    assert ap == pytest.approx(100)
    assert [x["category_id"] for x in written] == ["c"]


def test_the_evaluator_sets_the_attributes_that_the_methods_of_detectron2_use(register, few_shapes):
    register("cells", lambda: cells(1), thing_classes=["cell"])
    ours = vars(NormalizedCOCOEvaluator("cells")).keys()
    parents = vars(COCOEvaluator("shapes_val")).keys()
    # _coco_api is a property; the other two are used only by the methods that are replaced.
    assert parents - ours == {"_coco_api", "_use_fast_impl", "_max_dets_per_image"}
    assert ours - parents == {"_content", "_detections_per_image"}


def test_some_images_can_be_evaluated(own_data, register_file):
    records = register_file()
    evaluator = NormalizedCOCOEvaluator("val")

    def find(record):
        return detections_of(record if record["image_id"] == 3 else without_objects(record))

    evaluate(evaluator, records, find)
    aps = [evaluator.evaluate(img_ids=ids)["bbox"]["AP"] for ids in ([3], [4], None)]
    assert aps == pytest.approx([100, 0, 50], abs=1)


def test_classes_are_in_the_order_of_the_model(own_data, register_file):
    own_data.val["annotations"] = own_data.val["annotations"][:1]  # a cat, which has the id 1
    records = register_file(model_classes=["dog", "cat"])
    results = evaluate(NormalizedCOCOEvaluator("val"), records)["bbox"]
    assert results["AP-cat"] == pytest.approx(100)
    assert results["AP-dog"] != results["AP-dog"]  # nan: there is no dog


def test_classes_that_are_left_out_do_not_count(own_data, register_file):
    records = register_file(drop_classes=["cat"])
    results = evaluate(NormalizedCOCOEvaluator("val"), records)["bbox"]
    assert results["AP"] == pytest.approx(100)
    assert "AP-cat" not in results


def test_proposals_are_scored(own_data, register_file):
    records = register_file()
    evaluator = NormalizedCOCOEvaluator("val")
    evaluator.reset()
    for record in records:
        found = detections_of(record)
        proposals = Instances(
            found.image_size, proposal_boxes=found.pred_boxes, objectness_logits=found.scores
        )
        evaluator.process([record], [{"proposals": proposals}])
    assert evaluator.evaluate()["box_proposals"]["AR@100"] == pytest.approx(100)
