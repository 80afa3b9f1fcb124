"""``fcos-d2 predict``: its files, its errors, and the files that it must not change."""

import json
import os
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
import yaml
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from input_errors import check_error, command_error
from PIL import Image
from tiny import timm_cfg, tiny_cfg
from torchvision.ops import box_convert, box_iou

from fcos_d2 import cli
from fcos_d2.cli import predict as predict_command
from fcos_d2.drawing import draw_objects
from fcos_d2.drawing.colors import class_color


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    """Save config and weights of an untrained model, and return their folder."""
    folder = tmp_path_factory.mktemp("model")
    cfg = tiny_cfg("MODEL.FCOS.NUM_CLASSES", 2, "INPUT.MAX_SIZE_TEST", 200)
    cfg.INPUT.MIN_SIZE_TEST = 64
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def predict(model_files, tmp_path):
    """Return a function that runs the command and returns the names of the files in the output."""

    def run(*inputs, output=tmp_path / "out", weights=model_files / "model.pth", opts=()):
        flags = ["--config-file", model_files / "config.yaml"]
        flags += ["--weights", weights, "--output", output]
        opts = ["--opts", *opts] if opts else []
        cli.main(["predict", *map(str, (*flags, *inputs, *opts))])
        return sorted(x.name for x in output.iterdir())

    return run


@pytest.fixture
def refusal(predict, monkeypatch):
    """Return a function that runs the command and returns its error; building a model fails."""

    def fail(cfg):
        raise AssertionError("a model was built")

    def run(*inputs, **options):
        with monkeypatch.context() as context:
            context.setattr(predict_command, "Predictor", fail)
            return command_error(lambda: predict(*inputs, **options))

    return run


def test_pictures_do_not_replace_the_images(refusal, images):
    before = (images / "1.png").read_bytes()
    for output in (images, images / ".." / "images"):
        check_error(refusal(images, output=output), "1.png", "image", "--output")
    assert (images / "1.png").read_bytes() == before
    assert len(list(images.iterdir())) == 2


def test_pictures_are_not_written_to_a_folder_of_images(refusal, predict, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (96, 64)).save(folder / "1.jpg")
    for output in (folder, folder / ".." / "photos"):
        check_error(refusal(folder, output=output), f"--output {output}", "another folder")
    assert [x.name for x in folder.iterdir()] == ["1.jpg"]
    assert predict(folder / "1.jpg", output=folder) == ["1.jpg", "1.png", "predictions.json"]


def test_an_image_is_not_replaced_through_a_link_to_its_folder(refusal, images, tmp_path):
    (tmp_path / "link").symlink_to(images, target_is_directory=True)
    check_error(refusal(images, output=tmp_path / "link"), "1.png", "image", "--output")


def test_images_with_the_same_stem_get_separate_pictures(predict, images):
    Image.new("RGB", (96, 64)).save(images / "1.webp")
    assert predict(images) == ["1.png.png", "1.webp.png", "2.png", "predictions.json"]


def test_images_with_the_same_name_in_two_folders_are_refused(refusal, images, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (9, 9)).save(other / "1.png")
    check_error(refusal(images, other), "images/1.png", "other/1.png", "out/1.png")
    assert not (tmp_path / "out").exists()


def test_the_other_images_are_processed_after_a_damaged_one(predict, images, tmp_path, capsys):
    (images / "0.png").write_text("no image")
    Image.new("RGB", (5000, 3)).save(images / "thin.png")
    opts = ["MODEL.FCOS.SCORE_THRESH_TEST", "0.0"]
    check_error(command_error(lambda: predict(images, opts=opts)), "2 of 4")
    captured = capsys.readouterr()
    damaged, thin = captured.err.splitlines()
    assert "0.png" in damaged
    assert "UnidentifiedImageError" in damaged
    assert "thin.png" in thin
    assert "5000 x 3" in thin
    assert "in 2 images" in captured.out
    assert isinstance(json.loads((tmp_path / "out" / "predictions.json").read_text()), list)
    assert sorted(x.name for x in (tmp_path / "out").glob("*.png")) == ["1.png", "2.png"]


def test_an_output_that_cannot_be_written_is_reported_first(refusal, images, tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        check_error(refusal(images, output=output), f"--output {output}", "written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_reported_first(refusal, images, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    check_error(refusal(images), "--output", "written")


@pytest.mark.parametrize("name", ["1.png", "predictions.json"])
def test_a_folder_in_the_place_of_an_output_is_reported_first(refusal, images, tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    check_error(refusal(images), f"out/{name}", "folder")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("MODEL.FCOS.NMS_THRESH_TEST", "1.5", 1.5),
        ("INPUT.FORMAT", "BRG", "BRG"),
        ("MODEL.DEVICE", "gpu", "gpu"),
    ],
)
def test_the_config_is_checked_as_in_training(refusal, images, key, text, value):
    check_error(refusal(images, opts=[key, text]), key=key, value=value)


def test_weights_are_enough_and_the_flag_opts_does_not_take_images_as_values(
    model_files, images, tmp_path
):
    weights, output = str(model_files / "model.pth"), tmp_path / "out"
    files = [str(images / name) for name in ("1.png", "2.jpg")]
    opts = ["--opts", "MODEL.FCOS.SCORE_THRESH_TEST=0.0", "INPUT.MIN_SIZE_TEST", "32"]
    flags = ["--weights", weights, "--output", str(output), "--score-thresh", "0"]
    results = output / "predictions.json"
    for command in ([*flags, *opts, *files], [*files, *opts, *flags], [*opts, *flags, *files]):
        cli.main(["predict", *command])
        assert {x["file"] for x in json.loads(results.read_text())} == set(files)
    # The overrides have an effect: no score reaches this threshold.
    cli.main(["predict", *files, *flags, *opts, "--opts", "MODEL.FCOS.SCORE_THRESH_TEST", "0.99"])
    assert json.loads(results.read_text()) == []


def test_a_key_in_lower_case_and_a_key_without_a_value_are_refused(refusal, images):
    check_error(refusal(images, opts=["model.device", "cpu"]), "--opts", "model.device")
    check_error(refusal(images, opts=["MODEL.DEVICE"]), "no value", key="MODEL.DEVICE")


def test_an_unknown_key_is_reported_with_the_most_similar_key(refusal, images):
    error = refusal(images, opts=["MODEL.DEVISE", "cpu"])
    check_error(error, "'MODEL.DEVICE'", key="MODEL.DEVISE", value="cpu")


def test_weights_are_required(refusal, images):
    check_error(refusal(images, weights=""), "--weights", "empty")


def test_a_threshold_that_is_not_a_probability_is_refused(predict, images, capsys):
    for value in ("nan", "40", "high"):
        with pytest.raises(SystemExit) as stop:
            predict("--score-thresh", value, images)
        assert stop.value.code == 2
        assert value in capsys.readouterr().err


def test_images_before_and_after_flags_are_refused_by_name(images, tmp_path):
    flags = ["--weights", "model.pth", "--output", str(tmp_path / "out")]
    files = [str(images / name) for name in ("1.png", "2.jpg")]
    error = command_error(lambda: cli.main(["predict", files[0], *flags, files[1]]))
    check_error(error, files[1], "together")


def test_unknown_flags_have_the_error_of_argparse(images, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", str(images), "--weights", "x", "--output", "y", "--threshold", "1"])
    assert stop.value.code == 2
    assert "--threshold" in capsys.readouterr().err


def test_what_is_left_out_is_printed_and_subfolders_are_searched_on_request(
    predict, images, capsys
):
    (images / "notes.txt").write_text("no image")
    for name in ("a", "b"):
        (images / name).mkdir()
        Image.new("RGB", (96, 64)).save(images / name / "1.gif")
    assert predict(images) == ["1.png", "2.png", "predictions.json"]
    printed = capsys.readouterr().out
    assert "notes.txt" in printed
    assert "2 subfolders" in printed
    assert "--recursive" in printed
    names = ["1.png.png", "2.png", "a_1.png", "b_1.png", "predictions.json"]
    # The older 1.png stays.
    assert predict(images, "--recursive") == sorted(
        ["1.png", *(x for x in names if x != "1.png.png")]
    )
    assert "Left out: another file" in capsys.readouterr().out


def test_an_output_folder_among_the_images_is_not_searched(predict, images):
    for _ in range(2):
        names = predict(images, "--recursive", output=images / "out")
        assert names == ["1.png", "2.png", "predictions.json"]


def test_pictures_replace_only_those_of_an_earlier_run(refusal, predict, images, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "1.png").write_bytes(b"mine")
    check_error(refusal(images), "1.png", "predictions.json", "--output")
    assert (out / "1.png").read_bytes() == b"mine"
    (out / "1.png").unlink()
    for _ in range(2):
        assert predict(images) == ["1.png", "2.png", "predictions.json"]
    inside = images / "sub"
    inside.mkdir()
    (inside / "1.png").write_bytes(b"mine")
    check_error(refusal(images, "--recursive", output=inside), "1.png")
    (inside / "1.png").unlink()
    predict(images, "--recursive", output=inside)
    assert f"Left out: {inside}, the folder for results." in capsys.readouterr().out


def test_gray_of_16_bits_is_drawn_with_the_white_point_of_the_config(
    predict, images, tmp_path, package_log
):
    dark = np.full((64, 96), 4095, np.uint16)
    Image.fromarray(dark).save(images / "3.png")
    predict(images / "3.png", opts=["FCOS_TRAIN.WHITE_POINT_16_BIT", 4095])
    with Image.open(tmp_path / "out" / "3.png") as picture:
        assert picture.getpixel((90, 60))[:3] == (255, 255, 255)
    assert f"{images / '3.png'} has gray pixels of 16 bits" in package_log.text
    assert "from 4095 to 4095" in package_log.text


@pytest.mark.parametrize("value", [0, 65536])
def test_the_white_point_is_checked(refusal, images, value):
    key = "FCOS_TRAIN.WHITE_POINT_16_BIT"
    check_error(refusal(images, opts=[key, value]), key=key, value=value)


def test_no_pretrained_weights_are_downloaded(images, tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    cfg = timm_cfg("resnet18", "INPUT.MIN_SIZE_TEST", 64)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    cfg.MODEL.TIMM.PRETRAINED = True
    (tmp_path / "config.yaml").write_text(cfg.dump())
    requests, create_model = [], timm.create_model

    def record(*args, pretrained=False, **kwargs):
        requests.append(pretrained)
        return create_model(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", record)
    flags = ["--weights", tmp_path / "model.pth", "--output", tmp_path / "out"]
    cli.main(["predict", *map(str, (*flags, images))])
    assert set(requests) == {False}  # Networks are created, but none with pretrained weights.


def predict_own_data(*arguments, weights="output/model_final.pth"):
    """Run the command in the folder of ``trained_own_data``, and return the detections."""
    flags = ["--config-file", "output/config.yaml", "--weights", weights]
    cli.main(["predict", *flags, "--output", "predictions", "--score-thresh", "0", *arguments])
    return json.loads(Path("predictions/predictions.json").read_text())


def test_pictures_and_detections_of_a_trained_model(trained_own_data, capsys):
    opts = ["--opts", "MODEL.FCOS.SCORE_THRESH_TEST", "0.0"]
    detections = predict_own_data("images", *opts)
    assert {Path(x["file"]).name for x in detections} == {"1.png", "2.png", "3.png", "4.png"}
    assert {x["class"] for x in detections} <= {"cat", "dog"}
    x, y, w, h = detections[0]["bbox"]
    assert 0 <= x <= x + w <= 96
    assert 0 <= y <= y + h <= 64
    assert len(list(Path("predictions").glob("*.png"))) == 4
    assert f"{len(detections)} objects in 4 images" in capsys.readouterr().out
    predict_own_data("images/1.png", "MODEL.FCOS.SCORE_THRESH_TEST=0.999")
    assert "0 objects in 1 image:" in capsys.readouterr().out


@pytest.mark.parametrize(("lowest", "is_said"), [("0.05", True), ("0.0", False)])
def test_a_score_threshold_below_that_of_the_model_is_said(
    trained_own_data, capsys, lowest, is_said
):
    key = "MODEL.FCOS.SCORE_THRESH_TEST"
    predict_own_data("images/1.png", f"{key}={lowest}")  # with --score-thresh 0
    line = f"--score-thresh 0 is below {key} = 0.05"
    assert (line in capsys.readouterr().out) == is_said


def test_with_class_agnostic_each_box_is_found_once(trained_own_data):
    opts = ["MODEL.FCOS.SCORE_THRESH_TEST=0", "MODEL.FCOS.NMS_THRESH_TEST=0.5"]
    overlaps = []
    for flags in ([], ["--class-agnostic"]):
        detections = predict_own_data("images/1.png", *flags, *opts)
        boxes = torch.tensor([x["bbox"] for x in detections])
        boxes = box_convert(boxes, "xywh", "xyxy")
        overlaps.append(box_iou(boxes, boxes).fill_diagonal_(0).max().item())
    # Boxes are rounded to 0.01 pixels in the file.
    assert overlaps[1] < 0.51 < overlaps[0]


def test_names_are_drawn_literally_or_as_numbers(trained_own_data, capsys, monkeypatch):
    config = Path("output/config.yaml")
    names = ["$\\no_formula^", "\U0010ffff"]  # no font has the second one
    content = yaml.safe_load(config.read_text())
    content["FCOS_TRAIN"]["CLASS_NAMES"] = names
    config.write_text(yaml.safe_dump(content))
    drawn = []

    def record(image, objects, **options):
        drawn.extend(zip(objects.labels, objects.scores, strict=True))
        return draw_objects(image, objects, **options)

    monkeypatch.setattr(predict_command, "draw_objects", record)
    detections = predict_own_data("images/1.png", "MODEL.FCOS.SCORE_THRESH_TEST=0")
    labels = dict(zip(names, [names[0], "class 1"], strict=True))
    expected = [(labels[x["class"]], pytest.approx(x["score"], abs=1e-3)) for x in detections]
    assert drawn == expected
    assert {x["class"] for x in detections} == {*names}
    assert "class 1 is" in "".join(capsys.readouterr())


def test_the_names_of_classes_do_not_need_the_annotation_files(trained_own_data):
    for name in trained_own_data.NAMES:
        Path(trained_own_data.file(name)).unlink()
    detections = predict_own_data("images/1.png", "--opts", "MODEL.FCOS.SCORE_THRESH_TEST", "0.0")
    assert detections
    assert {x["class"] for x in detections} <= {"cat", "dog"}


@pytest.fixture
def detected(predict, monkeypatch, tmp_path):
    """
    Return a function that runs the command with given detections of a black image of 640 x 480.

    It returns the picture and the content of predictions.json.
    """
    Image.new("RGB", (640, 480)).save(tmp_path / "black.png")

    def run(instances, *opts):
        monkeypatch.setattr(predict_command.Predictor, "__call__", lambda *_: instances)
        predict(tmp_path / "black.png", opts=opts)
        picture = np.asarray(Image.open(tmp_path / "out" / "black.png"))
        return picture, json.loads((tmp_path / "out" / "predictions.json").read_text())

    return run


def make_detections(scores):
    """Return detections with masks and three keypoints; the last keypoint is not found."""
    count = len(scores)
    instances = Instances((480, 640))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 600.0, 20.0]] * count).reshape(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.zeros(count, dtype=torch.long)
    instances.pred_masks = torch.zeros(count, 480, 640, dtype=torch.bool)
    instances.pred_masks[:, 100:200, 300:400] = True
    points = [[200.5, 300.5, 0.9], [400.5, 300.5, 0.01], [300.5, 400.5, 0.009]]
    instances.pred_keypoints = torch.tensor([points] * count).reshape(-1, 3, 3)
    return instances


SKELETON = [
    "FCOS_TRAIN.KEYPOINT_NAMES=['a','b','c']",
    "FCOS_TRAIN.KEYPOINT_SKELETON=[['a','b',[0,0,255]],['b','c',[0,0,255]]]",
]


def test_masks_and_keypoints_are_drawn_and_written(detected):
    picture, (found,) = detected(make_detections([0.9, 0.1]), *SKELETON)
    color = np.array(class_color(0))
    assert picture[150, 350].tolist() == np.round(0.4 * 255 * color).tolist()
    assert picture[300, 200].tolist() == np.round(255 * color).tolist()
    assert picture[300, 400].tolist() == np.round(255 * color).tolist()
    assert picture[298:303, 300, 2].max() > 150  # the line
    assert not picture[350:].any()
    assert found["score"] == 0.9
    mask = mask_util.decode(found["segmentation"])
    assert mask.shape == (480, 640)
    assert mask[100:200, 300:400].sum() == mask.sum() == 100 * 100
    assert found["keypoints"] == [200, 300, 0.9, 400, 300, 0.01, 300, 400, 0.009]


@pytest.mark.parametrize("opts", [[], SKELETON[:1], ["FCOS_TRAIN.KEYPOINT_NAMES=['a','b']"]])
def test_without_a_skeleton_only_dots_are_drawn(detected, opts):
    picture, _ = detected(make_detections([0.9]), *opts)
    assert picture[300, 200].any()
    assert not picture[250:, 250:350].any()


@pytest.mark.parametrize("scores", [[], [0.1]])
def test_no_detection_changes_no_pixel(detected, scores):
    picture, found = detected(make_detections(scores), *SKELETON)
    assert found == []
    assert not picture.any()


def test_a_wrong_skeleton_is_reported_first(refusal, images):
    key, wrong = "FCOS_TRAIN.KEYPOINT_SKELETON", [["a", "b", [0, 0, 256]]]
    check_error(refusal(images, opts=[f"{key}={wrong}"]), key=key, value=wrong)
    opts = [SKELETON[0], f"{key}=[['a','d',[0,0,255]]]"]
    check_error(refusal(images, opts=opts), "'d'", value="d")


@pytest.mark.parametrize(
    ("images", "weights", "key", "words"),
    [
        ("nowhere.png", "output/model_final.pth", None, ["nowhere.png"]),
        ("empty", "output/model_final.pth", None, ["no image in empty"]),
        ("text.png", "output/model_final.pth", None, ["1 of 1 image ", "its error is"]),
        ("images", "nowhere.pth", "MODEL.WEIGHTS", ["'nowhere.pth'"]),
    ],
)
def test_the_error_about_missing_images_or_weights_names_them(
    trained_own_data, images, weights, key, words
):
    (trained_own_data.folder / "empty").mkdir()
    (trained_own_data.folder / "text.png").write_text("no image")
    error = command_error(lambda: predict_own_data(images, weights=weights))
    check_error(error, *words, key=key)


def test_augmentation_is_an_override_of_the_command(predict, images, tmp_path):
    opts = ["MODEL.FCOS.SCORE_THRESH_TEST=0.0"]
    augmentation = ["TEST.AUG.ENABLED=True", "TEST.AUG.MIN_SIZES=(64, 80)"]
    results = []
    for name, more in (("plain", []), ("augmented", augmentation)):
        output = tmp_path / name
        predict("--score-thresh=0.0", images, output=output, opts=[*opts, *more])
        results.append(json.loads((output / "predictions.json").read_text()))
    assert results[0]
    assert results[1]
    assert results[0] != results[1]


def test_augmentation_with_a_wrong_number_of_size_ranges_is_refused(refusal, images):
    opts = ["TEST.AUG.ENABLED=True", "MODEL.FCOS.TTA_SIZE_RANGES=[[0, 32]]"]
    key = "MODEL.FCOS.TTA_SIZE_RANGES"
    check_error(refusal(images, opts=opts), "9 scales", key=key, value=[[0, 32]])
