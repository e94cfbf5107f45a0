"""``pyrometa train``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import typer

from pyrometa.cli.adapter_table import check_adapter_table
from pyrometa.cli.devices import moved, on_device
from pyrometa.recipes import Recipe, program, read, sources, trainer, write_recipe
from pyrometa.train import Moment, Result, Trainer
from pyrometa.train.folder import Folder
from pyrometa.train.group import restarted


def train_by(file: Path, sets: Sequence[str], device: str | None, resume: str | None) -> None:
    """Meta-train by a recipe, or go on from a checkpoint; what the recipe says is checked before any of it is run."""
    recipe = read(file, sets)
    made = trainer(recipe)
    check_adapter_table(recipe)
    out = Path(str(made.out))
    _check_out(out, resume)
    with on_device(device):
        with torch.device("cpu"):
            train, validation, _ = sources(recipe)
        meta = program(recipe)
        made = _writing(made, recipe, out, resume)
        result = made.fit(meta, moved(train, device), moved(validation, device), _place(resume))
    if _first():
        typer.echo(_told(result, out))


def _check_out(out: Path, resume: str | None) -> None:
    """Refuse to begin where a run is; on several machines ``fit`` does, as one can't tell that others are restarted."""
    machines = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    if resume is None and machines == 1 and Folder(out).steps() and not restarted():
        raise ValueError(
            f"{os.path.relpath(out)} holds a run: go on with it by --resume last, or give another "
            "--set trainer.out=FOLDER"
        )


def _place(resume: str | None) -> str | None:
    return resume if resume in (None, "last", "best") else os.path.abspath(str(resume))


def _writing(made: Trainer, recipe: Recipe, out: Path, resume: str | None) -> Trainer:
    """A trainer in whose folder the recipe is: from the first step if a run is there, which it may not suit."""
    if not _first():
        return made
    if resume is None and not Folder(out).steps():
        write_recipe(recipe, out)
        return made
    return replace(made, callbacks=[*made.callbacks, _Write(recipe, out)])


@dataclass
class _Write:
    """Writes the recipe after the first step."""

    recipe: Recipe
    out: Path
    done: bool = False

    def __call__(self, moment: Moment) -> None:
        """Write it once."""
        if not self.done:
            write_recipe(self.recipe, self.out)
            self.done = True


def _first() -> bool:
    """Whether this is the first process of those that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def _told(result: Result, out: Path) -> str:
    best = "" if result.best_loss is None else f", best validation loss {result.best_loss:.4g} at {result.best_step}"
    where = os.path.relpath(out)
    return f"step {result.steps} ({result.ended}){best}, {result.seconds:.1f} s: pyrometa evaluate {where}"
