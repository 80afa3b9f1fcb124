"""The differences between Trainer and detectron2's DefaultTrainer."""

import pytest
from tiny import MASK_RCNN, read_detections, tiny_cfg

from fcos_d2.config_checks import check_config
from fcos_d2.engine import Trainer
from fcos_d2.engine import trainer as trainer_module
from fcos_d2.engine.config_rules import find_faults


@pytest.mark.parametrize(("device", "is_pinned"), [("cpu", False), ("cuda:0", True)])
def test_a_gpu_gets_its_images_from_pinned_memory(monkeypatch, device, is_pinned):
    settings = {}
    monkeypatch.setattr(
        trainer_module, "build_detection_train_loader", lambda *_, **kwargs: settings.update(kwargs)
    )
    Trainer.build_train_loader(tiny_cfg("MODEL.DEVICE", device))
    assert settings["pin_memory"] == is_pinned


@pytest.mark.parametrize(
    ("names", "output_folder", "folder"),
    [
        (("a",), None, "out/inference"),
        (("a", "b"), None, "out/inference/a"),
        (("a",), "other", "other"),
        (("a", "b"), "other", "other/a"),
    ],
)
def test_each_of_several_test_sets_has_its_own_folder(monkeypatch, names, output_folder, folder):
    folders = []
    monkeypatch.setattr(
        trainer_module, "build_evaluator", lambda *args, **_: folders.append(args[1])
    )
    cfg = tiny_cfg("OUTPUT_DIR", "out", "DATASETS.TEST", names)
    Trainer.build_evaluator(cfg, "a", output_folder)
    assert folders == [folder]


WEIGHTED = {
    "DATALOADER.SAMPLER_TRAIN": "WeightedTrainingSampler",
    "DATASETS.TRAIN_REPEAT_FACTOR": [("shapes_train", 2.0)],
}


@pytest.mark.parametrize(
    "opts",
    [
        {"DATALOADER.SAMPLER_TRAIN": "RandomSubsetTrainingSampler"},
        {"DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler"},
        {"DATALOADER.SAMPLER_TRAIN": "WeightedCategoryTrainingSampler"},
        WEIGHTED,
        {"INPUT.FORMAT": "YUV-BT.601"},
        {"INPUT.FORMAT": "HSV"},
        {"SOLVER.BASE_LR": 0.0},
        {"TEST.EVAL_PERIOD": -1},
    ],
    ids=str,
)
def test_settings_that_detectron2_accepts_can_be_trained(few_shapes, tmp_path, opts):
    small = {
        "DATASETS.TRAIN": ("shapes_train",),
        "DATASETS.TEST": (),
        "MODEL.FCOS.NUM_CLASSES": 6,
        "INPUT.MIN_SIZE_TRAIN": (96,),
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 1,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": str(tmp_path),
    }
    cfg = tiny_cfg(small, opts)
    check_config(cfg, find_faults(cfg), build_model=True)
    trainer = Trainer(cfg)
    trainer.train()
    assert trainer.iter == 1


def test_a_two_stage_model_is_evaluated_with_augmentation_of_boxes_and_masks(few_shapes, tmp_path):
    settings = {
        "DATASETS.TEST": ("shapes_val",),
        "DATALOADER.NUM_WORKERS": 0,
        "MODEL.ROI_HEADS.NUM_CLASSES": 6,
        "TEST.AUG.ENABLED": True,
        "TEST.AUG.MIN_SIZES": (64,),
        "TEST.DETECTIONS_PER_IMAGE": 3,
        "OUTPUT_DIR": str(tmp_path),
    }
    cfg = tiny_cfg(MASK_RCNN, settings)
    model = Trainer.build_model(cfg).eval()
    results = Trainer.test_with_TTA(cfg, model)
    assert results.keys() == {"bbox_TTA", "segm_TTA"}
    assert not model.training
    detections = read_detections(tmp_path, "inference_TTA")
    assert detections
    assert all("segmentation" in x for x in detections)
