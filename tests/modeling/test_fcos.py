"""The whole model in training."""

import pytest
import torch
from tiny import detector, random_input, seeded_model

from fcos_d2 import TARGET_ASSIGNER_REGISTRY, FCOSAssigner

LOSSES = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}


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


def test_losses_do_not_depend_on_the_order_of_images():
    model = seeded_model().train()
    inputs = [random_input(3, seed=1), random_input(6, seed=2)]
    for name, value in model(inputs).items():
        torch.testing.assert_close(value, model(inputs[::-1])[name], rtol=1e-4, atol=1e-5)


def test_under_bfloat16_autocast_losses_and_boxes_are_float32():
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
    # Boxes are not rounded to bfloat16, whose step is half a pixel from 64 to 128.
    assert ((result.pred_boxes.tensor * 2) % 1 != 0).any()


def test_an_assigner_of_another_package_is_selected_by_name():
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
    # Batch norms get the same image each time, so that only the targets differ.
    losses, expected, of_all = model([sample]), usual([first]), usual([sample])
    torch.testing.assert_close(losses, expected)
    assert not torch.isclose(losses["loss_fcos_cls"], of_all["loss_fcos_cls"])
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_model_overfits_one_batch():
    model = seeded_model()
    # Bright rectangles on black, with a channel for each class.
    inputs = []
    for seed in range(2):
        sample = random_input(2, seed=seed)
        sample["image"].zero_()
        instances = sample["instances"]
        for box, k in zip(instances.gt_boxes, instances.gt_classes, strict=True):
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


def test_losses_of_diverged_exp_outputs_are_finite():
    opts = {"MODEL.FCOS.BOX_ACTIVATION": "exp", "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0}
    model = seeded_model(opts)
    torch.nn.init.constant_(model.head.bbox_pred.bias, 100.0)
    losses = model([random_input(3)])
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_channels_last_computes_the_same():
    models = [seeded_model("MODEL.FCOS.CHANNELS_LAST", x) for x in (False, True)]
    maps = []
    for model in models:
        model.head.cls_logits.register_forward_hook(lambda *args: maps.append(args[2]))
    inputs = [random_input(3), random_input(2, seed=1)]
    expected, losses = (model(inputs) for model in models)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    is_channels_last = [x.is_contiguous(memory_format=torch.channels_last) for x in maps]
    first_of_second_model = len(maps) // 2
    assert not is_channels_last[0]
    assert is_channels_last[first_of_second_model]
    with torch.no_grad():
        expected, scores = (model.eval()(inputs[:1])[0]["instances"].scores for model in models)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
