"""Files that are written as a whole or not at all, wherever the process is killed."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from matplotlib.figure import Figure

try:
    import fcntl
except ImportError:  # Windows, which does not remove a file that is open
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".pyrometa-tmp"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name in its folder and rename it, on the disk before this returns.

    Raises:
        OSError: what the system says; the file is as it was.
    """
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_png(path: Path, figure: Figure) -> None:
    """Write a figure as an image, likewise.

    Raises:
        OSError: what the system says; the file is as it was.
    """
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_whole(path, image.getvalue())


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file to write, which takes the place of another when all is written; on the disk by then.

    What processes that were killed have left in the folder is removed first. If what runs within fails, the file is as
    it was.
    """
    _remove_leftovers(path.parent)
    with _temporary(path.parent) as temporary:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    _sync(path.parent)


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A new file that no other process takes for a leftover as long as this one holds its lock."""
    while True:
        path = folder / f".{secrets.token_hex(8)}{_SUFFIX}"
        with path.open("xb") as held:
            try:
                _lock(held)
                if path.exists():  # else it was taken for a leftover before it was locked
                    yield path
                    return
            finally:
                path.unlink(missing_ok=True)


def _lock(held: BinaryIO) -> None:
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f".*{_SUFFIX}"):
        with suppress(OSError), path.open("rb") as held:  # it is being written, or gone
            if fcntl is not None:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _sync(path: Path) -> None:
    """Have a file, or a rename in a folder, on the disk, where the system lets it be opened."""
    with suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
