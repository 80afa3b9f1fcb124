"""Using fcos_d2 with the trainer, predictor and evaluator of detectron2, as other projects do."""

import numpy as np
import pytest
import torch
from commands import run_python
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultPredictor
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.utils.visualizer import Visualizer
from tiny import tiny_cfg

# The training script of another project, which uses detectron2's DefaultTrainer.
OUTSIDE_PROJECT = """
from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
import fcos_d2

register_coco_instances("mine", {}, "mine/annotations.json", "mine/images")
cfg = get_cfg()
fcos_d2.add_fcos_config(cfg)
cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
cfg.merge_from_list(SETTINGS)
trainer = DefaultTrainer(cfg)
trainer.resume_or_load(resume=False)
trainer.train()
"""
SETTINGS = {
    "DATASETS.TRAIN": ("mine",),
    "DATASETS.TEST": (),
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.FPN.OUT_CHANNELS": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": (),
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": (128,),
}


def test_an_outside_project_trains_with_detectron2s_trainer(few_shapes, tmp_path):
    (tmp_path / "mine").symlink_to(few_shapes / "shapes" / "train")
    script = OUTSIDE_PROJECT.replace(
        "SETTINGS", repr([x for pair in SETTINGS.items() for x in pair])
    )
    (tmp_path / "train.py").write_text(script)
    process = run_python("train.py", cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    weights = torch.load(tmp_path / "output" / "model_final.pth", weights_only=False)["model"]
    # The number of classes comes from the annotation file; no setting contains it.
    assert weights["head.cls_logits.weight"].shape[0] == 6


@pytest.fixture
def trained_cfg(few_shapes, tmp_path):
    """Return a config whose weights detect some objects."""
    settings = {
        "MODEL.FCOS.NUM_CLASSES": 6,
        "MODEL.FCOS.PRIOR_PROB": 0.3,
        "DATASETS.TEST": ("shapes_val",),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TEST": 128,
    }
    cfg = tiny_cfg(settings)
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.nn.init.constant_(model.head.bbox_pred.bias, 1.0)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    return cfg


def test_default_predictor_and_visualizer_of_detectron2_can_be_used(trained_cfg):
    image = np.random.default_rng(0).integers(0, 255, (100, 150, 3), dtype=np.uint8)
    instances = DefaultPredictor(trained_cfg)(image)["instances"]
    assert len(instances) == 100
    assert instances.image_size == (100, 150)
    metadata = MetadataCatalog.get("shapes_val")
    drawn = Visualizer(image, metadata).draw_instance_predictions(instances).get_image()
    assert drawn.shape == image.shape
    assert (drawn != image).any()


def test_the_evaluator_of_detectron2_can_be_used(trained_cfg, tmp_path):
    model = DefaultPredictor(trained_cfg).model
    loader = build_detection_test_loader(trained_cfg, "shapes_val")
    evaluator = COCOEvaluator("shapes_val", output_dir=str(tmp_path))
    results = inference_on_dataset(model, loader, evaluator)
    assert 0 <= results["bbox"]["AP50"] <= 100
    assert (tmp_path / "coco_instances_results.json").is_file()
