"""The evaluator of each dataset."""

import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import LVISEvaluator
from tiny import TWO_STAGES, tiny_cfg

from fcos_d2.engine import Trainer, build_evaluator, evaluators
from fcos_d2.engine.coco_evaluator import NormalizedCOCOEvaluator
from fcos_d2.engine.evaluators import evaluation_tasks
from fcos_d2.errors import InputError


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


@pytest.mark.parametrize(
    ("evaluator_type", "evaluator", "arguments"),
    [
        ("coco", NormalizedCOCOEvaluator, {"detections_per_image": 300, "kpt_oks_sigmas": [0.1]}),
        ("lvis", LVISEvaluator, {}),
    ],
)
def test_the_metadata_selects_the_evaluator(
    monkeypatch, tmp_path, dataset_of_type, evaluator_type, evaluator, arguments
):
    calls = []
    monkeypatch.setattr(evaluators, evaluator.__name__, lambda *x, **y: calls.append((x, y)))
    name = dataset_of_type(evaluator_type)
    cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path))
    cfg.TEST.DETECTIONS_PER_IMAGE, cfg.TEST.KEYPOINT_OKS_SIGMAS = 300, [0.1]
    Trainer.build_evaluator(cfg, name)
    common = {"output_dir": str(tmp_path / "inference"), "tasks": ["bbox"]}
    assert calls == [((name,), {**arguments, **common})]


@pytest.mark.parametrize(
    ("opts", "tasks"),
    [
        ({"MODEL.MASK_ON": True}, ["bbox"]),  # FCOS uses masks only to train
        (TWO_STAGES, ["bbox"]),
        ({**TWO_STAGES, "MODEL.MASK_ON": True}, ["bbox", "segm"]),
        ({**TWO_STAGES, "MODEL.KEYPOINT_ON": True}, ["bbox", "keypoints"]),
        ({"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.MASK_ON": True}, ["box_proposals"]),
    ],
)
def test_the_config_decides_what_is_scored(opts, tasks):
    assert evaluation_tasks(tiny_cfg(opts)) == tasks


def test_a_dataset_of_an_unknown_type_is_an_error(tmp_path, dataset_of_type):
    name = dataset_of_type("sounds")
    with pytest.raises(InputError, match=rf"'{name}'.*evaluator_type = 'sounds'"):
        build_evaluator(name, str(tmp_path))
