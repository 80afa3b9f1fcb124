"""Kinds of findings about images that are not where the annotation file says."""

from .findings import Kind

__all__ = [
    "DEAD_LINK",
    "ELSEWHERE",
    "EMPTY",
    "FIT_OF_ANOTHER",
    "FOUND",
    "MISSING",
    "NOT_A_FILE",
    "OTHER_EXTENSION",
    "SEVERAL_FIT",
    "SEVERAL_SPELLINGS",
    "UNUSABLE",
    "not_opened",
]

UNUSABLE = "unusable_image"  # begins the names of the kinds of images that may be left out
_MISSING = "{image does|images do} not exist"
FOUND = Kind(
    "image_found_by_name",
    "{image is|images are} not where file_name says and {was|were} found by the end of the name",
    "Check that they are the right images.",
)
MISSING = Kind(f"{UNUSABLE}_missing", _MISSING, "Is the folder of the images correct?", True)
OTHER_EXTENSION = Kind(
    f"{UNUSABLE}_extension",
    f"{_MISSING}, but {{a file|files}} with another extension {{does|do}}",
    "If {it is the right image|they are the right images}, write file_name as the file is named.",
    True,
)
ELSEWHERE = Kind(
    f"{UNUSABLE}_elsewhere",
    f"{_MISSING} where file_name says, but {{in another folder|in other folders}}",
    "Such files are not used, because most of the other images are where file_name says. If they "
    "are the right images, write the folder into file_name.",
    True,
)
SEVERAL_FIT = Kind(
    f"{UNUSABLE}_ambiguous",
    f"{_MISSING}, and several files fit the end of {{its name|their names}}",
    "Write the folder into file_name.",
    True,
)
SEVERAL_SPELLINGS = Kind(
    f"{UNUSABLE}_spelling",
    f"{_MISSING}, and several files have {{its name|their names}} in another spelling",
    "Write file_name as one of the files is written.",
    True,
)
FIT_OF_ANOTHER = Kind(
    f"{UNUSABLE}_of_another",
    f"{_MISSING}, and the only file that fits the end of {{its|their}} name fits another name",
    "Correct file_name, or delete the images that there are no files of.",
    True,
)
DEAD_LINK = Kind(
    f"{UNUSABLE}_link",
    "{image is a link|images are links} to nothing",
    "Copy the files themselves, or correct the links.",
    True,
)
NOT_A_FILE = Kind(
    f"{UNUSABLE}_not_a_file",
    "{image is not a file (but a folder or device)|images are not files (but folders or devices)}",
    "Correct file_name.",
    True,
)
EMPTY = Kind(
    f"{UNUSABLE}_empty",
    "{image is|images are} empty (0 bytes)",
    "Copy or download {it|them} again.",
    True,
)


def not_opened(reason: str | None) -> Kind:
    """Return the kind of images that the operating system does not open."""
    return Kind(
        f"{UNUSABLE}_not_opened",
        f"{{image|images}} cannot be opened ({reason})",
        "Can you read the files in the folder?",
        True,
    )
