"""Every key against its rule: the table itself says what is tried."""

import copy
import math

import pytest
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from tiny import tiny_cfg

from fcos_d2 import FCOSHead
from fcos_d2.config_rules import CONFIG_RULES, check_config, check_training_config, check_value
from fcos_d2.errors import InputError

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
# Something of each type and magnitude. What a rule allows is left out key by key.
VALUES = [
    None, True, -7, 0, 3, 10**6, -0.5, 0.3, 1.5, math.nan, math.inf, "", "nonsense", "giou", (), [],
    [0], [-1, 2], [2, 1], [1, 1], ["p3"], [""], [None], {"a": 1}, object(),
]  # fmt: skip


def get(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def put(cfg, key, value):
    *path, last = key.split(".")
    for name in path:
        cfg = cfg[name]
    dict.__setitem__(cfg, last, value)


def check_all(cfg):
    check_config(cfg)
    check_training_config(cfg)


def test_every_key_of_ours_has_a_rule():
    assert set(OWN_KEYS) <= set(CONFIG_RULES)
    cfg = tiny_cfg()
    for key in CONFIG_RULES:
        get(cfg, key)  # and every rule has a key


@pytest.mark.parametrize("key", CONFIG_RULES)
def test_a_wrong_type_or_value_is_an_error_with_key_rule_and_value(key):
    rule = CONFIG_RULES[key]
    wrong = [value for value in VALUES if not rule.holds(value)]
    assert len(wrong) >= len(VALUES) // 3
    for value in wrong:
        cfg = tiny_cfg()
        put(cfg, key, value)
        with pytest.raises(InputError) as caught:
            check_all(cfg)
        assert str(caught.value) == f"{key} = {value!r} must be {rule.text}."


@pytest.mark.parametrize("key", CONFIG_RULES)
def test_the_defaults_keep_the_rules(key):
    check_value(key, get(tiny_cfg(), key))


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
    with pytest.raises(InputError, match=f"{key} = "):
        check_value(key, value)


def test_building_a_model_checks_its_config_and_so_do_plain_constructors():
    with pytest.raises(InputError, match=r"GAMMA = -1.0 must be a number of at least 0"):
        build_model(tiny_cfg("MODEL.FCOS.FOCAL_LOSS_GAMMA", -1.0))
    shape = [copy.copy(x) for x in build_model(tiny_cfg()).backbone.output_shape().values()]
    with pytest.raises(InputError, match=r"NUM_CLS_CONVS = 2.5 must be an integer"):
        FCOSHead(input_shape=shape, num_classes=3, num_cls_convs=2.5)


def test_all_wrong_arguments_of_a_constructor_are_in_one_error():
    with pytest.raises(ValueError, match="NUM_CLASSES = 0") as caught:
        FCOSHead(input_shape=[ShapeSpec(channels=32)], num_classes=0, norm="LN", prior_prob=2)
    assert [line.split(" = ")[0] for line in str(caught.value).splitlines()] == [
        "MODEL.FCOS.NUM_CLASSES", "MODEL.FCOS.NORM", "MODEL.FCOS.PRIOR_PROB",
    ]  # fmt: skip


def test_all_wrong_values_of_a_config_are_in_one_error():
    cfg = tiny_cfg("MODEL.FCOS.NORM", "LN", "MODEL.FCOS.LOSS_NORMALIZER", "sum")
    with pytest.raises(ValueError, match=r"NORM = 'LN'.*\n.*LOSS_NORMALIZER = 'sum'"):
        check_config(cfg)
