"""
A checkpoint and its config.yaml, written before the model was divided into a dense head and its
parts (tests/data/before_reshape): it evaluates and resumes as it did then.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from golden import one_thread

from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.engine import Trainer, prepare_config
from fcos_d2.errors import InputError

FOLDER = Path(__file__).resolve().parent / "data" / "before_reshape"
FIGURES = json.loads((FOLDER / "figures.json").read_text())


@pytest.fixture
def cfg(few_shapes, tmp_path):
    """The run's own config, where its checkpoint is the last one; three more iterations are due."""
    shutil.copy(FOLDER / "model_final.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    opts = ["OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "303", "TEST.EVAL_PERIOD", "0"]
    return prepare_config(str(FOLDER / "config.yaml"), opts, resume=True)


def test_it_evaluates_to_the_same_figures(cfg):
    model = Trainer.build_model(cfg)
    FCOSCheckpointer(model, complete=True).load(str(FOLDER / "model_final.pth"))
    results = Trainer.test(cfg, model)["bbox"]
    assert results == pytest.approx(FIGURES["bbox"], abs=0.05)


def train_on_the_same_images(trainer, num_steps):
    """Sums of the losses of steps on four images, without augmentation or random order."""
    mapper = DatasetMapper(trainer.cfg, is_train=True, augmentations=[])
    inputs = [mapper(x) for x in DatasetCatalog.get("shapes_train")[:4]]
    for _ in range(num_steps):
        loss = sum(trainer.model(inputs).values())
        trainer.optimizer.zero_grad()
        loss.backward()
        trainer.optimizer.step()
        yield loss.item()


def test_training_resumes_with_the_same_losses(cfg):
    with one_thread():
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=True)
        assert trainer.start_iter == 300
        losses = list(train_on_the_same_images(trainer, 3))
    assert losses == pytest.approx(FIGURES["losses"], rel=1e-3)


def test_an_optimizer_state_that_would_reach_other_parameters_is_refused(cfg):
    path = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    weights = checkpoint["model"]
    weights["backbone.bottom_up.stem.conv1.weight"] = weights.pop(  # now the last
        "backbone.bottom_up.stem.conv1.weight"
    )
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match="cannot be resumed: its parameters come in another order"):
        Trainer(cfg).resume_or_load(resume=True)
