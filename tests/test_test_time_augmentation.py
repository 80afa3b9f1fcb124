"""Test-time augmentation: the views, their joined detections, and the models that can have it."""

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    DatasetMapperTTA,
    GeneralizedRCNNWithTTA,
    build_model,
)
from input_errors import input_error
from tiny import MASK_RCNN, TWO_STAGES, detector, random_input, tiny_cfg
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import box_iou

from fcos_d2 import FCOS
from fcos_d2.data.dataset_mapper_tta import FCOSDatasetMapperTTA
from fcos_d2.modeling.config_checks import TTA_ARGUMENTS
from fcos_d2.test_time_augmentation import FCOSWithTTA, build_tta_model, find_tta_faults

KEEP_ALL = {"MODEL.FCOS.NMS_THRESH_TEST": 1.0, "TEST.DETECTIONS_PER_IMAGE": 10**6}


def tta_opts(min_sizes, flip=True, **opts):
    """Return the overrides for test-time augmentation at some scales."""
    ranges = {"MODEL.FCOS.TTA_SIZE_RANGES": opts["ranges"]} if "ranges" in opts else {}
    return {
        "TEST.AUG.ENABLED": True,
        "TEST.AUG.MIN_SIZES": min_sizes,
        "TEST.AUG.MAX_SIZE": opts.get("max_size", 200),
        "TEST.AUG.FLIP": flip,
        **ranges,
    }


def tta_model(min_sizes, flip=True, model=None, batch_size=3, **opts):
    """Wrap the model of ``tiny.detector``."""
    cfg = tiny_cfg(tta_opts(min_sizes, flip, **opts))
    return FCOSWithTTA(cfg, model or detector(), batch_size=batch_size)


def draw_image(height=96, width=128, seed=0):
    """Draw the input dict of an image of 8 bits, as a dataset mapper makes it."""
    pixels = random_input(0, height, width, seed)["image"].to(torch.uint8)
    return {"image": pixels, "height": height, "width": width}


def detections_of(model, *inputs):
    with torch.no_grad():
        return [x["instances"] for x in model(list(inputs))]


def assert_equal(found, expected):
    assert found.image_size == expected.image_size
    assert len(found) == len(expected) > 10
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)


def assert_close(found, expected):
    assert len(found) == len(expected) > 10
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    boxes = found.pred_boxes.tensor, expected.pred_boxes.tensor
    torch.testing.assert_close(*boxes, rtol=1e-4, atol=1e-2)
    assert torch.equal(found.pred_classes, expected.pred_classes)


@pytest.mark.parametrize("opts", [(), ("MODEL.FCOS.INFERENCE_DTYPE", "bfloat16")])
def test_one_view_at_the_test_size_equals_the_plain_model(opts):
    model, sample = detector(*opts), draw_image()
    resize = ResizeShortestEdge([64, 64], 200).get_transform(np.empty((96, 128, 3)))
    pixels = resize.apply_image(sample["image"].permute(1, 2, 0).numpy()).transpose(2, 0, 1)
    (expected,) = detections_of(model, {**sample, "image": torch.as_tensor(pixels.copy())})
    augmented = tta_model((64,), flip=False, model=model)
    (found,) = detections_of(augmented, sample)
    assert_equal(found, expected)
    # The image may also have been resized by a dataset mapper before.
    (found,) = detections_of(augmented, {**sample, "image": torch.as_tensor(pixels.copy())})
    assert_equal(found, expected)


def test_size_0_is_that_of_the_image():
    model, sample = detector(), draw_image(96, 64)
    (found,) = detections_of(tta_model((0,), flip=False, model=model), sample)
    assert_equal(found, *detections_of(model, sample))
    (found,) = detections_of(tta_model((0, 64), model=model), sample)
    assert_equal(found, *detections_of(tta_model((64, 64), model=model), sample))


def plain_tta(model, sample, min_sizes, max_size, ranges=None, nms_thresh=0.6, most=100):
    """Compute detections view by view, join them, and apply NMS in a loop."""
    height, width = sample["image"].shape[1:]
    pixels = sample["image"].permute(1, 2, 0).numpy()
    found = []
    for scale, size in enumerate(min_sizes):
        resize = ResizeShortestEdge([size, size], max_size).get_transform(pixels)
        resized = torch.as_tensor(resize.apply_image(pixels).copy()).permute(2, 0, 1)
        for is_flipped in (False, True):
            view = resized.flip(2) if is_flipped else resized
            (of_view,) = detections_of(model, {"image": view})  # in pixels of the view
            rows = zip(of_view.pred_boxes, of_view.scores, of_view.pred_classes, strict=True)
            for box, score, k in rows:
                x1, y1, x2, y2 = box.tolist()
                if is_flipped:
                    x1, x2 = view.shape[2] - x2, view.shape[2] - x1
                x_scale, y_scale = width / view.shape[2], height / view.shape[1]
                box = [x1 * x_scale, y1 * y_scale, x2 * x_scale, y2 * y_scale]
                low, high = ranges[scale] if ranges else (0, float("inf"))
                if low <= ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5 <= high:
                    found.append((score.item(), k.item(), box))
    kept = []
    for score, k, box in sorted(found, reverse=True):
        rivals = torch.tensor([other for _, of_class, other in kept if of_class == k])
        if not (box_iou(torch.tensor([box]), rivals.reshape(-1, 4)) > nms_thresh).any():
            kept.append((score, k, box))
    return kept[:most]


@pytest.mark.parametrize("ranges", [(), [[40, -1], [0, 60]]], ids=["all sizes", "size ranges"])
def test_the_result_is_that_of_a_loop_over_views_and_one_nms(ranges):
    sample, sizes = draw_image(90, 120), (64, 110)
    open_ranges = [(low, float("inf") if high == -1 else high) for low, high in ranges]
    expected = plain_tta(detector(KEEP_ALL), sample, sizes, 130, open_ranges)
    (found,) = detections_of(tta_model(sizes, ranges=ranges, max_size=130), sample)
    assert found.image_size == (90, 120)
    scores, classes, boxes = zip(*expected, strict=True)
    torch.testing.assert_close(found.scores, torch.tensor(scores), rtol=1e-4, atol=1e-5)
    assert found.pred_classes.tolist() == list(classes)
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor(boxes), rtol=1e-4, atol=1e-2)


def test_a_size_range_limits_the_boxes_of_its_scale_only():
    sample = draw_image()
    (found,) = detections_of(tta_model((64, 96), ranges=[[0, 30], [0, 30]]), sample)
    assert found.pred_boxes.area().sqrt().max() <= 30
    (none,) = detections_of(tta_model((64, 96), ranges=[[10**5, -1], [10**5, -1]]), sample)
    assert len(none) == 0
    (one,) = detections_of(tta_model((64, 96), ranges=[[10**5, -1], [0, -1]]), sample)
    assert_equal(one, *detections_of(tta_model((96,)), sample))


def test_the_detections_of_the_mirrored_image_are_mirrored():
    sample, model = draw_image(96, 120), tta_model((64, 96), model=detector(KEEP_ALL))
    mirrored = {**sample, "image": sample["image"].flip(2)}
    found, expected = detections_of(model, sample, mirrored)
    boxes = found.pred_boxes.tensor
    found.pred_boxes.tensor = torch.stack(
        [120 - boxes[:, 2], boxes[:, 1], 120 - boxes[:, 0], boxes[:, 3]], dim=1
    )
    assert len(found) == len(expected) > 100
    # Equal scores may be in another order, so each row is compared with the nearest one.
    rows = [
        torch.cat([x.pred_boxes.tensor, x.scores[:, None], x.pred_classes[:, None]], dim=1)
        for x in (found, expected)
    ]
    distances = torch.cdist(*rows, compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.amin(0).max() < 0.01
    assert distances.amin(1).max() < 0.01


def test_several_images_and_any_batch_size_give_the_same_as_single_images():
    model, samples = detector(), [draw_image(), draw_image(120, 64, seed=1)]
    expected = [detections_of(tta_model((64, 96), model=model), x)[0] for x in samples]
    for batch_size in (1, 2, 9):
        augmented = tta_model((64, 96), model=model, batch_size=batch_size)
        for found, one in zip(detections_of(augmented, *samples), expected, strict=True):
            assert_close(found, one)


def test_only_views_of_the_same_size_share_a_batch(monkeypatch):
    model, batches = detector(), []
    find = model.find_candidates
    monkeypatch.setattr(
        model,
        "find_candidates",
        lambda x: batches.append([y["image"].shape[1] for y in x]) or find(x),
    )
    detections_of(tta_model((64, 64, 96), model=model, batch_size=3), draw_image())
    assert batches == [[64, 64, 64], [64], [96, 96]]


def test_an_image_without_any_candidate_has_no_detections():
    model = detector("MODEL.FCOS.SCORE_THRESH_TEST", 0.999999)
    (found,) = detections_of(tta_model((64, 96), model=model), draw_image())
    assert len(found) == 0
    assert found.pred_boxes.tensor.shape == (0, 4)
    assert found.image_size == (96, 128)


class OwnHead(FCOS):
    """A subclass with one more output: three times the raw distances."""

    def _predict(self, images):
        features, predictions = super()._predict(images)
        own = [x.mul(3) for x in predictions.raw_ltrb]
        return features, predictions._replace(extra={"own": own})


def test_other_outputs_of_the_head_become_fields_of_the_detections():
    model = detector()
    model.__class__ = OwnHead
    model.forward_inference = lambda images, features, _: FCOS.forward_inference(
        model, images, features, model._predict(images)[1]
    )
    (expected,) = detections_of(model, draw_image())
    (found,) = detections_of(tta_model((96,), flip=False, model=model), draw_image())
    assert torch.equal(found.own, expected.own)
    (found,) = detections_of(tta_model((64, 96), model=model), draw_image())
    assert found.own.shape == (len(found), 4)
    assert not torch.equal(found.own, expected.own)


@pytest.fixture
def _process_group(tmp_path):
    """Join a process group of one process."""
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_process_group")
def test_the_wrapper_unwraps_ddp_and_keeps_the_mode_of_the_model():
    model = detector()
    wrapped = DistributedDataParallel(model)
    for training in (False, True):
        model.train(training)
        for augmented in (FCOSWithTTA(tiny_cfg(), wrapped), build_tta_model(tiny_cfg(), wrapped)):
            assert augmented.model is model
            assert augmented.training == model.training == training


def test_the_arguments_are_checked():
    with input_error(key="batch_size", value=0):
        tta_model((64,), batch_size=0)
    with input_error("2 ranges", "1 scales", key="tta_size_ranges"):
        tta_model((64,), ranges=[[0, 32], [32, -1]])
    model = FCOSWithTTA(  # a mapper that does not tell its scales
        model=detector(),
        tta_mapper=lambda x: DatasetMapperTTA([64, 80, 96], 200, False)(x),
        tta_size_ranges=[[0, 32], [32, -1]],
    )
    with input_error("2 ranges", "3 views", key="tta_size_ranges"):
        detections_of(model, draw_image())


@pytest.mark.parametrize("pair", [[0, 0], [2, 1], [-1, 5], [0], [0, None], "ab", 3, [0, 1, 2]])
def test_a_pair_that_is_not_a_range_is_refused(pair):
    rule = TTA_ARGUMENTS.rules["tta_size_ranges"]
    assert not rule.holds([[0, 32], pair])
    assert rule.holds([[0, 32], [32.5, -1]])


ON_FCOS = {**TWO_STAGES, "MODEL.MASK_ON": True}


@pytest.mark.parametrize("opts", [MASK_RCNN, ON_FCOS], ids=["RPN", "FCOS"])
@pytest.mark.parametrize("thresh", [0.05, 1.0], ids=["many boxes", "no boxes"])
def test_a_two_stage_model_gets_the_class_of_detectron2(thresh, opts):
    cfg = tiny_cfg(opts, tta_opts((64, 96)), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", thresh)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80  # the model's number counts
    augmented = build_tta_model(cfg, model)
    assert isinstance(augmented, GeneralizedRCNNWithTTA)
    assert isinstance(augmented.tta_mapper, FCOSDatasetMapperTTA)
    assert not augmented.training
    (found,) = detections_of(augmented, draw_image())
    assert (len(found) > 0) == (thresh < 0.5)
    assert found.image_size == (96, 128)
    assert found.pred_masks.shape == (len(found), 96, 128)


@pytest.mark.parametrize(
    ("opts", "key", "words"),
    [
        ({**MASK_RCNN, "MODEL.KEYPOINT_ON": True}, "TEST.AUG.ENABLED", ["MODEL.KEYPOINT_ON"]),
        ({**MASK_RCNN, "MODEL.LOAD_PROPOSALS": True}, "TEST.AUG.ENABLED", ["LOAD_PROPOSALS"]),
        (
            {**MASK_RCNN, "MODEL.FCOS.TTA_SIZE_RANGES": [[0, 32], [32, -1]]},
            "MODEL.FCOS.TTA_SIZE_RANGES",
            ["GeneralizedRCNN"],
        ),
        ({"MODEL.META_ARCHITECTURE": "ProposalNetwork"}, "TEST.AUG.ENABLED", ["ProposalNetwork"]),
        ({"MODEL.FCOS.TTA_SIZE_RANGES": [[0, 32]]}, "MODEL.FCOS.TTA_SIZE_RANGES", ["2 scales"]),
    ],
    ids=["keypoints", "proposals", "ranges of two stages", "other model", "number of ranges"],
)
def test_what_has_no_test_time_augmentation_is_one_error(opts, key, words):
    cfg = tiny_cfg(tta_opts((64, 96)), opts)
    (fault,) = find_tta_faults(cfg)
    assert fault.key == key
    assert all(word in fault.text for word in words)
    cfg.TEST.AUG.ENABLED = False
    assert not find_tta_faults(cfg)


class OwnDetections(FCOS):
    """A subclass whose detections are not made from candidates."""

    def forward_inference(self, images, features, predictions):
        return super().forward_inference(images, features, predictions)


def test_a_subclass_with_its_own_detections_needs_its_own_candidates(monkeypatch):
    cfg = tiny_cfg(tta_opts((64,)), "MODEL.META_ARCHITECTURE", "OwnDetections")
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "OwnDetections", OwnDetections)
    with input_error("OwnDetections", "find_candidates", key="TEST.AUG.ENABLED", value=True):
        build_tta_model(cfg, build_model(cfg))
    monkeypatch.setattr(
        OwnDetections,
        "find_candidates",
        lambda self, x: FCOS.find_candidates(self, x),
        raising=False,
    )
    assert not find_tta_faults(cfg)
