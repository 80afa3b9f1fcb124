"""The metrics that evaluations will have, and the best metric among them."""

import json

import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog
from input_errors import input_error

from fcos_d2.engine.metric_names import (
    check_can_stop_early,
    is_validation_loss,
    list_metrics,
    resolve_best_metric,
)

KEY = "FCOS_TRAIN.BEST_METRIC"


@pytest.fixture
def sets():
    """Register the metadata of some test sets, and return their names."""
    kinds = {"metric_a": "coco", "metric_b": None, "metric_voc": "pascal_voc"}
    for name, kind in kinds.items():
        MetadataCatalog.get(name).set(thing_classes=["cat", "dog"])
        if kind:
            MetadataCatalog.get(name).set(evaluator_type=kind)
    yield list(kinds)
    for name in kinds:
        MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("val_loss/total_loss", True),
        ("ema/val_loss/my_val/loss_fcos_cls", True),
        ("bbox/AP", False),
        ("ema/bbox/AP", False),
        ("my_val_loss/bbox/AP", False),  # of the test set "my_val_loss"
    ],
)
def test_losses_are_told_from_metrics_by_their_prefix(metric, expected):
    assert is_validation_loss(metric) == expected


def test_one_test_set_has_the_metrics_of_its_evaluator(sets):
    coco = [f"bbox/{x}" for x in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AP-cat", "AP-dog")]
    assert list_metrics(sets[:1]) == coco
    assert list_metrics(sets[1:2]) == coco
    assert list_metrics(sets[2:]) == ["bbox/AP", "bbox/AP50", "bbox/AP75"]
    assert "keypoints/APs" not in list_metrics(sets[:1], ["keypoints"])


def test_one_class_has_no_metric_of_its_own():
    MetadataCatalog.get("metric_one").set(thing_classes=["cat"])
    try:
        assert "bbox/AP-cat" not in list_metrics(["metric_one"])
    finally:
        MetadataCatalog.remove("metric_one")


def test_several_test_sets_have_their_names_in_the_metrics(sets):
    names = list_metrics(sets)
    assert {"metric_a/bbox/AP", "metric_b/bbox/AP-dog", "metric_voc/bbox/AP75"} <= set(names)
    assert "bbox/AP" not in names


@pytest.mark.parametrize(
    ("metric", "num_sets", "expected"),
    [
        ("bbox/AP", 1, "bbox/AP"),
        ("bbox/AP-dog", 1, "bbox/AP-dog"),
        ("ema/bbox/AP50", 1, "ema/bbox/AP50"),
        ("val_loss/total_loss", 1, "val_loss/total_loss"),
        ("ema/val_loss/loss_mine", 1, "ema/val_loss/loss_mine"),
        ("metric_b/bbox/AP", 2, "metric_b/bbox/AP"),
        ("val_loss/metric_b/total_loss", 2, "val_loss/metric_b/total_loss"),
        # of the first set
        ("bbox/AP", 2, "metric_a/bbox/AP"),
        ("ema/bbox/AP", 2, "ema/metric_a/bbox/AP"),
        ("val_loss/loss_fcos_cls", 2, "val_loss/metric_a/loss_fcos_cls"),
    ],
)
def test_the_best_metric_has_a_full_name(sets, package_log, metric, num_sets, expected):
    assert resolve_best_metric(metric, sets[:num_sets], ["bbox"], KEY) == expected
    assert (repr(expected) in package_log.text) == (metric != expected)


@pytest.mark.parametrize(
    ("metric", "num_sets", "words"),
    [
        ("bbox/ap", 1, ["'bbox/AP'", "bbox/AP50", "bbox/AP-dog"]),
        ("segm/AP", 1, ["bbox/AP"]),
        ("metric_a/bbox/AP", 1, ["bbox/AP"]),
        ("bbox/mAP", 2, ["'metric_a/bbox/AP'"]),
        ("metric_b/bbox/mAP", 2, ["'metric_b/bbox/AP'"]),
        ("ema/bbox/mAP", 2, ["'ema/metric_a/bbox/AP'", "(16 in all)"]),
        ("val_loss/cls", 1, ["val_loss/total_loss"]),
    ],
)
def test_another_metric_is_an_error_that_lists_the_names(sets, metric, num_sets, words):
    with input_error(*words, key=KEY, value=metric):
        resolve_best_metric(metric, sets[:num_sets], ["bbox"], KEY)


LOSSES = ["loss_fcos_cls", "loss_fcos_ctr"]


@pytest.mark.parametrize("num_sets", [1, 2])
def test_the_losses_of_the_model_are_compared_with_the_metric(sets, num_sets):
    names = sets[:num_sets]
    resolved = resolve_best_metric("val_loss/loss_fcos_ctr", names, [], KEY, losses=LOSSES)
    assert resolved == f"val_loss/{'metric_a/' if num_sets > 1 else ''}loss_fcos_ctr"
    of_first = "val_loss/loss_fcos_cls" if num_sets == 1 else "val_loss/metric_a/loss_fcos_cls"
    with input_error(repr(of_first), key=KEY):
        resolve_best_metric("val_loss/loss_fcos_clss", names, [], KEY, losses=LOSSES)


def test_sets_without_annotations_have_no_metrics(sets):
    pair = sets[:2]
    assert resolve_best_metric("bbox/AP", pair, ["bbox"], KEY, unscored=pair[:1]) == (
        "metric_b/bbox/AP"
    )
    with input_error("metric_a", f"Set {KEY} to ''", key=KEY, value="bbox/AP"):
        resolve_best_metric("bbox/AP", pair[:1], ["bbox"], KEY, unscored=pair[:1])


def test_early_stopping_needs_a_test_set_with_annotations(own_data, monkeypatch):
    key = "FCOS_TRAIN.EARLY_STOPPING_PATIENCE"
    check_can_stop_early(0, key, ["a"], ["a"])
    check_can_stop_early(2, key, ["a", "b"], ["a"])
    with input_error("a, b", key=key, value=2):
        check_can_stop_early(2, key, ["a", "b"], ["a", "b"])
    del own_data.val["annotations"]
    for metric in ("bbox/AP", ""):
        extra = [f"{key}=1", "TEST.EVAL_PERIOD=1", f"{KEY}={metric}"]
        own_data.check_error(monkeypatch, key, extra=extra, key=key, value=1)


def test_a_training_reports_a_misspelled_loss(own_data, monkeypatch):
    metric = "val_loss/loss_fcos_clss"
    extra = ["FCOS_TRAIN.VALIDATION_LOSS=True", "TEST.EVAL_PERIOD=1", f"{KEY}={metric}"]
    own_data.check_error(monkeypatch, "loss_fcos_ctr", extra=extra, key=KEY, value=metric)


def test_a_training_with_a_test_set_without_annotations_keeps_no_best_weights(
    own_data, monkeypatch, package_log
):
    del own_data.val["annotations"]
    period = "TEST.EVAL_PERIOD=1"
    own_data.check_error(
        monkeypatch, "val", extra=[period, f"{KEY}=bbox/AP50"], key=KEY, value="bbox/AP50"
    )
    own_data.run(monkeypatch, own_data.arguments(period))
    assert "no best weights are kept" in package_log.text
    assert "have no metric" not in package_log.text
    assert not (own_data.output / "model_best.pth").exists()


NO_TEST_SET = ["DATASETS.TEST=()", "TEST.EVAL_PERIOD=1"]


def test_a_training_without_a_test_set_says_once_that_no_best_weights_are_kept(
    own_data, monkeypatch, package_log
):
    own_data.write()
    own_data.run(monkeypatch, own_data.arguments(*NO_TEST_SET))
    (line,) = (x for x in package_log.records if "model_best.pth" in x.getMessage())
    assert line.levelname == "INFO"
    assert "DATASETS.TEST" in line.getMessage()
    assert "no metric" not in package_log.text


def test_early_stopping_needs_a_test_set(own_data, monkeypatch):
    key = "FCOS_TRAIN.EARLY_STOPPING_PATIENCE"
    extra = [*NO_TEST_SET, f"{key}=2"]
    own_data.check_error(monkeypatch, "DATASETS.TEST", extra=extra, key=key, value=2)


def test_validation_losses_need_annotations(own_data, monkeypatch):
    del own_data.val["annotations"]
    key = "FCOS_TRAIN.VALIDATION_LOSS"
    file = own_data.file("val")
    own_data.check_error(monkeypatch, "val", extra=[f"{key}=True"], key=key, value=True, file=file)


TWO_SETS = ["DATASETS.TEST=('val', 'train')", "TEST.EVAL_PERIOD=1"]


def test_a_training_with_two_test_sets_keeps_the_best_weights_of_the_first(own_data, monkeypatch):
    own_data.write()
    own_data.run(monkeypatch, own_data.arguments(*TWO_SETS, "MODEL.FCOS.SCORE_THRESH_TEST=0.0"))
    config = yaml.safe_load((own_data.output / "config.yaml").read_text())
    assert config["FCOS_TRAIN"]["BEST_METRIC"] == "val/bbox/AP"
    assert "val/bbox/AP" in torch.load(own_data.output / "model_best.pth", weights_only=True)
    for name, ids in (("val", {3, 4}), ("train", {1, 2})):
        file = own_data.output / "inference" / name / "coco_instances_results.json"
        assert {x["image_id"] for x in json.loads(file.read_text())} <= ids
        assert file.is_file()


def test_a_training_reports_a_metric_that_there_will_not_be(own_data, monkeypatch):
    extra = [*TWO_SETS, f"{KEY}=val/bbox/AP-bird"]
    own_data.check_error(
        monkeypatch, "val/bbox/AP-cat", extra=extra, key=KEY, value="val/bbox/AP-bird"
    )
