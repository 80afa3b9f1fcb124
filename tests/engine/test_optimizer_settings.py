"""The settings of an optimizer: reading them, comparing them, and replacing them."""

import pytest
import torch
from detectron2.modeling import build_model
from tiny import tiny_cfg

from fcos_d2.engine.optimizer import build_optimizer, exceptions_in, offset_parameters
from fcos_d2.engine.optimizer_settings import (
    Difference,
    apply_settings,
    find_differences,
    keys_of_groups,
    read_settings,
    set_base_lrs,
)
from fcos_d2.engine.run_keys import YAML_KEYS

KEYS = {"lr": "SOLVER.BASE_LR", "momentum": "SOLVER.MOMENTUM", "betas": "optimizer.betas"}


def make_optimizer(*lrs, **settings):
    """Make an SGD with one weight for each learning rate."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups, **settings)


def test_the_learning_rate_is_that_before_the_schedule():
    optimizer = make_optimizer(0.1, 0.2, momentum=0.9)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]
    expected = [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.2, "momentum": 0.9}]
    assert read_settings(optimizer, KEYS) == expected


def test_equal_settings_and_settings_of_one_side_are_no_difference():
    saved, configured = [{"lr": 0.1, "betas": (0.9, 0.99)}], [{"lr": 0.1, "momentum": 0.9}]
    assert find_differences(saved, configured, [KEYS]) == []


def test_each_difference_has_both_values_and_those_of_all_groups():
    saved = [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.2, "momentum": 0.9}]
    configured = [{"lr": 0.1, "momentum": 0.5}, {"lr": 0.4, "momentum": 0.5}]
    assert find_differences(saved, configured, [KEYS, KEYS]) == [
        Difference("SOLVER.BASE_LR", "0.2", "0.4"),
        Difference("SOLVER.MOMENTUM", "0.9", "0.5"),
    ]


@pytest.mark.parametrize(("before", "expected"), [(0.1, 0.005), (0.0, 0.01)])
def test_the_current_learning_rate_stays_at_its_place_in_the_schedule(before, expected):
    optimizer = make_optimizer(before, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    apply_settings(optimizer, [{"lr": 0.01, "momentum": 0.5}])
    set_base_lrs(scheduler, optimizer)
    group = optimizer.param_groups[0]
    # half of 0.01; a learning rate of 0 does not show the factor
    assert group["lr"] == pytest.approx(expected)
    assert (group["initial_lr"], group["momentum"]) == (0.01, 0.5)
    optimizer.step()
    scheduler.step()
    assert group["lr"] == pytest.approx(0.005)


def test_a_scheduler_without_base_learning_rates_is_not_changed():
    optimizer = make_optimizer(0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    before = dict(vars(scheduler))
    set_base_lrs(scheduler, optimizer)
    assert vars(scheduler) == before


def test_the_keys_of_a_group_are_those_of_its_parameters():
    settings = {"SOLVER.BIAS_LR_FACTOR": 2.0, "SOLVER.WEIGHT_DECAY_BIAS": 0.3}
    settings |= {"FCOS_TRAIN.DCN_OFFSET_LR_FACTOR": 0.1, "MODEL.FCOS.USE_DEFORMABLE": True}
    cfg = tiny_cfg(settings, {"SOLVER.WEIGHT_DECAY_NORM": 0.2})
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    offsets = offset_parameters(model)
    keys = keys_of_groups(optimizer, model, YAML_KEYS.optimizer, exceptions_in(cfg), offsets)
    values = {"SOLVER.WEIGHT_DECAY": 1e-4, "SOLVER.WEIGHT_DECAY_NORM": 0.2}
    values["SOLVER.WEIGHT_DECAY_BIAS"] = 0.3
    lr = cfg.SOLVER.BASE_LR
    rates = {
        "SOLVER.BASE_LR": lr,
        "SOLVER.BASE_LR * SOLVER.BIAS_LR_FACTOR": 2 * lr,
        "SOLVER.BASE_LR * FCOS_TRAIN.DCN_OFFSET_LR_FACTOR": 0.1 * lr,
        "SOLVER.BASE_LR * SOLVER.BIAS_LR_FACTOR * FCOS_TRAIN.DCN_OFFSET_LR_FACTOR": 0.2 * lr,
    }
    assert {x["lr"] for x in keys} == set(rates)
    for group, group_keys in zip(optimizer.param_groups, keys, strict=True):
        assert group["weight_decay"] == values[group_keys["weight_decay"]]
        assert group["lr"] == pytest.approx(rates[group_keys["lr"]])


def test_a_group_with_the_parameters_of_two_keys_has_both():
    cfg = tiny_cfg({"SOLVER.WEIGHT_DECAY_NORM": 0.2, "SOLVER.WEIGHT_DECAY_BIAS": 0.2})
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    keys = keys_of_groups(optimizer, model, YAML_KEYS.optimizer, exceptions_in(cfg))
    both = "SOLVER.WEIGHT_DECAY_BIAS and SOLVER.WEIGHT_DECAY_NORM"
    assert {x["weight_decay"] for x in keys} == {"SOLVER.WEIGHT_DECAY", both}
