"""Reading images as detectron2 does, with errors that name the file."""

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from input_errors import input_error
from PIL import Image

from fcos_d2.data.images import image_to_array, open_image

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "image.png"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L", "YUV-BT.601"])
def test_arrays_are_those_of_detectron2(file, orientation, image_format):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(PIXELS).save(file, exif=exif)
    image = open_image(file)
    assert image.size == ((30, 20) if orientation < 5 else (20, 30))
    array = image_to_array(image, image_format)
    np.testing.assert_array_equal(array, read_image(str(file), image_format))


def test_an_image_is_decoded_once_for_several_formats(file):
    Image.fromarray(PIXELS).save(file)
    image = open_image(file)
    file.unlink()
    np.testing.assert_array_equal(image_to_array(image, "RGB"), PIXELS)
    np.testing.assert_array_equal(image_to_array(image, "BGR"), PIXELS[:, :, ::-1])


def truncate(file):
    Image.fromarray(PIXELS).save(file)
    file.write_bytes(file.read_bytes()[:700])


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        lambda file: file.write_text("<html>404</html>"),
        lambda file: file.write_bytes(b""),
        lambda file: file.mkdir(),
        lambda file: None,
    ],
    ids=["truncated", "text", "empty", "folder", "missing"],
)
def test_the_error_about_a_file_that_cannot_be_read_names_it(file, damage):
    damage(file)
    with input_error(file=file) as error:
        open_image(file)
    assert isinstance(error.value.__cause__, Exception)


def test_an_image_is_rotated_by_its_exif_orientation(file):
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[274] = 6  # rotate by 90 degrees clockwise
    image.save(file, exif=exif)
    opened = open_image(file)
    assert opened.size == (2, 4)
    assert image_to_array(opened, "RGB")[0, 1].tolist() == [255, 0, 0]
    assert image_to_array(opened, "BGR")[0, 1].tolist() == [0, 0, 255]
    expected = read_image(str(file), format="BGR")
    assert np.array_equal(image_to_array(opened, "BGR"), expected)


@pytest.mark.parametrize(("size", "is_swapped"), [((30, 21), False), ((20, 30), True)])
def test_another_size_is_an_error_with_a_hint_if_the_sides_are_swapped(file, size, is_swapped):
    Image.fromarray(PIXELS).save(file)
    open_image(file, (30, 20))
    with input_error(str(size), file=file) as error:
        open_image(file, size)
    assert ("EXIF" in error.value.text) == is_swapped
