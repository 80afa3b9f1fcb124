"""Exported files give the detections of the model, in every format, for images of any size."""

import copy
import json
import sys
import zipfile

import pytest
import torch
from commands import run_python
from detectron2.modeling.postprocessing import detector_postprocess
from export_models import (
    NAMES,
    PLAIN,
    SMALL,
    export,
    noise,
    preparation,
    selective_detector,
    to_array,
)
from input_errors import input_error
from tiny import seeded_model, two_stage_cfg
from torch import nn

from fcos_d2.errors import InputError
from fcos_d2.export import (
    FORMATS,
    ExportedPredictor,
    ExportSettings,
    export_model,
    load_exported,
)
from fcos_d2.export.checking import compare_detections
from fcos_d2.export.running import pad_to_accepted_size
from fcos_d2.export.tensor_model import Detections
from fcos_d2.export.torch_files import check_compiler
from fcos_d2.modeling import FCOS, FCOSPostProcessor, build_model

pytest.importorskip("onnxscript")
pytest.importorskip("timm")


@pytest.fixture(scope="module")
def model():
    return selective_detector()


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, model, tmp_path_factory):
    """Export the model in a format; return the file, the result and the loaded file."""
    if request.param == "aoti":
        try:
            check_compiler()
        except InputError:
            pytest.skip("no C++ compiler")
    suffix = ".onnx" if request.param == "onnx" else ".pt2"
    file = tmp_path_factory.mktemp(request.param) / f"model{suffix}"
    result = export(model, file, request.param)
    return file, result, *load_exported(file)


def compare(model, run, batch):
    """Compare a file with the model, without the allowance of the command for ties."""
    outputs = Detections(*run(batch))
    with torch.no_grad():
        expected = [x["instances"] for x in model([{"image": image} for image in batch])]
    assert outputs.counts.tolist() == [len(x) for x in expected]
    for index, instances in enumerate(expected):
        agreement = compare_detections(instances, *outputs.of_image(index))
        assert (agreement.num_missing, agreement.num_additional) == (0, 0)
    return outputs


@pytest.mark.parametrize("size", [(33, 40), (77, 301), (256, 320)], ids=str)
def test_detections_are_those_of_the_model(model, exported, size):
    outputs = compare(model, exported[2], noise(*size)[None])
    assert outputs.counts[0] > 5


def test_an_image_without_candidates_has_no_detections(model, exported):
    outputs = compare(model, exported[2], PLAIN[None])
    assert outputs.counts.tolist() == [0]


def test_a_batch_has_images_with_no_and_with_over_100_detections(model, exported):
    outputs = compare(model, exported[2], torch.stack([PLAIN, noise(192, 256)]))
    assert outputs.counts.tolist() == [0, 150]
    boxes, scores, classes, _ = outputs
    assert boxes.shape == (2, 150, 4)
    assert not boxes[0].any()
    assert not scores[0].any()
    assert (classes[0] == -1).all()
    assert (scores[1].diff() <= 0).all()


# Loads and runs a file of each format without this package and without detectron2.
RUN_ALONE = """
import sys
sys.modules["fcos_d2"] = sys.modules["detectron2"] = None
file, file_format = sys.argv[1:]
if file_format == "onnx":
    sys.modules["torch"] = None
    import numpy, onnxruntime
    images = numpy.full((1, 3, 100, 140), 250, numpy.uint8)
    outputs = onnxruntime.InferenceSession(file).run(None, {"images": images})
else:
    import torch, torchvision
    images = torch.full((1, 3, 100, 140), 250, dtype=torch.uint8)
    if file_format == "aoti":
        outputs = torch._inductor.aoti_load_package(file)(images)
    else:
        outputs = torch.export.load(file).module()(images)
print(int(outputs[3][0]))
"""


def test_the_file_runs_without_this_package_and_detectron2(model, exported):
    file, result, *_ = exported
    process = run_python("-c", RUN_ALONE, file, result.info.format)
    assert process.returncode == 0, process.stderr
    image = torch.full((3, 100, 140), 250, dtype=torch.uint8)
    with torch.no_grad():
        (expected,) = model([{"image": image}])
    assert int(process.stdout) == len(expected["instances"]) > 0


def test_the_file_describes_itself(exported):
    file, result, _, info = exported
    assert info == result.info
    assert info.class_names == NAMES
    assert (info.input_format, info.input_dtype) == ("BGR", "uint8")
    assert info.input_shape == [None, 3, None, None]
    assert info.size_divisibility == 32
    assert info.score_thresh == 0.3
    assert info.strides == [16, 32, 64]
    assert result.num_bytes == file.stat().st_size
    assert result.agreement.num_detections > 100


def test_only_the_file_is_left(exported):
    file, *_ = exported
    assert [*file.parent.iterdir()] == [file]


# Compiled code names the headers that it was compiled with.
@pytest.mark.parametrize("exported", ["onnx", "pt2"], indirect=True, scope="module")
def test_metadata_have_no_stack_traces(exported):
    file, result, *_ = exported
    content = file.read_bytes()
    if result.info.format == "pt2":
        with zipfile.ZipFile(file) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    for text in (b"stack_trace", b"tensor_model.py", b"site-packages"):
        assert text not in content


@pytest.mark.parametrize("exported", ["onnx"], indirect=True, scope="module")
def test_an_onnx_file_is_read_without_this_package(exported):
    import onnx

    file, result, *_ = exported
    loaded = onnx.load(file)
    metadata = {x.key: x.value for x in loaded.metadata_props}
    assert json.loads(metadata["class_names"]) == NAMES
    assert result.description == f"opset {loaded.opset_import[0].version}"
    assert [x.name for x in loaded.graph.output] == ["boxes", "scores", "classes", "counts"]
    (dims,) = (x.type.tensor_type.shape.dim for x in loaded.graph.input)
    assert [x.dim_param or x.dim_value for x in dims] == ["batch", 3, "height", "width"]
    assert all(x.domain == "" for x in loaded.graph.node)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_fixed_sizes_and_floats(model, tmp_path, suffix):
    file = tmp_path / f"fixed{suffix}"
    result = export(model, file, batch_size=2, image_size=(130, 170), input_dtype="float32")
    assert result.info.input_shape == [2, 3, 130, 170]
    batch = torch.stack([noise(130, 170), noise(130, 170, seed=1)])
    outputs = compare(model, load_exported(file)[0], batch.float())
    assert (outputs.counts > 30).all()
    # Images of other sizes are resized and padded, and an incomplete batch is filled.
    predictor = ExportedPredictor(file)
    pictures = [to_array(noise(65, 85)), to_array(noise(200, 100)), to_array(noise(260, 340))]
    results = [*predictor.predict_all(pictures, batch_size=3)]
    assert [x.image_size for x in results] == [(65, 85), (200, 100), (260, 340)]
    for picture, actual in zip(pictures, results, strict=True):
        prepared = result.info.build_preparation()(picture)
        image = pad_to_accepted_size(prepared["image"], result.info)
        with torch.no_grad():
            (output,) = model([{"image": image}])
        instances = output["instances"]
        instances._image_size = tuple(prepared["image"].shape[1:])
        expected = detector_postprocess(instances, prepared["height"], prepared["width"])
        agreement = compare_detections(
            expected, actual.pred_boxes.tensor, actual.scores, actual.pred_classes
        )
        assert len(expected) > 10
        assert (agreement.num_missing, agreement.num_additional) == (0, 0)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_thin_images_are_padded_to_the_smallest_size(model, tmp_path, suffix):
    file = tmp_path / f"thin{suffix}"
    export(model, file, images=[to_array(noise(20, 200))])
    instances = ExportedPredictor(file)(to_array(noise(20, 200)))
    assert instances.image_size == (20, 200)
    assert len(instances) > 5
    assert instances.pred_boxes.tensor[:, 3].max() <= 20


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_raw_outputs_are_those_of_the_head(model, tmp_path, suffix):
    file = tmp_path / f"raw{suffix}"
    result = export(model, file, raw=True)
    assert result.info.outputs[::3] == ["cls_logits_p4", "raw_ltrb_p4", "quality_logits_p4"]
    assert result.agreement.raw_difference < 1e-4
    image = noise(100, 140)
    run, _ = load_exported(file)
    outputs = dict(zip(result.info.outputs, run(image[None]), strict=True))
    with torch.no_grad():
        images = model.preprocess_image([{"image": image}])
        maps = model.backbone(images.tensor)
        expected = model.head([maps[name] for name in model.head_in_features])
    for name, maps in zip(("cls_logits", "raw_ltrb", "quality_logits"), expected[:3], strict=True):
        for level, values in zip(("p4", "p5", "p6"), maps, strict=True):
            actual = outputs[f"{name}_{level}"]
            torch.testing.assert_close(actual, values, rtol=1e-4, atol=1e-4)
    with input_error("--raw", file=str(file)):
        ExportedPredictor(file)


def test_the_model_is_not_changed(model, tmp_path):
    model = copy.deepcopy(model).train()
    before = copy.deepcopy(model.state_dict())
    export(model, tmp_path / "x.pt2", image_size=(64, 64))
    assert model.training
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_file_that_differs_from_the_model_is_not_written(model, tmp_path, monkeypatch):
    file = tmp_path / "x.pt2"
    file.write_bytes(b"older")
    original = FCOS.forward

    def shifted(self, batched_inputs):
        """Return detections with shifted boxes."""
        results = original(self, batched_inputs)
        for result in results:
            result["instances"].pred_boxes.tensor += 0.02
        return results

    monkeypatch.setattr(FCOS, "forward", shifted)
    with input_error("differs from the model"):
        export(model, file, image_size=(64, 64))
    assert file.read_bytes() == b"older"
    assert [*tmp_path.iterdir()] == [file]


def test_models_with_other_outputs_are_refused(tmp_path):
    two_stages = build_model(two_stage_cfg())
    with input_error("GeneralizedRCNN", key="MODEL.META_ARCHITECTURE", value="GeneralizedRCNN"):
        export(two_stages, tmp_path / "x.onnx")

    class Sorted(FCOS):
        def forward_inference(self, images, features, predictions):
            return super().forward_inference(images, features, predictions)

    class Other(FCOSPostProcessor):
        pass

    subclass = seeded_model(SMALL)
    subclass.__class__ = Sorted
    with input_error("forward_inference"):
        export(subclass, tmp_path / "x.onnx")
    other = seeded_model(SMALL)
    other.postprocessor = Other(levels=other.levels)
    with input_error("FCOSPostProcessor"):
        export(other, tmp_path / "x.onnx")
    for model in (subclass, other):
        export(model, tmp_path / "x.pt2", raw=True, image_size=(64, 64))


class _MoreOutputs(nn.Module):
    """A head with an additional output."""

    def __init__(self, head, name):
        super().__init__()
        self.head, self.name, self.num_classes = head, name, head.num_classes

    def forward(self, features):
        predictions = self.head(features)
        return predictions._replace(extra={self.name: [x.exp() for x in predictions.raw_ltrb]})


def test_additional_outputs_of_a_head_are_exported_as_raw_outputs_only(tmp_path):
    model = seeded_model(SMALL)
    model.head = _MoreOutputs(model.head, "cls_logits_aux")
    with input_error("cls_logits_aux", "--raw"):
        export(model, tmp_path / "x.onnx")
    result = export(model, tmp_path / "x.onnx", raw=True)
    assert result.info.outputs[-3:] == [f"cls_logits_aux_p{i}" for i in (4, 5, 6)]
    model.head.name = "cls_logits"
    with input_error("cls_logits"):
        export(model, tmp_path / "x.onnx", raw=True)


def test_a_nan_in_a_map_does_not_change_other_detections(tmp_path):
    class Damaged(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head, self.num_classes = head, head.num_classes

        def forward(self, features):
            predictions = self.head(features)
            damaged = predictions.raw_ltrb[0].clone()
            damaged[:, :, 1, 1] = torch.nan
            return predictions._replace(raw_ltrb=[damaged, *predictions.raw_ltrb[1:]])

    model = selective_detector()
    model.head = Damaged(model.head)
    for suffix in (".onnx", ".pt2"):
        result = export(model, tmp_path / f"x{suffix}", image_size=(96, 128))
        assert result.agreement.num_detections > 50
        assert (result.agreement.num_missing, result.agreement.num_additional) == (0, 0)
    with input_error("inf"):
        export(model, tmp_path / "raw.pt2", raw=True, image_size=(96, 128))


def test_a_model_in_half_precision_is_exported_in_float32(model, tmp_path):
    result = export(copy.deepcopy(model).half(), tmp_path / "x.pt2", image_size=(64, 64))
    run, _ = load_exported(tmp_path / "x.pt2")
    assert run(noise(64, 64)[None])[0].dtype == torch.float32
    assert result.agreement.num_missing == 0


def test_images_and_class_names_are_checked(model, tmp_path):
    arguments = ExportSettings("pt2"), preparation()
    with input_error("1 name", "5 classes", key="class_names"):
        export_model(model, tmp_path / "x.pt2", *arguments, ["one"], [to_array(PLAIN)])
    with input_error("images", key="images"):
        export_model(model, tmp_path / "x.pt2", *arguments, NAMES, [])


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"file_format": "tflite"}, "format"),
        ({"image_size": (32, 64)}, "image_size"),
        ({"image_size": 640}, "image_size"),
        ({"raw": 3}, "raw"),
        ({"batch_size": 0}, "batch_size"),
        ({"input_dtype": "int8"}, "input_dtype"),
    ],
)
def test_settings_are_checked(model, tmp_path, settings, key):
    with input_error("must be", key=key):
        export(model, tmp_path / "x.onnx", **settings)


def test_without_a_compiler_aoti_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with input_error("C++ compiler"):
        export(model, tmp_path / "x.pt2", "aoti")


def test_without_the_packages_onnx_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with input_error("pip install", "onnxscript"):
        export(model, tmp_path / "x.onnx")


def test_an_old_pytorch_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.10.0+cpu")
    with input_error("2.11"):
        export(model, tmp_path / "x.onnx")


@pytest.mark.parametrize("name", ["x.onnx", "x.pt2"])
def test_other_files_are_refused(tmp_path, name):
    file = tmp_path / name
    with input_error("no file", file=str(file)):
        load_exported(file)
    with input_error(".onnx or .pt2"):
        load_exported(tmp_path / "x.pth")
    for content in (b"not a model", b""):
        file.write_bytes(content)
        with input_error(name, file=str(file)):
            load_exported(file)


def test_a_damaged_program_is_refused(exported, tmp_path):
    file, *_ = exported
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    damaged = tmp_path / f"damaged{file.suffix.upper()}"
    damaged.write_bytes(content[:middle])
    with input_error("damaged", file=str(damaged)):
        load_exported(damaged)


def test_files_of_other_programs_are_refused(tmp_path):
    program = torch.export.export(torch.nn.Identity(), (torch.zeros(2),))
    for metadata in ({}, {"fcos_d2.json": "{bad"}, {"fcos_d2.json": "[1]"}):
        torch.export.save(program, tmp_path / "x.pt2", extra_files=metadata)
        with input_error("not written by", file=str(tmp_path / "x.pt2")):
            load_exported(tmp_path / "x.pt2")
    with zipfile.ZipFile(tmp_path / "y.pt2", "w") as archive:
        archive.writestr("a.txt", "text")
    with input_error("y.pt2", file=str(tmp_path / "y.pt2")):
        load_exported(tmp_path / "y.pt2")
