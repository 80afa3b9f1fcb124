"""The weights of a checkpoint: which weights are converted, and which are refused."""

import numpy as np
import pytest
import torch
from input_errors import input_error
from peer_fixtures import load_peer
from weights_files import assert_same_weights, load_peer_file, load_peer_weights

from fcos_d2.checkpoint import load_any
from fcos_d2.checkpoint.conversion import convert_content

NAME = "rpn.head.cls_logits.weight"
ODD_WEIGHTS = {
    "complex": (lambda x: x.to(torch.complex64), "complex64"),
    "sparse": (lambda x: x.to_sparse(), "sparse"),
    "meta": (lambda x: x.to("meta"), "(meta)"),
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "qint8"),
    "empty": (lambda x: x[:0], "(0, 32, 3, 3)"),
    "long double": (lambda x: x.numpy().astype(np.longdouble), str(np.dtype(np.longdouble))),
    "integers": (lambda x: x.to(torch.int8), "integers"),
    "bits": (lambda x: x > 0, "booleans"),
    "NaN": (lambda x: x * torch.nan, "NaN or inf"),
    "beyond float32": (lambda x: x.double() * 1e300, "NaN or inf"),
}


@pytest.mark.parametrize("case", ODD_WEIGHTS)
def test_weights_that_are_not_finite_numbers_are_refused(case):
    change, word = ODD_WEIGHTS[case]
    weights = load_peer_weights("original_fcos_imprv")
    with input_error(NAME, word):
        convert_content({"model": {**weights, NAME: change(weights[NAME])}})


def shifted(weights):
    """Return the weights plus 1."""
    return {k: x + 1 if x.is_floating_point() else x for k, x in weights.items()}


@pytest.mark.parametrize("key", ["model_ema", "ema_state"])
def test_averaged_weights_are_preferred_and_reported(key):
    weights = load_peer_weights("original_fcos_imprv")
    averaged = {
        "n_averaged": torch.tensor(5),
        **{f"module.{k}": x for k, x in shifted(weights).items()},
    }
    if key == "ema_state":
        averaged = {"state": averaged}
    converted = convert_content({"model": weights, key: averaged, "epoch": 3})
    averaged_note, dropped_note = converted.notes[1:3]
    assert "EMA" in averaged_note
    assert str(len(weights)) in averaged_note
    assert repr(key) in averaged_note
    assert "epoch" in dropped_note
    assert torch.equal(
        converted.weights["head.bbox_pred.bias"], weights["rpn.head.bbox_pred.bias"] + 1
    )


def test_the_state_dict_of_openmmlab_contains_the_averaged_weights():
    content = load_peer_file("mmdet_fcos_tricks")
    weights = content["state_dict"]
    raw = {f"module.{k}": x for k, x in shifted(weights).items()}
    converted = convert_content({**content, "ema_state_dict": raw})
    assert "'ema_state_dict'" in converted.notes[1]
    assert "mmengine" in converted.notes[1]
    bias = weights["bbox_head.conv_reg.bias"]
    assert torch.equal(converted.weights["head.bbox_pred.bias"], bias)
    # mmcv saves the other weights as buffers of the model.
    buffers = {f"ema_{k.replace('.', '_')}": x + 1 for k, x in weights.items()}
    converted = convert_content({**content, "state_dict": {**weights, **buffers}})
    assert torch.equal(converted.weights["head.bbox_pred.bias"], bias)
    assert any("mmcv's EMAHook" in note for note in converted.notes)


def test_half_precision_becomes_float32_and_wrappers_are_removed():
    weights = load_peer_weights("adelaidet_gn_ctrness")
    half = {f"module.{k}": x.half() for k, x in weights.items()}
    converted = convert_content(half)  # The weights are not in an entry of the file.
    assert {x.dtype for x in converted.weights.values()} == {torch.float32}
    bias = weights["proposal_generator.fcos_head.bbox_pred.bias"].half().float()
    assert torch.equal(converted.weights["head.bbox_pred.bias"], bias)


@pytest.mark.parametrize("wrapper", ["module.module.", "model.module.", "module._orig_mod."])
def test_nested_wrappers_are_removed(wrapper):
    weights = load_peer_weights("adelaidet_gn_ctrness")
    converted = convert_content({"state_dict": {f"{wrapper}{k}": x for k, x in weights.items()}})
    assert_same_weights(converted.weights, load_peer("adelaidet_gn_ctrness").converted.weights)


def test_an_entry_that_is_not_a_tensor_is_dropped_unless_it_has_the_name_of_a_weight():
    weights = load_peer_weights("adelaidet_gn_ctrness")
    notes = convert_content({"model": {**weights, 7: torch.ones(3), "epoch": 3}}).notes
    assert len([note for note in notes if "model.7, model.epoch" in note]) == 1
    for container in (
        {"model": {**weights, "backbone.extra.weight": [1, 2]}},
        {**weights, "backbone.extra.weight": [1, 2]},
    ):
        with input_error("tensor", "backbone.extra.weight"):
            convert_content(container)


def test_a_single_name_with_ema_is_not_taken_for_an_average_of_mmcv():
    weights = {**load_peer_weights("mmdet_fcos_tricks"), "ema_anything": torch.ones(3)}
    with input_error("\n  left over: ema_anything"):
        convert_content({"state_dict": weights})


def test_the_format_of_pytorch_before_1_6_is_read(tmp_path):
    # mmdet still publishes its files in this format.
    content = load_peer_file("mmdet_fcos_tricks")
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    weights = load_any(tmp_path / "x.pth").weights
    assert_same_weights(weights, load_peer("mmdet_fcos_tricks").converted.weights)
