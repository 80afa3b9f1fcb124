"""All parts of FCOS can be exported, for images of any size."""

from unittest import mock

import pytest
import torch
from export_models import SMALL, export, noise, to_array
from input_errors import input_error
from test_recipes import ONE_STAGE, load
from tiny import detector, random_input, seeded_model
from tiny_lazy import TINY, load_tiny

from detectron2.config import instantiate  # isort: skip
from detectron2.export import TracingAdapter  # isort: skip

from fcos_d2 import resolve_num_classes
from fcos_d2.data.images import WHITE_POINT
from fcos_d2.data.shapes.scene import draw_scene
from fcos_d2.export import ExportSettings, export_model
from fcos_d2.export.simplification import simplify
from fcos_d2.export.tracing import make_example, trace
from fcos_d2.image_preparation import ImagePreparation
from fcos_d2.modeling import build_model

pytest.importorskip("onnxscript")
pytest.importorskip("timm")

RESNET = {**SMALL, "MODEL.BACKBONE.NAME": "build_fcos_resnet_fpn_backbone"}


def timm(name, neck="fpn"):
    """Return the settings of a network of timm."""
    return {
        **SMALL,
        "MODEL.BACKBONE.NAME": f"build_fcos_timm_{neck}_backbone",
        "MODEL.TIMM.NAME": name,
    }


VARIANTS = {
    "exp, IoU, BN in the head": {
        **SMALL,
        "MODEL.FCOS.BOX_ACTIVATION": "exp",
        "MODEL.FCOS.PRIOR_LTRB": 3.0,
        "MODEL.FCOS.BOX_QUALITY": "iou",
        "MODEL.FCOS.NORM": "BN",
        "MODEL.FCOS.THRESH_WITH_CTR": True,
    },
    "no quality, no norm, shared tower": {
        **SMALL,
        "MODEL.FCOS.BOX_QUALITY": "none",
        "MODEL.FCOS.NORM": "",
        "MODEL.FCOS.NUM_SHARE_CONVS": 1,
        "MODEL.FCOS.USE_SCALE": False,
        "MODEL.FCOS.CLASS_AGNOSTIC_NMS": True,
    },
    "deformable, folded norms": {
        **RESNET,
        "MODEL.FCOS.USE_DEFORMABLE": True,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, True],
        "MODEL.RESNETS.DEFORM_MODULATED": True,
    },
    "BiFPN": timm("test_efficientnet", "bifpn"),
    "layers with permuted maps": timm("test_convnext"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_part_is_exported_for_images_of_any_size(name, tmp_path):
    model = seeded_model({"MODEL.FCOS.PRIOR_PROB": 0.2}, VARIANTS[name]).eval()
    result = export(model, tmp_path / "x.onnx")  # compares the file with the model
    assert result.agreement.num_detections > 50


def test_constant_paddings_give_the_results_of_timm():
    model = seeded_model(timm("tf_efficientnet_lite0")).eval()
    images = torch.rand(1, 3, 96, 160)
    simple = simplify(model, any_size=True)
    assert sum(type(x).__name__ == "_PaddedConv" for x in simple.modules()) == 5
    with torch.no_grad():
        torch.testing.assert_close(
            simple.backbone(images), model.backbone(images), rtol=1e-4, atol=1e-4
        )


class BatchDependent(torch.nn.Module):
    """A network whose code depends on the number of images."""

    def forward(self, images):
        return images.relu() if images.shape[0] % 7 == 0 else images.float()


def test_the_advice_names_the_batch_size_if_the_image_size_is_fixed():
    shape = (None, 3, 70, 64)
    example = make_example(shape, torch.uint8, torch.device("cpu"), 64)
    with input_error("--batch-size"):
        trace(BatchDependent(), example, shape)


def test_models_with_fine_levels_only_are_exported(tmp_path):
    levels = {"MODEL.FPN.IN_FEATURES": ["res3", "res4"], "MODEL.FCOS.TOP_LEVELS": 0}
    features = {"MODEL.FCOS.IN_FEATURES": ["p3", "p4"], "MODEL.FCOS.SIZES_OF_INTEREST": [64]}
    model = seeded_model({"MODEL.FCOS.PRIOR_PROB": 0.2}, SMALL, levels, features).eval()
    assert model.levels.strides == (8, 16)
    assert export(model, tmp_path / "x.pt2").agreement.num_detections > 50


def test_models_with_square_images_are_exported_up_to_their_size(tmp_path):
    model = seeded_model({"MODEL.FCOS.PRIOR_PROB": 0.2}, SMALL).eval()
    with mock.patch.object(type(model.backbone), "padding_constraints", {"square_size": 150}):
        result = export(model, tmp_path / "x.pt2", images=[to_array(noise(100, 130))])
        assert result.agreement.num_detections > 50  # padded to 160 x 160, as by detectron2
        with input_error("160", key="image_size"):
            export(model, tmp_path / "x.pt2", image_size=(170, 64))


class SizeDependent(torch.nn.Module):
    """A network whose code depends on the size, as that of networks with windows."""

    def forward(self, images):
        return images.relu() if images.shape[2] % 7 == 0 else images.float()


def test_code_that_depends_on_the_size_is_exported_for_one_size():
    def trace_for(*shape):
        example = make_example(shape, torch.uint8, torch.device("cpu"), 64)
        return trace(SizeDependent(), example, shape)

    with input_error("--image-size"):
        trace_for(None, 3, None, None)
    program = trace_for(None, 3, 70, 64)
    assert program.module()(torch.ones(5, 3, 70, 64, dtype=torch.uint8)).shape == (5, 3, 70, 64)


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.trace"
)  # deprecated, but detectron2's export uses it
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracing_adapter_of_detectron2_traces_the_model_for_one_size():
    model = detector()
    adapter = TracingAdapter(model, [{"image": random_input(0)["image"]}]).eval()
    traced = torch.jit.trace(adapter, adapter.flattened_inputs)
    image = random_input(0, seed=5)["image"]
    with torch.no_grad():
        (actual,), (expected,) = adapter.outputs_schema(traced(image)), model([{"image": image}])
    for name, values in expected["instances"].get_fields().items():
        other = actual["instances"].get(name)
        assert torch.equal(getattr(other, "tensor", other), getattr(values, "tensor", values))


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_STAGE)
def test_each_recipe_is_exported_and_runs(name, tmp_path):
    cfg = load(name)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.FCOS.NUM_CLASSES = resolve_num_classes(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():  # many detections, and scores that are not equal
        model.head.cls_logits.bias.fill_(-2.5)
        model.head.cls_logits.weight.mul_(10)
    images = [draw_scene("val", i).image for i in range(2)]
    preparation = ImagePreparation(
        cfg.INPUT.FORMAT, len(cfg.MODEL.PIXEL_MEAN), WHITE_POINT, 160, 256
    )
    names = [f"class {i}" for i in range(model.num_classes)]
    settings = ExportSettings("onnx")
    result = export_model(model, tmp_path / "x.onnx", settings, preparation, names, images)
    assert result.agreement.num_detections > 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [("tf_efficientnet_lite0", None), ("swin_tiny_patch4_window7_224", (224, 224))],
)
def test_larger_networks_of_timm_are_exported(name, size, tmp_path):
    model = seeded_model({"MODEL.FCOS.PRIOR_PROB": 0.2}, timm(name)).eval()
    result = export(model, tmp_path / "x.onnx", image_size=size)
    assert result.agreement.num_detections > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TINY))
def test_each_lazy_config_is_exported(name, tmp_path):
    torch.manual_seed(0)
    overrides = ("model.num_classes=5", "model.dense_head.postprocessor.score_thresh_test=0")
    model = instantiate(load_tiny(name, *overrides).model).eval()
    fixed = {}
    if any(x in name for x in ("swin", "mvit")):  # detectron2's own networks
        fixed = {"image_size": (128, 128), "batch_size": 1}
    images = [to_array(noise(96, 128))]
    result = export(model, tmp_path / "x.onnx", images=images, **fixed)
    assert result.agreement.num_detections > 50
