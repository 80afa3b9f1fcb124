"""What load_any makes of files that are not quite as their project leaves them."""

import re
from functools import reduce
from operator import getitem

import numpy as np
import pytest
import torch
import torchvision
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from peer_fixtures import FLAGS, FOLDER, PEERS, load_peer

from fcos_d2 import TimmBackbone
from fcos_d2.checkpoint import SOURCES, load_any
from fcos_d2.checkpoint.conversion import convert_content
from fcos_d2.checkpoint.formats.key_table import KeyTable
from fcos_d2.errors import InputError


def randomise_norms(model):
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def saved(name):
    return torch.load(FOLDER / name / "checkpoint.pth", weights_only=True)


def weights_of(content):
    return content.get("model") or content["state_dict"]


def values(cfg, keys):
    return {key: reduce(getitem, key.split("."), cfg) for key in keys}


# Names


def test_a_table_is_read_both_ways():
    table = KeyTable([("a.{i}.b{n}.", "x{i+1}.y.{3*n+1}."), ("c.", "z.")])
    assert table.to_ours("a.4.b2.weight") == "x5.y.7.weight"
    assert table.to_theirs("x5.y.7.weight") == "a.4.b2.weight"
    assert table.to_theirs("x0.y.7.weight") is None  # i would be -1
    assert table.to_theirs("x5.y.8.weight") is None  # no whole n
    assert table.to_ours("c.1.bias") == "z.1.bias"
    assert table.to_ours("d.1.bias") is None
    assert table.to_ours("aa.4.b2.weight") is None


@pytest.mark.parametrize("name", PEERS)
def test_the_source_is_recognised_and_may_be_named(name):
    theirs = weights_of(saved(name))
    found = convert_content({"model": theirs}, **FLAGS[name])
    assert found.source == name.partition("_")[0]
    assert "recognised by their names" in found.notes[0]
    named = convert_content({"model": theirs}, source=found.source, **FLAGS[name])
    assert "as --from says" in named.notes[0]
    assert all(torch.equal(named.weights[k], x) for k, x in found.weights.items())


def test_our_own_weights_are_a_source_too():
    converted = load_peer("mmdet_fcos_tricks").converted
    again = convert_content({"model": converted.weights, "optimizer": {}, "iteration": 5})
    assert again.source == "fcos_d2"
    assert again.notes[1] == "dropped: iteration, optimizer"
    assert again.weights.keys() == converted.weights.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rpn.extra.weight": torch.ones(3)}, r"left over: rpn.extra.weight$"),
        (
            {"rpn.head.bbox_tower.6.weight": None, "rpn.head.scales.1.scale": None},
            r"missing: head.bbox_tower.6.weight \(rpn.head.bbox_tower.6.weight\), "
            r"head.scales.1.scale \(rpn.head.scales.1.scale\)$",
        ),
        (
            {"rpn.head.bbox_pred.weight": torch.ones(5, 32, 3, 3)},
            r"of another shape: rpn.head.bbox_pred.weight \(5, 32, 3, 3\), not \(4, 32, 3, 3\)$",
        ),
        ({"backbone.body.layer3.5.conv1.weight": None}, r"no ResNet .* \[3, 4, 5, 3\] blocks"),
        ({"rpn.head.cls_logits.weight": None}, r"there is no class layer"),
        ({"rpn.head.cls_logits.weight": torch.ones(3)}, r"taken for the original"),
        ({"rpn.head.cls_tower.0.weight": torch.ones(())}, r"taken for the original"),
    ],
)
def test_what_does_not_fit_is_an_error_that_lists_it(change, message):
    theirs = {**weights_of(saved("original_fcos_imprv")), **change}
    with pytest.raises(InputError) as caught:
        convert_content({"model": {k: x for k, x in theirs.items() if x is not None}})
    assert re.search(message, str(caught.value), re.MULTILINE), caught.value


def without(theirs, *patterns):
    return {k: x for k, x in theirs.items() if not any(re.fullmatch(p, k) for p in patterns)}


MMDET_BIASES = r"bbox_head\.(cls|reg)_convs\.\d\.conv\.bias"


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [
        (
            "mmdet_fcos_tricks",
            r"bbox_head\.cls_convs\.2\.conv\.bias",
            r"missing: head\.cls_tower\.6\.bias \(bbox_head\.cls_convs\.2\.conv\.bias\)$",
        ),
        (
            "mmdet_fcos_tricks",
            r"bbox_head\.reg_convs\.\d\.conv\.bias",
            r"missing: head\.bbox_tower\.0\.bias .*, head\.bbox_tower\.9\.bias \(\S+\)$",
        ),
        (
            "original_fcos_imprv",
            r"rpn\.head\.centerness\..*",
            r"missing: head\.centerness\.weight .*, head\.centerness\.bias \(\S+\)$",
        ),
        ("adelaidet_gn_ctrness", r".*ctrness.*", r"missing: head\.centerness\.weight"),
        ("original_fcos_imprv", r".*scales.*", r"missing: head\.scales\.0\.scale .*4\.scale\)$"),
        ("original_fcos_imprv", r".*cls_tower\.(9|10)\..*", r"missing: head\.cls_tower\.9\.weight"),
    ],
)
def test_what_is_missing_makes_no_other_model(name, pattern, message):
    theirs = weights_of(saved(name))
    assert without(theirs, pattern) != theirs
    with pytest.raises(InputError) as caught:
        convert_content({"model": without(theirs, pattern)})
    assert re.search(message, str(caught.value), re.MULTILINE), caught.value


def test_towers_without_any_bias_have_zeros_and_it_is_said():
    theirs = weights_of(saved("mmdet_fcos_tricks"))
    converted = convert_content({"state_dict": without(theirs, MMDET_BIASES)})
    assert not converted.weights["head.cls_tower.6.bias"].any()
    assert any("the towers have no biases" in note for note in converted.notes)
    notes = convert_content({"state_dict": theirs}).notes
    assert not any("the towers have no biases" in note for note in notes)


def test_what_was_read_is_said():
    theirs = without(weights_of(saved("adelaidet_gn_ctrness")), r".*scales.*")  # an option there
    notes = convert_content({"model": theirs}).notes
    assert notes[-1] == (
        "the model: ResNet-50 (FrozenBN); p3, p4, p5, p6, p7; convolutions of the towers (GN): "
        "0 shared, 4 class, 4 box; no scales; box quality: centerness; 10 classes"
    )


def test_the_sizes_of_interest_are_a_guess():
    assumed = load_peer("mmdet_fcos_tricks").converted.assumed
    assert assumed["MODEL.FCOS.SIZES_OF_INTEREST"] == [64, 128, 256, 512]


def test_two_names_for_one_weight_are_an_error():
    theirs = weights_of(saved("mmdet_fcos_tricks"))
    theirs["bbox_head.fcos_cls.weight"] = theirs["bbox_head.conv_cls.weight"]
    with pytest.raises(InputError, match=r"left over: bbox_head\.fcos_cls\.weight"):
        convert_content({"state_dict": theirs})


def test_names_of_mmdet_1():
    theirs = weights_of(saved("mmdet_fcos_r50_gn"))
    for new, old in (
        ("conv_cls", "fcos_cls"),
        ("conv_reg", "fcos_reg"),
        ("conv_centerness", "fcos_centerness"),
    ):
        for kind in ("weight", "bias"):
            theirs[f"bbox_head.{old}.{kind}"] = theirs.pop(f"bbox_head.{new}.{kind}")
    ours = convert_content({"state_dict": theirs}).weights
    expected = load_peer("mmdet_fcos_r50_gn").converted.weights
    assert all(torch.equal(ours[name], x) for name, x in expected.items())


def test_what_is_named_may_be_missing_and_nothing_else():
    theirs = weights_of(saved("original_fcos_imprv"))
    for level in (1, 2):
        del theirs[f"rpn.head.scales.{level}.scale"]
    names = ["head.scales.1.scale", "rpn.head.scales.2.scale"]  # ours, or theirs
    converted = convert_content({"model": theirs}, allow_missing=names)
    assert converted.weights["head.scales.2.scale"].tolist() == [1]
    assert "missing, at its initial values: head.scales.1.scale" in converted.notes
    with pytest.raises(InputError, match=r"missing: head.scales.2.scale \(rpn.*\)$"):
        convert_content({"model": theirs}, allow_missing=names[:1])
    with pytest.raises(InputError, match=r"--allow-missing names what is not missing: head.x"):
        convert_content({"model": theirs}, allow_missing=[*names, "head.x"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"fc.weight": torch.ones(3, 3)}}, "of no FCOS that is known .*: fc.weight"),
        ({"epoch": 3, "args": {"lr": 1}}, "it has no weights by name, but args, epoch"),
        ({}, "it has no weights by name, but nothing"),
    ],
)
def test_something_else_is_an_error(content, message):
    with pytest.raises(InputError, match=message):
        convert_content(content)


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_is_forced_on_other_names_is_an_error(source):
    with pytest.raises(InputError, match=r"taken for .*, there is no FPN .* No place for: fc\.we"):
        convert_content({"model": {"fc.weight": torch.ones(3, 3)}}, source=source)


# Forged, odd and useless files


ODD_WEIGHTS = [
    (lambda x: x.to(torch.complex64), "of type complex64, not a plain array"),
    (lambda x: x.to_sparse(), "a sparse or nested tensor"),
    (lambda x: x.to("meta"), r"without numbers \(meta\)"),
    (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "of type qint8"),
    (lambda x: x[:0], r"empty, of shape \(0, 32, 3, 3\)"),
    (lambda x: x.numpy().astype(np.longdouble), "has numbers of type"),
    (lambda x: x.to(torch.int8), "it has whole numbers or bits, no weights: rpn.head.cls_logits.w"),
    (lambda x: x > 0, "it has whole numbers or bits, no weights: rpn.head.cls_logits.weight"),
    (lambda x: x * torch.nan, "it has NaN or inf: rpn.head.cls_logits.weight"),
    (lambda x: x.double() * 1e300, "it has NaN or inf: rpn.head.cls_logits.weight"),
]


@pytest.mark.parametrize(("change", "message"), ODD_WEIGHTS)
def test_weights_that_are_no_finite_numbers_are_refused(change, message):
    theirs = weights_of(saved("original_fcos_imprv"))
    name = "rpn.head.cls_logits.weight"
    with pytest.raises(InputError, match=message):
        convert_content({"model": {**theirs, name: change(theirs[name])}})


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("mmdet_fcos_tricks", {"bbox_head.scales.0.scale": torch.ones(3)}, r"another shape.*\(3,"),
        (
            "mmdet_fcos_tricks",
            {f"backbone.layer{'9' * 5000}.0.conv1.weight": torch.ones(1)},
            "left over: backbone.layer999",
        ),
        (
            "adelaidet_gn_ctrness",
            {"backbone.fpn_lateral60000.weight": torch.ones(32, 4, 1, 1)},
            "left over: backbone.fpn_lateral60000.weight",
        ),
    ],
)
def test_odd_names_and_shapes_are_listed(name, changed, message):
    with pytest.raises(InputError) as caught:
        convert_content({"model": {**weights_of(saved(name)), **changed}})
    assert re.search(message, str(caught.value)), caught.value


@pytest.mark.parametrize(
    "meta",
    [
        {"dataset_meta": ["a"]},
        {"CLASSES": 3},
        {"cfg": "-" * 200_000 + "1"},
        {"cfg": "a\0b"},
        {"cfg": 'm=dict(stacked_convs=4, norm_on_bbox=True, score_thr="x", style=["a"], mean=3)'},
        {"cfg": 'm=dict(stacked_convs=4, center_sampling=True, center_sample_radius="x")'},
        {"cfg": "m=dict(stacked_convs=4, norm_on_bbox=-'x', std=[1, 2])"},
    ],
)
def test_what_mmdets_meta_should_not_hold_is_as_if_it_were_not_there(meta):
    converted = convert_content({**saved("mmdet_fcos_tricks"), "meta": meta})
    assert converted.cfg.FCOS_TRAIN.CLASS_NAMES == []
    assert {"MODEL.PIXEL_MEAN", "MODEL.FCOS.SCORE_THRESH_TEST"} <= converted.assumed.keys()


def test_whole_numbers_in_mmdets_config_are_numbers_too():
    meta = {"cfg": "m=dict(stacked_convs=4, iou_threshold=1, mean=[1, 2, 3], style='pytorch')"}
    cfg = convert_content({**saved("mmdet_fcos_tricks"), "meta": meta}).cfg
    assert cfg.MODEL.FCOS.NMS_THRESH_TEST == 1.0
    assert cfg.MODEL.PIXEL_MEAN == [1.0, 2.0, 3.0]
    assert cfg.INPUT.FORMAT == "RGB"


# Which weights


def shifted(weights):
    return {k: x + 1 if x.is_floating_point() else x for k, x in weights.items()}


@pytest.mark.parametrize("key", ["model_ema", "ema_state"])
def test_averaged_weights_are_preferred_and_said(key):
    theirs = weights_of(saved("original_fcos_imprv"))
    averaged = {
        "n_averaged": torch.tensor(5),
        **{f"module.{k}": x for k, x in shifted(theirs).items()},
    }
    if key == "ema_state":
        averaged = {"state": averaged}
    converted = convert_content({"model": theirs, key: averaged, "epoch": 3})
    assert converted.notes[1:3] == [
        f"averaged weights (EMA) were taken: {len(theirs)} of {key!r}",
        "dropped: epoch",
    ]
    assert torch.equal(
        converted.weights["head.bbox_pred.bias"], theirs["rpn.head.bbox_pred.bias"] + 1
    )


def test_openmmlab_saves_averaged_weights_in_the_place_of_the_others():
    content = saved("mmdet_fcos_tricks")
    theirs = content["state_dict"]
    others = {f"module.{k}": x for k, x in shifted(theirs).items()}
    converted = convert_content({**content, "ema_state_dict": others})
    assert "'ema_state_dict' has the others in mmengine" in converted.notes[1]
    bias = theirs["bbox_head.conv_reg.bias"]
    assert torch.equal(converted.weights["head.bbox_pred.bias"], bias)
    # mmcv keeps them among the weights.
    buffers = {f"ema_{k.replace('.', '_')}": x + 1 for k, x in theirs.items()}
    converted = convert_content({**content, "state_dict": {**theirs, **buffers}})
    assert torch.equal(converted.weights["head.bbox_pred.bias"], bias)
    assert any("mmcv's EMAHook" in note for note in converted.notes)


def test_half_precision_and_wrappers():
    theirs = weights_of(saved("adelaidet_gn_ctrness"))
    half = {f"module.{k}": x.half() for k, x in theirs.items()}
    converted = convert_content(half)  # bare
    assert {x.dtype for x in converted.weights.values()} == {torch.float32}
    bias = theirs["proposal_generator.fcos_head.bbox_pred.bias"].half().float()
    assert torch.equal(converted.weights["head.bbox_pred.bias"], bias)


@pytest.mark.parametrize("wrapper", ["module.module.", "model.module.", "module._orig_mod."])
def test_wrappers_in_wrappers(wrapper):
    theirs = weights_of(saved("adelaidet_gn_ctrness"))
    converted = convert_content({"state_dict": {f"{wrapper}{k}": x for k, x in theirs.items()}})
    expected = load_peer("adelaidet_gn_ctrness").converted.weights
    assert all(torch.equal(converted.weights[k], x) for k, x in expected.items())


def test_what_is_no_weight_is_said_and_under_the_name_of_one_an_error():
    theirs = weights_of(saved("adelaidet_gn_ctrness"))
    notes = convert_content({"model": {**theirs, 7: torch.ones(3), "epoch": 3}}).notes
    assert "dropped: model.7, model.epoch" in notes
    message = r"no tensors under the names of weights: backbone\.extra\.weight"
    for container in (
        {"model": {**theirs, "backbone.extra.weight": [1, 2]}},
        {**theirs, "backbone.extra.weight": [1, 2]},
    ):
        with pytest.raises(InputError, match=message):
            convert_content(container)


def test_not_everything_is_an_average_of_mmcvs():
    theirs = {**weights_of(saved("mmdet_fcos_tricks")), "ema_anything": torch.ones(3)}
    with pytest.raises(InputError, match="left over: ema_anything"):
        convert_content({"state_dict": theirs})


def test_the_format_before_pytorch_1_6(tmp_path):
    """In which mmdet publishes its files still."""
    content = saved("mmdet_fcos_tricks")
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    ours = load_any(tmp_path / "x.pth").weights
    expected = load_peer("mmdet_fcos_tricks").converted.weights
    assert all(torch.equal(ours[name], x) for name, x in expected.items())


# Config


@pytest.mark.parametrize("name", PEERS)
def test_the_config_is_what_the_owner_ran_with(name):
    peer = load_peer(name)
    cfg, theirs = peer.converted.cfg, peer.meta["config"]
    expected = {
        "MODEL.FCOS.NUM_CLASSES": peer.meta["num_classes"],
        "MODEL.FCOS.SCORE_THRESH_TEST": peer.meta["thresholds"]["score"],
        "MODEL.FCOS.NMS_THRESH_TEST": peer.meta["thresholds"]["nms_iou"],
        "MODEL.FCOS.TOPK_CANDIDATES_TEST": peer.meta["thresholds"]["pre_nms_topk_per_level"],
        "TEST.DETECTIONS_PER_IMAGE": peer.meta["thresholds"]["post_nms_topk"],
        "MODEL.FCOS.IN_FEATURES": peer.meta["levels"],
        "INPUT.FORMAT": "BGR",
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
        "MODEL.FPN.OUT_CHANNELS": 32,
        "MODEL.FCOS.LOCATION_OFFSET": 0.5,
    }
    if peer.project == "mmdet":
        model = theirs["model"]
        head = model["bbox_head"]
        expected |= {
            "MODEL.PIXEL_MEAN": model["data_preprocessor"]["mean"],
            "MODEL.FCOS.BOX_ACTIVATION": "relu" if head.get("norm_on_bbox") else "exp",
            "MODEL.FCOS.CENTERNESS_ON": "box" if head.get("centerness_on_reg") else "cls",
            "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 1.5 if head.get("center_sampling") else 0.0,
            "FCOS_TRAIN.CLASS_NAMES": [f"class{i}" for i in range(peer.meta["num_classes"])],
        }
    elif peer.project == "original":
        fcos = theirs["MODEL.FCOS"]
        expected |= {
            "MODEL.PIXEL_MEAN": theirs["INPUT.PIXEL_MEAN"],
            "MODEL.FCOS.BOX_ACTIVATION": "relu" if fcos["NORM_REG_TARGETS"] else "exp",
            "MODEL.FCOS.CENTERNESS_ON": "box" if fcos["CENTERNESS_ON_REG"] else "cls",
            "MODEL.FCOS.CENTER_SAMPLING_RADIUS": fcos["CENTER_SAMPLING_RADIUS"],
            "MODEL.FCOS.LOC_LOSS_TYPE": fcos["IOU_LOSS_TYPE"],
            "MODEL.FCOS.USE_DEFORMABLE": fcos["USE_DCN_IN_TOWER"],
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE": theirs["MODEL.RESNETS"]["STAGE_WITH_DCN"],
        }
    else:
        expected |= {
            "MODEL.PIXEL_MEAN": theirs["MODEL.PIXEL_MEAN"],
            "MODEL.FCOS.THRESH_WITH_CTR": theirs["MODEL.FCOS"]["THRESH_WITH_CTR"],
        }
    assert values(cfg, expected) == expected


def test_what_is_assumed_is_what_the_file_does_not_say():
    assumed = load_peer("adelaidet_gn_ctrness").converted.assumed
    assert "MODEL.PIXEL_MEAN" not in assumed  # it is among the weights
    assert assumed["MODEL.FCOS.BOX_QUALITY"] == "centerness"
    theirs = weights_of(saved("adelaidet_gn_ctrness"))
    theirs = {k: x for k, x in theirs.items() if not k.startswith("pixel_")}
    assert "MODEL.PIXEL_MEAN" in convert_content({"model": theirs}).assumed
    assumed = load_peer("original_fcos_v1").converted.assumed
    assert "MODEL.FCOS.BOX_ACTIVATION" not in assumed  # the flag says it
    theirs = saved("original_fcos_v1")
    assert convert_content(theirs).assumed["MODEL.FCOS.BOX_ACTIVATION"] == "relu"
    opts = ["MODEL.FCOS.BOX_ACTIVATION", "exp"]
    converted = convert_content(theirs, opts=opts)
    assert "MODEL.FCOS.BOX_ACTIVATION" not in converted.assumed
    assert converted.cfg.MODEL.FCOS.BOX_ACTIVATION == "exp"


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("adelaidet_gn_ctrness", {"recipe": "iccv"}, "--recipe is no question with AdelaiDet"),
        ("original_fcos_v1", {"backbone_style": "caffe"}, "--backbone-style is no question"),
        ("original_fcos_v1", {"recipe": "x"}, "--recipe 'x' must be one of improved, iccv"),
        ("original_fcos_v1", {"source": "x"}, "there is no source 'x'; there are: original,"),
        ("original_fcos_v1", {"opts": ["MODEL.FCOS.NOR", "GN"]}, "no config key MODEL.FCOS.NOR"),
        ("original_fcos_v1", {"coco80": True, "without_background": True}, "drop no other"),
        ("original_fcos_v1", {"coco80": True}, "--coco80 takes 80 rows of the 91 .* has 8"),
    ],
)
def test_flags_that_cannot_be_meant_are_errors(name, flags, message):
    with pytest.raises(InputError, match=message):
        load_any(FOLDER / name / "checkpoint.pth", **flags)


def config_text(config):
    """A config as mmdet writes it into its checkpoints."""

    def text(value):
        if isinstance(value, dict):
            return f"dict({', '.join(f'{k}={text(x)}' for k, x in value.items())})"
        return f"[{', '.join(map(text, value))}]" if isinstance(value, list) else repr(value)

    return "\n".join(f"{k} = {text(x)}" for k, x in config.items())


@pytest.mark.parametrize("key", ["cfg", "config"])
@pytest.mark.parametrize("name", [x for x in PEERS if x.startswith("mmdet")])
def test_the_config_in_a_file_of_mmdet_is_believed(name, key):
    peer, content = load_peer(name), saved(name)
    model = peer.meta["config"]["model"]
    content["meta"][key] = config_text({"model": model})
    converted = convert_content(content)
    keys = [
        "MODEL.FCOS.BOX_ACTIVATION",
        "MODEL.PIXEL_MEAN",
        "MODEL.FCOS.NMS_THRESH_TEST",
        "MODEL.RESNETS.STRIDE_IN_1X1",
        "INPUT.FORMAT",
        "MODEL.FCOS.CENTERNESS_ON",
    ]
    assert values(converted.cfg, keys) == values(peer.converted.cfg, keys)
    assert not set(keys) & set(converted.assumed)
    rgb = {
        **model,
        "data_preprocessor": {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "bgr_to_rgb": True},
    }
    rgb["backbone"] = {**model["backbone"], "style": "pytorch"}
    content["meta"][key] = config_text({"model": rgb})
    cfg = convert_content(content).cfg
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == [1.0, 2.0, 3.0]
    assert not cfg.MODEL.RESNETS.STRIDE_IN_1X1
    content["meta"][key] = "import os; os.system("  # no config; nothing runs it
    assert convert_content(content).assumed.keys() >= set(keys)


@pytest.mark.parametrize("names", [("a", "b"), "person"])
def test_names_of_other_classes_are_left_out_and_it_is_said(names):
    content = {**saved("mmdet_fcos_tricks"), "meta": {"CLASSES": names}}
    converted = convert_content(content)
    assert converted.cfg.FCOS_TRAIN.CLASS_NAMES == []
    count = 1 if names == "person" else 2
    said = f"names of the classes left out: the file has {count} ("
    assert any(note.startswith(said) for note in converted.notes)


def test_a_text_is_the_name_of_one_class():
    content = {**saved("mmdet_fcos_tricks"), "meta": {"CLASSES": "person"}}
    weights = dict(content["state_dict"])
    for parameter in ("weight", "bias"):
        weights[f"bbox_head.conv_cls.{parameter}"] = weights[f"bbox_head.conv_cls.{parameter}"][:1]
    converted = convert_content({**content, "state_dict": weights})
    assert converted.cfg.FCOS_TRAIN.CLASS_NAMES == ["person"]


def test_pixel_statistics_are_those_of_the_file_to_the_last_bit():
    theirs = weights_of(saved("adelaidet_gn_ctrness"))
    mean = torch.tensor([103.53, 116.28123456, 1 / 3])
    cfg = convert_content({"model": {**theirs, "pixel_mean": mean.view(3, 1, 1)}}).cfg
    assert torch.equal(torch.tensor(cfg.MODEL.PIXEL_MEAN), mean)
    assert cfg.MODEL.PIXEL_MEAN[0] == 103.53


def test_coco80_keeps_the_rows_of_the_categories():
    theirs = {f"{k}": x for k, x in weights_of(saved("adelaidet_gn_ctrness")).items()}
    prefix = "proposal_generator.fcos_head.cls_logits"
    theirs[f"{prefix}.weight"] = torch.zeros(91, 32, 3, 3)
    theirs[f"{prefix}.bias"] = torch.arange(91.0)
    converted = convert_content({"model": theirs}, coco80=True)
    names = {category["id"]: category["name"] for category in COCO_CATEGORIES}
    ids = converted.weights["head.cls_logits.bias"].tolist()
    assert [names[i] for i in ids] == converted.cfg.FCOS_TRAIN.CLASS_NAMES
    assert (ids[0], ids[11], ids[-1]) == (1, 13, 90)  # person, stop sign, toothbrush
    assert converted.cfg.MODEL.FCOS.NUM_CLASSES == 80
    assert converted.cfg.DATASETS.TEST == ("coco_2017_val",)


def test_the_row_of_the_background_may_be_left_out():
    theirs = weights_of(saved("mmdet_fcos_tricks"))
    expected = load_peer("mmdet_fcos_tricks").converted
    num_classes = expected.cfg.MODEL.FCOS.NUM_CLASSES
    converted = convert_content({"model": theirs}, without_background=True)
    assert num_classes - 1 == converted.cfg.MODEL.FCOS.NUM_CLASSES
    for name in ("head.cls_logits.weight", "head.cls_logits.bias"):
        assert torch.equal(converted.weights[name], expected.weights[name][1:])
    for parameter in ("weight", "bias"):
        name = f"bbox_head.conv_cls.{parameter}"
        theirs[name] = theirs[name][:1]
    with pytest.raises(InputError, match="--drop-background-row leaves no class"):
        convert_content({"model": theirs}, without_background=True)


# Networks of timm


def test_the_originals_mobilenet_is_timms():
    """Its description is torchvision's, whose layers only have other numbers."""
    pytest.importorskip("timm")
    source = randomise_norms(torchvision.models.mobilenet_v2(weights=None))
    numbers = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
    first_block = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}
    ours = {}
    for name, value in source.state_dict().items():
        match = re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", name)
        if match:
            number = (first_block if match[1] == "1" else numbers)[match[2]]
            name = f"features.{match[1]}.conv.{number}.{match[3]}"
        if not name.startswith(("features.18.", "classifier.")):
            ours[SOURCES["original"].keys.to_ours(f"backbone.body.{name}")] = value
    bottom_up = TimmBackbone(name="mobilenetv2_100").eval()
    bottom_up.load_state_dict({k.removeprefix("backbone.bottom_up."): x for k, x in ours.items()})
    x = torch.rand(1, 3, 64, 96)
    maps = bottom_up(x)
    for index, layer in enumerate(source.features[:18]):
        x = layer(x)
        feature = {6: "res3", 13: "res4", 17: "res5"}.get(index)
        if feature:
            scale = x.abs().max()
            assert scale > 0
            torch.testing.assert_close(maps[feature] / scale, x / scale)


# The way back


@pytest.mark.parametrize("name", [x for x in PEERS if not x.startswith("original")])
def test_the_way_back_gives_identical_tensors(name):
    content = saved(name)
    theirs = weights_of(content)
    converted = convert_content(content)
    source = SOURCES[converted.source]
    back = {source.keys.to_theirs(k): x for k, x in source.to_theirs(converted.weights).items()}
    dead = {x for x in theirs if any(re.fullmatch(pattern, x) for pattern in source.dead)}
    assert back.keys() == theirs.keys() - dead
    assert all(torch.equal(x, theirs[k]) for k, x in back.items())


def test_mmdets_deformable_convolutions_there_and_back():
    """Their names as mmcv makes them: the offsets beside the weights."""
    ours = load_peer("original_fcos_dcn").converted.weights
    source = SOURCES["mmdet"]
    theirs = {source.keys.to_theirs(k): x for k, x in source.to_theirs(ours).items()}
    assert theirs["backbone.layer2.0.conv2.conv_offset.weight"].shape == (27, 8, 3, 3)
    assert theirs["bbox_head.cls_convs.3.conv.conv_offset.weight"].shape == (27, 32, 3, 3)
    assert theirs["bbox_head.cls_convs.3.conv.weight"].shape == (32, 32, 3, 3)
    converted = convert_content({"state_dict": theirs})
    assert converted.source == "mmdet"
    assert converted.weights.keys() == ours.keys()
    assert all(torch.equal(converted.weights[k], x) for k, x in ours.items())
