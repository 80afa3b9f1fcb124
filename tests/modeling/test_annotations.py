"""The classes of annotations are checked before training."""

import pytest
from tiny import random_input, seeded_model

from fcos_d2.errors import InputError


@pytest.mark.parametrize("label", [-1, 5, 99])
def test_a_class_that_the_model_does_not_have_is_an_error(label):
    sample = random_input(3)
    sample["instances"].gt_classes[1] = label
    with pytest.raises(InputError, match=rf"gt_classes has {label}\b.*NUM_CLASSES = 5\b") as caught:
        seeded_model()([sample])
    assert caught.value.key == "MODEL.FCOS.NUM_CLASSES"


@pytest.mark.parametrize("num_boxes", [0, 3])
def test_classes_that_are_not_integers_are_an_error(num_boxes):
    sample = random_input(num_boxes)
    sample["instances"].gt_classes = sample["instances"].gt_classes.float()
    with pytest.raises(InputError, match=r"torch\.float32") as caught:
        seeded_model()([sample])
    assert caught.value.key == "gt_classes"
