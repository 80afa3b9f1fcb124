"""Checks of image headers: sizes, EXIF orientations, files that are not images, and modes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcos_d2.data.coco.image_checks import (
    AnnotatedImage,
    check_images,
    find_image_findings,
    sample_images,
)
from fcos_d2.data.coco.image_locations import locate_images
from fcos_d2.data.images import read_header


@pytest.fixture
def save(tmp_path):
    """Return a function that saves an image, and returns it with an annotated size."""

    def run(name, size, annotated=None, orientation=1, dtype=np.uint8, value=9):
        exif = Image.Exif()
        exif[274] = orientation
        pixels = np.full(size[::-1], value, dtype)
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
        return AnnotatedImage(str(tmp_path / name), name, annotated or size)

    return run


def find(*images, **options):
    return find_image_findings(images, len(images), **options)


@pytest.mark.parametrize(
    ("annotated", "orientation", "kind"),
    [
        ((30, 20), 1, None),
        ((30, 21), 1, "image_size"),
        ((20, 30), 1, "image_size_swapped"),
        ((20, 30), 6, None),
        ((20, 30), 5, None),
        ((30, 20), 6, "image_exif_rotation"),
        ((20, 30), 3, "image_size_swapped"),
        ((30, 20), 3, "image_exif_orientation"),
        ((30, 20), 2, "image_exif_orientation"),
        ((40, 60), 8, "image_size"),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_size_of_the_header_is_compared_with_the_annotations(
    save, annotated, orientation, kind, suffix
):
    findings = find(save(f"a.{suffix}", (30, 20), annotated, orientation))
    assert [x.kind for x in findings] == ([kind] if kind else [])
    for finding in findings:
        assert finding.is_fatal == (kind != "image_exif_orientation")


def test_a_turned_square_is_a_warning(save):
    (finding,) = find(save("a.png", (20, 20), orientation=6), save("b.png", (20, 20)))
    assert finding.kind == "image_exif_orientation"
    assert not finding.is_fatal
    assert finding.entries == ["a.png"]


def test_a_finding_counts_and_names_the_first_image(save):
    good = save("0.png", (30, 20))
    bad = [save(f"{i}.png", (30, 20), (3, i)) for i in range(1, 4)]
    (finding,) = find(good, *bad)
    assert (finding.count, finding.entries) == (3, ["1.png", "2.png", "3.png"])
    assert (finding.file_name, finding.file) == ("1.png", bad[0].file)
    assert "3 of 4 images" in finding.text
    assert "30 x 20" in finding.text
    assert "3 x 1" in finding.text


def test_files_that_are_not_images_are_named_by_kind(tmp_path, save):
    contents = {"a.jpg": b"<html>", "b.jpg": b"<html>", "c.jpg": b"version https://git-lfs"}
    images = [save("0.png", (4, 4))]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        images.append(AnnotatedImage(str(tmp_path / name), name, (4, 4)))
    pages, pointers = find(*images)
    assert pages.is_fatal
    assert [pages.kind, pointers.kind] == ["unusable_image_html", "unusable_image_git_lfs"]
    assert "2 of 4 images are HTML pages" in pages.text
    assert "1 of 4 images are Git LFS pointers" in pointers.text
    assert not any(x.is_fatal for x in find(*images, skip_unreadable=True))
    assert all(x.is_fatal for x in find(*images[1:], skip_unreadable=True))


def test_if_nothing_can_be_decoded_nothing_is_left_out(tmp_path, save):
    images = [save(f"{i}.png", (300, 200), value=i) for i in range(2)]
    for image in images:
        with open(image.file, "r+b") as file:
            file.truncate(80)
    assert find(*images) == []  # the headers are right
    (finding,) = find(*images, skip_unreadable=True)
    assert finding.is_fatal
    assert find(save("good.png", (4, 4)), *images, skip_unreadable=True) == []


def test_gray_of_16_bits_is_a_warning_with_the_range_seen(save):
    images = [save(f"{i}.png", (9, 9), dtype=np.uint16, value=i * 100) for i in range(1, 11)]
    (finding,) = find(save("0.png", (9, 9)), *images)
    assert not finding.is_fatal
    assert "10 of 11 images" in finding.text
    assert "values from 100 to 800 in the first 8" in finding.text
    assert "WHITE_POINT_16_BIT" in finding.text


def test_pixels_of_32_bits_are_refused_with_the_range_seen(save):
    (finding,) = find(save("a.tif", (9, 9), dtype=np.float32, value=0.5))
    assert finding.is_fatal
    assert "values from 0.5 to 0.5" in finding.text


@pytest.mark.parametrize(("number", "expected"), [(3, [0, 1, 2]), (4, [0, 2, 3]), (9, [0, 4, 8])])
def test_a_sample_is_spread_over_all_images(number, expected):
    assert list(sample_images(range(number), most=3)) == expected


def test_a_sample_says_how_many_images_were_not_opened(save):
    images = [save(f"{i}.png", (9, 9), (8, 8)) for i in range(5)]
    content = {
        "images": [
            {"id": i, "file_name": x.name, "width": 8, "height": 8} for i, x in enumerate(images)
        ],
        "annotations": [],
    }
    folder = images[0].file.removesuffix("/0.png")
    locations = locate_images([x.name for x in images], folder)
    checked = check_images(content, locations, select=lambda x: sample_images(x, most=3))
    (finding,) = checked.findings
    assert finding.entries == ["0.png", "2.png", "4.png"]
    assert "Only 3 of 5 images" in finding.text


def test_missing_and_unreadable_images_are_left_out_together(save, tmp_path):
    good = save("good.png", (9, 9))
    (tmp_path / "page.png").write_text("<html>")
    names = ["good.png", "page.png", "no.png"]
    content = {
        "images": [{"id": i, "file_name": x, "width": 9, "height": 9} for i, x in enumerate(names)],
        "annotations": [{"id": i + 1, "image_id": i} for i in range(3)],
    }
    locations = locate_images(names, str(tmp_path))
    checked = check_images(content, locations, skip_unreadable=True)
    assert checked.left_out == {"page.png", "no.png"}
    assert [x["file_name"] for x in checked.content["images"]] == [good.name]
    assert [x["id"] for x in checked.content["annotations"]] == [1]
    assert not any(x.is_fatal for x in checked.findings)
    refused = check_images(content, locations)
    assert [x.is_fatal for x in refused.findings] == [True, True]
    assert all("1 of 3 images" in x.text for x in refused.findings)
    assert refused.left_out == frozenset()


def test_all_findings_about_unusable_images_have_absolute_paths(tmp_path, monkeypatch):
    (tmp_path / "page.png").write_text("<html>")
    (tmp_path / "empty.png").write_text("")
    monkeypatch.chdir(tmp_path.parent)
    names = ["page.png", "empty.png", "no.png"]
    content = {"images": [{"id": 1, "file_name": x, "width": 9, "height": 9} for x in names]}
    findings = check_images(content, locate_images(names, tmp_path.name)).findings
    assert len(findings) == 3
    assert all(f"'{tmp_path / x.file_name}'" in x.text for x in findings), findings


def test_images_with_too_many_pixels_are_not_called_damaged(save, monkeypatch):
    images = [save(f"{i}.png", (30, 20)) for i in range(2)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    (finding,) = find(*images)
    assert finding.is_fatal
    assert "2 of 2 images are images with more pixels than PIL opens" in finding.text


def test_exif_data_after_the_pixels_explain_swapped_sides(save):
    image = save("a.png", (30, 20), (20, 30), orientation=6)
    content = Path(image.file).read_bytes()
    # The chunk eXIf is moved behind the pixels.
    start = content.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(content[start : start + 4], "big")
    end = content.index(b"IEND") - 4
    moved = content[:start] + content[stop:end] + content[start:stop] + content[end:]
    Path(image.file).write_bytes(moved)
    assert read_header(image.file).orientation == 1
    assert find(image) == []
