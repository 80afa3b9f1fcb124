"""Checks of the files of images, without reading them."""

import os
import stat
from collections import defaultdict
from collections.abc import Sequence

from .findings import Finding, Kind, make_finding

__all__ = ["find_image_faults"]


def find_image_faults(files: Sequence[str]) -> list[Finding]:
    """
    Find image files that are missing or empty, without reading them.

    Args:
        files (list[str]): Their paths.

    Returns:
        list[Finding]: A finding for each kind of fault.
    """
    files_by_problem = defaultdict(list)
    for file in files:
        problem = _problem_of_file(file)
        if problem:
            files_by_problem[problem].append(file)
    findings = []
    for problem, bad in files_by_problem.items():
        kind = Kind("image_file", f"images {problem}", "Is the folder of the images correct?", True)
        first = repr(os.path.abspath(bad[0]))
        finding = make_finding(kind, bad, first, total=len(files), file_name=bad[0])
        findings.append(finding._replace(file=bad[0]))
    return findings


def _problem_of_file(file: str) -> str | None:
    """Return what is wrong with a file, as it continues "these files ..."; None if nothing is."""
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: it cannot be a path
        return "do not exist"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return "are not files (but folders or devices)"
    return None if status.st_size else "are empty (0 bytes)"
