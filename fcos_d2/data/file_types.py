"""Recognition of files that are not images, by their first bytes."""

from os import PathLike

from detectron2.utils.file_io import PathManager

__all__ = ["describe_file"]

_NUM_BYTES = 512  # of a file that are looked at
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
# The first bytes, in lower case and without white space before them -> what the file is, and what
# to do.
_BY_START = {
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull` in its repository",
    b"<!doctype html": "an HTML page, perhaps the error page of a download: download it again",
    b"<html": "an HTML page, perhaps the error page of a download: download it again",
    b"<svg": "an SVG drawing: convert it to PNG",
    b"<?xml": "an XML file",
    b"{": "a JSON file",
    b"[": "a JSON file",
    b"%pdf": "a PDF document: convert its pages to PNG",
    b"pk\x03\x04": "a ZIP archive: unpack it",
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"\x93numpy": "a NumPy array: save it as an image",
}


def describe_file(file: str | PathLike[str]) -> str | None:
    """
    Describe what a file is that PIL does not recognize as an image, and what to do.

    Args:
        file (str): A path, or a URL that detectron2's PathManager knows.

    Returns:
        str | None: A description such as "an HTML page, ...", as it continues "the file is ...";
        None if the kind of file is unknown or the file cannot be read.
    """
    try:
        with PathManager.open(str(file), "rb") as opened:
            return _describe(opened.read(_NUM_BYTES))
    except (OSError, ValueError):  # ValueError: the name cannot be a path
        return None


def _describe(first: bytes) -> str | None:
    """Describe a file by its first bytes."""
    if not first:
        return "empty (0 bytes)"
    if first[4:8] == b"ftyp":
        return _describe_container(first[8:12])
    if first[128:132] == b"DICM":
        return "a DICOM file: convert it to 8-bit or 16-bit PNG"
    start = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((text for magic, text in _BY_START.items() if start.startswith(magic)), None)


def _describe_container(brand: bytes) -> str:
    """Describe a file in the container format of MP4, by its brand."""
    if brand in _HEIC_BRANDS:
        return (
            "a HEIC image, which PIL cannot read: convert it to JPEG, for example by heif-convert"
        )
    if brand.startswith(b"avi"):
        return "an AVIF image, which this version of PIL cannot read: convert it to JPEG"
    return "a video: extract its frames, for example by ffmpeg"
