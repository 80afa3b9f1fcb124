"""What the commands refuse, and what they leave alone: pictures, folders, damaged images."""

import json
import logging
import os
import re

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from own_data import CONFIG, OwnData
from PIL import Image
from tiny import tiny_cfg

from fcos_d2 import cli
from fcos_d2.cli import predict as predict_verb
from fcos_d2.config_loading import load_config
from fcos_d2.errors import InputError
from fcos_d2.prediction import Predictor, class_names, find_images


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    """Config and weights of a model that was not trained."""
    folder = tmp_path_factory.mktemp("model")
    cfg = tiny_cfg("MODEL.FCOS.NUM_CLASSES", 2, "INPUT.MAX_SIZE_TEST", 200)
    cfg.INPUT.MIN_SIZE_TEST = 64
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("1.png", "2.jpg"):
        Image.new("RGB", (96, 64), "red").save(folder / name)
    return folder


@pytest.fixture
def predict(model_files, tmp_path):
    def run(*inputs, output=tmp_path / "out", weights=model_files / "model.pth", opts=()):
        cli.main(
            [
                "predict",
                "--config-file",
                str(model_files / "config.yaml"),
                "--weights",
                str(weights),
                "--output",
                str(output),
                *map(str, inputs),
                *(("--opts", *opts) if opts else ()),
            ]
        )
        return sorted(x.name for x in output.iterdir())

    return run


@pytest.fixture
def no_model(monkeypatch):
    """A test fails if it builds a model."""

    def build(cfg):
        raise AssertionError("a model was built")

    monkeypatch.setattr(predict_verb, "Predictor", build)


def test_pictures_do_not_replace_the_images(predict, images, no_model):
    before = (images / "1.png").read_bytes()
    for output in (images, images / ".." / "images"):
        with pytest.raises(SystemExit, match=r"1\.png would take the place of the image .*1\.png"):
            predict(images, output=output)
    assert (images / "1.png").read_bytes() == before
    assert len(list(images.iterdir())) == 2


def test_an_image_by_another_path_is_not_replaced(predict, images, tmp_path, no_model):
    (tmp_path / "link").symlink_to(images, target_is_directory=True)
    with pytest.raises(SystemExit, match="would take the place of the image"):
        predict(images, output=tmp_path / "link")


def test_images_of_one_stem_have_a_picture_each(predict, images):
    Image.new("RGB", (96, 64)).save(images / "1.webp")
    assert predict(images) == ["1.png.png", "1.webp.png", "2.png", "predictions.json"]


def test_images_of_one_name_in_two_folders_are_refused(predict, images, tmp_path, no_model):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (9, 9)).save(other / "1.png")
    with pytest.raises(SystemExit, match=r"images/1\.png and .*other/1\.png would both be"):
        predict(images, other)
    assert not (tmp_path / "out").exists()


def test_an_image_named_twice_comes_once(images):
    assert find_images([images, images / "1.png"]) == [images / "1.png", images / "2.jpg"]


def test_a_folder_named_like_an_image_is_no_image(images):
    (images / "3.png").mkdir()
    (images / "4.gif").write_bytes(b"GIF89a")
    assert len(find_images([images])) == 2


def test_the_other_images_go_on_after_a_damaged_one(predict, images, tmp_path, capsys):
    (images / "0.png").write_text("no image")
    Image.new("RGB", (5000, 3)).save(images / "thin.png")
    with pytest.raises(SystemExit, match="error: 2 of 4 images could not be used"):
        predict(images, opts=("MODEL.FCOS.SCORE_THRESH_TEST", "0.0"))
    captured = capsys.readouterr()
    assert "0.png cannot be read: UnidentifiedImageError" in captured.err
    assert "thin.png: An image of 5000 x 3 pixels is too thin" in captured.err
    assert "in 2 images" in captured.out
    assert isinstance(json.loads((tmp_path / "out" / "predictions.json").read_text()), list)
    assert sorted(x.name for x in (tmp_path / "out").glob("*.png")) == ["1.png", "2.png"]


def test_a_thin_image_that_keeps_a_pixel_is_used(model_files, tmp_path):
    Image.new("RGB", (3, 300)).save(tmp_path / "thin.png")
    weights = ["MODEL.WEIGHTS", str(model_files / "model.pth")]
    predictor = Predictor(load_config(str(model_files / "config.yaml"), weights))
    assert predictor(tmp_path / "thin.png").image_size == (300, 3)


def test_an_output_that_cannot_be_written_is_told_first(predict, images, tmp_path, no_model):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SystemExit, match=f"--output {output} cannot be written to"):
            predict(images, output=output)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told_first(predict, images, tmp_path, no_model):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(SystemExit, match="cannot be written to"):
        predict(images)


@pytest.mark.parametrize("name", ["1.png", "predictions.json"])
def test_a_folder_in_the_place_of_an_output_is_told_first(
    predict, images, tmp_path, no_model, name
):
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(SystemExit, match=f"{name} would be written, but there is a folder"):
        predict(images)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.FCOS.NMS_THRESH_TEST", "1.5"), "MODEL.FCOS.NMS_THRESH_TEST = 1.5 must be"),
        (("INPUT.FORMAT", "BRG"), "INPUT.FORMAT = 'BRG' must be"),
        (("MODEL.DEVICE", "gpu"), "MODEL.DEVICE = 'gpu'"),
    ],
)
def test_predict_checks_the_config_as_training_does(predict, images, no_model, opts, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        predict(images, opts=opts)


def test_weights_alone_are_enough_and_opts_do_not_take_the_images(model_files, images, tmp_path):
    """The overrides have an effect: a threshold that no score reaches."""
    weights, output = str(model_files / "model.pth"), tmp_path / "out"
    files = [str(images / name) for name in ("1.png", "2.jpg")]
    opts = ["--opts", "MODEL.FCOS.SCORE_THRESH_TEST=0.0", "INPUT.MIN_SIZE_TEST", "32"]
    flags = ["--weights", weights, "--output", str(output), "--score-thresh", "0"]
    results = output / "predictions.json"
    for command in ([*flags, *opts, *files], [*files, *opts, *flags], [*opts, *flags, *files]):
        cli.main(["predict", *command])
        assert {x["file"] for x in json.loads(results.read_text())} == set(files)
    cli.main(["predict", *files, *flags, *opts, "--opts", "MODEL.FCOS.SCORE_THRESH_TEST", "0.99"])
    assert json.loads(results.read_text()) == []


@pytest.mark.parametrize(
    ("opts", "message"),
    [(("model.device", "cpu"), "not model.device"), (("MODEL.DEVICE",), "'MODEL.DEVICE' has no v")],
)
def test_what_is_not_an_override_is_refused(predict, images, no_model, opts, message):
    with pytest.raises(SystemExit, match=message):
        predict(images, opts=opts)


def test_a_verb_without_a_config_refuses_overrides(tmp_path):
    with pytest.raises(SystemExit, match="no config here to override"):
        cli.main(["check-dataset", "a.json", str(tmp_path), "MODEL.DEVICE", "cpu"])


def test_an_unknown_key_of_opts_is_named_with_the_nearest(predict, images, no_model):
    with pytest.raises(SystemExit, match=r"MODEL\.DEVISE.* Did you mean 'MODEL\.DEVICE'"):
        predict(images, opts=("MODEL.DEVISE", "cpu"))


def test_predict_does_not_go_without_weights(predict, images, no_model):
    with pytest.raises(SystemExit, match="error: --weights is empty"):
        predict(images, weights="")


def test_a_threshold_that_is_none_is_refused(predict, images, capsys):
    for value in ("nan", "40", "high"):
        with pytest.raises(SystemExit, match="2"):
            predict("--score-thresh", value, images)
    assert "40 is not from 0 to 1" in capsys.readouterr().err


def test_the_help_says_which_files_a_folder_gives(capsys):
    with pytest.raises(SystemExit):
        cli.main(["predict", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ".jpg, .jpeg, .png, .bmp, .tif, .tiff, .webp" in text


def test_predict_fetches_no_weights_beside_the_checkpoint(images, tmp_path, monkeypatch):
    class SeenError(Exception):
        pass

    def see(cfg):
        raise SeenError(cfg.MODEL.TIMM.PRETRAINED)

    monkeypatch.setattr(predict_verb, "Predictor", see)
    arguments = ["predict", "--config-file", CONFIG, "--weights", "x.pth", "--output"]
    opts = ["--opts", "MODEL.TIMM.PRETRAINED", "True"]
    with pytest.raises(SeenError, match="False"):
        cli.main([*arguments, str(tmp_path / "out"), str(images), *opts])


def test_class_names_are_those_of_the_config_or_of_a_dataset():
    cfg = tiny_cfg("DATASETS.TRAIN", ("shapes_train",))
    assert class_names(cfg, 2) == ["class 0", "class 1"]
    assert class_names(cfg, 6) == MetadataCatalog.get("shapes_train").thing_classes
    cfg.FCOS_TRAIN.CLASS_NAMES = ["cat", "dog"]
    assert class_names(cfg, 2) == ["cat", "dog"]
    assert class_names(cfg, 3) == ["class 0", "class 1", "class 2"]


@pytest.fixture
def data(tmp_path):
    return OwnData(tmp_path)


@pytest.fixture
def check(data, caplog, monkeypatch):
    """Runs check-dataset on the training set; returns what it warned of."""
    # detectron2's set-up of a logger keeps its lines from all others, and from caplog.
    monkeypatch.setattr(cli, "log_to_terminal", lambda: None)
    monkeypatch.setattr(logging.getLogger("fcos_d2"), "propagate", True)

    def run(*flags):
        data.write()
        caplog.clear()
        cli.main(["check-dataset", str(data.folder / "train.json"), str(data.images), *flags])
        return caplog.text

    return run


def test_a_good_dataset_gives_no_warning_and_stays_unregistered(check, capsys):
    assert check("--decode") == ""
    assert "No mistake that would stop training was found." in capsys.readouterr().out
    assert "train" not in DatasetCatalog


def test_swapped_arguments_are_told(data):
    data.write()
    file, folder = str(data.folder / "train.json"), str(data.images)
    for arguments, message in (
        ([folder, file], "images is a folder, .* wrong way round"),
        ([folder, folder], "images is a folder, but the first argument is the annotation file"),
        ([file, file], "train.json is a file; it must be the folder of the images"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            cli.main(["check-dataset", *arguments])


def test_a_dataset_is_shown_by_the_stem_of_its_file(data):
    data.write()
    with pytest.raises(SystemExit, match="nowhere of the dataset 'train' does not exist"):
        cli.main(["check-dataset", str(data.folder / "train.json"), str(data.folder / "nowhere")])


def test_a_file_may_be_named_like_a_known_dataset(data, few_shapes, capsys):
    data.write()
    file = (data.folder / "train.json").rename(data.folder / "shapes_val.json")
    cli.main(["check-dataset", str(file), str(data.images)])
    assert "No mistake" in capsys.readouterr().out
    assert "shapes_val" in DatasetCatalog


def test_a_dataset_without_boxes_stops_training(check, data, capsys):
    data.train["annotations"] = []
    with pytest.raises(SystemExit, match=r"'train' .* has no box to learn from"):
        check()
    assert "No mistake" not in capsys.readouterr().out
    assert "train" not in DatasetCatalog


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("area", None, "1 annotations have a wrong 'area', .* annotation 10 with area = None"),
        ("area", "600", "area = '600'. It must be a number of pixels"),
        ("area", ..., "1 annotations have no 'area', the first is annotation 10"),
        ("iscrowd", ..., "have no 'iscrowd', .* An evaluation needs it"),
    ],
)
def test_fields_that_only_an_evaluation_needs_are_warned_of(
    check, data, capsys, field, value, message
):
    entry = data.train["annotations"][0]
    if value is ...:
        del entry[field]
    else:
        entry[field] = value
    assert re.search(message, check())
    assert "No mistake that would stop training" in capsys.readouterr().out


def test_a_file_listed_twice_is_warned_of(check, data):
    data.train["images"][1]["file_name"] = "./1.png"
    assert "1 files are listed more than once; the first is" in check()


def test_annotations_of_no_image_are_not_counted(check, data, capsys):
    data.train["annotations"][0].update(image_id=99, bbox="nothing")
    assert "1 annotations belong to no image" in check()
    assert "2 images, 0 of them without boxes; 3 boxes" in capsys.readouterr().out


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint16, "I;16"), (np.float32, "F")])
def test_decode_tells_of_pixels_of_more_than_8_bits(check, data, capsys, dtype, mode):
    pixels = np.full((64, 96), 999, dtype=dtype)
    Image.fromarray(pixels).save(data.images / "1.tif")
    data.train["images"][0]["file_name"] = "1.tif"
    check("--decode")
    printed = capsys.readouterr().out
    assert f"1.tif: its pixels have more than 8 bits (PIL's mode {mode})" in printed
    assert "No mistake that would stop training was found." in printed


def test_a_folder_without_images_says_what_would_be_taken(images):
    with pytest.raises(InputError, match=r"tif, \.tiff, \.webp are taken"):
        find_images([images.parent])
