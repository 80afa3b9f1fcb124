"""The names that importing the package registers, and names that are registered already."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.utils.registry import Registry

import fcos_d2
from fcos_d2.registration import register_in


def test_importing_registers_in_detectron2s_registries():
    assert META_ARCH_REGISTRY.get("FCOS") is fcos_d2.FCOS
    builder = BACKBONE_REGISTRY.get("build_fcos_resnet_fpn_backbone")
    assert builder is fcos_d2.build_fcos_resnet_fpn_backbone
    assert fcos_d2.TARGET_ASSIGNER_REGISTRY.get("FCOSAssigner") is fcos_d2.FCOSAssigner
    for name in ("shapes_train", "shapes_val"):
        assert name in DatasetCatalog.list()
        assert MetadataCatalog.get(name).evaluator_type == "coco"


def test_the_error_about_a_registered_name_names_the_module_that_has_registered_it():
    registry = Registry("TEST")

    class FCOS:
        __module__ = "adet.modeling"

    registry.register(FCOS)
    with pytest.raises(ImportError, match=r"'FCOS' .* TEST .*adet\.modeling"):
        register_in(registry)(type("FCOS", (), {}))
