"""
An old checkpoint with its config.yaml can be evaluated and resumed with the same results.

tests/data/before_reshape was written before the model was divided into a dense head and its parts.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from golden import one_thread
from input_errors import input_error

from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.engine import Trainer, prepare_config

FOLDER = Path(__file__).resolve().parent / "data" / "before_reshape"
FIGURES = json.loads((FOLDER / "figures.json").read_text())


@pytest.fixture
def cfg(few_shapes, tmp_path):
    """Copy the old checkpoint, and return the config of its run with three more iterations."""
    shutil.copy(FOLDER / "model_final.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    opts = [f"OUTPUT_DIR={tmp_path}", "SOLVER.MAX_ITER=303", "TEST.EVAL_PERIOD=0"]
    return prepare_config(str(FOLDER / "config.yaml"), opts, resume=True)


def test_the_old_checkpoint_has_the_same_ap(cfg):
    model = Trainer.build_model(cfg)
    FCOSCheckpointer(model, complete=True).load(str(FOLDER / "model_final.pth"))
    results = Trainer.test(cfg, model)["bbox"]
    assert results == pytest.approx(FIGURES["bbox"], abs=0.05)


def train_on_the_same_images(trainer, num_steps):
    """Yield the total loss of each step on four images, without augmentation or random order."""
    mapper = DatasetMapper(trainer.cfg, is_train=True, augmentations=[])
    inputs = [mapper(x) for x in DatasetCatalog.get("shapes_train")[:4]]
    for _ in range(num_steps):
        loss = sum(trainer.model(inputs).values())
        trainer.optimizer.zero_grad()
        loss.backward()
        trainer.optimizer.step()
        yield loss.item()


def test_the_old_run_resumes_with_the_same_losses(cfg):
    with one_thread():
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=True)
        assert trainer.start_iter == 300
        losses = list(train_on_the_same_images(trainer, 3))
    assert losses == pytest.approx(FIGURES["losses"], rel=1e-3)


def test_a_checkpoint_with_parameters_in_another_order_is_not_resumed(cfg):
    path = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    weights = checkpoint["model"]
    first = "backbone.bottom_up.stem.conv1.weight"
    weights[first] = weights.pop(first)  # moves it to the end
    torch.save(checkpoint, path)
    with input_error("model_final.pth", "order", first):
        Trainer(cfg).resume_or_load(resume=True)
