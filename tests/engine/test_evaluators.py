"""COCO's metrics by pycocotools and by faster-coco-eval, and the evaluator of each dataset."""

import sys
from types import ModuleType

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, LVISEvaluator, coco_evaluation
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.cocoeval import COCOeval

from fcos_d2.engine import build_evaluator, evaluators
from fcos_d2.errors import InputError


def jittered_detections(seed=0):
    """Yield (record, Instances): each object twice, shifted by a few pixels, some misclassified."""
    generator = torch.Generator().manual_seed(seed)
    for record in DatasetCatalog.get("shapes_val"):
        objects = record["annotations"] * 2
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
        shift = torch.randn(len(boxes), 4, generator=generator) * 4
        classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.int64)
        is_wrong = torch.rand(len(boxes), generator=generator) < 0.2
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4) + shift)
        instances.pred_classes = torch.where(is_wrong, (classes + 1) % 6, classes)
        instances.scores = torch.rand(len(boxes), generator=generator)
        yield record, instances


@pytest.fixture
def dataset_of_type():
    """Return a function that registers a name with an evaluator type, until the test ends."""
    names = []

    def register(evaluator_type):
        names.append(f"test_evaluators_{evaluator_type}")
        MetadataCatalog.get(names[-1]).evaluator_type = evaluator_type
        return names[-1]

    yield register
    for name in names:
        MetadataCatalog.remove(name)


def results_of(evaluator):
    evaluator.reset()
    for record, instances in jittered_detections():
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def test_faster_coco_eval_computes_the_same_values(few_shapes, tmp_path):
    pytest.importorskip("faster_coco_eval")
    evaluator = build_evaluator("shapes_val", str(tmp_path))
    assert type(evaluator) is not COCOEvaluator
    results = results_of(evaluator)
    expected = results_of(COCOEvaluator("shapes_val", tasks=("bbox",), use_fast_impl=False))
    assert 10 < expected["AP"] < 90
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        assert results[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_faster_coco_eval_is_used_where_it_is_installed(few_shapes, tmp_path, monkeypatch):
    calls = []

    class Counting(COCOeval):
        def evaluate(self):
            calls.append(self)
            super().evaluate()

    module = ModuleType("faster_coco_eval")
    module.COCOeval_faster = Counting
    monkeypatch.setitem(sys.modules, "faster_coco_eval", module)
    before = coco_evaluation.COCOeval_opt
    assert results_of(build_evaluator("shapes_val", str(tmp_path)))["AP"] > 10
    assert len(calls) == 1
    assert coco_evaluation.COCOeval_opt is before
    results_of(COCOEvaluator("shapes_val", tasks=("bbox",), use_fast_impl=False))
    assert len(calls) == 1


def test_without_faster_coco_eval_the_evaluator_is_detectron2s(few_shapes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert type(build_evaluator("shapes_val", str(tmp_path))) is COCOEvaluator


@pytest.mark.parametrize(
    ("evaluator_type", "evaluator"), [("coco", COCOEvaluator), ("lvis", LVISEvaluator)]
)
def test_the_metadata_selects_the_evaluator(
    monkeypatch, tmp_path, dataset_of_type, evaluator_type, evaluator
):
    calls = []
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setattr(evaluators, evaluator.__name__, lambda *x, **y: calls.append((x, y)))
    name = dataset_of_type(evaluator_type)
    build_evaluator(name, str(tmp_path))
    ((arguments, options),) = calls
    assert arguments == (name,)
    assert options.items() >= {"tasks": ("bbox",), "output_dir": str(tmp_path)}.items()


def test_a_dataset_of_an_unknown_type_is_an_error(tmp_path, dataset_of_type):
    name = dataset_of_type("sounds")
    with pytest.raises(InputError, match=rf"'{name}'.*evaluator_type = 'sounds'"):
        build_evaluator(name, str(tmp_path))


def test_a_dataset_that_was_corrected_is_converted_again(tmp_path):
    name = "test_evaluators_corrected"
    image = {"file_name": "1.png", "image_id": 1, "height": 100, "width": 100}
    found = Instances((100, 100), pred_boxes=Boxes(torch.tensor([[10.0, 10, 40, 40]])))
    found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    scores = []
    for box in ([50, 50, 20, 20], [10, 10, 30, 30]):
        annotation = {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
        records = [{**image, "annotations": [annotation]}]
        DatasetCatalog.register(name, lambda records=records: records)
        MetadataCatalog.get(name).set(thing_classes=["cat"])
        evaluator = build_evaluator(name, str(tmp_path))
        evaluator.reset()
        evaluator.process(records, [{"instances": found}])
        scores.append(evaluator.evaluate()["bbox"]["AP"])
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert scores == pytest.approx([0, 100])
