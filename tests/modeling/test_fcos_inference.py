"""Detections of the whole model."""

import io

import pytest
import torch
from tiny import detector, random_input, seeded_model
from torchvision.ops import box_iou


def test_a_batch_of_two_equals_two_batches_of_one():
    model = detector()
    inputs = [random_input(2, seed=1), random_input(2, seed=2)]
    with torch.no_grad():
        together = model(inputs)
        apart = [model([x])[0] for x in inputs]
    for a, b in zip(together, apart, strict=True):
        a, b = a["instances"], b["instances"]
        assert len(a) == len(b) > 10
        torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(a.pred_classes, b.pred_classes)


def test_detections_are_scaled_to_the_requested_size():
    model = detector()
    image = random_input(1)
    with torch.no_grad():
        small = model([image])[0]["instances"]
        large = model([{**image, "height": 192, "width": 512}])[0]["instances"]
    assert large.image_size == (192, 512)
    factors = torch.tensor([4.0, 2.0, 4.0, 2.0])
    torch.testing.assert_close(large.pred_boxes.tensor, small.pred_boxes.tensor * factors)


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (1, 1), (33, 200)])
def test_images_of_any_size_are_accepted(size):
    model = detector()
    with torch.no_grad():
        boxes = model([{"image": torch.rand(3, *size) * 255}])[0]["instances"].pred_boxes.tensor
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= size[1]
    assert boxes[:, 3].max() <= size[0]
    model.train()
    losses = model([random_input(1, *size), random_input(2, *size)])  # BN needs two values
    assert all(value.isfinite() for value in losses.values())


def test_inference_in_bfloat16_detects_the_same_as_autocast():
    plain, model = detector(), detector("MODEL.FCOS.INFERENCE_DTYPE", "bfloat16")
    dtypes = []
    model.head.cls_logits.register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
    inputs = [random_input(0)]
    with torch.no_grad():
        found = model(inputs)[0]["instances"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = plain(inputs)[0]["instances"]
        exact = plain(inputs)[0]["instances"]
    assert set(dtypes) == {torch.bfloat16}
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert not torch.equal(found.scores, exact.scores)
    torch.testing.assert_close(found.scores[0], exact.scores[0], rtol=0.02, atol=0)
    dtypes.clear()
    model.train()(inputs)  # The key has no effect on training.
    assert set(dtypes) == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_model_in_half_precision_takes_images_of_any_type(dtype):
    model, sample = seeded_model({"MODEL.FCOS.SCORE_THRESH_TEST": 0.0}), random_input(3)
    sample["image"] = sample["image"].to(dtype)
    with torch.no_grad():
        expected = model([sample])
        losses = model.half()([sample])
        (result,) = model.eval()([sample])
    for name, loss in expected.items():
        assert losses[name] == pytest.approx(loss.item(), rel=0.02), name
    assert len(result["instances"]) > 0


def test_a_saved_and_loaded_model_detects_the_same():
    model, other = detector(), detector()
    for parameter in other.parameters():
        parameter.data.uniform_()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        a, b = (m([random_input(0)])[0]["instances"] for m in (model, other))
    assert len(a) > 10
    assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    assert torch.equal(a.scores, b.scores)


def test_the_threshold_can_apply_to_the_product_of_class_and_quality():
    keep_all = {"TEST.DETECTIONS_PER_IMAGE": 10**6, "MODEL.FCOS.NMS_THRESH_TEST": 1.0}
    plain, model = detector(keep_all), detector(keep_all, "MODEL.FCOS.THRESH_WITH_CTR", True)
    with torch.no_grad():
        scores, fewer = (m([random_input(0)])[0]["instances"].scores for m in (plain, model))
    # The score is the root of the product.
    torch.testing.assert_close(fewer, scores[scores**2 > 0.05])
    assert 10 < len(fewer) < len(scores)


def plain_detections(model, sample, thresh, topk, nms_thresh):
    """Compute detections from the maps of a head in loops: (score, class, box), sorted by score."""
    height, width = sample["image"].shape[1:]
    features = model.backbone(model.preprocess_image([sample]).tensor)
    outputs = model.head(list(features.values()))[:3]
    candidates = []
    for stride, *maps in zip(model.levels.strides, *outputs, strict=True):
        probabilities, ltrb, quality = maps[0][0].sigmoid(), maps[1][0], maps[2][0, 0].sigmoid()
        of_level = []
        for k, i, j in (probabilities > thresh).nonzero().tolist():
            left, top, right, bottom = (ltrb[:, i, j].relu() * stride).tolist()
            x, y = (j + 0.5) * stride, (i + 0.5) * stride
            low = [max(x - left, 0), max(y - top, 0)]
            box = [*low, min(x + right, width), min(y + bottom, height)]
            score = (probabilities[k, i, j] * quality[i, j]).sqrt().item()
            of_level.append((score, k, box))
        candidates += sorted(of_level, reverse=True)[:topk]
    kept = []
    for score, k, box in sorted(candidates, reverse=True):
        rivals = torch.tensor([other for _, of_class, other in kept if of_class == k])
        overlaps = box_iou(torch.tensor([box]), rivals.reshape(-1, 4))
        if box[2] > box[0] and box[3] > box[1] and not (overlaps > nms_thresh).any():
            kept.append((score, k, box))
    return kept


@pytest.mark.parametrize(
    ("thresh", "topk", "nms_thresh"),
    [(0.05, 1000, 0.6), (0.3, 1000, 0.6), (0.05, 7, 0.6), (0.05, 1000, 0.3), (0.3, 7, 0.3)],
)
def test_detections_are_those_of_plain_loops(thresh, topk, nms_thresh):
    model = detector(
        {
            "MODEL.FCOS.SCORE_THRESH_TEST": thresh,
            "MODEL.FCOS.TOPK_CANDIDATES_TEST": topk,
            "MODEL.FCOS.NMS_THRESH_TEST": nms_thresh,
            "TEST.DETECTIONS_PER_IMAGE": 10**6,
        }
    )
    sample = random_input(0)
    with torch.no_grad():
        found = model([sample])[0]["instances"]
        expected = plain_detections(model, sample, thresh, topk, nms_thresh)
        if (thresh, topk, nms_thresh) != (0.05, 1000, 0.6):  # These keys have an effect.
            assert len(expected) < len(plain_detections(model, sample, 0.05, 1000, 0.6))
    scores, classes, boxes = zip(*expected, strict=True)
    torch.testing.assert_close(found.scores, torch.tensor(scores))
    assert found.pred_classes.tolist() == list(classes)
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor(boxes), rtol=1e-4, atol=1e-3)


def test_with_class_agnostic_nms_no_two_boxes_of_any_classes_overlap():
    opts = {"MODEL.FCOS.NMS_THRESH_TEST": 0.5, "TEST.DETECTIONS_PER_IMAGE": 10**6}
    models = detector(opts), detector(opts, "MODEL.FCOS.CLASS_AGNOSTIC_NMS", True)
    with torch.no_grad():
        plain, agnostic = (m([random_input(0)])[0]["instances"] for m in models)
    overlaps = [
        box_iou(*[x.pred_boxes.tensor] * 2).fill_diagonal_(0).max() for x in (plain, agnostic)
    ]
    assert overlaps[1] <= 0.5 < overlaps[0]
    assert len(agnostic.pred_classes.unique()) > 1
    assert agnostic.scores[0] == plain.scores[0]


@pytest.mark.parametrize(("key", "value"), [("BOX_ACTIVATION", "exp"), ("LOCATION_OFFSET", 0.0)])
def test_the_key_changes_how_boxes_are_decoded(key, value):
    plain, other = detector(), detector(f"MODEL.FCOS.{key}", value)
    with torch.no_grad():
        a, b = (m([random_input(0)])[0]["instances"].pred_boxes.tensor[:5] for m in (plain, other))
    assert not torch.allclose(a, b)
