"""The learning rate and weight decay of each parameter, and how an optimizer resumes."""

import copy
import logging

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.solver import build_optimizer as build_sgd_of_detectron2
from tiny import random_input, tiny_cfg
from torch._subclasses.fake_tensor import FakeTensorMode

from fcos_d2 import add_fcos_config, add_train_config, get_config_file
from fcos_d2.engine import Trainer
from fcos_d2.engine.optimizer import build_optimizer
from fcos_d2.errors import InputError

DCN = {
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, True],
    "MODEL.RESNETS.DEFORM_MODULATED": True,
    "MODEL.FCOS.USE_DEFORMABLE": True,
}


def settings_of(optimizer, model):
    """Return {name: (LR, decay)}, and check that each trained parameter is in just one group."""
    groups = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    by_id = {id(p): (group["lr"], group["weight_decay"]) for p, group in groups}
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(groups) == len(by_id) == len(learning)
    return {name: by_id[id(p)] for name, p in learning.items()}


def is_offset(name):
    return ".offset." in name or ".conv2_offset." in name


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_offsets_have_a_separate_learning_rate(optimizer):
    opts = {**DCN, "FCOS_TRAIN.OPTIMIZER": optimizer, "SOLVER.BIAS_LR_FACTOR": 2.0}
    plain, scaled = (tiny_cfg(opts, "FCOS_TRAIN.DCN_OFFSET_LR_FACTOR", x) for x in (1.0, 0.1))
    model = build_model(plain)
    before = settings_of(build_optimizer(plain, model), model)
    after = settings_of(build_optimizer(scaled, model), model)
    offsets = {name for name in before if is_offset(name)}
    assert {name.split(".")[0] for name in offsets} == {"backbone", "head"}
    assert len(offsets) == 2 * (3 + 2)  # three blocks of res5, and two towers
    for name, (lr, decay) in before.items():
        expected = 0.1 * lr if name in offsets else lr
        assert after[name] == (pytest.approx(expected), decay), name


def test_an_lr_factor_without_effect_causes_a_warning(caplog):
    cfg = tiny_cfg("FCOS_TRAIN.DCN_OFFSET_LR_FACTOR", 0.1)
    with caplog.at_level(logging.WARNING):
        build_optimizer(cfg, build_model(cfg))
    (record,) = caplog.records
    assert "DCN_OFFSET_LR_FACTOR = 0.1" in record.getMessage()


def test_an_optimizer_with_an_lr_factor_resumes():
    cfg = tiny_cfg(DCN, "FCOS_TRAIN.DCN_OFFSET_LR_FACTOR", 0.1, "SOLVER.WARMUP_ITERS", 0)
    optimizers = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build_model(cfg)
        optimizers.append((build_optimizer(cfg, model), model))
    (optimizer, model), (resumed, resumed_model) = optimizers
    scheduler = build_lr_scheduler(cfg, optimizer)
    sum(model([random_input(3)]).values()).backward()
    optimizer.step()
    scheduler.step()
    resumed.load_state_dict(optimizer.state_dict())
    assert settings_of(resumed, resumed_model) == settings_of(optimizer, model)
    for parameter, resumed_parameter in zip(
        model.parameters(), resumed_model.parameters(), strict=True
    ):
        if parameter in optimizer.state:
            momentum = optimizer.state[parameter]["momentum_buffer"]
            assert torch.equal(resumed.state[resumed_parameter]["momentum_buffer"], momentum)


def paper_setting(name):
    """
    Return (LR, decay) of a parameter in the original FCOS.

    Parameters with "bias" in their name, including those of norms, have twice the rate and no
    decay. All other parameters have decay, including the weights of norms and the scales.
    """
    return (0.02, 0.0) if "bias" in name else (0.01, 1e-4)


def iccv_cfg():
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    cfg.merge_from_file(get_config_file("fcos_R_50_FPN_1x_iccv.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.FCOS.NUM_CLASSES", 80])
    return cfg


def test_the_2019_recipe_has_the_optimizer_of_the_original():
    cfg = iccv_cfg()
    model = build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    settings = settings_of(optimizer, model)
    assert {name: paper_setting(name) for name in settings} == settings
    for kind in ("head.cls_tower.1.weight", "head.cls_tower.1.bias", "head.scales.0.scale"):
        assert kind in settings  # weight and bias of a norm, and a scale
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.9, False)}
    assert not any("stem" in name or "res2" in name for name in settings)  # frozen


def test_the_2019_recipe_warms_up_at_a_third_of_the_rate():
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
def test_a_checkpoint_resumes_in_another_memory_format(name, saved_by):
    opts = ("FCOS_TRAIN.OPTIMIZER", name, "SOLVER.BASE_LR", 0.01)
    plain, optimizer = layer_and_optimizer(tiny_cfg(*opts), torch.contiguous_format)
    take_step(plain, optimizer, 1)
    saved = copy.deepcopy(optimizer.state_dict())  # as in a file
    if saved_by == "foreach":  # as detectron2's optimizer and optimizers with clipping save it
        for group in saved["param_groups"]:
            group.update(fused=None, foreach=True)
    channels_last, resumed = layer_and_optimizer(tiny_cfg(*opts), torch.channels_last)
    channels_last.load_state_dict(plain.state_dict())
    resumed.load_state_dict(saved)
    assert all(group["fused"] and not group["foreach"] for group in resumed.param_groups)
    take_step(plain, optimizer, 2)
    take_step(channels_last, resumed, 2)
    torch.testing.assert_close(channels_last.weight, plain.weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(channels_last.bias, plain.bias, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_updates_weights_as_detectron2s_optimizer_does(nesterov):
    cfg = tiny_cfg("SOLVER.BASE_LR", 0.01, "SOLVER.NESTEROV", nesterov)
    layer, optimizer = layer_and_optimizer(cfg, torch.channels_last)
    expected, _ = layer_and_optimizer(cfg, torch.channels_last)
    detectron2_optimizer = build_sgd_of_detectron2(cfg, expected)
    assert settings_of(optimizer, layer) == settings_of(detectron2_optimizer, expected)
    for seed in range(4):
        # In the first step the bias has no gradient, like a branch that is not always used.
        take_step(layer, optimizer, seed, without_bias=seed == 0)
        take_step(expected, detectron2_optimizer, seed, without_bias=seed == 0)
    torch.testing.assert_close(layer.weight, expected.weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(layer.bias, expected.bias, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_an_optimizer_that_clips_is_not_fused_even_after_resuming(name):
    opts = ("FCOS_TRAIN.OPTIMIZER", name)
    _, optimizer = layer_and_optimizer(tiny_cfg(*opts), torch.channels_last)
    cfg = tiny_cfg(*opts, "SOLVER.CLIP_GRADIENTS.ENABLED", True)
    _, clipping = layer_and_optimizer(cfg, torch.channels_last)
    clipping.load_state_dict(optimizer.state_dict())
    # With None, PyTorch updates all weights on a GPU at once; with False, it would not.
    assert {(x["fused"], x["foreach"]) for x in clipping.param_groups} == {(None, None)}


def test_an_unused_momentum_may_be_none():
    cfg = tiny_cfg("SOLVER.MOMENTUM", 0.0)
    layer, optimizer = layer_and_optimizer(cfg, torch.channels_last)
    take_step(layer, optimizer, 0)
    saved = optimizer.state_dict()
    saved["state"] = {index: {"momentum_buffer": None} for index in range(2)}  # PyTorch's form
    optimizer.load_state_dict(saved)
    before = layer.weight.detach().clone()
    take_step(layer, optimizer, 1)
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize("clips", [False, True])
def test_the_step_count_of_adamw_is_on_the_device_that_its_kernels_need(clips):
    cfg = tiny_cfg("FCOS_TRAIN.OPTIMIZER", "AdamW", "SOLVER.CLIP_GRADIENTS.ENABLED", clips)
    saved_with, used_with = ("cpu", "cuda") if not clips else ("cuda", "cpu")
    with FakeTensorMode():
        optimizer = build_optimizer(cfg, torch.nn.Linear(2, 1, bias=False, device="cuda"))
        moments = {name: torch.zeros(1, 2, device="cuda") for name in ("exp_avg", "exp_avg_sq")}
        saved = optimizer.state_dict()
        saved["state"] = {0: {"step": torch.ones((), device=saved_with), **moments}}
        for group in saved["param_groups"]:
            group["fused"] = True if clips else None  # saved by an optimizer of the other kind
        optimizer.load_state_dict(saved)
    (state,) = optimizer.state.values()
    assert state["step"].device.type == used_with
    assert state["exp_avg"].device.type == "cuda"


def test_adamw_has_the_groups_of_detectron2_and_the_settings_of_the_solver():
    cfg = tiny_cfg(
        {
            "FCOS_TRAIN.OPTIMIZER": "AdamW",
            "SOLVER.BASE_LR": 3e-4,
            "SOLVER.WEIGHT_DECAY": 0.05,
            "SOLVER.WEIGHT_DECAY_NORM": 0.0,
            "SOLVER.BIAS_LR_FACTOR": 2.0,
        }
    )
    model = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    settings = settings_of(optimizer, model)
    assert settings["head.cls_tower.0.weight"] == (3e-4, 0.05)
    assert settings["head.cls_tower.0.bias"] == (6e-4, 0.05)
    assert settings["head.cls_tower.1.weight"] == (3e-4, 0.0)  # GN
    assert len(settings) == len(list(model.parameters()))


@pytest.mark.parametrize("clips", [False, True])
def test_sgd_has_the_groups_and_the_clipping_of_detectron2s_optimizer(clips):
    cfg = tiny_cfg("SOLVER.CLIP_GRADIENTS.ENABLED", clips)
    model = Trainer.build_model(cfg)
    optimizer, expected = (cls.build_optimizer(cfg, model) for cls in (Trainer, DefaultTrainer))
    assert type(optimizer).__mro__[1:] == type(expected).__mro__[1:]
    for x in (optimizer, expected):
        for group in x.param_groups:
            del group["fused"], group["foreach"]  # These only select the implementation.
    assert optimizer.param_groups == expected.param_groups


def test_an_unknown_optimizer_is_an_error():
    cfg = tiny_cfg("FCOS_TRAIN.OPTIMIZER", "Lion")
    with pytest.raises(InputError, match="AdamW") as caught:
        Trainer.build_optimizer(cfg, Trainer.build_model(cfg))
    assert (caught.value.key, caught.value.value) == ("FCOS_TRAIN.OPTIMIZER", "Lion")


def test_adamw_clips_gradients_when_the_solver_does():
    cfg = tiny_cfg(
        {
            "FCOS_TRAIN.OPTIMIZER": "AdamW",
            "SOLVER.CLIP_GRADIENTS.ENABLED": True,
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.5,
        }
    )
    model = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    weight = model.head.cls_logits.weight
    weight.grad = torch.full_like(weight, 100.0)
    optimizer.step()
    assert weight.grad.norm().item() == pytest.approx(0.5, rel=1e-4)
