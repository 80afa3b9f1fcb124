"""Every key against its rule, which stands beside the constructor that takes the key."""

import copy
import inspect
import math

import pytest
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from tiny import tiny_cfg

from fcos_d2 import FCOSHead, new_cfg
from fcos_d2.arguments import get
from fcos_d2.config_checks import check_config, find_training_faults
from fcos_d2.engine.config_rules import OWN_RULES, TRAIN_ARGUMENTS, find_faults
from fcos_d2.engine.lazy_config import PART_ARGUMENTS
from fcos_d2.engine.run_settings import RUN_ARGUMENTS, RunSettings
from fcos_d2.errors import InputError
from fcos_d2.modeling.acceleration import ACCELERATION_ARGUMENTS, Acceleration
from fcos_d2.modeling.backbone.builders import BACKBONE_ARGUMENTS
from fcos_d2.modeling.config_faults import FCOS_ARGUMENTS, MODEL_ARGUMENTS

OWN_KEYS = [
    f"{node}.{key}"
    for node, keys in (
        ("MODEL.FCOS", tiny_cfg().MODEL.FCOS),
        ("MODEL.TIMM", tiny_cfg().MODEL.TIMM),
        ("MODEL.BIFPN", tiny_cfg().MODEL.BIFPN),
        ("FCOS_TRAIN", tiny_cfg().FCOS_TRAIN),
    )
    for key in keys
]
ARGUMENTS = [
    (arguments, name)
    for arguments in (*MODEL_ARGUMENTS, *BACKBONE_ARGUMENTS.values(), *TRAIN_ARGUMENTS)
    for name in arguments.keys
]
# Something of each type and magnitude. What a rule allows is left out key by key.
VALUES = [
    None,
    True,
    -7,
    0,
    3,
    10**6,
    -0.5,
    0.3,
    1.5,
    math.nan,
    math.inf,
    "",
    "nonsense",
    "giou",
    (),
    [],
    [0],
    [-1, 2],
    [2, 1],
    [1, 1],
    ["p3"],
    [""],
    [None],
    {"a": 1},
    object(),
]


def put(cfg, key, value):
    *path, last = key.split(".")
    dict.__setitem__(get(cfg, ".".join(path)), last, value)
    return cfg


def test_every_key_of_ours_has_a_rule():
    assert set(OWN_KEYS) <= set(OWN_RULES)
    for key in OWN_RULES:
        get(tiny_cfg(), key)  # and every rule has a key


@pytest.mark.parametrize(("arguments", "name"), ARGUMENTS, ids=lambda x: getattr(x, "lower", str)())
def test_a_wrong_value_is_an_error_under_the_name_of_key_and_argument(arguments, name):
    key, rule = arguments.keys[name], arguments.rules[name]
    wrong = [value for value in VALUES if not rule.holds(value)]
    assert len(wrong) >= len(VALUES) // 3
    for value in wrong:
        (fault,) = arguments.faults(put(tiny_cfg(), key, value))
        assert fault.key == key
        assert fault.text == f"{key} = {value!r} must be {rule.text}."
        with pytest.raises(InputError) as caught:
            arguments.check({name: value})
        assert caught.value.text == f"{name} = {value!r} must be {rule.text}."
        assert name == key.rpartition(".")[2].lower()


@pytest.mark.parametrize("key", OWN_KEYS)
def test_a_wrong_value_of_a_key_of_ours_is_found_before_a_run(key):
    value = next(value for value in VALUES if not OWN_RULES[key].holds(value))
    cfg = tiny_cfg()
    if key.startswith("MODEL.TIMM"):
        cfg.MODEL.BACKBONE.NAME = "build_fcos_timm_fpn_backbone"
    if key.startswith("MODEL.BIFPN"):
        cfg.MODEL.BACKBONE.NAME = "build_fcos_resnet_bifpn_backbone"
    with pytest.raises(InputError) as caught:
        check_config(put(cfg, key, value), find_faults(cfg))
    assert key in [fault.key for fault in caught.value.faults]


@pytest.mark.parametrize("key", OWN_KEYS)
def test_the_defaults_keep_the_rules(key):
    assert OWN_RULES[key].holds(get(tiny_cfg(), key))


@pytest.mark.parametrize(
    ("constructor", "arguments"),
    [*PART_ARGUMENTS.items(), (Acceleration, ACCELERATION_ARGUMENTS), (RunSettings, RUN_ARGUMENTS)],
)
def test_constructors_have_an_argument_for_each_rule_with_the_keys_default(constructor, arguments):
    parameters = inspect.signature(constructor).parameters
    cfg = new_cfg()
    for name, key in arguments.keys.items():
        if arguments is FCOS_ARGUMENTS and name != "inference_dtype":
            continue  # head_in_features, and the parts themselves
        default = parameters[name].default
        if default is not inspect.Parameter.empty and key in OWN_KEYS:
            value = list(default) if isinstance(default, tuple) else default
            assert (value, type(value)) == (get(cfg, key), type(get(cfg, key))), key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.FCOS.NUM_CLASSES", 0),
        ("MODEL.FCOS.NUM_CLASSES", -2),
        ("MODEL.FCOS.PRIOR_PROB", 1),
        ("MODEL.FCOS.PRIOR_LTRB", 13.0),
        ("MODEL.FCOS.SCORE_THRESH_TEST", 1),
        ("MODEL.FCOS.NMS_THRESH_TEST", 1.01),
        ("MODEL.FCOS.CENTER_SAMPLING_RADIUS", -0.1),
        ("MODEL.FCOS.LOCATION_OFFSET", 0.25),
        ("MODEL.FCOS.TOPK_CANDIDATES_TEST", 0),
        ("MODEL.FCOS.SIZES_OF_INTEREST", [64, 64]),
        ("MODEL.FCOS.USE_SCALE", 1),
        ("MODEL.PIXEL_STD", [1.0, 0.0, 1.0]),
        ("FCOS_TRAIN.DATASETS", ["mine=train.json"]),
    ],
)
def test_the_edges_of_ranges(key, value):
    assert not OWN_RULES[key].holds(value)


def test_building_a_model_checks_its_config_and_so_do_plain_constructors():
    with pytest.raises(InputError) as caught:
        build_model(tiny_cfg("MODEL.FCOS.FOCAL_LOSS_GAMMA", -1.0))
    assert (caught.value.key, caught.value.value) == ("MODEL.FCOS.FOCAL_LOSS_GAMMA", -1.0)
    shape = [copy.copy(x) for x in build_model(tiny_cfg()).backbone.output_shape().values()]
    with pytest.raises(InputError) as caught:
        FCOSHead(input_shape=shape, num_classes=3, num_cls_convs=2.5)
    assert (caught.value.key, caught.value.value) == ("num_cls_convs", 2.5)


def test_all_wrong_arguments_of_a_constructor_are_in_one_error():
    with pytest.raises(InputError) as caught:
        FCOSHead(input_shape=[ShapeSpec(channels=32)], num_classes=0, norm="LN", prior_prob=2)
    assert [x.key for x in caught.value.faults] == ["num_classes", "norm", "prior_prob"]
    assert len(str(caught.value).splitlines()) == 3


def test_all_wrong_values_of_a_config_are_in_one_error():
    cfg = tiny_cfg("MODEL.FCOS.NORM", "LN", "MODEL.FCOS.LOSS_NORMALIZER", "sum")
    put(cfg, "MODEL.RESNETS.DEPTH", 51)
    put(cfg, "SOLVER.BASE_LR", -1.0)
    put(cfg, "FCOS_TRAIN.EMA_DECAY", 2.0)
    put(cfg, "MODEL.META_ARCHITECTURE", "FCSO")
    with pytest.raises(InputError) as caught:
        check_config(cfg, find_faults(cfg))
    assert {x.key for x in caught.value.faults} == {
        "MODEL.FCOS.NORM",
        "MODEL.FCOS.LOSS_NORMALIZER",
        "MODEL.RESNETS.DEPTH",
        "SOLVER.BASE_LR",
        "FCOS_TRAIN.EMA_DECAY",
        "MODEL.META_ARCHITECTURE",
    }


def test_all_that_does_not_fit_together_is_in_one_error():
    cfg = tiny_cfg("MODEL.FCOS.SIZES_OF_INTEREST", [64], "MODEL.FCOS.HEAD_CHANNELS", 40)
    with pytest.raises(InputError) as caught:
        check_config(cfg, build_model=True)
    assert len(caught.value.faults) == 2


def test_checking_builds_nothing_and_changes_nothing(caplog):
    cfg = tiny_cfg("MODEL.FCOS.NUM_CLASSES", -1)
    before = cfg.dump()
    check_config(cfg, find_faults(cfg), build_model=True)  # asks no dataset: there is none
    assert cfg.dump() == before
    assert not caplog.records


# Whether it trains too: tests/engine/test_trainer.py.
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("DATALOADER.SAMPLER_TRAIN", f"{x}TrainingSampler")
            for x in ("", "RepeatFactor", "Weighted", "WeightedCategory")
        ),
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
    cfg = put(tiny_cfg(), key, value)
    check_config(cfg, find_faults(cfg))


def test_a_prediction_takes_any_value_of_a_training():
    cfg = tiny_cfg("SOLVER.WARMUP_METHOD", "exponential")
    check_config(cfg)
    assert not find_training_faults(cfg, eval_only=True)
    (fault,) = find_training_faults(cfg)
    assert (fault.key, fault.value) == ("SOLVER.WARMUP_METHOD", "exponential")
