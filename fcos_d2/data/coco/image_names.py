"""
What a ``file_name`` can mean.

It should be a path below the folder of the images. Labeling tools also write paths of other
machines, URLs, and names in other spellings.
"""

import os
import re
import unicodedata
from urllib.parse import unquote, urlsplit

__all__ = [
    "OTHER_FOLDER",
    "describe_spelling",
    "fold",
    "gives_other_folder",
    "is_in_named_folder",
    "is_relative_path",
    "is_url",
    "possible_paths",
]

_LABEL_STUDIO = re.compile(r".*/data/local-files/\?(?:.*&)?d=([^&]+)", re.DOTALL)
OTHER_FOLDER = "{is|are} of another folder than the image that was found"


def fold(text: str) -> str:
    """Return a text without its case, Unicode form (NFC or NFD), and white space around it."""
    text = text.strip()
    return text.casefold() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def is_url(name: str) -> bool:
    """Return whether a name is a URL."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name) is not None


def possible_paths(name: str) -> list[tuple[str, ...]]:
    """Return the parts of the paths that a name can stand for: as it is written, and decoded."""
    return list(dict.fromkeys((_split(name), _split(unquote(_encoded_path(name))))))


def _split(name: str) -> tuple[str, ...]:
    """Split a name at slashes and backslashes."""
    return tuple(re.split(r"[/\\]", name))


def _encoded_path(name: str) -> str:
    """Return the path in a URL, without its query; another name is returned as it is."""
    if local_file := _LABEL_STUDIO.fullmatch(name):
        return local_file[1]
    try:
        return urlsplit(name).path if is_url(name) else name
    except ValueError:
        return name


def is_in_named_folder(name: str, path: str) -> bool:
    """Return whether a path below the folder of the images is in the folder that a name gives."""
    folders = [fold(x) for x in path.split("/")[:-1]]
    return any(
        folders == [fold(x) for x in parts[:-1] if x != "."] for parts in possible_paths(name)
    )


def gives_other_folder(name: str, path: str, root: str) -> bool:
    """
    Return whether a name gives a folder that exists, but is not that of a file.

    Args:
        name (str): The name. Without folders, it gives the folder of the images. Of a path of
            another machine or a URL, the end can be a folder that exists.
        path (str): The path of the file below the folder of the images.
        root (str): The folder of the images.
    """
    for parts in possible_paths(name):
        folders = parts[:-1]
        if not folders:
            return os.path.dirname(path) != ""
        ends = ["/".join(folders[i:]).strip("/") for i in range(len(folders))]
        there = next((x for x in ends if x and os.path.isdir(os.path.join(root, x))), None)
        if there is not None:
            return fold(there) != fold(os.path.dirname(path))
    return False


def is_relative_path(name: str) -> bool:
    """Return whether a name is written as a path below a folder, and not as one of Windows."""
    return not (is_url(name) or "\\" in name or name.startswith("/"))


def describe_spelling(name: str, path: str | None) -> str:
    """
    Describe how a name that is not a path below the folder is written.

    Args:
        name (str): The name.
        path (str | None): The path of its image below the folder, if it was found.

    Returns:
        str: The text, with forms for ``agree``, continues the number of names.
    """
    if _LABEL_STUDIO.fullmatch(name):
        return "{is a local file|are local files} of Label Studio"
    if is_url(name):
        return "{is a URL|are URLs}"
    if re.match(r"([a-zA-Z]:)?[/\\]", name):
        return "{is an absolute path|are absolute paths}"
    if "\\" in name:
        return "{has|have} backslashes"
    if unquote(name) != name:
        return "{is|are} URL-encoded (such as %20)"
    if path is None:
        return "{does|do} not fit any file there"
    base, found_base = os.path.basename(name), os.path.basename(path)
    folder, found_folder = os.path.dirname(os.path.normpath(name)), os.path.dirname(path)
    if base == found_base and fold(folder) == fold(found_folder):
        base, found_base = folder, found_folder
    elif base == found_base:
        if folder and found_folder:
            return OTHER_FOLDER
        return "{has|have} other folders" if folder else "{lacks|lack} the subfolder"
    if base.strip() == found_base.strip():
        return "{has|have} white space at the beginning or the end"
    if unicodedata.normalize("NFC", base) == unicodedata.normalize("NFC", found_base):
        return "{has|have} another Unicode form (NFC or NFD)"
    is_same = fold(base) == fold(found_base)
    return "{differs|differ} in upper and lower case" if is_same else "{lacks|lack} the extension"
