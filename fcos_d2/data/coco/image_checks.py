"""
Checks of the images of an annotation file, without decoding their pixels.

``check_images`` joins the search for the images (``image_locations``) and the checks of their
headers, which compare sizes and modes with the annotations.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from ..images import (
    ImageHeader,
    SizeFault,
    UnreadableImageError,
    find_size_fault,
    find_unreadable_type,
    is_readable,
    read_header,
    read_pixel_range,
)
from .findings import Finding, Kind, make_finding
from .image_locations import ImageLocations, with_locations
from .location_findings import SKIP_SETTING, advise_skipping, find_location_findings
from .location_kinds import UNUSABLE

__all__ = [
    "DAMAGED",
    "SIZE_KINDS",
    "AnnotatedImage",
    "CheckedImages",
    "Select",
    "check_images",
    "find_image_findings",
    "sample_images",
]


_SIZES = {
    SizeFault.OTHER: Kind(
        "image_size",
        "{image has|images have} another size than in the annotations",
        SizeFault.OTHER.value,
        is_fatal=True,
    ),
    SizeFault.SWAPPED: Kind(
        "image_size_swapped",
        "{image has|images have} the sides of the annotations swapped",
        SizeFault.SWAPPED.value,
        is_fatal=True,
    ),
    SizeFault.ROTATED: Kind(
        "image_exif_rotation",
        "{image has|images have} the sides of the annotations swapped",
        SizeFault.ROTATED.value,
        is_fatal=True,
    ),
}
SIZE_KINDS = {kind.name for kind in _SIZES.values()}
_ORIENTATION = Kind(
    "image_exif_orientation",
    "{image has|images have} an EXIF orientation that turns or mirrors {it|them} without another "
    "size",
    "It is applied when the images are read. If the boxes were drawn without it, they are at wrong "
    "places: look at some of them.",
)
_16_BITS = Kind(
    "image_16_bit",
    "{image has|images have} gray pixels of 16 bits",
    "They are divided by 257, unless FCOS_TRAIN.WHITE_POINT_16_BIT (in a LazyConfig "
    "white_point_16_bit of the mappers) is set to another value that becomes 255. Set it to 4095 "
    "for images of 12 bits, which would be dark.",
)
_32_BITS = Kind(
    "image_32_bit",
    "{image has|images have} pixels of 32 bits",
    "Which value is white is unknown. Convert them to gray of 8 or 16 bits.",
    is_fatal=True,
)
DAMAGED = Kind(
    f"{UNUSABLE}_damaged",
    "{image is|images are} damaged or not {an image|images} that PIL can read",
    "Copy or download {it|them} again.",
    is_fatal=True,
)
_NUM_DECODED = 100  # the number of images that are decoded to find one that can be
_NUM_RANGES = 8  # the number of images that are decoded to describe the range of their values


class AnnotatedImage(NamedTuple):
    """
    An image and what its annotations say.

    Attributes:
        file (str): The path.
        name (str): The ``file_name`` in the annotations.
        size (tuple[int, int]): Width and height in pixels.
    """

    file: str
    name: str
    size: tuple[int, int]


# Returns the images whose headers are read, of all images.
Select: TypeAlias = Callable[[Sequence[AnnotatedImage]], Iterable[AnnotatedImage]]


class CheckedImages(NamedTuple):
    """
    The images of an annotation file after their checks.

    Attributes:
        content (dict): The COCO content with the paths of the images, without those left out.
        left_out (frozenset[str]): The ``file_name`` in the annotations of each image left out.
        findings (list[Finding]): What was found.
    """

    content: dict[str, Any]
    left_out: frozenset[str]
    findings: list[Finding]


def sample_images(images: Sequence[AnnotatedImage], most: int = 1000) -> Sequence[AnnotatedImage]:
    """Return at most a number of images, spread evenly from the first to the last one."""
    if len(images) <= most:
        return images
    return [images[round(i * (len(images) - 1) / (most - 1))] for i in range(most)]


def check_images(
    content: Mapping[str, Any],
    locations: ImageLocations,
    *,
    skip_unreadable: bool = False,
    skip_setting: str = SKIP_SETTING,
    select: Select = sample_images,
) -> CheckedImages:
    """
    Check that the images of an annotation file exist and that their headers fit the annotations.

    Args:
        content (dict): Valid COCO content.
        locations (ImageLocations): Where its images are.
        skip_unreadable (bool): Leave out images that are missing or cannot be read.
        skip_setting (str): What would leave them out, for errors; "" if nothing would.
        select (Callable): Returns the images whose headers are read.
    """
    skipping: dict[str, Any] = {
        "skip_unreadable": skip_unreadable,
        "skip_setting": "" if skip_unreadable else skip_setting,
    }
    findings = list(find_location_findings(locations, **skipping))
    images = [
        AnnotatedImage(locations.path(x["file_name"]), x["file_name"], (x["width"], x["height"]))
        for x in content["images"]
        if x["file_name"] not in locations.problems
    ]
    findings += find_image_findings(
        select(images), len(images), num_unusable=len(locations.problems), **skipping
    )
    left_out = frozenset(
        name
        for finding in findings
        if finding.kind.startswith(UNUSABLE) and not finding.is_fatal
        for name in finding.entries
    )
    return CheckedImages(with_locations(content, locations.found, left_out), left_out, findings)


def find_image_findings(
    images: Iterable[AnnotatedImage],
    num_all: int,
    *,
    num_unusable: int = 0,
    skip_unreadable: bool = False,
    skip_setting: str = "",
) -> list[Finding]:
    """
    Compare the headers of images with their annotations.

    This takes about 0.4 ms for an image.

    Args:
        images (Iterable[AnnotatedImage]): The images, which are read one after the other.
        num_all (int): The number of images that could be read.
        num_unusable (int): The number of other images in the dataset, for messages.
        skip_unreadable (bool): Images that cannot be read are left out, so they are not fatal as
            long as another image can be decoded.
        skip_setting (str): What would leave them out, for errors; "" if nothing would.
    """
    total = 0
    readable: list[AnnotatedImage] = []
    by_kind: dict[Kind, list[_Checked]] = defaultdict(list)
    for image in images:
        total += 1
        try:
            header = _read_header(image)
        except UnreadableImageError as error:
            by_kind[_unreadable_kind(image.file, error.__cause__)].append(_Checked(image, None))
            continue
        readable.append(image)
        for kind in _find_kinds(header, image.size):
            by_kind[kind].append(_Checked(image, header))
    named_total = total if total < num_all else total + num_unusable
    findings = [_make_finding(kind, checked, named_total) for kind, checked in by_kind.items()]
    if total < num_all:
        hint = f" Only {total} of {num_all} images were opened; `fcos-d2 check-dataset` opens all."
        findings = [x._replace(text=x.text + hint) for x in findings]
    if not skip_unreadable or not total:
        return [
            advise_skipping(x, skip_setting) if x.kind.startswith(UNUSABLE) else x for x in findings
        ]
    tried = readable[:_NUM_DECODED]
    if not any(is_readable(image.file, decode=True) for image in tried):
        checked = [_Checked(image, None) for image in tried]
        return [*findings, *([_make_finding(DAMAGED, checked, named_total)] if tried else [])]
    return [_left_out(x) if x.kind.startswith(UNUSABLE) else x for x in findings]


def _read_header(image: AnnotatedImage) -> ImageHeader:
    """Read the header of an image, and its EXIF data after the pixels if they would explain it."""
    header = read_header(image.file)
    if find_size_fault(header, image.size) is SizeFault.SWAPPED:
        with suppress(UnreadableImageError):
            return read_header(image.file, decode=True)
    return header


class _Checked(NamedTuple):
    """An image and its header, or None if it cannot be read."""

    image: AnnotatedImage
    header: ImageHeader | None


def _find_kinds(header: ImageHeader, size: tuple[int, int]) -> Iterator[Kind]:
    """Yield what is unusual or wrong with the header of an image of an annotated size."""
    fault = find_size_fault(header, size)
    if fault is not None:
        yield _SIZES[fault]
    elif header.orientation > 1 and (not header.is_turned or header.size == header.upright_size):
        yield _ORIENTATION
    if header.mode == "I;16":
        yield _16_BITS
    elif header.mode in ("I", "F"):
        yield _32_BITS


def _unreadable_kind(file: str, error: BaseException | None) -> Kind:
    """Return the kind of a file that PIL cannot open, because of its exception."""
    kind = find_unreadable_type(file, error)
    if kind is None:
        return DAMAGED
    return Kind(
        f"{UNUSABLE}_{kind.name}",
        f"{{image is {kind.one}|images are {kind.many}}}",
        kind.remedy,
        True,
    )


def _left_out(finding: Finding) -> Finding:
    """Return the finding about images that are left out instead of being an error."""
    return finding._replace(is_fatal=False, text=f"{finding.text} Training leaves them out.")


def _make_finding(kind: Kind, checked: Sequence[_Checked], total: int) -> Finding:
    """Make the finding about the images of a kind, of a number of images that were looked at."""
    image, header = checked[0]
    first = repr(image.name if header else os.path.abspath(image.file))
    if header is not None and kind.name in SIZE_KINDS:
        (width, height), (w, h) = header.upright_size, image.size
        first += f" with {width} x {height} pixels, annotated as {w} x {h}"
    elif kind in (_16_BITS, _32_BITS):
        first += _describe_ranges(checked[:_NUM_RANGES])
    names = [x.image.name for x in checked]
    finding = make_finding(kind, names, first, total=total, file_name=image.name)
    return finding._replace(file=image.file)


def _describe_ranges(checked: Sequence[_Checked]) -> str:
    """Describe the range of the pixel values of some images, as it continues the first name."""
    ranges = []
    for image, _ in checked:
        with suppress(UnreadableImageError):
            ranges.append(read_pixel_range(image.file))
    if not ranges:
        return ""
    low, high = min(x for x, _ in ranges), max(x for _, x in ranges)
    text = f"; values from {low:g} to {high:g}"
    return f"{text} in the first {len(ranges)}" if len(ranges) > 1 else text
