"""Which LR and decay each parameter gets, and that clipping sees true gradients."""

import copy
import logging

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.solver import build_optimizer as build_sgd_of_detectron2
from detectron2.utils.events import EventStorage
from tiny import random_input, tiny_cfg
from torch._subclasses.fake_tensor import FakeTensorMode

from fcos_d2 import add_fcos_config, add_train_config, get_config_file
from fcos_d2.engine import Trainer
from fcos_d2.engine.optimizer import build_optimizer
from fcos_d2.engine.step_trainer import StepTrainer

DCN = (
    "MODEL.RESNETS.DEPTH",
    50,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
    [False, False, False, True],
    "MODEL.RESNETS.DEFORM_MODULATED",
    True,
    "MODEL.FCOS.USE_DEFORMABLE",
    True,
)


def settings_of(optimizer, model):
    """{name: (LR, decay)}; every parameter that learns is in exactly one group."""
    groups = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    by_id = {id(p): (group["lr"], group["weight_decay"]) for p, group in groups}
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(groups) == len(by_id) == len(learning)
    return {name: by_id[id(p)] for name, p in learning.items()}


def is_offset(name):
    return ".offset." in name or ".conv2_offset." in name


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_offsets_learn_at_their_own_rate(optimizer):
    opts = (*DCN, "FCOS_TRAIN.OPTIMIZER", optimizer, "SOLVER.BIAS_LR_FACTOR", 2.0)
    plain, scaled = (tiny_cfg(*opts, "FCOS_TRAIN.DCN_OFFSET_LR_FACTOR", x) for x in (1.0, 0.1))
    model = build_model(plain)
    before = settings_of(build_optimizer(plain, model), model)
    after = settings_of(build_optimizer(scaled, model), model)
    offsets = {name for name in before if is_offset(name)}
    assert {name.split(".")[0] for name in offsets} == {"backbone", "head"}
    assert len(offsets) == 2 * (3 + 2)  # res5 has three blocks, the head two towers
    for name, (lr, decay) in before.items():
        expected = 0.1 * lr if name in offsets else lr
        assert after[name] == (pytest.approx(expected), decay), name


def test_a_factor_that_changes_nothing_is_said(caplog):
    cfg = tiny_cfg("FCOS_TRAIN.DCN_OFFSET_LR_FACTOR", 0.1)
    with caplog.at_level(logging.WARNING):
        build_optimizer(cfg, build_model(cfg))
    assert "DCN_OFFSET_LR_FACTOR = 0.1 changes nothing" in caplog.text


def test_training_with_a_factor_resumes():
    cfg = tiny_cfg(*DCN, "FCOS_TRAIN.DCN_OFFSET_LR_FACTOR", 0.1, "SOLVER.WARMUP_ITERS", 0)
    optimizers = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build_model(cfg)
        optimizers.append((build_optimizer(cfg, model), model))
    (optimizer, model), (resumed, other) = optimizers
    scheduler = build_lr_scheduler(cfg, optimizer)
    sum(model([random_input(3)]).values()).backward()
    optimizer.step()
    scheduler.step()
    resumed.load_state_dict(optimizer.state_dict())
    assert settings_of(resumed, other) == settings_of(optimizer, model)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        if ours in optimizer.state:
            momenta = (
                x[p]["momentum_buffer"]
                for x, p in ((optimizer.state, ours), (resumed.state, theirs))
            )
            assert torch.equal(*momenta)


def paper_setting(name):
    """
    (LR, decay) of the original FCOS: what has "bias" in its name learns twice as fast and does
    not decay, norms included; all else does, the weights of norms and the scales too.
    """
    return (0.02, 0.0) if "bias" in name else (0.01, 1e-4)


def iccv_cfg():
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    cfg.merge_from_file(get_config_file("fcos_R_50_FPN_1x_iccv.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.FCOS.NUM_CLASSES", 80])
    return cfg


def test_the_2019_recipe_has_the_originals_optimizer():
    cfg = iccv_cfg()
    model = build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    settings = settings_of(optimizer, model)
    assert {name: paper_setting(name) for name in settings} == settings
    for kind in ("head.cls_tower.1.weight", "head.cls_tower.1.bias", "head.scales.0.scale"):
        assert kind in settings  # a norm's, and a scale
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.9, False)}
    assert not any("stem" in name or "res2" in name for name in settings)  # frozen


def test_the_2019_recipe_warms_up_at_a_third():
    cfg = iccv_cfg()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(501):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:500] == pytest.approx([0.01 / 3] * 500)
    assert rates[500] == pytest.approx(0.01)


class Line(torch.nn.Module):
    """loss = w x / 10: the gradient of w is x / 10."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1, bias=False)

    def forward(self, batch):
        return {"loss": 0.1 * self.layer(batch).float().mean()}


def step(name, clip_type, clip_value, dtype):
    """The gradient that the optimizer has stepped with, and how far it went."""
    cfg = tiny_cfg(
        "FCOS_TRAIN.OPTIMIZER",
        name,
        "SOLVER.BASE_LR",
        1.0,
        "SOLVER.WEIGHT_DECAY",
        0.0,
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        clip_type != "",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
        clip_value,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        clip_type or "norm",
    )
    model = Line()
    before = model.layer.weight.detach().clone()
    loader = [torch.tensor([[1.0, 2.0, 2.0, 0.0]])]
    trainer = StepTrainer(model, loader, build_optimizer(cfg, model), amp_dtype=dtype)
    scale = trainer.grad_scaler.get_scale()
    assert scale == (65536 if dtype == torch.float16 else 1)
    with EventStorage():
        trainer.iter = 0
        trainer.run_step()
    return model.layer.weight.grad[0], (before - model.layer.weight.detach())[0]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("clip_type", "clip_value", "expected"),
    # The gradient is (0.1, 0.2, 0.2, 0), of the norm 0.3: what is below a limit stays. Scaled by
    # 65536, all would be above.
    [
        ("norm", 0.15, [0.05, 0.1, 0.1, 0.0]),
        ("norm", 0.5, [0.1, 0.2, 0.2, 0.0]),
        ("value", 0.15, [0.1, 0.15, 0.15, 0.0]),
    ],
)
def test_clipping_sees_gradients_that_are_not_scaled(name, dtype, clip_type, clip_value, expected):
    gradient, step_taken = step(name, clip_type, clip_value, dtype)
    assert gradient.tolist() == pytest.approx(expected, rel=1e-2)
    if name == "SGD":
        assert step_taken.tolist() == pytest.approx(expected, rel=1e-2)


def test_without_clipping_gradients_are_what_they_are():
    _, step_taken = step("SGD", "", 0.15, torch.float16)
    assert step_taken.tolist() == pytest.approx([0.1, 0.2, 0.2, 0.0], rel=1e-2)


def layer_and_optimizer(cfg, memory_format):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 5, 3).to(memory_format=memory_format)
    return layer, build_optimizer(cfg, layer)


def take_step(layer, optimizer, seed, without_bias=False):
    torch.manual_seed(seed)
    optimizer.zero_grad()
    layer(torch.randn(2, 3, 8, 8)).square().sum().backward()
    if without_bias:
        layer.bias.grad = None
    optimizer.step()


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("saved_by", ["fused", "foreach"])
def test_a_checkpoint_in_another_memory_format_goes_on_alike(name, saved_by):
    opts = ("FCOS_TRAIN.OPTIMIZER", name, "SOLVER.BASE_LR", 0.01)
    plain, optimizer = layer_and_optimizer(tiny_cfg(*opts), torch.contiguous_format)
    take_step(plain, optimizer, 1)
    saved = copy.deepcopy(optimizer.state_dict())  # as a file would hold it
    if saved_by == "foreach":  # as detectron2's optimizer, or one that clips
        for group in saved["param_groups"]:
            group.update(fused=None, foreach=True)
    other, resumed = layer_and_optimizer(tiny_cfg(*opts), torch.channels_last)
    other.load_state_dict(plain.state_dict())
    resumed.load_state_dict(saved)
    assert all(group["fused"] and not group["foreach"] for group in resumed.param_groups)
    for layer, its_optimizer in ((plain, optimizer), (other, resumed)):
        take_step(layer, its_optimizer, 2)
    torch.testing.assert_close(other.weight, plain.weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(other.bias, plain.bias, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_detectron2s(nesterov):
    cfg = tiny_cfg("SOLVER.BASE_LR", 0.01, "SOLVER.NESTEROV", nesterov)
    ours, optimizer = layer_and_optimizer(cfg, torch.channels_last)
    theirs, _ = layer_and_optimizer(cfg, torch.channels_last)
    expected = build_sgd_of_detectron2(cfg, theirs)
    assert settings_of(optimizer, ours) == settings_of(expected, theirs)
    for seed in range(4):
        # A bias that has no gradient at first, as a branch that is not always used.
        take_step(ours, optimizer, seed, without_bias=seed == 0)
        take_step(theirs, expected, seed, without_bias=seed == 0)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_what_clips_is_not_fused_after_resuming_either(name):
    opts = ("FCOS_TRAIN.OPTIMIZER", name)
    _, optimizer = layer_and_optimizer(tiny_cfg(*opts), torch.channels_last)
    cfg = tiny_cfg(*opts, "SOLVER.CLIP_GRADIENTS.ENABLED", True)
    _, clipping = layer_and_optimizer(cfg, torch.channels_last)
    clipping.load_state_dict(optimizer.state_dict())
    # Both None leave it to PyTorch, which on a GPU takes all weights at once: False would not.
    assert {(x["fused"], x["foreach"]) for x in clipping.param_groups} == {(None, None)}


def test_a_momentum_that_is_not_used_may_be_none():
    cfg = tiny_cfg("SOLVER.MOMENTUM", 0.0)
    layer, optimizer = layer_and_optimizer(cfg, torch.channels_last)
    take_step(layer, optimizer, 0)
    saved = optimizer.state_dict()
    saved["state"] = {index: {"momentum_buffer": None} for index in range(2)}  # as PyTorch has done
    optimizer.load_state_dict(saved)
    take_step(layer, optimizer, 1)


@pytest.mark.parametrize("clips", [False, True])
def test_adamws_step_is_where_its_kernels_look_for_it(clips):
    cfg = tiny_cfg("FCOS_TRAIN.OPTIMIZER", "AdamW", "SOLVER.CLIP_GRADIENTS.ENABLED", clips)
    saved_with, used_with = ("cpu", "cuda") if not clips else ("cuda", "cpu")
    with FakeTensorMode():
        optimizer = build_optimizer(cfg, torch.nn.Linear(2, 1, bias=False, device="cuda"))
        moments = {name: torch.zeros(1, 2, device="cuda") for name in ("exp_avg", "exp_avg_sq")}
        saved = optimizer.state_dict()
        saved["state"] = {0: {"step": torch.ones((), device=saved_with), **moments}}
        for group in saved["param_groups"]:
            group["fused"] = True if clips else None  # the other's
        optimizer.load_state_dict(saved)
    (state,) = optimizer.state.values()
    assert state["step"].device.type == used_with
    assert state["exp_avg"].device.type == "cuda"


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_step_whose_gradients_overflow_is_left_out(name):
    cfg = tiny_cfg("FCOS_TRAIN.OPTIMIZER", name, "SOLVER.WEIGHT_DECAY", 0.0)
    results = []
    for rows in ([[1.0, 2.0, 2.0, 0.0]], [[20.0] * 4, [1.0, 2.0, 2.0, 0.0]]):
        torch.manual_seed(0)
        model = Line()
        before = model.layer.weight.detach().clone()
        loader = [torch.tensor([row]) for row in rows]
        trainer = StepTrainer(model, loader, build_optimizer(cfg, model), amp_dtype=torch.float16)
        with EventStorage():
            for trainer.iter in range(len(rows)):
                assert torch.equal(model.layer.weight, before)  # 65536 times 2 was too much
                trainer.run_step()
        results.append(model.layer.weight.detach())
    assert trainer.grad_scaler.get_scale() == 65536 / 2
    assert not torch.equal(results[0], before)
    torch.testing.assert_close(*results, rtol=1e-3, atol=0)
