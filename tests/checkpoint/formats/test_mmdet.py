"""mmdetection: old names of weights, and the entry "meta" of its files."""

import pytest
from peer_fixtures import PEERS, load_peer
from weights_files import assert_same_weights, load_peer_file, load_peer_weights

from fcos_d2.arguments import get
from fcos_d2.checkpoint.conversion import convert_content


def test_names_of_mmdet_1_are_known_too():
    weights = load_peer_weights("mmdet_fcos_r50_gn")
    for new, old in (
        ("conv_cls", "fcos_cls"),
        ("conv_reg", "fcos_reg"),
        ("conv_centerness", "fcos_centerness"),
    ):
        for kind in ("weight", "bias"):
            weights[f"bbox_head.{old}.{kind}"] = weights.pop(f"bbox_head.{new}.{kind}")
    converted = convert_content({"state_dict": weights})
    assert_same_weights(converted.weights, load_peer("mmdet_fcos_r50_gn").converted.weights)


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
def test_wrong_entries_of_meta_are_ignored(meta):
    converted = convert_content({**load_peer_file("mmdet_fcos_tricks"), "meta": meta})
    assert converted.cfg.FCOS_TRAIN.CLASS_NAMES == []
    assert {"MODEL.PIXEL_MEAN", "MODEL.FCOS.SCORE_THRESH_TEST"} <= converted.assumed.keys()


def test_integers_in_the_config_are_numbers_too():
    meta = {"cfg": "m=dict(stacked_convs=4, iou_threshold=1, mean=[1, 2, 3], style='pytorch')"}
    cfg = convert_content({**load_peer_file("mmdet_fcos_tricks"), "meta": meta}).cfg
    assert cfg.MODEL.FCOS.NMS_THRESH_TEST == 1.0
    assert cfg.MODEL.PIXEL_MEAN == [1.0, 2.0, 3.0]
    assert cfg.INPUT.FORMAT == "RGB"


def config_text(config):
    """Return a config as mmdet writes it into its checkpoints."""

    def text(value):
        if isinstance(value, dict):
            return f"dict({', '.join(f'{k}={text(x)}' for k, x in value.items())})"
        return f"[{', '.join(map(text, value))}]" if isinstance(value, list) else repr(value)

    return "\n".join(f"{k} = {text(x)}" for k, x in config.items())


KEYS = [
    "MODEL.FCOS.BOX_ACTIVATION",
    "MODEL.PIXEL_MEAN",
    "MODEL.FCOS.NMS_THRESH_TEST",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "INPUT.FORMAT",
    "MODEL.FCOS.CENTERNESS_ON",
]


@pytest.mark.parametrize("key", ["cfg", "config"])
@pytest.mark.parametrize("name", [x for x in PEERS if x.startswith("mmdet")])
def test_the_config_in_a_file_is_used(name, key):
    peer, content = load_peer(name), load_peer_file(name)
    model = peer.meta["config"]["model"]
    content["meta"][key] = config_text({"model": model})
    converted = convert_content(content)
    assert [get(converted.cfg, key) for key in KEYS] == [
        get(peer.converted.cfg, key) for key in KEYS
    ]
    assert not set(KEYS) & set(converted.assumed)
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
    content["meta"][key] = "import os; os.system("  # is not a config, and is not run
    assert convert_content(content).assumed.keys() >= set(KEYS)


@pytest.mark.parametrize("names", [("a", "b"), "person"])
def test_a_wrong_number_of_class_names_is_ignored_with_a_note(names):
    content = {**load_peer_file("mmdet_fcos_tricks"), "meta": {"CLASSES": names}}
    converted = convert_content(content)
    assert converted.cfg.FCOS_TRAIN.CLASS_NAMES == []
    count = 1 if names == "person" else 2
    assert [x for x in converted.notes if "names" in x and f"has {count} " in x]


def test_a_text_is_the_name_of_one_class():
    content = {**load_peer_file("mmdet_fcos_tricks"), "meta": {"CLASSES": "person"}}
    weights = dict(content["state_dict"])
    for parameter in ("weight", "bias"):
        weights[f"bbox_head.conv_cls.{parameter}"] = weights[f"bbox_head.conv_cls.{parameter}"][:1]
    converted = convert_content({**content, "state_dict": weights})
    assert converted.cfg.FCOS_TRAIN.CLASS_NAMES == ["person"]
