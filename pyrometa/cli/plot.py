"""``pyrometa plot``."""

from __future__ import annotations

from pathlib import Path

from pyrometa.recipes import stored_run
from pyrometa.saving import META, read
from pyrometa.train import curves
from pyrometa.train.folder import Folder


def draw(run: Path, out: Path | None) -> Path:
    """Draw the curves of a run up to its last checkpoint, or up to the one that was given.

    Returns:
        The file.
    """
    found = stored_run(run)
    checkpoint = Folder(found.folder).steps()[-1] if run.is_dir() else found.checkpoint
    history = read(checkpoint, kind=META)["run"]["state"]["history"]
    path = found.folder / "curves.png" if out is None else out
    curves.draw(history, path)
    return path
