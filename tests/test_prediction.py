"""Predictor: files, opened images and arrays, one at a time or in batches."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from PIL import Image
from tiny import tiny_cfg

import fcos_d2
from fcos_d2.data.images import image_to_array, open_image
from fcos_d2.errors import InputError
from fcos_d2.prediction import Predictor


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    cfg = tiny_cfg("MODEL.FCOS.PRIOR_PROB", 0.3, "INPUT.MIN_SIZE_TEST", 96)
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.nn.init.constant_(model.head.bbox_pred.bias, 1.0)
    cfg.MODEL.WEIGHTS = str(tmp_path_factory.mktemp("weights") / "model.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    return cfg


@pytest.fixture(scope="module")
def predictor(cfg):
    return Predictor(cfg)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs) > 0
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.pred_classes, theirs.pred_classes)


def test_it_detects_what_detectron2s_predictor_does(cfg, predictor, files):
    bgr = read_image(str(files[0]), format="BGR")
    expected = DefaultPredictor(cfg)(bgr)["instances"].to("cpu")
    for image in (files[0], str(files[0]), open_image(files[0]), bgr):
        assert_equal(predictor(image), expected)


def test_arrays_have_the_channels_of_the_config(cfg, predictor, files):
    rgb_cfg = cfg.clone()
    rgb_cfg.INPUT.FORMAT = "RGB"
    rgb = Predictor(rgb_cfg)
    assert_equal(rgb(read_image(str(files[0]), format="RGB")), rgb(files[0]))
    assert not torch.equal(rgb(files[0]).scores, predictor(files[0]).scores)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_batches_give_the_same_in_order(predictor, files, batch_size):
    found = list(predictor.predict_all(files, batch_size))
    assert len(found) == len(files)
    for ours, file in zip(found, files, strict=True):
        alone = predictor(file)
        assert ours.image_size == (64, 80)
        torch.testing.assert_close(ours.scores, alone.scores, atol=1e-5, rtol=0)


def test_images_are_taken_only_when_their_batch_is_due(predictor, files):
    taken = []

    def stream():
        for file in files:
            taken.append(file)
            yield file

    found = predictor.predict_all(stream(), batch_size=2)
    assert taken == []
    next(found)
    next(found)
    assert len(taken) == 2
    next(found)
    assert len(taken) == 4


@pytest.mark.parametrize(
    "array",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((1, 8, 8, 3), np.uint8)],
)
def test_an_array_of_another_kind_is_refused(predictor, array):
    with pytest.raises(InputError, match=r"must be \(H, W, C\) of uint8"):
        predictor(array)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8, 3), np.uint8), None, 3]
)
def test_what_is_not_an_image_of_the_configs_format_is_refused(predictor, image):
    with pytest.raises(InputError):
        predictor(image)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_an_image(predictor, files, batch_size):
    with pytest.raises(InputError) as caught:
        list(predictor.predict_all(files, batch_size))
    assert (caught.value.key, caught.value.value) == ("batch_size", batch_size)


def test_one_path_is_not_several(predictor, files):
    with pytest.raises(InputError) as caught:
        list(predictor.predict_all(str(files[0])))
    assert caught.value.key == "images"


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    opened = open_image(tmp_path / "a.png")
    assert opened.size == (2, 4)
    assert image_to_array(opened, "RGB")[0, 1].tolist() == [255, 0, 0]
    assert image_to_array(opened, "BGR")[0, 1].tolist() == [0, 0, 255]
    expected = read_image(str(tmp_path / "a.png"), format="BGR")
    assert np.array_equal(image_to_array(opened, "BGR"), expected)


def test_a_damaged_file_is_named(tmp_path, files):
    (tmp_path / "cut.png").write_bytes(files[0].read_bytes()[:2000])
    for name in ("cut.png", "nowhere.png"):
        with pytest.raises(InputError, match=name) as caught:
            open_image(tmp_path / name)
        assert caught.value.file == str(tmp_path / name)


def test_it_is_a_name_of_the_package_and_imported_on_first_use():
    assert fcos_d2.Predictor is Predictor
    code = (
        "import sys, fcos_d2\nassert 'fcos_d2.prediction' not in sys.modules\n"
        "fcos_d2.Predictor\nassert 'fcos_d2.prediction' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no_such_name"):
        fcos_d2.no_such_name  # noqa: B018
