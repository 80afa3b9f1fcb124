"""The rules of config keys and arguments: wrong values are errors, and defaults are not."""

import copy
import inspect
import math

import pytest
from commands import set_key
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from input_errors import input_error
from tiny import tiny_cfg

from fcos_d2 import FCOSHead, new_cfg
from fcos_d2.arguments import get
from fcos_d2.config_checks import check_config
from fcos_d2.engine.config_rules import OWN_RULES, TRAIN_ARGUMENTS, find_faults
from fcos_d2.engine.lazy_rules import PART_ARGUMENTS
from fcos_d2.engine.run_settings import RUN_ARGUMENTS, RunSettings
from fcos_d2.errors import InputError
from fcos_d2.modeling.acceleration import ACCELERATION_ARGUMENTS, Acceleration
from fcos_d2.modeling.backbone.builders import BACKBONE_ARGUMENTS
from fcos_d2.modeling.config_checks import FCOS_ARGUMENTS, MODEL_ARGUMENTS

OWN_SECTIONS = ("MODEL.FCOS", "MODEL.TIMM", "MODEL.BIFPN", "FCOS_TRAIN")
OWN_KEYS = [f"{section}.{key}" for section in OWN_SECTIONS for key in get(tiny_cfg(), section)]
ARGUMENTS = [
    (arguments, name)
    for arguments in (*MODEL_ARGUMENTS, *BACKBONE_ARGUMENTS.values(), *TRAIN_ARGUMENTS)
    for name in arguments.keys
]
# Values of each type and magnitude. Tests skip the values that the rule of a key allows.
NUMBERS = [-7, 0, 3, 10**6, -0.5, 0.3, 1.5, math.nan, math.inf]
LISTS = [(), [], [0], [-1, 2], [2, 1], [1, 1], ["p3"], [""], [None]]
VALUES = [None, True, *NUMBERS, "", "nonsense", "giou", *LISTS, {"a": 1}, object()]


def test_every_own_key_has_a_rule():
    assert set(OWN_KEYS) <= set(OWN_RULES)
    for key in OWN_RULES:
        get(tiny_cfg(), key)  # Every rule has a key.


@pytest.mark.parametrize(
    ("arguments", "name"), ARGUMENTS, ids=[arguments.keys[name] for arguments, name in ARGUMENTS]
)
def test_a_wrong_value_is_an_error_with_the_names_of_key_and_argument(arguments, name):
    key, rule = arguments.keys[name], arguments.rules[name]
    wrong = [value for value in VALUES if not rule.holds(value)]
    assert len(wrong) >= len(VALUES) // 3
    for value in wrong:
        (fault,) = arguments.faults(set_key(tiny_cfg(), key, value))
        assert fault.key == key
        assert fault.value is value
        for part in (key, repr(value), rule.text):
            assert part in fault.text
        with input_error(repr(value), rule.text, key=name, value=value):
            arguments.check({name: value})
        assert name == key.rpartition(".")[2].lower()


@pytest.mark.parametrize("key", OWN_KEYS)
def test_a_wrong_value_of_an_own_key_is_reported_before_a_run(key):
    value = next(value for value in VALUES if not OWN_RULES[key].holds(value))
    cfg = tiny_cfg()
    if key.startswith("MODEL.TIMM"):
        cfg.MODEL.BACKBONE.NAME = "build_fcos_timm_fpn_backbone"
    if key.startswith("MODEL.BIFPN"):
        cfg.MODEL.BACKBONE.NAME = "build_fcos_resnet_bifpn_backbone"
    with pytest.raises(InputError) as caught:
        check_config(set_key(cfg, key, value), find_faults(cfg))
    assert key in [fault.key for fault in caught.value.faults]


@pytest.mark.parametrize("key", OWN_KEYS)
def test_the_defaults_obey_the_rules(key):
    assert OWN_RULES[key].holds(get(tiny_cfg(), key))


CONSTRUCTORS = {**PART_ARGUMENTS, Acceleration: ACCELERATION_ARGUMENTS, RunSettings: RUN_ARGUMENTS}


@pytest.mark.parametrize(
    ("constructor", "arguments"), CONSTRUCTORS.items(), ids=[x.__name__ for x in CONSTRUCTORS]
)
def test_constructors_have_an_argument_for_each_rule_with_the_keys_default(constructor, arguments):
    parameters = inspect.signature(constructor).parameters
    cfg = new_cfg()
    for name, key in arguments.keys.items():
        if arguments is FCOS_ARGUMENTS and name != "inference_dtype":
            continue  # The other keys of FCOS are arguments of its parts.
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
def test_values_just_outside_of_a_range_are_wrong(key, value):
    assert not OWN_RULES[key].holds(value)


def test_building_a_model_checks_the_config_and_constructors_check_their_arguments():
    with input_error(key="MODEL.FCOS.FOCAL_LOSS_GAMMA", value=-1.0):
        build_model(tiny_cfg("MODEL.FCOS.FOCAL_LOSS_GAMMA", -1.0))
    shape = [copy.copy(x) for x in build_model(tiny_cfg()).backbone.output_shape().values()]
    with input_error(key="num_cls_convs", value=2.5):
        FCOSHead(input_shape=shape, num_classes=3, num_cls_convs=2.5)


def test_all_wrong_arguments_of_a_constructor_are_in_one_error():
    with pytest.raises(InputError) as caught:
        FCOSHead(input_shape=[ShapeSpec(channels=32)], num_classes=0, norm="LN", prior_prob=2)
    assert [x.key for x in caught.value.faults] == ["num_classes", "norm", "prior_prob"]
    assert len(str(caught.value).splitlines()) == 3
