"""The hooks of a training run and their order."""

import logging
import os
import signal

import pytest
import torch
from detectron2.engine import hooks
from tiny import tiny_cfg
from tiny_run import SameImages

from fcos_d2.engine import Trainer
from fcos_d2.engine.best_checkpoint import KeepBest
from fcos_d2.engine.checkpoints import SaveCheckpoints
from fcos_d2.engine.evaluation_hook import Evaluate


def cfg_with_best_metric(folder, metric, period):
    return tiny_cfg(
        {
            "DATASETS.TRAIN": ("shapes_train",),
            "MODEL.FCOS.NUM_CLASSES": 6,
            "OUTPUT_DIR": str(folder),
            "DATALOADER.NUM_WORKERS": 0,
            "FCOS_TRAIN.BEST_METRIC": metric,
            "TEST.EVAL_PERIOD": period,
        }
    )


@pytest.mark.parametrize(
    ("metric", "period", "expected"), [("bbox/AP", 2, True), ("", 2, False), ("bbox/AP", 0, False)]
)
def test_the_hook_of_the_best_checkpoint_comes_right_after_the_evaluation(
    few_shapes, tmp_path, metric, period, expected
):
    cfg = cfg_with_best_metric(tmp_path, metric, period)
    kinds = [type(hook) for hook in Trainer(cfg)._hooks]
    assert (KeepBest in kinds) == expected
    if expected:
        assert kinds.index(KeepBest) == kinds.index(Evaluate) + 1


@pytest.mark.parametrize(
    ("metric", "period", "warns"),
    [("bbox/AP50", 0, True), ("bbox/AP50", 2, False), ("bbox/AP", 0, False), ("", 0, False)],
)
def test_a_best_metric_without_evaluations_causes_a_warning(
    few_shapes, tmp_path, caplog, metric, period, warns
):
    cfg = cfg_with_best_metric(tmp_path, metric, period)
    Trainer(cfg)
    warnings = [x for x in caplog.records if x.levelno == logging.WARNING]
    assert len([x for x in warnings if "FCOS_TRAIN.BEST_METRIC" in x.getMessage()]) == warns


class SignaledAt(SameImages):
    """A trainer that gets SIGTERM at one iteration."""

    signal_at = None

    def before_step(self):
        super().before_step()
        if self.iter == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)


def all_hooks_cfg(folder):
    return tiny_cfg(
        {
            "DATASETS.TEST": ("shapes_val",),
            "MODEL.FCOS.NUM_CLASSES": 6,
            "DATALOADER.NUM_WORKERS": 0,
            "INPUT.MIN_SIZE_TEST": 64,
            "OUTPUT_DIR": str(folder),
            "SOLVER.MAX_ITER": 6,
            "SOLVER.STEPS": (),
            "SOLVER.CHECKPOINT_PERIOD": 2,
            "TEST.EVAL_PERIOD": 4,
            "TEST.PRECISE_BN.ENABLED": True,
            "TEST.PRECISE_BN.NUM_ITER": 1,
            "FCOS_TRAIN.EMA_DECAY": 0.9,
            "FCOS_TRAIN.VALIDATION_LOSS": True,
            "FCOS_TRAIN.BEST_METRIC": "ema/val_loss/total_loss",
            "FCOS_TRAIN.EARLY_STOPPING_PATIENCE": 3,
            "FCOS_TRAIN.MAX_TO_KEEP": 1,
        }
    )


def train_with_all_hooks(folder, signal_at=None, resume=False):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    trainer = SignaledAt(all_hooks_cfg(folder))
    trainer.signal_at = signal_at
    trainer.resume_or_load(resume=resume)
    trainer.train()


def test_an_interrupted_run_with_all_hooks_writes_the_files_of_an_uninterrupted_run(
    few_shapes, tmp_path
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_with_all_hooks(whole)
    with pytest.raises(SystemExit) as caught:
        train_with_all_hooks(parts, signal_at=4)
    assert caught.value.code == 143
    train_with_all_hooks(parts, resume=True)
    names = [f"model_{x}.pth" for x in ("0000005", "best", "final", "final_ema")]
    for folder in (whole, parts):
        assert sorted(file.name for file in folder.glob("*.pth")) == names
    for name in names:
        first, second = (torch.load(x / name, weights_only=True) for x in (whole, parts))
        torch.testing.assert_close(second, first, rtol=0, atol=0, msg=name)


def test_precise_bn_comes_before_checkpoints_and_evaluations(few_shapes, tmp_path):
    kinds = [type(hook) for hook in SignaledAt(all_hooks_cfg(tmp_path))._hooks]
    order = [kinds.index(x) for x in (hooks.PreciseBN, SaveCheckpoints, Evaluate)]
    assert order == sorted(order)
