"""The box losses: examples computed by hand, and equality with torchvision's losses."""

import math

import pytest
import torch
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from fcos_d2.modeling.levels import decode_ltrb
from fcos_d2.modeling.losses.box import box_loss, ltrb_iou

BOX_LOSSES = ("giou", "diou", "ciou", "iou", "linear_iou")


@pytest.mark.parametrize(
    ("loss_type", "torchvision_loss", "dtype", "rtol"),
    [
        ("giou", generalized_box_iou_loss, torch.float64, 1e-6),
        ("diou", distance_box_iou_loss, torch.float64, 1e-6),
        ("ciou", complete_box_iou_loss, torch.float64, 1e-6),
        ("giou", generalized_box_iou_loss, torch.float32, 1e-5),
        ("diou", distance_box_iou_loss, torch.float32, 1e-5),
        ("ciou", complete_box_iou_loss, torch.float32, 1e-5),
    ],
)
def test_box_losses_and_gradients_equal_torchvisions_on_corners(
    loss_type, torchvision_loss, dtype, rtol
):
    generator = torch.Generator().manual_seed(0)
    pred = (torch.rand(500, 4, generator=generator, dtype=dtype) * 50).requires_grad_()
    same = pred.detach().clone().requires_grad_()
    target = torch.rand(500, 4, generator=generator, dtype=dtype) * 50 + 1
    location = torch.zeros(500, 2, dtype=dtype)  # With other locations, the corners are rounded.
    losses = box_loss(pred, target, loss_type)
    expected = torchvision_loss(decode_ltrb(location, same), decode_ltrb(location, target))
    torch.testing.assert_close(losses, expected, rtol=rtol, atol=0)
    losses.sum().backward()
    expected.sum().backward()
    error = (pred.grad - same.grad).abs().amax(dim=1)
    assert (error <= rtol * same.grad.abs().amax(dim=1)).all()


def test_iou_losses_by_hand():
    # The target is a box of 8 x 8 around the location, the prediction one of 4 x 4: IoU = 16 / 64.
    target, pred = torch.full((1, 4), 4.0), torch.full((1, 4), 2.0)
    assert box_loss(pred, target, "linear_iou").item() == pytest.approx(0.75)
    assert box_loss(pred, target, "iou").item() == pytest.approx(math.log(4))
    # The enclosing box is the target, so GIoU is the IoU.
    assert box_loss(pred, target, "giou").item() == pytest.approx(0.75)
    # Center and aspect ratio are the same, so DIoU and CIoU are the IoU too.
    assert box_loss(pred, target, "diou").item() == pytest.approx(0.75)
    assert box_loss(pred, target, "ciou").item() == pytest.approx(0.75)
    # If the prediction is twice as wide as high, the angles are atan(1) and atan(2), the IoU is
    # 32 / 64, v = 4 / pi^2 * 0.32175^2, and alpha = v / (0.5 + v).
    flat = torch.tensor([[4.0, 2.0, 4.0, 2.0]])
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    assert box_loss(flat, target, "ciou").item() == pytest.approx(0.5 + v * v / (0.5 + v))
    # If the prediction is shifted by (2, 0), the IoU is 48 / 80, and the enclosing box is 10 x 8.
    shifted = torch.tensor([[2.0, 4.0, 6.0, 4.0]])
    assert box_loss(shifted, target, "diou").item() == pytest.approx(0.4 + 4 / 164)
    for loss_type in BOX_LOSSES:
        assert box_loss(target, target, loss_type).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss_type", BOX_LOSSES)
def test_losses_of_a_prediction_without_extent_are_finite(loss_type):
    tiny = [[0.0] * 4, [0, 0, 0, 8], [8, 0, 8, 0], [1e-30] * 4, [0, 1e-12, 0, 3], [160_000] * 4]
    pred = torch.tensor(tiny, requires_grad=True)
    loss = box_loss(pred, torch.ones(len(tiny), 4), loss_type)
    (grad,) = torch.autograd.grad(loss.sum(), pred)
    assert loss.isfinite().all()
    assert grad.isfinite().all()


def test_iou_by_hand_and_its_extremes():
    target = torch.tensor([[4.0, 4.0, 4.0, 4.0]])
    assert ltrb_iou(target, target).item() == 1
    assert ltrb_iou(torch.zeros(1, 4), target).item() == 0
    assert ltrb_iou(torch.tensor([[2.0, 4.0, 6.0, 4.0]]), target).item() == pytest.approx(0.6)
