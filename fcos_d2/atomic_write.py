"""Writing of files that are never left incomplete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Provide a temporary file next to ``path``, which replaces ``path`` after the block.

    If the block raises, or the process is killed, ``path`` is not changed.

    Args:
        path (str): The file to create or replace, on a local disk.

    Yields:
        Path: The temporary file, which the block must write.
    """
    path = Path(path)
    # The process id is in the name, because another process may write the same file.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
