"""Converting weights of other projects, also if some are missing, added or changed."""

import re

import pytest
import torch
from input_errors import input_error
from peer_fixtures import FLAGS, FOLDER, PEERS, load_peer
from weights_files import assert_same_weights, load_peer_weights

from fcos_d2.checkpoint import SOURCES, load_any
from fcos_d2.checkpoint.conversion import convert_content

ORIGINAL, V1 = "original_fcos_imprv", "original_fcos_v1"
ADELAIDET, MMDET = "adelaidet_gn_ctrness", "mmdet_fcos_tricks"


def without(weights, *patterns):
    """Return the weights whose names match none of the patterns."""
    return {k: x for k, x in weights.items() if not any(re.fullmatch(p, k) for p in patterns)}


@pytest.mark.parametrize("name", PEERS)
def test_the_source_is_recognized_or_given_by_name(name):
    weights = load_peer_weights(name)
    recognized = convert_content({"model": weights}, **FLAGS[name])
    assert recognized.source == name.partition("_")[0]
    assert "--from" not in recognized.notes[0]
    named = convert_content({"model": weights}, source=recognized.source, **FLAGS[name])
    assert "--from" in named.notes[0]
    assert_same_weights(named.weights, recognized.weights)


def test_weights_of_fcos_d2_are_recognized_too():
    converted = load_peer(MMDET).converted
    again = convert_content({"model": converted.weights, "optimizer": {}, "iteration": 5})
    assert again.source == "fcos_d2"
    assert "iteration, optimizer" in again.notes[1]  # The note lists the entries that are dropped.
    assert again.weights.keys() == converted.weights.keys()


def listed_faults(caught):
    """Return the lines of the error after the first: a title and the weights of each category."""
    return [line.strip() for line in caught.value.text.splitlines()[1:]]


# name of the case: (changes of the weights of the original FCOS, where None removes a weight,
# lines of the error)
CHANGES = {
    "one more": ({"rpn.extra.weight": torch.ones(3)}, ["left over: rpn.extra.weight"]),
    "two less": (
        {"rpn.head.bbox_tower.6.weight": None, "rpn.head.scales.1.scale": None},
        [
            "missing: head.bbox_tower.6.weight (rpn.head.bbox_tower.6.weight), "
            "head.scales.1.scale (rpn.head.scales.1.scale)"
        ],
    ),
    "another shape": (
        {"rpn.head.bbox_pred.weight": torch.ones(5, 32, 3, 3)},
        ["of another shape: rpn.head.bbox_pred.weight (5, 32, 3, 3), not (4, 32, 3, 3)"],
    ),
    "a tower of a number": (
        {"rpn.head.cls_tower.0.weight": torch.ones(())},
        ["of another shape: rpn.head.cls_tower.0.weight (), not (32, 32, 3, 3)"],
    ),
    "one of each kind": (
        {
            "rpn.extra.weight": torch.ones(3),
            "rpn.head.scales.1.scale": None,
            "rpn.head.scales.2.scale": torch.ones(2),
        },
        [
            "left over: rpn.extra.weight",
            "missing: head.scales.1.scale (rpn.head.scales.1.scale)",
            "of another shape: rpn.head.scales.2.scale (2,), not (1,)",
        ],
    ),
}


def convert_original(change):
    """Convert the weights of the original FCOS with changes; None removes a weight."""
    weights = {**load_peer_weights(ORIGINAL), **change}
    return convert_content({"model": {k: x for k, x in weights.items() if x is not None}})


@pytest.mark.parametrize("case", CHANGES)
def test_weights_that_do_not_fit_are_listed_by_category(case):
    change, lines = CHANGES[case]
    with input_error("the original FCOS") as error:
        convert_original(change)
    assert listed_faults(error) == lines


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone.body.layer3.5.conv1.weight": None}, ["ResNet", "[3, 4, 5, 3]"]),
        (
            {"rpn.head.cls_logits.weight": None},
            ["there is no class layer", "head.cls_logits.weight"],
        ),
        ({"rpn.head.cls_logits.weight": torch.ones(3)}, ["the original FCOS"]),
    ],
    ids=["a block less", "no class layer", "a class layer of one dimension"],
)
def test_weights_that_describe_no_model_are_an_error(change, words):
    with input_error(*words):
        convert_original(change)


# name of the case: (peer, pattern of the names that are removed, our names of the missing weights)
MISSING = {
    "a bias": (MMDET, r"bbox_head\.cls_convs\.2\.conv\.bias", ["head.cls_tower.6.bias"]),
    "biases of a tower": (
        MMDET,
        r"bbox_head\.reg_convs\.\d\.conv\.bias",
        [f"head.bbox_tower.{i}.bias" for i in (0, 3, 6, 9)],
    ),
    "the centerness of the original": (
        ORIGINAL,
        r"rpn\.head\.centerness\..*",
        ["head.centerness.weight", "head.centerness.bias"],
    ),
    "the centerness of AdelaiDet": (
        ADELAIDET,
        r".*ctrness.*",
        ["head.centerness.weight", "head.centerness.bias"],
    ),
    "scales": (ORIGINAL, r".*scales.*", [f"head.scales.{i}.scale" for i in range(5)]),
    "the last convolution": (
        ORIGINAL,
        r".*cls_tower\.(9|10)\..*",
        [f"head.cls_tower.{i}.{x}" for i in (9, 10) for x in ("weight", "bias")],
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_missing_weights_are_listed_as_missing_and_do_not_change_the_detected_model(case):
    name, pattern, missing = MISSING[case]
    weights = load_peer_weights(name)
    removed = [k for k in weights if re.fullmatch(pattern, k)]
    with input_error() as error:
        convert_content({"model": without(weights, pattern)})
    (line,) = listed_faults(error)
    title, _, names = line.partition(": ")
    assert title == "missing"
    pairs = [re.fullmatch(r"(\S+) \((\S+)\)", pair).groups() for pair in names.split(", ")]
    assert [ours for ours, _ in pairs] == missing
    assert sorted(theirs for _, theirs in pairs) == sorted(removed)


MMDET_BIASES = r"bbox_head\.(cls|reg)_convs\.\d\.conv\.bias"


def test_towers_without_any_bias_get_zeros_and_a_note():
    weights = load_peer_weights(MMDET)
    converted = convert_content({"state_dict": without(weights, MMDET_BIASES)})
    assert not converted.weights["head.cls_tower.6.bias"].any()
    assert any("no biases" in note for note in converted.notes)
    notes = convert_content({"state_dict": weights}).notes
    assert not any("no biases" in note for note in notes)


def test_the_last_note_describes_the_model():
    weights = without(
        load_peer_weights(ADELAIDET), r".*scales.*"
    )  # In AdelaiDet, scales are optional.
    description = convert_content({"model": weights}).notes[-1]
    for fact in (
        "ResNet-50 (FrozenBN)",
        "p3, p4, p5, p6, p7",
        "(GN)",
        "0 shared, 4 class, 4 box",
        "no scales",
        "centerness",
        "10 classes",
    ):
        assert fact in description


def test_the_sizes_of_interest_are_assumed():
    assumed = load_peer(MMDET).converted.assumed
    assert assumed["MODEL.FCOS.SIZES_OF_INTEREST"] == [64, 128, 256, 512]


def test_two_names_for_one_weight_are_an_error():
    weights = load_peer_weights(MMDET)
    weights["bbox_head.fcos_cls.weight"] = weights["bbox_head.conv_cls.weight"]
    with input_error() as error:
        convert_content({"state_dict": weights})
    assert listed_faults(error) == ["left over: bbox_head.fcos_cls.weight"]


def test_only_weights_that_are_listed_by_name_may_be_missing():
    weights = load_peer_weights(ORIGINAL)
    for level in (1, 2):
        del weights[f"rpn.head.scales.{level}.scale"]
    names = ["head.scales.1.scale", "rpn.head.scales.2.scale"]  # names of both projects
    converted = convert_content({"model": weights}, allow_missing=names)
    assert converted.weights["head.scales.2.scale"].tolist() == [1]
    assert len([note for note in converted.notes if "head.scales.1.scale" in note]) == 1
    with input_error() as error:
        convert_content({"model": weights}, allow_missing=names[:1])
    assert listed_faults(error) == ["missing: head.scales.2.scale (rpn.head.scales.2.scale)"]
    with input_error("--allow-missing", "not missing: head.x"):
        convert_content({"model": weights}, allow_missing=[*names, "head.x"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {"fc.weight": torch.ones(3, 3)}}, ["mmdet, torchvision", "fc.weight"]),
        ({"epoch": 3, "args": {"lr": 1}}, ["args, epoch"]),
        ({}, ["nothing"]),
    ],
    ids=["a layer", "no tensor", "nothing"],
)
def test_a_file_of_something_else_is_an_error(content, words):
    with input_error(*words):
        convert_content(content)


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_is_forced_on_other_names_is_an_error(source):
    with input_error(SOURCES[source].title, "FPN", "fc.weight"):
        convert_content({"model": {"fc.weight": torch.ones(3, 3)}}, source=source)


@pytest.mark.parametrize(
    ("name", "changed", "line"),
    [
        (
            MMDET,
            {"bbox_head.scales.0.scale": torch.ones(3)},
            "of another shape: bbox_head.scales.0.scale (3,), not (1,)",
        ),
        (
            MMDET,
            {f"backbone.layer{'9' * 5000}.0.conv1.weight": torch.ones(1)},
            f"left over: backbone.layer{'9' * 5000}.0.conv1.weight",
        ),
        (
            ADELAIDET,
            {"backbone.fpn_lateral60000.weight": torch.ones(32, 4, 1, 1)},
            "left over: backbone.fpn_lateral60000.weight (backbone.fpn_lateral60000.weight)",
        ),
    ],
    ids=["shape", "block", "level"],
)
def test_odd_names_and_shapes_are_listed(name, changed, line):
    with input_error() as error:
        convert_content({"model": {**load_peer_weights(name), **changed}})
    assert listed_faults(error) == [line]


# name of the case: (peer, flags, keywords of the error)
WRONG_FLAGS = {
    "a recipe of AdelaiDet": (ADELAIDET, {"recipe": "iccv"}, ["--recipe", "AdelaiDet"]),
    "a backbone style": (V1, {"backbone_style": "caffe"}, ["--backbone-style"]),
    "no such recipe": (V1, {"recipe": "x"}, ["--recipe 'x'", "iccv"]),
    "no such source": (V1, {"source": "x"}, ["'x'", "original,"]),
    "two rows": (
        V1,
        {"coco80": True, "without_background": True},
        ["--coco80 and --drop-background-row"],
    ),
    "not COCO's rows": (V1, {"coco80": True}, ["--coco80", "80", "91", "8"]),
}


@pytest.mark.parametrize("case", WRONG_FLAGS)
def test_flags_that_do_not_fit_the_file_are_errors(case):
    name, flags, words = WRONG_FLAGS[case]
    file = FOLDER / name / "checkpoint.pth"
    with input_error(str(file), *words, file=file):
        load_any(file, **flags)


def test_an_override_with_a_wrong_key_is_an_error_about_the_key():
    file = FOLDER / V1 / "checkpoint.pth"
    with input_error(str(file), "'MODEL.FCOS.NORM'", key="MODEL.FCOS.NOR", value="GN", file=file):
        load_any(file, opts=["MODEL.FCOS.NOR", "GN"])
