"""The checks of a run's datasets that need more than the files."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from input_errors import input_error
from tiny import tiny_cfg

from fcos_d2.engine import yaml_config
from fcos_d2.engine.run_datasets import check_run_datasets


@pytest.fixture
def plan(few_shapes):
    """Return a function that makes the plan of an evaluation with keypoints on the shapes."""

    def make(sigmas, **keys):
        overrides = {
            "MODEL.KEYPOINT_ON": True,
            "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
            "DATASETS.TEST": ("shapes_val",),
            "TEST.KEYPOINT_OKS_SIGMAS": sigmas,
            **keys,
        }
        return yaml_config._build_plan(tiny_cfg(overrides), True, False, 1)

    return make


def check(plan):
    """Check the datasets for a model with the six classes of the shapes."""
    DatasetCatalog.get("shapes_val")
    check_run_datasets(plan, len(MetadataCatalog.get("shapes_val").thing_classes), {})


@pytest.mark.parametrize("sigmas", [[], [0.1] * 5])
def test_no_sigmas_or_one_for_each_keypoint(plan, sigmas):
    check(plan(sigmas))


def test_another_number_of_sigmas_is_an_error_before_the_run(plan):
    with input_error("'shapes_val'", "4", "5", key="TEST.KEYPOINT_OKS_SIGMAS", value=[0.1] * 4):
        check(plan([0.1] * 4))
    check(plan([0.1] * 4, **{"MODEL.KEYPOINT_ON": False}))


def test_the_plan_tells_mask_heads_from_masks_for_center_sampling(plan):
    both = {"MODEL.MASK_ON": True}
    assert plan([], **both).has_mask_head
    alone = plan([], **both, **{"MODEL.META_ARCHITECTURE": "FCOS"})
    assert alone.uses_masks
    assert not alone.has_mask_head
