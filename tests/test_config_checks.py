"""Checking a whole config: all faults are in one error, and values of detectron2 are accepted."""

import pytest
from commands import set_key
from input_errors import input_error
from tiny import tiny_cfg

from fcos_d2.config_checks import check_config, find_training_faults
from fcos_d2.engine.config_rules import find_faults
from fcos_d2.errors import InputError


def test_all_wrong_values_of_a_config_are_in_one_error():
    wrong = {
        "MODEL.FCOS.NORM": "LN",
        "MODEL.FCOS.LOSS_NORMALIZER": "sum",
        "MODEL.RESNETS.DEPTH": 51,
        "SOLVER.BASE_LR": -1.0,
        "FCOS_TRAIN.EMA_DECAY": 2.0,
        "MODEL.META_ARCHITECTURE": "FCSO",
    }
    cfg = tiny_cfg(wrong)
    with pytest.raises(InputError) as caught:
        check_config(cfg, find_faults(cfg))
    assert {x.key: x.value for x in caught.value.faults} == wrong


def test_all_keys_that_do_not_fit_together_are_in_one_error():
    cfg = tiny_cfg("MODEL.FCOS.SIZES_OF_INTEREST", [64], "MODEL.FCOS.HEAD_CHANNELS", 40)
    with pytest.raises(InputError) as caught:
        check_config(cfg, build_model=True)
    assert len(caught.value.faults) == 2


def test_checking_builds_nothing_and_changes_nothing(package_log):
    cfg = tiny_cfg("MODEL.FCOS.NUM_CLASSES", -1)
    before = cfg.dump()
    check_config(cfg, find_faults(cfg), build_model=True)  # There is no dataset that it could read.
    assert cfg.dump() == before
    assert not package_log.records


# tests/engine/test_trainer.py trains with some of these values.
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATALOADER.SAMPLER_TRAIN", "TrainingSampler"),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        ("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"),
        ("DATALOADER.SAMPLER_TRAIN", "WeightedCategoryTrainingSampler"),
        ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"),
        ("INPUT.FORMAT", "YUV-BT.601"),
        ("INPUT.FORMAT", "HSV"),
        ("MODEL.RESNETS.NORM", "nnSyncBN"),
        ("MODEL.FPN.NORM", "LN"),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"),
        ("SOLVER.WARMUP_METHOD", "constant"),
        ("SOLVER.BASE_LR", 0.0),
        ("TEST.EVAL_PERIOD", -1),
    ],
)
def test_no_value_of_detectron2_is_refused(key, value):
    cfg = set_key(tiny_cfg(), key, value)
    check_config(cfg, find_faults(cfg))


def test_keys_that_only_training_reads_may_have_any_value_in_prediction():
    cfg = tiny_cfg("SOLVER.WARMUP_METHOD", "exponential")
    check_config(cfg)
    assert not find_training_faults(cfg, eval_only=True)
    (fault,) = find_training_faults(cfg)
    assert (fault.key, fault.value) == ("SOLVER.WARMUP_METHOD", "exponential")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TEST.AUG.ENABLED", "yes"),
        ("TEST.AUG.MIN_SIZES", []),
        ("TEST.AUG.MIN_SIZES", [400, -1]),
        ("TEST.AUG.MIN_SIZES", [400.5]),
        ("TEST.AUG.MIN_SIZES", 400),
        ("TEST.AUG.MAX_SIZE", 0),
        ("TEST.AUG.FLIP", 1),
    ],
)
def test_wrong_values_of_test_time_augmentation_are_errors_of_runs_and_predictions(key, value):
    cfg = set_key(tiny_cfg(), key, value)
    with input_error(key=key, value=value):
        check_config(cfg, find_faults(cfg, eval_only=True))
    with input_error(key=key, value=value):
        check_config(cfg)


@pytest.mark.parametrize("eval_only", [False, True])
def test_a_model_without_test_time_augmentation_is_an_error_before_a_run(eval_only):
    opts = {"TEST.AUG.ENABLED": True, "MODEL.META_ARCHITECTURE": "GeneralizedRCNN"}
    cfg = tiny_cfg(opts, "MODEL.KEYPOINT_ON", True)
    (fault,) = find_faults(cfg, eval_only)
    assert (fault.key, fault.value) == ("TEST.AUG.ENABLED", True)
    assert "MODEL.KEYPOINT_ON" in fault.text
    cfg.TEST.AUG.ENABLED = False
    assert not find_faults(cfg, eval_only)
