"""The classes of annotations are checked before training."""

import pytest
from tiny import random_input


@pytest.mark.parametrize(("label", "shown"), [(-1, "-1"), (5, "5"), (99, "99")])
def test_a_class_that_is_none_of_the_model_is_a_clear_error(label, shown):
    sample = random_input(3)
    sample["instances"].gt_classes[1] = label
    with pytest.raises(ValueError, match=f"gt_classes has {shown}, but MODEL.FCOS.NUM_CLASSES = 5"):
        seeded_model()([sample])


@pytest.mark.parametrize("num_boxes", [0, 3])
def test_classes_that_are_no_indices_are_a_clear_error(num_boxes):
    sample = random_input(num_boxes)
    sample["instances"].gt_classes = sample["instances"].gt_classes.float()
    with pytest.raises(ValueError, match=r"gt_classes is of type torch\.float32"):
        seeded_model()([sample])
