"""Data sets that torchvision reads from its own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyrometa.tasks.optional import import_package

__all__ = ["read_dataset"]


def read_dataset(kind: str, name: str, root: str | Path, *, folder: str, download: bool, **options: Any) -> Any:
    """Open a data set of torchvision; FileNotFoundError with the cure if its files are not there.

    Args:
        kind: its class in ``torchvision.datasets``.
        name: what the user calls it.
        root: the directory that holds ``folder``.
        folder: where its files are.
        download: whether torchvision may fetch what is missing.
        options: the rest of what the class takes.
    """
    datasets = import_package("torchvision.datasets", f"the image set {name!r}", "pyrometa[digits]")
    try:
        return getattr(datasets, kind)(root, download=download, **options)
    except RuntimeError as error:
        if download:
            raise
        raise FileNotFoundError(
            f"no files of {name!r} in {Path(root, folder)}: pass another root=, or download=True"
        ) from error
