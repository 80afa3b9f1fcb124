"""Precision and recall: hotcoco computes the same arrays as pycocotools."""

import sys

import numpy as np
import pytest
from pycocotools import mask

from fcos_d2.engine.coco_scores import CocoRules, choose_sigmas, score_detections

HEIGHT, WIDTH = 240, 320


def draw_rle(polygon):
    """Return the compressed RLE of a polygon."""
    (rle,) = mask.frPyObjects([polygon], HEIGHT, WIDTH)
    return {**rle, "counts": rle["counts"].decode()}


def make_case(num_images=12, num_classes=4, num_objects=150, num_detections=1500, crowds=0.1):
    """
    Return content and detections that overlap its objects, with equal scores among them.

    The objects have all sizes, so that each is ignored in the scores of the other sizes.
    """
    rng = np.random.default_rng(0)
    content = {
        "images": [{"id": 3 * i + 1, "height": HEIGHT, "width": WIDTH} for i in range(num_images)],
        "categories": [{"id": 2 * k + 1, "name": f"class{k}"} for k in range(num_classes)],
        "annotations": [],
    }

    def make_entry(image_id, category_id, box):
        """Return what annotations and detections have in common."""
        x, y, w, h = box = [float(max(1, value)) for value in box]
        keypoints = np.stack([rng.uniform(x, x + w, 5), rng.uniform(y, y + h, 5), np.ones(5)], 1)
        return {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "segmentation": draw_rle([x, y, x + w, y, x + w, y + h, x, y + 0.7 * h]),
            "keypoints": keypoints.ravel().tolist(),
        }

    for i in range(num_objects):
        box = [*rng.uniform(0, 150, 2), *rng.uniform(3, 150, 2)]
        image_id = 3 * int(rng.integers(num_images)) + 1
        entry = make_entry(image_id, 2 * int(rng.integers(num_classes)) + 1, box)
        entry["keypoints"][2::3] = rng.integers(0, 3, 5).tolist() if i % 9 else [0] * 5
        is_crowd = int(rng.random() < crowds)
        area = mask.area(entry["segmentation"]).item()
        content["annotations"].append({**entry, "id": i + 1, "area": area, "iscrowd": is_crowd})
    detections = []
    for _ in range(num_detections):
        target = content["annotations"][int(rng.integers(num_objects))]
        category_id = target["category_id"]
        if rng.random() < 0.2:
            category_id = 2 * int(rng.integers(num_classes)) + 1
        box = target["bbox"] + rng.normal(0, 4, 4)
        entry = make_entry(target["image_id"], category_id, box)
        entry["keypoints"] = (target["keypoints"] + rng.normal(0, 3, 15)).tolist()
        detections.append({**entry, "score": round(float(rng.random()), 2)})
    return content, detections


def check_equal(monkeypatch, content, detections, rules):
    """Compare the arrays of both packages and their summaries, and return those of hotcoco."""
    pytest.importorskip("hotcoco")
    scores = score_detections(content, detections, rules)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "hotcoco", None)
        expected = score_detections(content, detections, rules)
    assert scores.eval.keys() == expected.eval.keys()
    for name, array in expected.eval.items():
        assert np.array_equal(scores.eval[name], array), name
    scores.summarize()
    expected.summarize()
    assert scores.stats.tolist() == expected.stats.tolist()
    return scores


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize("most", [100, 300])
def test_crowds_sizes_and_equal_scores(monkeypatch, task, most):
    content, detections = make_case(num_images=3, num_classes=2)
    rules = CocoRules(task, [1, 3], (1, 10, most), (0.05,) * 5 if task == "keypoints" else ())
    scores = check_equal(monkeypatch, content, detections, rules)
    assert 0.05 < scores.stats[0] < 0.95
    if task == "bbox":  # more than 100 of the 1500 detections of an image and a class count
        ar = dict(zip((1, 10, most), scores.stats[6:9], strict=True))
        assert 0 < ar[1] < ar[10] < ar[most]


def test_sigmas_are_those_of_the_config_or_cocos_or_equal():
    assert choose_sigmas([0.1, 0.2], 17) == [0.1, 0.2]
    coco = choose_sigmas((), 17)
    assert (coco[0], coco[-1]) == pytest.approx((0.026, 0.089))  # nose and right ankle
    assert choose_sigmas((), 3) == [0.067] * 3


def test_a_limit_of_300_finds_more_than_100(monkeypatch):
    content, detections = make_case(num_images=1, num_classes=1)
    ap = {
        most: check_equal(
            monkeypatch, content, detections, CocoRules("bbox", [1], (1, 10, most))
        ).stats[0]
        for most in (100, 300)
    }
    assert ap[100] < ap[300]


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_no_detections_score_0_and_classes_without_objects_have_no_score(monkeypatch, task):
    content, _ = make_case()
    content["categories"].append({"id": 99, "name": "rare"})
    scores = check_equal(monkeypatch, content, [], CocoRules(task, [1, 3, 5, 7, 99]))
    assert scores.stats[0] == 0
    assert scores.eval["precision"].max(axis=(0, 1, 3, 4)).tolist() == [0, 0, 0, 0, -1]


def test_no_annotations_have_no_score(monkeypatch):
    content, detections = make_case()
    content = {**content, "annotations": []}
    scores = check_equal(monkeypatch, content, detections, CocoRules("bbox", [1, 3, 5, 7]))
    assert scores.stats[0] == -1


def test_as_many_classes_as_lvis_has(monkeypatch):
    content, detections = make_case(20, 1203, 2000, 4000)
    rules = CocoRules("bbox", [x["id"] for x in content["categories"]], (1, 10, 300))
    scores = check_equal(monkeypatch, content, detections, rules)
    assert scores.eval["precision"].shape == (10, 101, 1203, 4, 3)


def test_some_images_and_classes_in_the_order_of_class_indices(monkeypatch):
    content, detections = make_case()
    scores = check_equal(
        monkeypatch, content, detections, CocoRules("bbox", [5, 1], image_ids=[7, 1])
    )
    ascending = score_detections(content, detections, CocoRules("bbox", [1, 5], image_ids=[1, 7]))
    assert np.array_equal(scores.eval["precision"], ascending.eval["precision"][:, :, ::-1])
    assert np.array_equal(scores.eval["recall"], ascending.eval["recall"][:, ::-1])


def test_fields_that_a_task_does_not_read_may_have_any_value(monkeypatch):
    content, detections = make_case(num_objects=20, num_detections=100)
    expected = score_detections(content, detections, CocoRules("bbox", [1, 3, 5, 7]))
    for i, annotation in enumerate(content["annotations"]):
        annotation |= {"num_keypoints": ("3", -1, None)[i % 3], "keypoints": "x"}
    scores = check_equal(monkeypatch, content, detections, CocoRules("bbox", [1, 3, 5, 7]))
    assert np.array_equal(scores.eval["precision"], expected.eval["precision"])


def test_the_arguments_are_not_changed(monkeypatch):
    content, detections = make_case(num_objects=5, num_detections=5)
    before = repr((content, detections))
    for task in ("bbox", "segm", "keypoints"):
        sigmas = (0.05,) * 5 if task == "keypoints" else ()
        check_equal(
            monkeypatch, content, detections, CocoRules(task, [1, 3, 5, 7], kpt_oks_sigmas=sigmas)
        )
    assert repr((content, detections)) == before
