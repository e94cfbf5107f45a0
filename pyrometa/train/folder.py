"""The folder of a run: its checkpoints, and which of them is where."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrometa.errors import CheckpointError
from pyrometa.saving import META, newest, read, write
from pyrometa.saving.whole_files import write_whole
from pyrometa.train.state import State

_NAME = re.compile(r"step-\d{8,}\.safetensors")


@dataclass(frozen=True)
class Found:
    """A checkpoint to go on from.

    Attributes:
        path: its file.
        state: what it holds.
        refused: why newer ones were not taken.
    """

    path: Path
    state: Mapping[str, Any]
    refused: tuple[CheckpointError, ...] = ()


@dataclass(frozen=True)
class Folder:
    """The folder of a run.

    Attributes:
        out: the folder.
    """

    out: Path

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.out / "checkpoints"

    def path(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.checkpoints / f"step-{step:08d}.safetensors"

    def steps(self) -> list[Path]:
        """The checkpoints that are there."""
        found = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return sorted(path for path in found if _NAME.fullmatch(path.name))

    def after(self, step: int) -> list[Path]:
        """The checkpoints of later steps."""
        return [path for path in self.steps() if path.name > self.path(step).name]

    def keep(self, steps: Collection[int]) -> None:
        """Remove the checkpoints of all other steps."""
        names = {self.path(step).name for step in steps}
        for path in self.steps():
            if path.name not in names:
                path.unlink()

    def write(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint."""
        write(self.path(step), dict(state), kind=META)
        return self.path(step)

    def note_best(self, step: int | None, loss: float | None) -> None:
        """Write down which checkpoint has the lowest validation loss, if there is one and it is there."""
        note = self.checkpoints / "best.json"
        if step is None or not self.path(step).is_file():
            note.unlink(missing_ok=True)
            return
        told = {"step": step, "validation": loss, "checkpoint": self.path(step).name}
        write_whole(note, (json.dumps(told) + "\n").encode())

    def best(self) -> Path:
        """The checkpoint of the lowest validation loss.

        Raises:
            CheckpointError: none is known.
        """
        try:
            told = json.loads((self.checkpoints / "best.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.checkpoints} knows no best checkpoint, as the run was not validated or it is gone: "
                "resume='last'"
            ) from None
        path = self.checkpoints / told["checkpoint"]
        if not path.is_file():
            raise CheckpointError(f"the best checkpoint {path} is gone: resume='last'")
        return path

    def holds_best(self, state: State) -> bool:
        """Whether the checkpoint of the lowest validation loss is there, and of the run of this state."""
        try:
            told = read(self.path(state.best_step), kind=META)["run"]["state"] if state.best_step is not None else {}
        except (FileNotFoundError, KeyError, CheckpointError):
            return False
        return (told.get("best_step"), told.get("best_loss")) == (state.best_step, state.best_loss)


def found(resume: str | os.PathLike[str], folder: Folder | None) -> Found:
    """The checkpoint that ``resume`` asks for: "last", "best", a file, or the folder of a run.

    Raises:
        CheckpointError: it is not there, not whole, or of no run.
    """
    if folder is not None and resume == "best":
        return _of_run(Found(folder.best(), read(folder.best(), kind=META)))
    if folder is not None and resume == "last":
        return _of_run(_last(folder))
    path = Path(resume)
    if path.is_dir():
        return _of_run(_last(Folder(path)))
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}: give resume='last', 'best' or the path of one")
    return _of_run(Found(path, read(path, kind=META)))


def _last(folder: Folder) -> Found:
    if not folder.steps():
        raise CheckpointError(f"{folder.checkpoints} has no checkpoint to resume from: start with resume=None")
    last = newest(folder.checkpoints, kind=META)
    return Found(last.path, last.state, last.refused)


def _of_run(found: Found) -> Found:
    if "run" not in found.state:
        raise CheckpointError(
            f"{found.path} holds parameters and no run: meta.load({str(found.path)!r}), then fit with resume=None"
        )
    return found
