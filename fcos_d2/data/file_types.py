"""Recognition of files that are not images or annotations, by their first bytes."""

from os import PathLike
from typing import NamedTuple

from detectron2.utils.file_io import PathManager

__all__ = ["JSON", "TOO_LARGE", "XML", "FileType", "find_file_type", "find_type_by_bytes"]


class FileType(NamedTuple):
    """
    What a file is that PIL does not open.

    Attributes:
        name (str): A short name that stays the same between versions, such as "html".
        one (str): A single file, such as "an HTML page".
        many (str): Several files, such as "HTML pages".
        remedy (str): What to do, with forms for ``errors.agree``.
    """

    name: str
    one: str
    many: str
    remedy: str


TOO_LARGE = FileType(
    "too_many_pixels",
    "an image with more pixels than PIL opens",
    "images with more pixels than PIL opens",
    "PIL takes such a file for a decompression bomb. Cut {it|them} into tiles.",
)
_NUM_BYTES = 512  # of a file that are looked at
_EMPTY = FileType("empty", "an empty file", "empty files", "Copy or download {it|them} again.")
_HTML = FileType(
    "html",
    "an HTML page",
    "HTML pages",
    "A download may have saved an error page instead. Download {it|them} again.",
)
_UNPACK = "Unpack {it|them} first."
_SAVE_AS_IMAGE = "Convert {it|them} to PNG."
XML = FileType("xml", "an XML file", "XML files", "Use the images themselves.")
JSON = FileType("json", "a JSON file", "JSON files", "Use the images themselves.")
_PICKLE = FileType(
    "pickle",
    "a pickle of Python",
    "pickles of Python",
    "Save annotations as JSON, and images as PNG.",
)
# How dicts, lists and arrays begin in the protocols 0 and 1.
_OLD_PICKLES = (b"(dp", b"(lp", b"}q\x00", b"]q\x00", b"cnumpy")
# The first bytes, in lower case and without white space before them.
_BY_START = {
    b"version https://git-lfs": FileType(
        "git_lfs", "a Git LFS pointer", "Git LFS pointers", "Run `git lfs pull` in the repository."
    ),
    b"<!doctype html": _HTML,
    b"<html": _HTML,
    b"<svg": FileType("svg", "an SVG drawing", "SVG drawings", _SAVE_AS_IMAGE),
    b"<?xml": XML,
    b"<annotation": XML,  # Pascal VOC or CVAT, without a declaration
    b"{": JSON,
    b"%pdf": FileType("pdf", "a PDF document", "PDF documents", _SAVE_AS_IMAGE),
    b"pk\x03\x04": FileType("zip", "a ZIP archive", "ZIP archives", _UNPACK),
    b"pk\x05\x06": FileType("zip", "an empty ZIP archive", "empty ZIP archives", "Pack it again."),
    b"(\xb5/\xfd": FileType("zstd", "a Zstandard archive", "Zstandard archives", _UNPACK),
    b"\x1f\x8b": FileType("gzip", "a gzip archive", "gzip archives", _UNPACK),
    b"bzh": FileType("bzip2", "a bzip2 archive", "bzip2 archives", _UNPACK),
    b"\xfd7zxz": FileType("xz", "an xz archive", "xz archives", _UNPACK),
    b"7z\xbc\xaf": FileType("7z", "a 7z archive", "7z archives", _UNPACK),
    b"rar!": FileType("rar", "a RAR archive", "RAR archives", _UNPACK),
    **{b"\x80" + bytes([protocol]): _PICKLE for protocol in range(2, 6)},
    **dict.fromkeys(_OLD_PICKLES, _PICKLE),
    b"par1": FileType(
        "parquet",
        "a Parquet table",
        "Parquet tables",
        "Save annotations as JSON, and extract images from {it|them}.",
    ),
    b"\x93numpy": FileType("numpy", "a NumPy array", "NumPy arrays", _SAVE_AS_IMAGE),
}
_TAR = FileType("tar", "a tar archive", "tar archives", _UNPACK)
_DICOM = FileType(
    "dicom", "a DICOM file", "DICOM files", "Convert {it|them} to PNG of 8 or 16 bits."
)
# Brands of files in the container format of MP4.
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_HEIC = FileType(
    "heic",
    "a HEIC image",
    "HEIC images",
    "PIL cannot read HEIC. Convert {it|them} to JPEG, such as with heif-convert.",
)
_AVIF = FileType(
    "avif",
    "an AVIF image",
    "AVIF images",
    "This version of PIL cannot read AVIF. Convert {it|them} to JPEG.",
)
_VIDEO = FileType("video", "a video", "videos", "Extract {its|their} frames, such as with ffmpeg.")


def find_file_type(file: str | PathLike[str]) -> FileType | None:
    """
    Find out what a file is that PIL does not recognize as an image.

    Args:
        file (str): A path, or a URL that detectron2's PathManager knows.

    Returns:
        FileType | None: Its type; None if it is another one or the file cannot be read.
    """
    try:
        with PathManager.open(str(file), "rb") as opened:
            return find_type_by_bytes(opened.read(_NUM_BYTES))
    except (OSError, ValueError):  # ValueError: the name cannot be a path
        return None


def find_type_by_bytes(raw: bytes) -> FileType | None:
    """Return the type of a file that begins with these bytes; None if it is another one."""
    first = raw[:_NUM_BYTES]
    if not first:
        return _EMPTY
    if first[4:8] == b"ftyp":
        brand = first[8:12]
        return _HEIC if brand in _HEIC_BRANDS else _AVIF if brand[:3] == b"avi" else _VIDEO
    if first[128:132] == b"DICM":
        return _DICOM
    if first[257:262] == b"ustar":
        return _TAR
    start = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((kind for magic, kind in _BY_START.items() if start.startswith(magic)), None)
