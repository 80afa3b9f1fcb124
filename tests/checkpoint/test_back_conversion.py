"""Our weights under the names of other projects."""

import re

import pytest
from peer_fixtures import PEERS, load_peer
from weights_files import assert_same_weights, load_peer_file, weights_of

from fcos_d2.checkpoint import SOURCES
from fcos_d2.checkpoint.conversion import convert_content


@pytest.mark.parametrize("name", [x for x in PEERS if not x.startswith("original")])
def test_converting_there_and_back_gives_identical_tensors(name):
    content = load_peer_file(name)
    theirs = weights_of(content)
    converted = convert_content(content)
    source = SOURCES[converted.source]
    back = {source.keys.to_theirs(k): x for k, x in source.to_theirs(converted.weights).items()}
    dead = {x for x in theirs if any(re.fullmatch(pattern, x) for pattern in source.dead)}
    assert_same_weights(back, {k: x for k, x in theirs.items() if k not in dead})


def test_deformable_convolutions_of_mmdet_there_and_back():
    """In mmcv, the weights of the offsets are next to those of the convolution."""
    ours = load_peer("original_fcos_dcn").converted.weights
    source = SOURCES["mmdet"]
    theirs = {source.keys.to_theirs(k): x for k, x in source.to_theirs(ours).items()}
    assert theirs["backbone.layer2.0.conv2.conv_offset.weight"].shape == (27, 8, 3, 3)
    assert theirs["bbox_head.cls_convs.3.conv.conv_offset.weight"].shape == (27, 32, 3, 3)
    assert theirs["bbox_head.cls_convs.3.conv.weight"].shape == (32, 32, 3, 3)
    converted = convert_content({"state_dict": theirs})
    assert converted.source == "mmdet"
    assert_same_weights(converted.weights, ours)
