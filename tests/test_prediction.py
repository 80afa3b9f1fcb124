"""Predictor: files, opened images and arrays, single images and batches, and class names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from input_errors import input_error
from PIL import Image
from tiny import tiny_cfg

import fcos_d2
from fcos_d2.data.images import open_image
from fcos_d2.errors import InputError
from fcos_d2.prediction import (
    Predictor,
    class_names,
    detections_as_dicts,
    keypoint_metadata,
)
from fcos_d2.test_time_augmentation import FCOSWithTTA


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


def assert_same_detections(detections, expected):
    assert len(detections) == len(expected) > 0
    assert torch.equal(detections.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(detections.scores, expected.scores)
    assert torch.equal(detections.pred_classes, expected.pred_classes)


def test_the_detections_are_those_of_detectron2s_predictor(cfg, predictor, files):
    bgr = read_image(str(files[0]), format="BGR")
    expected = DefaultPredictor(cfg)(bgr)["instances"].to("cpu")
    for image in (files[0], str(files[0]), open_image(files[0]), bgr):
        assert_same_detections(predictor(image), expected)


def test_arrays_have_the_channel_order_of_the_config(cfg, predictor, files):
    rgb_cfg = cfg.clone()
    rgb_cfg.INPUT.FORMAT = "RGB"
    rgb_predictor = Predictor(rgb_cfg)
    array = read_image(str(files[0]), format="RGB")
    assert_same_detections(rgb_predictor(array), rgb_predictor(files[0]))
    assert not torch.equal(rgb_predictor(files[0]).scores, predictor(files[0]).scores)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_detections_of_batches_are_those_of_single_images_in_the_same_order(
    predictor, files, batch_size
):
    results = list(predictor.predict_all(files, batch_size))
    assert len(results) == len(files)
    for detections, file in zip(results, files, strict=True):
        assert detections.image_size == (64, 80)
        expected = predictor(file)  # in a batch of one image
        torch.testing.assert_close(detections.scores, expected.scores, atol=1e-5, rtol=0)


def test_the_images_of_a_batch_are_requested_only_when_the_batch_is_needed(predictor, files):
    requested = []

    def stream():
        for file in files:
            requested.append(file)
            yield file

    results = predictor.predict_all(stream(), batch_size=2)
    assert requested == []
    next(results)
    next(results)
    assert len(requested) == 2
    next(results)
    assert len(requested) == 4


@pytest.mark.parametrize(
    "array",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((1, 8, 8, 3), np.uint8)],
    ids=["gray", "float", "batch"],
)
def test_an_array_of_another_kind_is_refused(predictor, array):
    with input_error("(H, W, C)", "uint8"):
        predictor(array)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8, 3), np.uint8), None, 3],
    ids=["RGBA", "empty", "None", "3"],
)
def test_an_input_that_is_not_an_image_with_three_channels_is_refused(predictor, image):
    with pytest.raises(InputError):
        predictor(image)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_at_least_one_image(predictor, files, batch_size):
    with input_error(key="batch_size", value=batch_size):
        list(predictor.predict_all(files, batch_size))


def test_a_single_path_instead_of_a_sequence_is_refused(predictor, files):
    with input_error(key="images"):
        list(predictor.predict_all(str(files[0])))


def test_a_thin_image_that_is_not_empty_after_resizing_is_accepted(cfg, tmp_path):
    Image.new("RGB", (3, 300)).save(tmp_path / "thin.png")
    small = cfg.clone()
    small.INPUT.MAX_SIZE_TEST = 200  # it becomes 2 x 200
    assert Predictor(small)(tmp_path / "thin.png").image_size == (300, 3)


def test_the_predictor_and_the_augmentation_are_names_of_the_package():
    assert fcos_d2.Predictor is Predictor
    assert fcos_d2.FCOSWithTTA is FCOSWithTTA
    with pytest.raises(AttributeError, match="no_such_name"):
        fcos_d2.no_such_name  # noqa: B018


def test_gray_of_16_bits_is_read_with_the_white_point_and_one_warning(
    cfg, predictor, files, tmp_path, package_log
):
    gray = np.asarray(Image.open(files[0]).convert("L"))
    Image.fromarray(gray).save(tmp_path / "8.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "16.png")
    expected = predictor(tmp_path / "8.png")
    own = Predictor(cfg)
    for image in (tmp_path / "16.png", Image.open(tmp_path / "16.png")):
        assert_same_detections(own(image), expected)
    (warning,) = (x for x in package_log.messages if "16 bits" in x)
    assert warning.startswith(str(tmp_path / "16.png"))
    assert "config.yaml" in warning
    assert f"from {int(gray.min()) * 257} to {int(gray.max()) * 257}" in warning
    twelve_bits = cfg.clone()
    twelve_bits.FCOS_TRAIN.WHITE_POINT_16_BIT = 255 * 16
    Image.fromarray(gray.astype(np.uint16) * 16).save(tmp_path / "12.png")
    assert_same_detections(Predictor(twelve_bits)(tmp_path / "12.png"), expected)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_32_bits_are_refused_with_their_range(predictor, tmp_path, dtype):
    image = Image.fromarray(np.array([[7, 999]], dtype))
    image.save(tmp_path / "32.tif")
    for one in (image, tmp_path / "32.tif"):
        with input_error("from 7 to 999"):
            predictor(one)


def test_class_names_come_from_the_config_or_from_a_dataset():
    cfg = tiny_cfg("DATASETS.TRAIN", ("shapes_train",))
    assert class_names(cfg, 2) == ["class 0", "class 1"]
    assert class_names(cfg, 6) == MetadataCatalog.get("shapes_train").thing_classes
    cfg.FCOS_TRAIN.CLASS_NAMES = ["cat", "dog"]
    assert class_names(cfg, 2) == ["cat", "dog"]
    assert class_names(cfg, 3) == ["class 0", "class 1", "class 2"]


def test_test_time_augmentation_makes_its_views_from_the_file_or_the_array(cfg, predictor, files):
    cfg = cfg.clone()
    cfg.TEST.AUG.ENABLED = True
    cfg.TEST.AUG.MIN_SIZES = (96,)
    cfg.TEST.AUG.FLIP = False
    assert_same_detections(Predictor(cfg)(files[0]), predictor(files[0]))
    cfg.TEST.AUG.MIN_SIZES = (64, 96, 128)
    cfg.TEST.AUG.FLIP = True
    augmented = Predictor(cfg)
    array = read_image(str(files[0]), format="BGR")
    image = torch.as_tensor(array.transpose(2, 0, 1).copy())
    with torch.no_grad():
        (expected,) = FCOSWithTTA(cfg, augmented.model)([{"image": image}])
    assert_same_detections(augmented(array), expected["instances"])
    single, *_ = augmented.predict_all(files[:3], batch_size=2)
    assert_same_detections(single, expected["instances"])
    assert not torch.equal(single.scores, predictor(files[0]).scores)


def test_an_image_that_is_too_thin_for_a_view_is_refused(cfg, tmp_path):
    Image.new("RGB", (1, 300)).save(tmp_path / "thin.png")
    cfg = cfg.clone()
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MAX_SIZE = True, 100
    with input_error("1 x 300", "TEST.AUG.MAX_SIZE = 100"):
        Predictor(cfg)(tmp_path / "thin.png")


def test_the_names_and_lines_of_keypoints_come_from_the_config_or_from_a_dataset():
    person = MetadataCatalog.get("keypoints_coco_2017_val")
    cfg = tiny_cfg("DATASETS.TRAIN", ("no_such_dataset",))
    assert keypoint_metadata(cfg) == ([], [])
    cfg.DATASETS.TEST = ("keypoints_coco_2017_val",)
    assert keypoint_metadata(cfg) == (
        list(person.keypoint_names),
        list(person.keypoint_connection_rules),
    )
    cfg.FCOS_TRAIN.KEYPOINT_NAMES = ["head", "tail"]
    assert keypoint_metadata(cfg) == (["head", "tail"], [])
    cfg.FCOS_TRAIN.KEYPOINT_SKELETON = [["head", "tail", [0, 0, 255]]]
    assert keypoint_metadata(cfg) == (["head", "tail"], [["head", "tail", [0, 0, 255]]])


def make_instances(count):
    """Return detections with masks and keypoints."""
    rng = torch.Generator().manual_seed(0)
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.rand(count, 4, generator=rng).cumsum(1) * 10)
    instances.scores = torch.rand(count, generator=rng)
    instances.pred_classes = torch.arange(count) % 2
    instances.pred_masks = torch.rand(count, 40, 60, generator=rng) > 0.9
    instances.pred_keypoints = torch.rand(count, 5, 3, generator=rng) * 30
    return instances


@pytest.mark.parametrize("count", [0, 1, 300])
def test_dicts_have_masks_and_keypoints_as_in_the_results_of_detectron2(count):
    found = [*detections_as_dicts(Path("a.jpg"), make_instances(count), ["cat", "dog"])]
    expected = instances_to_coco_json(make_instances(count), 1)
    assert len(found) == len(expected) == count
    for x, y in zip(found, expected, strict=True):
        assert x["class"] == ["cat", "dog"][y["category_id"]]
        assert x["bbox"] == pytest.approx(y["bbox"], abs=0.02)
        assert x["segmentation"] == {**y["segmentation"], "size": [40, 60]}
        assert x["keypoints"] == pytest.approx(y["keypoints"], abs=0.006)


def test_dicts_have_only_the_fields_that_the_model_predicts():
    instances = make_instances(1)
    instances.remove("pred_keypoints")
    (found,) = detections_as_dicts(Path("a.jpg"), instances, ["cat"])
    assert [*found] == ["file", "class", "score", "bbox", "segmentation"]
    instances.remove("pred_masks")
    (found,) = detections_as_dicts(Path("a.jpg"), instances, ["cat"])
    assert [*found] == ["file", "class", "score", "bbox"]
