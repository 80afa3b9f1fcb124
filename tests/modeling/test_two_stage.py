"""detectron2's two-stage detectors with FCOS as their proposal generator."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from input_errors import input_error
from tiny import two_stage_cfg
from two_stage_models import (
    FCOS_LOSSES,
    INPUTS,
    MODELS,
    PROPOSALS,
    annotated_input,
    build,
    train_step,
)

from fcos_d2.modeling import build_model, num_classes_key, resolve_num_classes
from fcos_d2.modeling.config_checks import find_config_faults
from fcos_d2.modeling.two_stage_losses import compute_two_stage_loss_terms


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_two_stage_detectors_train_and_detect(name, dtype):
    opts, of_roi_heads, fields = MODELS[name]
    model = build(opts)
    losses = train_step(model, INPUTS, dtype)
    assert losses.keys() == {*FCOS_LOSSES, *of_roi_heads}
    assert all(x.isfinite() for x in losses.values())
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), parameter_name
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        (found, _) = model.eval()(INPUTS)
    known = {"pred_boxes", "scores", "pred_classes", *fields}
    assert found["instances"].get_fields().keys() == known


@pytest.mark.parametrize("name", ["keypoint", "mask"])
def test_batches_without_any_object_train(name):
    model = build(MODELS[name][0])
    losses = train_step(model, [annotated_input(0), annotated_input(0, seed=1)])
    assert all(x.isfinite() for x in losses.values())
    assert all(x.grad is not None and x.grad.isfinite().all() for x in model.parameters())


def test_a_proposal_network_trains_and_proposes():
    model = build(PROPOSALS)
    assert train_step(model, INPUTS).keys() == FCOS_LOSSES
    with torch.no_grad():
        (found, _) = model.eval()(INPUTS)
    assert found["proposals"].get_fields().keys() == {"proposal_boxes", "objectness_logits"}


@pytest.mark.parametrize("name", MODELS)
def test_loss_terms_in_eval_mode_leave_the_model_as_it_is(name):
    opts, of_roi_heads, _ = MODELS[name]
    model = build(opts, {"MODEL.FCOS.LOSS_NORMALIZER": "moving_fg"}).eval()
    model.roi_heads.box_head.train()  # a mode that must be restored
    modes = [x.training for x in model.modules()]
    state = {k: x.clone() for k, x in model.state_dict().items()}
    with torch.no_grad():
        terms = compute_two_stage_loss_terms(model, INPUTS)
    assert terms.losses.keys() == {*FCOS_LOSSES, *of_roi_heads}
    assert {terms.losses[x].normalizer for x in of_roi_heads} == {"images"}
    assert terms.totals["images"] == 2
    assert [x.training for x in model.modules()] == modes
    assert all(torch.equal(x, state[k]) for k, x in model.state_dict().items())


def test_normalized_loss_terms_are_the_losses_of_a_step():
    model = build()
    for module in model.modules():  # a step would change the batch norms
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    torch.manual_seed(1)  # ROI heads sample proposals
    with torch.no_grad(), EventStorage():
        expected = model(INPUTS)
        torch.manual_seed(1)
        terms = compute_two_stage_loss_terms(model, INPUTS)
    losses = model.proposal_generator.losses.normalize(terms)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])


def test_the_terms_of_a_proposal_network_are_those_of_its_generator():
    with torch.no_grad():
        terms = compute_two_stage_loss_terms(build(PROPOSALS), INPUTS)
    assert terms.losses.keys() == FCOS_LOSSES
    assert "images" not in terms.totals


@pytest.mark.parametrize(
    ("opts", "key"),
    [
        ({"MODEL.PROPOSAL_GENERATOR.NAME": "FOCS"}, "MODEL.PROPOSAL_GENERATOR.NAME"),
        ({"MODEL.ROI_HEADS.NAME": "Heads"}, "MODEL.ROI_HEADS.NAME"),
        ({"MODEL.ROI_BOX_HEAD.NAME": "Head"}, "MODEL.ROI_BOX_HEAD.NAME"),
        (
            {"MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.NAME": "Head"},
            "MODEL.ROI_MASK_HEAD.NAME",
        ),
        (
            {"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.NAME": "Head"},
            "MODEL.ROI_KEYPOINT_HEAD.NAME",
        ),
        ({"MODEL.FCOS.INFERENCE_DTYPE": "bfloat16"}, "MODEL.FCOS.INFERENCE_DTYPE"),
        ({"MODEL.RPN.NMS_THRESH": 2.0}, "MODEL.RPN.NMS_THRESH"),
        ({"MODEL.ROI_HEADS.NUM_CLASSES": 0}, "MODEL.ROI_HEADS.NUM_CLASSES"),
    ],
)
def test_wrong_values_of_two_stage_detectors_are_found(opts, key):
    assert [fault.key for fault in find_config_faults(two_stage_cfg(opts))] == [key]


def test_names_of_heads_that_are_not_used_may_be_anything():
    unused = {"MODEL.ROI_MASK_HEAD.NAME": "Head", "MODEL.ROI_KEYPOINT_HEAD.NAME": "Head"}
    assert find_config_faults(two_stage_cfg(unused)) == []
    one_stage = {"MODEL.META_ARCHITECTURE": "FCOS", "MODEL.ROI_HEADS.NAME": "Heads"}
    assert find_config_faults(two_stage_cfg(one_stage)) == []


@pytest.mark.parametrize(
    ("opts", "key", "value"),
    [
        ({"MODEL.ROI_HEADS.IN_FEATURES": ["p2"]}, "MODEL.ROI_HEADS.IN_FEATURES", ["p2"]),
        ({"MODEL.ROI_HEADS.NUM_CLASSES": -1}, "MODEL.ROI_HEADS.NUM_CLASSES", -1),
        (
            {"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": -1},
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
            -1,
        ),
    ],
)
def test_what_roi_heads_do_not_check_is_checked(opts, key, value):
    with input_error(key=key, value=value):
        build(opts)


def test_the_number_of_classes_is_that_of_the_roi_heads():
    cfg = two_stage_cfg({"MODEL.ROI_HEADS.NUM_CLASSES": 3, "MODEL.FCOS.NUM_CLASSES": -1})
    assert num_classes_key(cfg) == "MODEL.ROI_HEADS.NUM_CLASSES"
    assert resolve_num_classes(cfg) == 3
    model = build_model(two_stage_cfg({"MODEL.FCOS.CLASS_AGNOSTIC": False}))
    assert model.proposal_generator.head.num_classes == 5
    assert num_classes_key(two_stage_cfg(PROPOSALS)) == "MODEL.FCOS.NUM_CLASSES"


def test_speed_options_apply_to_backbone_and_proposals():
    opts = {"MODEL.RESNETS.NORM": "FrozenBN"}
    model = build(opts).eval()
    plain = build(opts, {"MODEL.FCOS.FOLD_FROZEN_BN": False, "MODEL.FCOS.CHANNELS_LAST": False})
    assert list(plain.state_dict()) == list(model.state_dict())
    images = model.preprocess_image(INPUTS)
    with torch.no_grad():
        p3, expected = (x.eval().backbone(images.tensor)["p3"] for x in (model, plain))
    assert p3.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(p3, expected)  # folding changes the rounding
    assert (p3 - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_proposal_generator_is_compiled_too(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: compiled.append(self))
    model = build({"MODEL.FCOS.COMPILE": True})
    assert compiled == [model.backbone, model.proposal_generator.head]


def test_synchronized_norms_work_on_a_cpu():
    model = build({"MODEL.FPN.NORM": "SyncBN"})
    assert not any(isinstance(x, torch.nn.SyncBatchNorm) for x in model.modules())
