"""Reading images: as detectron2 does, with errors that have the file."""

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from fcos_d2.data.images import image_to_array, open_image
from fcos_d2.errors import InputError

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


def test_one_decoding_gives_several_formats(file):
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
def test_a_file_that_cannot_be_read_is_named(file, damage):
    damage(file)
    with pytest.raises(InputError) as error:
        open_image(file)
    assert error.value.file == str(file)
    assert isinstance(error.value.__cause__, Exception)


@pytest.mark.parametrize(("size", "is_swapped"), [((30, 21), False), ((20, 30), True)])
def test_another_size_is_an_error_with_a_hint_where_the_sides_are_swapped(file, size, is_swapped):
    Image.fromarray(PIXELS).save(file)
    open_image(file, (30, 20))
    with pytest.raises(InputError) as error:
        open_image(file, size)
    assert error.value.file == str(file)
    assert ("EXIF" in error.value.text) == is_swapped
