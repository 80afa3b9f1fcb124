"""What Trainer adds to detectron2's DefaultTrainer."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, SimpleTrainer, hooks
from detectron2.evaluation import COCOEvaluator, LVISEvaluator
from detectron2.utils.events import EventStorage
from tiny import tiny_cfg
from tiny_run import SameImages

from fcos_d2.config_checks import check_config
from fcos_d2.engine import Trainer, build_evaluator, evaluators
from fcos_d2.engine import trainer as trainer_module
from fcos_d2.engine.best_checkpoint import KeepBest, is_better
from fcos_d2.engine.checkpoints import SaveCheckpoints
from fcos_d2.engine.config_rules import find_faults
from fcos_d2.engine.evaluation_hook import Evaluate
from fcos_d2.engine.step_trainer import StepTrainer, resolve_amp_dtype
from fcos_d2.errors import InputError


def test_adamw_has_detectron2s_groups_and_the_solvers_settings():
    cfg = tiny_cfg(
        "FCOS_TRAIN.OPTIMIZER",
        "AdamW",
        "SOLVER.BASE_LR",
        3e-4,
        "SOLVER.WEIGHT_DECAY",
        0.05,
        "SOLVER.WEIGHT_DECAY_NORM",
        0.0,
        "SOLVER.BIAS_LR_FACTOR",
        2.0,
    )
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


@pytest.mark.parametrize("clips", [False, True])
def test_sgd_has_detectron2s_groups_and_clips_alike(clips):
    cfg = tiny_cfg("SOLVER.CLIP_GRADIENTS.ENABLED", clips)
    model = Trainer.build_model(cfg)
    ours, theirs = (cls.build_optimizer(cfg, model) for cls in (Trainer, DefaultTrainer))
    assert type(ours).__mro__[1:] == type(theirs).__mro__[1:]
    for optimizer in (ours, theirs):
        for group in optimizer.param_groups:
            del group["fused"], group["foreach"]  # how it computes the same
    assert ours.param_groups == theirs.param_groups


@pytest.mark.parametrize(("device", "is_pinned"), [("cpu", False), ("cuda:0", True)])
def test_a_gpu_gets_its_images_from_pinned_memory(monkeypatch, device, is_pinned):
    settings = {}
    monkeypatch.setattr(
        trainer_module, "build_detection_train_loader", lambda *_, **kwargs: settings.update(kwargs)
    )
    Trainer.build_train_loader(tiny_cfg("MODEL.DEVICE", device))
    assert settings["pin_memory"] == is_pinned


@pytest.mark.parametrize(
    "opts",
    [
        ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        ("DATALOADER.SAMPLER_TRAIN", "WeightedCategoryTrainingSampler"),
        (
            "DATALOADER.SAMPLER_TRAIN",
            "WeightedTrainingSampler",
            "DATASETS.TRAIN_REPEAT_FACTOR",
            [("shapes_train", 2.0)],
        ),
        ("INPUT.FORMAT", "YUV-BT.601"),
        ("INPUT.FORMAT", "HSV"),
        ("SOLVER.BASE_LR", 0.0),
        ("TEST.EVAL_PERIOD", -1),
    ],
    ids=str,
)
def test_what_detectron2_takes_trains(few_shapes, tmp_path, opts):
    cfg = tiny_cfg(
        "DATASETS.TRAIN", ("shapes_train",), "DATASETS.TEST", (), "MODEL.FCOS.NUM_CLASSES", 6
    )
    cfg.merge_from_list(
        [
            "INPUT.MIN_SIZE_TRAIN",
            (96,),
            "SOLVER.IMS_PER_BATCH",
            2,
            "SOLVER.MAX_ITER",
            1,
            "DATALOADER.NUM_WORKERS",
            0,
            "OUTPUT_DIR",
            str(tmp_path),
            *opts,
        ]
    )
    check_config(cfg, find_faults(cfg), build_model=True)
    trainer = Trainer(cfg)
    trainer.train()
    assert trainer.iter == 1


def test_an_unknown_optimizer_is_named():
    cfg = tiny_cfg("FCOS_TRAIN.OPTIMIZER", "Lion")
    with pytest.raises(
        ValueError, match=r"FCOS_TRAIN.OPTIMIZER = 'Lion' must be one of \('SGD', 'AdamW'\)"
    ):
        Trainer.build_optimizer(cfg, Trainer.build_model(cfg))


@pytest.mark.parametrize(
    ("metric", "period", "expected"), [("bbox/AP", 2, True), ("", 2, False), ("bbox/AP", 0, False)]
)
def test_best_checkpoint_comes_right_after_the_evaluation(
    few_shapes, tmp_path, metric, period, expected
):
    cfg = tiny_cfg(
        "DATASETS.TRAIN",
        ("shapes_train",),
        "MODEL.FCOS.NUM_CLASSES",
        6,
        "OUTPUT_DIR",
        str(tmp_path),
        "DATALOADER.NUM_WORKERS",
        0,
        "FCOS_TRAIN.BEST_METRIC",
        metric,
        "TEST.EVAL_PERIOD",
        period,
    )
    kinds = [type(hook) for hook in Trainer(cfg)._hooks]
    assert (KeepBest in kinds) == expected
    if expected:
        assert kinds.index(KeepBest) == kinds.index(Evaluate) + 1


@pytest.mark.parametrize(
    ("metric", "period", "warns"),
    [("bbox/AP50", 0, True), ("bbox/AP50", 2, False), ("bbox/AP", 0, False), ("", 0, False)],
)
def test_a_best_metric_without_evaluations_is_warned_of(
    few_shapes, tmp_path, caplog, metric, period, warns
):
    cfg = tiny_cfg(
        "DATASETS.TRAIN",
        ("shapes_train",),
        "MODEL.FCOS.NUM_CLASSES",
        6,
        "OUTPUT_DIR",
        str(tmp_path),
        "DATALOADER.NUM_WORKERS",
        0,
        "FCOS_TRAIN.BEST_METRIC",
        metric,
        "TEST.EVAL_PERIOD",
        period,
    )
    Trainer(cfg)
    text = f"FCOS_TRAIN.BEST_METRIC = {metric!r} keeps no model_best.pth"
    assert (text in caplog.text) == warns


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
    with pytest.raises(InputError) as caught:
        resolve_amp_dtype("float8", "cpu")
    assert (caught.value.key, caught.value.value) == ("amp_dtype", "float8")


class Regression(torch.nn.Module):
    """A model by detectron2's contract, small enough to know what a step must do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(16, 1)
        self.seen = set()

    def forward(self, batch):
        out = self.layer(batch)
        self.seen.add(out.dtype)
        return {"loss": (out.float() - 1).square().mean()}


class OneBatch:
    """A data loader of one batch, endless."""

    def __iter__(self):
        while True:
            yield torch.linspace(-1, 1, 64).reshape(4, 16)


def test_a_step_with_autocast_is_like_that_of_simple_trainer():
    weights = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = Regression()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        trainer = (
            SimpleTrainer(model, OneBatch(), optimizer)
            if dtype == torch.float32
            else StepTrainer(model, OneBatch(), optimizer, amp_dtype=dtype)
        )
        with EventStorage():
            for trainer.iter in range(3):  # more than once: gradients must not pile up
                trainer.run_step()
        assert model.seen == {dtype}
        weights[dtype] = model.layer.weight.detach()
    step = weights[torch.float32] - Regression().layer.weight.detach()
    assert (weights[torch.bfloat16] - weights[torch.float32]).norm() < 0.05 * step.norm()


def test_a_gradient_scaler_is_restored_and_an_empty_state_changes_nothing():
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def make(dtype):
        trainer = StepTrainer(model, OneBatch(), optimizer, amp_dtype=dtype)
        trainer.iter = 0
        return trainer

    half, other = make(torch.float16), make(torch.float16)
    state = half.state_dict()
    state["grad_scaler"]["scale"] = 512.0
    other.load_state_dict(state)
    assert other.grad_scaler.get_scale() == 512.0
    other.load_state_dict(make(torch.bfloat16).state_dict())  # empty: bfloat16 scales nothing
    assert other.grad_scaler.get_scale() == 512.0


def test_adamw_clips_gradients_when_the_solver_does():
    cfg = tiny_cfg(
        "FCOS_TRAIN.OPTIMIZER",
        "AdamW",
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        "norm",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
        0.5,
    )
    model = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    weight = model.head.cls_logits.weight
    weight.grad = torch.full_like(weight, 100.0)
    optimizer.step()
    assert weight.grad.norm().item() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("evaluator_type", "evaluator"), [("coco", COCOEvaluator), ("lvis", LVISEvaluator)]
)
def test_evaluator_is_chosen_by_the_metadata(monkeypatch, tmp_path, evaluator_type, evaluator):
    asked = []
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setattr(evaluators, evaluator.__name__, lambda *x, **y: asked.append((x, y)))
    name = f"test_trainer_{evaluator_type}"
    MetadataCatalog.get(name).evaluator_type = evaluator_type
    build_evaluator(name, str(tmp_path))
    assert asked == [((name,), {"tasks": ("bbox",), "output_dir": str(tmp_path)})]


def test_a_dataset_of_no_known_kind_is_named(tmp_path):
    MetadataCatalog.get("test_trainer_sounds").evaluator_type = "sounds"
    with pytest.raises(ValueError, match=r"'test_trainer_sounds'.*evaluator_type = 'sounds'"):
        build_evaluator("test_trainer_sounds", str(tmp_path))


def keep_best(folder, values, start_iter=0, metric="bbox/AP"):
    """KeepBest through evaluations of these values; the weight is the iteration."""
    model = torch.nn.Linear(1, 1)
    hook = KeepBest(1, model, str(folder), metric)
    with EventStorage(start_iter) as storage:
        hook.trainer = SimpleNamespace(
            storage=storage, start_iter=start_iter, max_iter=start_iter + len(values)
        )
        hook.before_train()
        for hook.trainer.iter, value in enumerate(values, start=start_iter):
            storage.iter = hook.trainer.iter
            storage.put_scalar(metric, value)
            model.weight.data.fill_(hook.trainer.iter)
            hook.after_step()
        hook.trainer.iter += 1
        hook.after_train()
    saved = torch.load(folder / "model_best.pth", weights_only=True)
    return saved["model"]["weight"].item(), saved[metric]


def test_best_weights_are_kept_also_across_a_resume(tmp_path):
    assert keep_best(tmp_path, [10.0, 30.0, float("nan"), 20.0]) == (1.0, 30.0)
    assert keep_best(tmp_path, [25.0], start_iter=4) == (1.0, 30.0)  # worse: left alone
    assert keep_best(tmp_path, [35.0], start_iter=5) == (5.0, 35.0)
    assert [file.name for file in tmp_path.iterdir()] == ["model_best.pth"]
    # Another run in the same folder does not use what is there.
    assert keep_best(tmp_path, [5.0]) == (0.0, 5.0)


def test_of_a_loss_the_lowest_is_best(tmp_path):
    assert keep_best(tmp_path, [3.0, 1.0, 2.0], metric="val_loss/total_loss") == (1.0, 1.0)
    again = keep_best(tmp_path, [2.0, 0.5], start_iter=4, metric="val_loss/total_loss")
    assert again == (5.0, 0.5)


def test_a_new_run_does_not_take_an_older_runs_best_for_its_own(tmp_path):
    keep_best(tmp_path, [99.0])
    # Interrupted before its first evaluation, then resumed.
    hook = KeepBest(9, torch.nn.Linear(1, 1), str(tmp_path), "bbox/AP")
    hook.trainer = SimpleNamespace(start_iter=0)
    hook.before_train()
    assert [file.name for file in tmp_path.iterdir()] == ["model_best_of_earlier_run.pth"]
    assert keep_best(tmp_path, [5.0], start_iter=3) == (3.0, 5.0)


@pytest.mark.parametrize(
    ("metric", "value", "best", "expected"),
    [
        ("bbox/AP", 2.0, 1.0, True),
        ("bbox/AP", 1.0, 1.0, False),
        ("bbox/AP", 0.0, None, True),
        ("bbox/AP", float("nan"), None, False),
        ("bbox/AP", float("nan"), 1.0, False),
        ("val_loss/total_loss", 2.0, 1.0, False),
        ("ema/val_loss/total_loss", 0.5, 1.0, True),
    ],
)
def test_higher_is_better_except_for_losses(metric, value, best, expected):
    assert is_better(metric, value, best) == expected


class SignaledAt(SameImages):
    """Gets SIGTERM at an iteration."""

    signal_at = None

    def before_step(self):
        super().before_step()
        if self.iter == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)


def all_hooks_cfg(folder):
    return tiny_cfg(
        "DATASETS.TEST",
        ("shapes_val",),
        "MODEL.FCOS.NUM_CLASSES",
        6,
        "DATALOADER.NUM_WORKERS",
        0,
        "INPUT.MIN_SIZE_TEST",
        64,
        "SOLVER.MAX_ITER",
        6,
        "SOLVER.CHECKPOINT_PERIOD",
        2,
        "TEST.EVAL_PERIOD",
        4,
        "OUTPUT_DIR",
        str(folder),
        "FCOS_TRAIN.EMA_DECAY",
        0.9,
        "FCOS_TRAIN.VALIDATION_LOSS",
        True,
        "FCOS_TRAIN.BEST_METRIC",
        "ema/val_loss/total_loss",
        "FCOS_TRAIN.EARLY_STOPPING_PATIENCE",
        3,
        "FCOS_TRAIN.MAX_TO_KEEP",
        1,
        "SOLVER.STEPS",
        (),
        "TEST.PRECISE_BN.ENABLED",
        True,
        "TEST.PRECISE_BN.NUM_ITER",
        1,
    )


def train_with_all_hooks(folder, signal_at=None, resume=False):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    trainer = SignaledAt(all_hooks_cfg(folder))
    trainer.signal_at = signal_at
    trainer.resume_or_load(resume=resume)
    trainer.train()


def test_an_interrupted_training_ends_with_the_files_of_a_whole_one(few_shapes, tmp_path):
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
