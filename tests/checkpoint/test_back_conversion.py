"""Our weights converted to the names of other projects."""

import re

import pytest
from peer_fixtures import PEERS, load_peer
from weights_files import assert_same_weights, load_peer_file, weights_of

from fcos_d2.checkpoint import SOURCES
from fcos_d2.checkpoint.conversion import convert_content


@pytest.mark.parametrize("name", [x for x in PEERS if not x.startswith("original")])
def test_tensors_are_identical_after_converting_there_and_back(name):
    content = load_peer_file(name)
    weights = weights_of(content)
    converted = convert_content(content)
    source = SOURCES[converted.source]
    back = {source.keys.to_theirs(k): x for k, x in source.to_theirs(converted.weights).items()}
    unused = {x for x in weights if any(re.fullmatch(pattern, x) for pattern in source.dead)}
    assert_same_weights(back, {k: x for k, x in weights.items() if k not in unused})


def test_deformable_convolutions_are_converted_to_mmdet_and_back():
    # In mmcv, the weights of the offsets belong to the convolution itself.
    weights = load_peer("original_fcos_dcn").converted.weights
    source = SOURCES["mmdet"]
    as_mmdet = {source.keys.to_theirs(k): x for k, x in source.to_theirs(weights).items()}
    assert as_mmdet["backbone.layer2.0.conv2.conv_offset.weight"].shape == (27, 8, 3, 3)
    assert as_mmdet["bbox_head.cls_convs.3.conv.conv_offset.weight"].shape == (27, 32, 3, 3)
    assert as_mmdet["bbox_head.cls_convs.3.conv.weight"].shape == (32, 32, 3, 3)
    converted = convert_content({"state_dict": as_mmdet})
    assert converted.source == "mmdet"
    assert_same_weights(converted.weights, weights)
