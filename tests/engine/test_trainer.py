"""What Trainer adds to detectron2's DefaultTrainer."""

import pytest
import torch
from detectron2.engine import DefaultTrainer, hooks
from tiny import random_input, tiny_cfg

from fcos_d2.engine import Trainer, build_evaluator
from fcos_d2.engine.autocast_trainer import resolve_amp_dtype


def test_channels_last_computes_the_same_losses():
    models = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        models.append(Trainer.build_model(tiny_cfg("FCOS_TRAIN.CHANNELS_LAST", channels_last)))
    weights = [model.head.cls_tower[0].weight for model in models]
    assert not weights[0].is_contiguous(memory_format=torch.channels_last)
    assert weights[1].is_contiguous(memory_format=torch.channels_last)
    inputs = [random_input(3), random_input(2, seed=1)]
    losses, others = (model(inputs) for model in models)
    for name, value in losses.items():
        torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-5)


def test_adamw_has_detectron2s_groups_and_the_solvers_settings():
    cfg = tiny_cfg(
        "FCOS_TRAIN.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 3e-4, "SOLVER.WEIGHT_DECAY", 0.05,
        "SOLVER.WEIGHT_DECAY_NORM", 0.0, "SOLVER.BIAS_LR_FACTOR", 2.0,
    )  # fmt: skip
    model = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert settings[id(model.head.cls_tower[0].weight)] == (3e-4, 0.05)
    assert settings[id(model.head.cls_tower[0].bias)] == (6e-4, 0.05)
    assert settings[id(model.head.cls_tower[1].weight)] == (3e-4, 0.0)  # GN
    assert len(settings) == len(list(model.parameters()))


def test_sgd_is_detectron2s():
    cfg = tiny_cfg()
    model = Trainer.build_model(cfg)
    ours, theirs = (cls.build_optimizer(cfg, model) for cls in (Trainer, DefaultTrainer))
    assert type(ours).__mro__[1:] == type(theirs).__mro__[1:]
    assert ours.param_groups == theirs.param_groups


def test_an_unknown_optimizer_is_named():
    cfg = tiny_cfg("FCOS_TRAIN.OPTIMIZER", "Lion")
    with pytest.raises(ValueError, match=r"FCOS_TRAIN.OPTIMIZER = 'Lion' must be 'SGD' or 'AdamW'"):
        Trainer.build_optimizer(cfg, Trainer.build_model(cfg))


@pytest.mark.parametrize(
    ("metric", "period", "expected"), [("bbox/AP", 2, True), ("", 2, False), ("bbox/AP", 0, False)]
)
def test_best_checkpoint_comes_right_after_the_evaluation(
    few_shapes, tmp_path, metric, period, expected
):
    cfg = tiny_cfg(
        "DATASETS.TRAIN", ("shapes_train",), "MODEL.FCOS.NUM_CLASSES", 6, "OUTPUT_DIR",
        str(tmp_path), "DATALOADER.NUM_WORKERS", 0, "FCOS_TRAIN.BEST_METRIC", metric,
        "TEST.EVAL_PERIOD", period,
    )  # fmt: skip
    kinds = [type(hook) for hook in Trainer(cfg)._hooks]
    assert (hooks.BestCheckpointer in kinds) == expected
    if expected:
        assert kinds.index(hooks.BestCheckpointer) == kinds.index(hooks.EvalHook) + 1


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("auto", "cpu", torch.bfloat16),
        ("auto", "cuda:0", torch.float16),
        ("bfloat16", "cuda", torch.bfloat16),
        ("float16", "cuda", torch.float16),
    ],
)
def test_autocast_type(name, device, dtype):
    assert resolve_amp_dtype(name, device) == dtype


def test_an_unknown_autocast_type_is_named():
    with pytest.raises(ValueError, match=r"FCOS_TRAIN.AMP_DTYPE = 'float8' must be one of"):
        resolve_amp_dtype("float8", "cpu")


def test_a_dataset_without_evaluator_is_named(tmp_path):
    with pytest.raises(ValueError, match="No evaluator for the dataset 'unheard_of'"):
        build_evaluator("unheard_of", str(tmp_path))
