"""The whole model in training."""

import pytest
import torch
from detectron2.modeling import build_model
from tiny import random_input, tiny_cfg

from fcos_d2 import (
    TARGET_ASSIGNER_REGISTRY,
    FCOSAssigner,
)

LOSSES = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}


def seeded_model(*opts, seed=0):
    torch.manual_seed(seed)
    return build_model(tiny_cfg(*opts))


def detector(*opts):
    """A random model in eval mode that does detect something, of some extent."""
    model = seeded_model("MODEL.FCOS.PRIOR_PROB", 0.2, *opts).eval()
    with torch.no_grad():
        for predictor in (model.head.cls_logits, model.head.bbox_pred, model.head.centerness):
            predictor.weight.mul_(10)
        model.head.bbox_pred.bias.fill_(1.0)
    return model


@pytest.mark.parametrize("radius", [1.5, 0.0])
@pytest.mark.parametrize("num_boxes", [(3, 5), (3, 0), (0, 0)])
def test_batches_with_and_without_boxes_train(num_boxes, radius):
    model = seeded_model("MODEL.FCOS.CENTER_SAMPLING_RADIUS", radius)
    losses = model([random_input(n, seed=i) for i, n in enumerate(num_boxes)])
    assert set(losses) == LOSSES
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if sum(num_boxes) == 0:
        assert losses["loss_fcos_loc"] == losses["loss_fcos_ctr"] == 0
        assert losses["loss_fcos_cls"] > 0


def test_order_of_images_does_not_matter_to_the_losses():
    model = seeded_model().train()
    inputs = [random_input(3, seed=1), random_input(6, seed=2)]
    for name, value in model(inputs).items():
        torch.testing.assert_close(value, model(inputs[::-1])[name], rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_trains_and_decodes_in_float32():
    model = seeded_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([random_input(3), random_input(0)])
    assert all(x.dtype == torch.float32 and x.isfinite() for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())

    model = detector()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        result = model([random_input(0)])[0]["instances"]
    assert result.pred_boxes.tensor.dtype == result.scores.dtype == torch.float32
    # Not on the grid of bfloat16, whose step at 64..128 is half a pixel.
    assert ((result.pred_boxes.tensor * 2) % 1 != 0).any()


def test_an_assigner_of_ones_own_is_chosen_by_name():
    class OnlyTheFirstBox(FCOSAssigner):
        """A rule that another package might register."""

        def __call__(self, gt_instances, feature_sizes, **kwargs):
            first = [x[:1] for x in gt_instances]
            return super().__call__(first, feature_sizes, **kwargs)

    TARGET_ASSIGNER_REGISTRY.register(OnlyTheFirstBox)
    try:
        model = seeded_model("MODEL.FCOS.TARGET_ASSIGNER", "OnlyTheFirstBox")
    finally:
        del TARGET_ASSIGNER_REGISTRY._obj_map["OnlyTheFirstBox"]
    assert type(model.assigner) is OnlyTheFirstBox
    sample = random_input(3)
    first = {**sample, "instances": sample["instances"][:1]}
    usual = seeded_model()
    # Batch norms see the same image each time, so that it is the targets alone that differ.
    losses, expected, of_all = model([sample]), usual([first]), usual([sample])
    torch.testing.assert_close(losses, expected)
    assert not torch.isclose(losses["loss_fcos_cls"], of_all["loss_fcos_cls"])
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_one_batch_is_learnt_by_heart():
    model = seeded_model()
    # Bright rectangles on black, one class each.
    inputs = []
    for seed in range(2):
        sample = random_input(2, seed=seed)
        sample["image"].zero_()
        for box, k in zip(
            sample["instances"].gt_boxes, sample["instances"].gt_classes, strict=True
        ):
            x1, y1, x2, y2 = box.int().tolist()
            sample["image"][k % 3, y1:y2, x1:x2] = 255
        inputs.append(sample)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = {name: value.item() for name, value in model(inputs).items()}
    for _ in range(150):
        losses = model(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert losses["loss_fcos_cls"] < 0.02
    assert losses["loss_fcos_loc"] < 0.2
    assert losses["loss_fcos_ctr"] < first["loss_fcos_ctr"]


def test_diverged_exp_outputs_stay_finite():
    model = seeded_model(
        "MODEL.FCOS.BOX_ACTIVATION", "exp", "MODEL.FCOS.CENTER_SAMPLING_RADIUS", 0.0
    )
    torch.nn.init.constant_(model.head.bbox_pred.bias, 100.0)
    losses = model([random_input(3)])
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_channels_last_computes_the_same():
    models = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        models.append(build_model(tiny_cfg("MODEL.FCOS.CHANNELS_LAST", channels_last)))
    maps = []
    for model in models:
        model.head.cls_logits.register_forward_hook(lambda *args: maps.append(args[2]))
    inputs = [random_input(3), random_input(2, seed=1)]
    losses, others = (model(inputs) for model in models)
    for name, value in losses.items():
        torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-5)
    first, others_first = maps[0], maps[len(maps) // 2]
    assert not first.is_contiguous(memory_format=torch.channels_last)
    assert others_first.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        detections, others = (
            model.eval()(inputs[:1])[0]["instances"].get_fields() for model in models
        )
    torch.testing.assert_close(others["scores"], detections["scores"], rtol=1e-4, atol=1e-5)
