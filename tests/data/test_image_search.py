"""The search for images: what PIL can open is found, and what is left out is described."""

from pathlib import Path

import numpy as np
import pytest
from input_errors import input_error
from PIL import Image

from fcos_d2.data.image_search import describe_left_out, find_images


def found_names(folder, **options):
    return [str(x.relative_to(folder)) for x in find_images([folder], **options).images]


def test_an_image_that_is_named_twice_is_found_once(images):
    found = find_images([images, images / "1.png"])
    assert found.images == [images / "1.png", images / "2.jpg"]


def test_a_folder_that_is_named_like_an_image_is_not_an_image(images):
    (images / "3.png").mkdir()
    found = find_images([images])
    assert len(found.images) == 2
    assert found.subfolders == [images / "3.png"]


@pytest.mark.parametrize("suffix", [".jfif", ".GIF", ".jpe", ".ppm", ".tiff", ".webp", "", ".scan"])
def test_every_suffix_of_pil_and_every_file_that_begins_like_an_image_is_found(tmp_path, suffix):
    kind = {".jfif": "JPEG", ".jpe": "JPEG", ".ppm": "PPM"}.get(suffix)
    kind = kind or suffix.lstrip(".").upper().replace("SCAN", "") or "PNG"
    Image.new("RGB", (9, 9)).save(tmp_path / f"a{suffix}", format=kind)
    assert found_names(tmp_path) == [f"a{suffix}"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"no image"),
        ("a.heic", b"\0\0\0\x18ftypheic"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(64)),
        ("a.mpg", b"\0\0\x01\xb3" + bytes(64)),
        (".hidden.png", b""),
        ("empty", b""),
    ],
)
def test_files_that_pil_cannot_decode_are_left_out(images, name, content):
    (images / name).write_bytes(content)
    found = find_images([images])
    assert len(found.images) == 2
    assert found.other_files == [images / name]


def test_what_is_left_out_is_counted_by_kind(images):
    for name in ("a.heic", "b.HEIC"):
        (images / name).write_bytes(b"\0\0\0\x18ftypheic")
    (images / "notes.txt").write_text("no image")
    (images / "more").mkdir()
    heic, other, subfolder = describe_left_out(find_images([images]))
    assert "2 HEIC images" in heic
    assert "a.heic" in heic
    assert "Convert them" in heic
    assert "notes.txt" in other
    assert "--recursive" in subfolder


def test_a_link_to_nothing_is_named_and_a_hidden_folder_is_the_last_example(images):
    (images / "link.png").symlink_to(images / "nowhere.png")
    for name in (".cache", "more"):
        (images / name).mkdir()
    link, subfolders = describe_left_out(find_images([images]))
    assert "broken link" in link
    with input_error("link.png is a broken link"):
        find_images([images / "link.png"])
    assert str(images / "more") in subfolders


def test_what_to_do_about_one_file_is_in_the_singular(images):
    (images / "empty").write_bytes(b"")
    (text,) = describe_left_out(find_images([images]))
    assert "download it again" in text


def test_all_frames_but_the_first_are_left_out(images):
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
    frames[0].save(images / "still.gif")
    frames[0].save(images / "moving.gif", save_all=True, append_images=frames[1:])
    (images / "damaged.gif").write_text("no image")
    (line,) = describe_left_out(find_images([images]))
    assert "the first of 1 animated image " in line
    assert "moving.gif" in line


def test_subfolders_are_searched_on_request_but_not_the_output(tmp_path):
    for name in ("b/2.png", "a/1.png", "a/out/1.png", "3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    assert found_names(tmp_path) == ["3.png"]
    names = ["3.png", "a/1.png", "b/2.png"]
    assert found_names(tmp_path, recursive=True, output=tmp_path / "a/out") == names


def test_the_error_about_a_folder_without_images_says_what_was_left_out(images):
    with input_error("no image", str(images.parent), "1 subfolder", "--recursive"):
        find_images([images.parent])
    with input_error("nowhere"):
        find_images([Path("nowhere")])
