"""Converting only some rows of a class layer: COCO's 80 classes, or all but the background."""

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from input_errors import input_error
from peer_fixtures import load_peer
from weights_files import load_peer_weights

from fcos_d2.checkpoint.conversion import convert_content


def test_coco80_keeps_the_rows_of_the_80_categories():
    weights = load_peer_weights("adelaidet_gn_ctrness")
    prefix = "proposal_generator.fcos_head.cls_logits"
    weights[f"{prefix}.weight"] = torch.zeros(91, 32, 3, 3)
    weights[f"{prefix}.bias"] = torch.arange(91.0)
    converted = convert_content({"model": weights}, coco80=True)
    names = {category["id"]: category["name"] for category in COCO_CATEGORIES}
    ids = converted.weights["head.cls_logits.bias"].tolist()
    assert [names[i] for i in ids] == converted.cfg.FCOS_TRAIN.CLASS_NAMES
    assert (ids[0], ids[11], ids[-1]) == (1, 13, 90)  # person, stop sign, toothbrush
    assert converted.cfg.MODEL.FCOS.NUM_CLASSES == 80
    assert converted.cfg.DATASETS.TEST == ("coco_2017_val",)


def test_the_row_of_the_background_may_be_left_out():
    weights = load_peer_weights("mmdet_fcos_tricks")
    expected = load_peer("mmdet_fcos_tricks").converted
    num_classes = expected.cfg.MODEL.FCOS.NUM_CLASSES
    converted = convert_content({"model": weights}, without_background=True)
    assert num_classes - 1 == converted.cfg.MODEL.FCOS.NUM_CLASSES
    for name in ("head.cls_logits.weight", "head.cls_logits.bias"):
        assert torch.equal(converted.weights[name], expected.weights[name][1:])
    for parameter in ("weight", "bias"):
        name = f"bbox_head.conv_cls.{parameter}"
        weights[name] = weights[name][:1]
    with input_error("--drop-background-row", "no class"):
        convert_content({"model": weights}, without_background=True)
