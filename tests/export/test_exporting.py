"""Exported files give the detections of the model, in every format, for images of any size."""

import copy
import json
import shutil
import zipfile

import pytest
import torch
from commands import run_python
from export_models import NAMES, PLAIN, export, noise, selective_detector, to_array
from input_errors import input_error
from tiny import seeded_model, two_stage_cfg

from fcos_d2.export import ExportedPredictor, load_exported
from fcos_d2.export.checking import Agreement, compare_detections
from fcos_d2.export.tensor_model import Detections
from fcos_d2.modeling import FCOS, build_model

pytest.importorskip("onnxscript")
pytest.importorskip("timm")

HAS_COMPILER = any(map(shutil.which, ("g++", "clang++", "c++")))
FORMATS = [
    "onnx",
    "pt2",
    pytest.param("aoti", marks=pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")),
]


@pytest.fixture(scope="module")
def model():
    return selective_detector()


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, model, tmp_path_factory):
    """Export the model in a format; return the file, the result and the loaded file."""
    suffix = ".onnx" if request.param == "onnx" else ".pt2"
    file = tmp_path_factory.mktemp(request.param) / f"model{suffix}"
    result = export(model, file, request.param)
    return file, result, *load_exported(file)


def compare(model, run, batch):
    """Compare a file with the model, without the allowance of the command for ties."""
    outputs = Detections(*run(batch))
    with torch.no_grad():
        expected = [x["instances"] for x in model([{"image": image} for image in batch])]
    agreement = Agreement()
    for index, instances in enumerate(expected):
        compare_detections(instances, Detections(*(x[index] for x in outputs)), agreement)
    assert outputs.counts.tolist() == [len(x) for x in expected]
    assert agreement.num_different == 0
    return outputs


@pytest.mark.parametrize("size", [(64, 64), (77, 301), (256, 320)], ids=str)
def test_detections_are_those_of_the_model(model, exported, size):
    outputs = compare(model, exported[2], noise(*size)[None])
    assert outputs.counts[0] > 30


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


def test_metadata_have_no_stack_traces(exported):
    file, result, *_ = exported
    if result.info.format == "aoti":
        pytest.skip("compiled code names the headers that it was compiled with")
    content = file.read_bytes()
    if result.info.format == "pt2":
        with zipfile.ZipFile(file) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    for text in (b"stack_trace", b"tensor_model.py", b"site-packages"):
        assert text not in content


def test_an_onnx_file_is_read_without_this_package(model, exported):
    import onnx

    file, result, *_ = exported
    if result.info.format != "onnx":
        pytest.skip("only for ONNX")
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
    # An image of another size is resized and padded, and the batch is filled.
    predictor = ExportedPredictor(file)
    small, again = predictor.predict_all([to_array(noise(65, 85)), to_array(noise(100, 100))], 4)
    assert (small.image_size, again.image_size) == ((65, 85), (100, 100))
    assert len(small) > 10
    assert small.pred_boxes.tensor[:, 2].max() <= 85


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_raw_outputs_are_those_of_the_head(model, tmp_path, suffix):
    file = tmp_path / f"raw{suffix}"
    result = export(model, file, raw=True)
    assert result.info.outputs[::3] == ["cls_logits_p4", "raw_ltrb_p4", "quality_logits_p4"]
    assert 0 <= result.agreement.raw_difference < 1e-4
    image = noise(100, 140)
    run, _ = load_exported(file)
    outputs = dict(zip(result.info.outputs, run(image[None]), strict=True))
    with torch.no_grad():
        images = model.preprocess_image([{"image": image}])
        maps = model.backbone(images.tensor)
        expected = model.head([maps[name] for name in model.head_in_features])
    torch.testing.assert_close(outputs["raw_ltrb_p5"], expected.raw_ltrb[1], rtol=1e-4, atol=1e-4)
    with input_error("--raw", file=str(file)):
        ExportedPredictor(file)


def test_the_model_is_not_changed(model, tmp_path):
    before = copy.deepcopy(model.state_dict())
    export(model.train(), tmp_path / "x.pt2", image_size=(64, 64))
    assert model.training
    model.eval()
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

    subclass = seeded_model()
    subclass.__class__ = Sorted
    with input_error("forward_inference"):
        export(subclass, tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"file_format": "tflite"}, "format"),
        ({"image_size": (32, 64)}, "image_size"),
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
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with input_error("fcos_d2[export]"):
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
    file.write_bytes(b"not a model")
    with input_error(name, file=str(file)):
        load_exported(file)


def test_files_of_other_programs_are_refused(tmp_path):
    program = torch.export.export(torch.nn.Identity(), (torch.zeros(2),))
    torch.export.save(program, tmp_path / "x.pt2")
    with input_error("not exported by", file=str(tmp_path / "x.pt2")):
        load_exported(tmp_path / "x.pt2")
    with zipfile.ZipFile(tmp_path / "y.pt2", "w") as archive:
        archive.writestr("a.txt", "text")
    with input_error("y.pt2", file=str(tmp_path / "y.pt2")):
        load_exported(tmp_path / "y.pt2")
