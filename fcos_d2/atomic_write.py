"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    A name beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    If the block raises, or the process is killed, ``path`` stays as it was.

    Args:
        path (str): the file to make or replace, on a local disk.
    """
    path = Path(path)
    # The process's number, as another one may be writing the same file.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
