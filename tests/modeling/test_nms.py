"""Class-wise non-maximum suppression."""

import pytest
import torch
from torchvision.ops import batched_nms, nms

from fcos_d2.modeling.nms import class_wise_nms


@pytest.mark.parametrize(
    ("num_classes", "extent"), [(80, 1333.0), (1203, 1333.0), (1203, 10_000.0)]
)
def test_nms_of_all_classes_equals_nms_of_each_class(num_classes, extent):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(480, 2, generator=generator) * extent
    size = 4 + torch.rand(480, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + size], dim=1)
    # Each box gets a neighbor, shifted by s widths: the IoU is (1 - s) / (1 + s), 0.6 at s = 0.25.
    shift = size[:, 0] * (0.249 + 0.002 * torch.rand(480, generator=generator))
    boxes = torch.cat([boxes, boxes + shift[:, None] * torch.tensor([1.0, 0.0, 1.0, 0.0])])
    classes = torch.randint(num_classes, (480,), generator=generator).repeat(2)
    scores = torch.rand(len(boxes), generator=generator)
    expected = torch.cat(
        [
            where[nms(boxes[where].double(), scores[where].double(), 0.6)]
            for k in range(num_classes)
            if len(where := (classes == k).nonzero().squeeze(1))
        ]
    )
    kept = class_wise_nms(boxes, scores, classes, 0.6)
    assert torch.equal(kept.sort().values, expected.sort().values)
    assert torch.equal(scores[kept], scores[kept].sort(descending=True).values)
    in_float32 = batched_nms(boxes, scores, classes, 0.6)
    assert len(expected) < len(boxes)
    # batched_nms adds an offset for each class to the boxes, and the rounding changes its result.
    assert len(set(in_float32.tolist()) ^ set(expected.tolist())) > 10
