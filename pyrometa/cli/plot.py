"""``pyrometa plot``."""

from __future__ import annotations

import io
from pathlib import Path

from pyrometa.recipes import stored_run
from pyrometa.saving import read
from pyrometa.saving.whole_files import write_whole
from pyrometa.train.curves import curves
from pyrometa.train.folder import KIND, Folder


def draw(run: Path, out: Path | None) -> Path:
    """Draw the curves of a run up to its last checkpoint, or up to the one that was given.

    Returns:
        The file.
    """
    found = stored_run(run)
    checkpoint = Folder(found.folder).steps()[-1] if run.is_dir() else found.checkpoint
    history = read(checkpoint, kind=KIND)["run"]["state"]["history"]
    image = io.BytesIO()
    curves(history).savefig(image, format="png", dpi=120)
    path = found.folder / "curves.png" if out is None else out
    write_whole(path, image.getvalue())
    return path
