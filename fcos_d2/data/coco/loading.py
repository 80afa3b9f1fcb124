"""Loading of annotation files: reading, normalization, and the images that were found."""

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..images import UnreadableImageError, read_header
from .findings import Finding, check_findings
from .image_list import NO_SIZE
from .image_locations import with_locations
from .normalization import normalize
from .reading import parse_json, paused_garbage_collection

__all__ = ["load_content", "normalize_with_sizes"]


def load_content(
    json_file: str,
    image_root: str,
    found_images: Mapping[str, str] = MappingProxyType({}),
    left_out: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """
    Read and normalize an annotation file that was checked, perhaps by another process.

    Args:
        json_file (str): The annotation file.
        image_root (str): The folder of the images.
        found_images (dict[str, str]): ``ImageLocations.found``.
        left_out (frozenset[str]): The ``file_name`` of each image that is left out.

    Raises:
        InputError: If the file cannot be read or has errors.
    """

    def path(file_name: str) -> str:
        """Return the path of an image."""
        return os.path.join(image_root, found_images.get(file_name, file_name))

    content, findings = normalize_with_sizes(parse_json(json_file), path)
    # The sizes of images that are left out may be unknown.
    unexpected = [
        x for x in findings if x.kind != NO_SIZE.name or not left_out.issuperset(x.entries)
    ]
    check_findings(unexpected, json_file)
    return with_locations(content, found_images, left_out)


def normalize_with_sizes(
    parsed: Any, path: Callable[[str], str]
) -> tuple[dict[str, Any], list[Finding]]:
    """Normalize an annotation file; ``path`` returns the path of the image with a file_name."""

    def read_size(file_name: str) -> tuple[int, int] | None:
        """Return width and height of an image as training reads it; None if it cannot be read."""
        try:
            return read_header(path(file_name)).upright_size
        except UnreadableImageError:
            return None

    with paused_garbage_collection():
        return normalize(parsed, read_size)
