"""Copies of annotations to the device of the model."""

import torch
from detectron2.structures import BitMasks, RotatedBoxes
from tiny import random_input

from fcos_d2.modeling.copy_to_device import copy_to_device


def test_structures_are_copied_with_all_their_fields():
    instances = random_input(3)["instances"]
    instances.gt_masks = BitMasks(torch.ones(3, 96, 128))
    instances.rotated = RotatedBoxes(torch.ones(3, 5))
    instances.names = ["a", "b", "c"]
    copied = copy_to_device(instances, torch.device("cpu"))
    assert copied is not instances
    assert copied.image_size == instances.image_size
    for name, value in instances.get_fields().items():
        found = copied.get(name)
        assert type(found) is type(value)
        tensor = getattr(value, "tensor", value)
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(getattr(found, "tensor", found), tensor)
    assert copied.names == ["a", "b", "c"]
