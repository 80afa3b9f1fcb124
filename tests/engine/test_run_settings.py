"""The settings of a training run, from a YAML config and from a LazyConfig."""

import dataclasses

import pytest
from detectron2.config import LazyConfig
from tiny import tiny_cfg

from fcos_d2 import get_config_file
from fcos_d2.engine.run_settings import RUN_ARGUMENTS, RunSettings
from fcos_d2.errors import InputError


def lazy_cfg():
    return LazyConfig.load(get_config_file("lazy/fcos_R_50_FPN.py"))


def test_defaults_are_the_same_for_plain_use_and_yaml_configs():
    settings = RunSettings.from_config(tiny_cfg({"OUTPUT_DIR": "output", "SOLVER.MAX_ITER": 7}))
    assert settings == RunSettings("output", 7)


def test_defaults_are_the_same_in_lazy_configs_with_and_without_the_keys_of_fcos_d2():
    cfg = lazy_cfg()
    settings = RunSettings.from_lazy(cfg)
    # In detectron2, these defaults differ between LazyConfigs and YAML configs.
    of_detectron2 = {"eval_period": 5000, "max_to_keep": 100}
    assert settings == RunSettings("./output", 90000, **of_detectron2)
    for name in RUN_ARGUMENTS.rules:
        cfg.train.pop(name, None)
    assert RunSettings.from_lazy(cfg) == settings


def test_every_key_reaches_the_settings():
    values = {
        "ema_decay": 0.9,
        "validation_loss": True,
        "best_metric": "val_loss/total_loss",
        "early_stopping_patience": 3,
        "max_to_keep": 2,
        "checkpoint_at_signal": False,
        "resume_lr": True,
    }
    expected = RunSettings("o", 7, eval_period=5, checkpoint_period=6, **values)
    cfg = tiny_cfg(
        {"OUTPUT_DIR": "o", "TEST.EVAL_PERIOD": 5, "DATASETS.TEST": ("val",)},
        {"SOLVER.MAX_ITER": 7, "SOLVER.CHECKPOINT_PERIOD": 6},
        {f"FCOS_TRAIN.{key.upper()}": value for key, value in values.items()},
    )
    assert RunSettings.from_config(cfg) == expected
    cfg = lazy_cfg()
    cfg.train.update(output_dir="o", max_iter=7, eval_period=5, log_period=4, **values)
    cfg.train.checkpointer = {"period": 6, "max_to_keep": 2}
    assert RunSettings.from_lazy(cfg) == dataclasses.replace(expected, log_period=4)


def test_all_wrong_arguments_are_reported_in_one_error():
    with pytest.raises(InputError) as caught:
        RunSettings("", 0, ema_decay=1.0, max_to_keep=True)
    keys = [fault.key for fault in caught.value.faults]
    assert keys == ["output_dir", "max_iter", "ema_decay", "max_to_keep"]


@pytest.mark.parametrize("metric", ["", "bbox/AP"])
def test_early_stopping_needs_a_metric_and_evaluations(metric):
    with pytest.raises(InputError) as caught:
        RunSettings("o", 1, best_metric=metric, early_stopping_patience=2)
    assert {fault.key for fault in caught.value.faults} == {"early_stopping_patience"}
    assert ("best_metric" in caught.value.text) == (metric == "")
    assert "eval_period" in caught.value.text


def test_a_best_validation_loss_needs_validation_losses():
    with pytest.raises(InputError, match="validation_loss is False") as caught:
        RunSettings("o", 1, ema_decay=0.5, best_metric="ema/val_loss/total_loss")
    assert caught.value.key == "best_metric"


def test_an_error_names_the_keys_of_the_config():
    cfg = tiny_cfg("FCOS_TRAIN.EARLY_STOPPING_PATIENCE", 2)
    with pytest.raises(InputError, match=r"TEST\.EVAL_PERIOD") as caught:
        RunSettings.from_config(cfg)
    assert caught.value.key == "FCOS_TRAIN.EARLY_STOPPING_PATIENCE"
    cfg = lazy_cfg()
    cfg.train.best_metric = "ema/bbox/AP"
    with pytest.raises(InputError, match=r"train\.ema_decay") as caught:
        RunSettings.from_lazy(cfg)
    assert (caught.value.key, caught.value.value) == ("train.best_metric", "ema/bbox/AP")
