"""``fcos-d2 export``, and ``fcos-d2 predict`` and the example with its files."""

import ast
import json
import subprocess
import sys

import pytest
import torch
from commands import REPOSITORY
from detectron2.modeling import build_model
from export_models import NAMES, SMALL, noise, to_array
from input_errors import ANY, check_error, command_error
from PIL import Image
from tiny import detector, tiny_cfg, two_stage_cfg

from fcos_d2 import cli

pytest.importorskip("onnxscript")
pytest.importorskip("timm")

EXAMPLE = REPOSITORY / "examples" / "onnxruntime_only.py"
SETTINGS = {
    **SMALL,
    "MODEL.FCOS.PRIOR_PROB": 0.2,
    "MODEL.FCOS.SCORE_THRESH_TEST": 0.3,
    "INPUT.MIN_SIZE_TEST": 96,
    "INPUT.MAX_SIZE_TEST": 120,
    "FCOS_TRAIN.CLASS_NAMES": NAMES,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save a model, its config and images of several sizes; return the folder."""
    folder = tmp_path_factory.mktemp("trained")
    torch.save({"model": detector(SETTINGS).state_dict()}, folder / "model.pth")
    (folder / "config.yaml").write_text(tiny_cfg(SETTINGS).dump())
    (folder / "images").mkdir()
    for index, size in enumerate([(150, 200), (300, 90), (64, 64)]):
        image = Image.fromarray(to_array(noise(*size, seed=index)))
        image.save(folder / "images" / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def onnx_file(folder):
    """Export the model by the command; return the file."""
    file = folder / "model.onnx"
    weights, images = str(folder / "model.pth"), str(folder / "images")
    cli.main(["export", "--weights", weights, "-o", str(file), "--images", images])
    return file


def export(folder, output, *arguments):
    """Run the command."""
    cli.main(["export", "--weights", str(folder / "model.pth"), "-o", str(output), *arguments])


def check_fails(words, function, *arguments):
    """Check that a command fails with an error that has some words."""
    check_error(command_error(function, *arguments), *words, key=ANY)


def predict(folder, weights, output, *arguments):
    """Run ``fcos-d2 predict`` and return its results."""
    images = str(folder / "images")
    cli.main(["predict", "--weights", str(weights), "--output", str(output), images, *arguments])
    return json.loads((output / "predictions.json").read_text())


def test_predictions_of_the_file_are_those_of_the_model(folder, onnx_file, tmp_path):
    expected = predict(folder, folder / "model.pth", tmp_path / "model")
    actual = predict(folder, onnx_file, tmp_path / "onnx")
    assert len(actual) == len(expected) > 30
    for x, y in zip(actual, expected, strict=True):
        assert (x["file"], x["class"]) == (y["file"], y["class"])
        assert x["bbox"] == pytest.approx(y["bbox"], abs=0.02)
        assert x["score"] == pytest.approx(y["score"], abs=2e-4)
    assert {x.name for x in (tmp_path / "onnx").iterdir()} == {
        "0.png",
        "1.png",
        "2.png",
        "predictions.json",
    }


def test_averaged_weights_are_exported_like_all_weights(folder, tmp_path, capsys):
    averaged = folder / "model_final_ema.pth"  # which training with EMA_DECAY writes
    weights = torch.load(folder / "model.pth")["model"]
    weights["head.cls_logits.bias"] -= 100
    torch.save({"model": weights}, averaged)
    output = str(tmp_path / "x.pt2")
    cli.main(["export", "--weights", str(averaged), "-o", output, "--image-size", "96", "120"])
    assert "0 detections" in capsys.readouterr().out


def test_the_command_prints_what_the_file_contains(folder, tmp_path, capsys):
    export(folder, tmp_path / "x.pt2", "--image-size", "96", "120", "--input-dtype", "float32")
    output = capsys.readouterr().out
    assert "(N, 3, 96, 120) of float32, BGR" in output
    assert "boxes, scores, classes, counts" in output
    assert "detections in" in output
    assert f"PyTorch {torch.__version__}" in output


def test_settings_that_a_file_cannot_have_are_named(folder, tmp_path, capsys):
    export(
        folder,
        tmp_path / "x.pt2",
        *("--image-size", "64", "64"),
        *("TEST.AUG.ENABLED=True", "MODEL.FCOS.INFERENCE_DTYPE=bfloat16"),
        *("MODEL.FCOS.COMPILE=True", "MODEL.FCOS.CUDA_GRAPHS=all"),
    )
    output = capsys.readouterr().out
    assert "TEST.AUG.ENABLED" in output
    assert "bfloat16" in output


@pytest.mark.parametrize(
    ("output", "arguments", "words"),
    [
        ("x.pth", (), (".onnx", ".pt2")),
        ("x.onnx", ("--format", "aoti"), (".pt2", "aoti")),
        ("x.pt2", ("--format", "onnx"), (".onnx",)),
        ("nowhere/x.onnx", (), ("does not exist",)),
        ("x.onnx", ("--images", "no.png"), ("no.png",)),
        ("x.onnx", ("--image-size", "10", "64"), ("image_size", "33")),
    ],
)
def test_bad_arguments_are_errors(folder, tmp_path, output, arguments, words):
    check_fails(words, export, folder, tmp_path / output, *arguments)
    assert [*tmp_path.iterdir()] == []


def test_an_existing_file_is_only_replaced_if_asked(folder, tmp_path):
    file = tmp_path / "x.pt2"
    file.write_bytes(b"older")
    check_fails(["--overwrite"], export, folder, file)
    assert file.read_bytes() == b"older"
    export(folder, file, "--overwrite", "--image-size", "64", "64")
    assert file.read_bytes() != b"older"


def test_two_stage_models_are_refused_in_one_line(tmp_path):
    cfg = two_stage_cfg()
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    check_fails(["GeneralizedRCNN"], export, tmp_path, tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("MODEL.FCOS.NMS_THRESH_TEST=0.5",), ("MODEL.FCOS.NMS_THRESH_TEST",)),
        (("--class-agnostic",), ("--class-agnostic",)),
        (("--config-file", "fcos_R_50_FPN_1x.yaml"), ("--config-file",)),
    ],
)
def test_settings_of_an_exported_file_cannot_be_changed(
    folder, onnx_file, tmp_path, arguments, words
):
    check_fails(words, predict, folder, onnx_file, tmp_path / "out", *arguments)


def test_a_threshold_below_that_of_the_file_is_reported(folder, onnx_file, tmp_path, capsys):
    predict(folder, onnx_file, tmp_path / "out", "--score-thresh", "0.1")
    assert "0.3" in capsys.readouterr().out


def test_the_example_prints_the_same_boxes_without_pytorch(folder, onnx_file, tmp_path):
    source = EXAMPLE.read_text()
    assert len(source.splitlines()) <= 60
    imported = {
        name.name.partition(".")[0] if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}
    expected = predict(folder, onnx_file, tmp_path / "out")
    files = sorted((folder / "images").iterdir())
    process = subprocess.run(
        [sys.executable, EXAMPLE, onnx_file, *files], capture_output=True, text=True, timeout=100
    )
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert len(lines) == len(expected)
    for line, detection in zip(lines, expected, strict=True):
        file, _, rest = line.partition(": ")
        name, *values = rest.split(" ")
        assert (file, name) == (detection["file"], detection["class"])
        x, y, width, height = detection["bbox"]
        box = [x, y, x + width, y + height]
        assert [float(v) for v in values] == pytest.approx([detection["score"], *box], abs=0.11)
