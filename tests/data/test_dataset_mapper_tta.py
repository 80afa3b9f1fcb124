"""The views of an image for test-time augmentation: their sizes, and how images are read."""

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.modeling import DatasetMapperTTA
from input_errors import input_error
from PIL import Image
from tiny import tiny_cfg

from fcos_d2.data.dataset_mapper import FCOSDatasetMapper
from fcos_d2.data.dataset_mapper_tta import FCOSDatasetMapperTTA

AUG = {"TEST.AUG.MIN_SIZES": (24, 48), "TEST.AUG.MAX_SIZE": 60}


@pytest.fixture
def files(tmp_path):
    """Save an image of noise with 8 bits, 80 x 40 pixels, and a gray image with 12 of 16 bits."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "8.png")
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 16).save(tmp_path / "12.png")
    return {name: str(tmp_path / f"{name}.png") for name in ("8", "12")}


def assert_same_views(views, expected):
    assert len(views) == len(expected)
    for view, other in zip(views, expected, strict=True):
        assert torch.equal(view["image"], other["image"])
        assert (view["height"], view["width"]) == (other["height"], other["width"])
        box = np.array([[1.0, 2.0, 30.0, 20.0]])
        assert np.array_equal(view["transforms"].apply_box(box), other["transforms"].apply_box(box))


@pytest.mark.parametrize("flip", [True, False])
def test_the_views_are_those_of_detectron2(files, flip):
    cfg = tiny_cfg(AUG, "TEST.AUG.FLIP", flip)
    image = torch.as_tensor(read_image(files["8"], "BGR").transpose(2, 0, 1).copy())
    sample = {"image": image, "height": 40, "width": 80}
    views = FCOSDatasetMapperTTA(cfg)(sample)
    assert_same_views(views, DatasetMapperTTA(cfg)(sample))
    assert_same_views(FCOSDatasetMapperTTA(cfg)({"image": image}), views)
    assert_same_views(FCOSDatasetMapperTTA(cfg)({"file_name": files["8"]}), views)
    sizes = [tuple(view["image"].shape[1:]) for view in views]
    copies = 2 if flip else 1
    assert sizes == [(24, 48)] * copies + [(30, 60)] * copies  # at most 60 wide


@pytest.mark.parametrize("image_format", ["RGB", "L"])
def test_gray_images_of_16_bits_are_read_as_by_the_dataset_mapper(files, image_format):
    opts = {"INPUT.FORMAT": image_format, "FCOS_TRAIN.WHITE_POINT_16_BIT": 255 * 16}
    cfg = tiny_cfg(AUG, opts, "INPUT.MIN_SIZE_TEST", 0)
    sample = {"file_name": files["12"], "height": 40, "width": 80}
    expected = FCOSDatasetMapper(cfg, is_train=False)(sample)
    assert expected["image"].max() > 200
    mapper = FCOSDatasetMapperTTA(cfg)
    assert_same_views(mapper(sample), mapper(expected))


def test_an_image_of_another_size_than_annotated_is_refused(files):
    with input_error("40", file=files["8"]):
        FCOSDatasetMapperTTA(tiny_cfg())({"file_name": files["8"], "height": 80, "width": 40})


@pytest.mark.parametrize("name", [None, "thin.png"])
def test_an_image_that_would_get_a_side_of_0_pixels_is_refused(name):
    sample = {"image": torch.zeros(3, 400, 1, dtype=torch.uint8)}
    sample |= {} if name is None else {"file_name": name}
    with input_error("1 x 400", "too thin", "TEST.AUG.MAX_SIZE = 60", file=name):
        FCOSDatasetMapperTTA(tiny_cfg(AUG))(sample)
