"""Reading images as detectron2 does, with errors that name the file."""

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from input_errors import input_error
from PIL import Image

from fcos_d2.data.images import (
    UnreadableImageError,
    image_to_array,
    open_image,
    read_header,
    read_pixel_range,
)

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


@pytest.mark.parametrize(
    ("orientation", "size", "words"),
    [
        (1, (30, 21), ["annotated"]),
        (1, (20, 30), ["swapped in the annotations", "no EXIF rotation"]),
        (3, (20, 30), ["swapped in the annotations"]),
        (6, (30, 20), ["has an EXIF rotation", "exiftool"]),
        (6, (60, 40), ["annotated"]),
    ],
)
def test_the_error_about_another_size_gives_its_cause(file, orientation, size, words):
    save(file, PIXELS, orientation)
    upright = (30, 20) if orientation < 5 else (20, 30)
    assert open_image(file, upright).size == upright
    with input_error(str(upright), str(size), *words, file=file):
        open_image(file, size)


def save(file, pixels, orientation=1):
    """Save an image with an EXIF orientation."""
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(file, exif=exif)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_header_has_the_size_of_the_decoded_image(tmp_path, suffix, orientation):
    file = tmp_path / f"a{suffix}"
    save(file, PIXELS, orientation)
    assert read_header(file).upright_size == open_image(file).size


def test_a_header_is_read_without_decoding(file):
    save(file, PIXELS, 6)
    file.write_bytes(file.read_bytes()[:700])  # truncated
    assert read_header(file) == ((30, 20), 6, "RGB")
    with pytest.raises(UnreadableImageError):
        open_image(file)


def test_exif_data_after_the_pixels_of_png_are_found_by_decoding(file):
    save(file, PIXELS, 6)
    content = file.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    pixels_end = content.index(b"IEND") - 4
    moved = content[:start] + content[end:pixels_end] + content[start:end] + content[pixels_end:]
    file.write_bytes(moved)
    assert read_header(file).upright_size == (30, 20)
    assert read_header(file, decode=True).upright_size == open_image(file).size == (20, 30)


GRAY = np.array([[0, 1, 128, 257], [4095, 40000, 65407, 65535]], np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2", ".pgm"])
def test_gray_of_16_bits_is_divided_by_257(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    Image.fromarray(GRAY).save(file)
    assert read_header(file).mode == "I;16"
    assert read_pixel_range(file) == (0, 65535)
    # 4095 / 257 = 15.9, 40000 / 257 = 155.6, 65407 / 257 = 254.5
    expected = [[0, 0, 0, 1], [16, 156, 255, 255]]
    image = open_image(file)
    assert image_to_array(image, "L")[..., 0].tolist() == expected
    assert image_to_array(image, "BGR")[..., 2].tolist() == expected


def test_the_white_point_becomes_255_as_do_higher_values():
    array = image_to_array(Image.fromarray(GRAY), "L", 4095)
    # 128 * 255 / 4095 = 7.97, 257 * 255 / 4095 = 16.004
    assert array[..., 0].tolist() == [[0, 0, 8, 16], [255, 255, 255, 255]]


def test_gray_of_16_bits_is_rotated_by_its_exif_orientation(file):
    save(file, GRAY * 0 + 257, 6)
    assert image_to_array(open_image(file), "RGB").shape == (4, 2, 3)


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_pixels_of_32_bits_are_refused_with_their_range(tmp_path, dtype, mode):
    file = tmp_path / "a.tif"
    Image.fromarray(np.array([[-3, 70000]], dtype)).save(file)
    assert read_header(file).mode == mode
    with input_error("from -3 to 70000", f"mode {mode}", file=file):
        open_image(file)
    with input_error("from -3 to 70000"):
        image_to_array(Image.open(file), "RGB")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1", ["Git LFS pointer", "git lfs pull"]),
        (b"\r\n<!DOCTYPE html><html>", ["HTML page"]),
        (b"<HTML><body>404", ["HTML page"]),
        (b"\0\0\0\x18ftypheic\0\0", ["HEIC image", "JPEG"]),
        (b"\0\0\0\x18ftypisom\0\0", ["video"]),
        (b"", ["empty"]),
        (b"%PDF-1.7", ["PDF"]),
        (b"PK\x03\x04", ["ZIP"]),
        (b'\xef\xbb\xbf{"a": 1}', ["JSON"]),
        (bytes(128) + b"DICM", ["DICOM"]),
        (b"something else", ["UnidentifiedImageError"]),
    ],
)
def test_a_file_that_is_not_an_image_is_named_for_what_it_is(tmp_path, content, words):
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    for read in (open_image, read_header):
        with input_error(*words, file=file):
            read(file)


def test_an_image_with_too_many_pixels_is_not_called_damaged(file, monkeypatch):
    Image.fromarray(PIXELS).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with input_error("more pixels", "tiles", file=file):
        read_header(file)
