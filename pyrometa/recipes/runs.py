"""The folder of a run: its recipe, its checkpoints, and what was learned."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pyrometa.errors import CheckpointError
from pyrometa.metasvi import MetaSVI
from pyrometa.recipes.program import program
from pyrometa.recipes.recipe import NAME, Recipe, read
from pyrometa.saving.whole_files import write_whole
from pyrometa.train.folder import Folder


@dataclass(frozen=True)
class StoredRun:
    """A run on the disk.

    Attributes:
        folder: its folder.
        checkpoint: the file that was asked for; of a folder the best one, or the last one where none was validated.
    """

    folder: Path
    checkpoint: Path

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was trained by."""
        return read(self.folder / NAME)


def stored_run(path: str | os.PathLike[str]) -> StoredRun:
    """Find a run by its folder, or by a checkpoint in it.

    Raises:
        FileNotFoundError: there is no such file or folder, or no recipe in it.
        CheckpointError: it has no checkpoint.
    """
    path = Path(path).absolute()
    if path.is_dir():
        _check_recipe(path, path)
        return StoredRun(path, _best(Folder(path)))
    if not path.is_file():
        raise FileNotFoundError(f"there is no run and no checkpoint {path}")
    folder = next((folder for folder in path.parents[:2] if (folder / NAME).is_file()), path.parent)
    _check_recipe(folder, path)
    return StoredRun(folder, path)


def load(path: str | os.PathLike[str]) -> MetaSVI:
    """Make the MetaSVI of a run by its recipe, with all that was learned.

    The program is made as it was for training, so the modules that the recipe names must be there. Before first data
    its parameters are not known, and are taken over from the checkpoint as soon as they are. As everywhere in Pyro,
    programs in one process that have the same names in the param store share what is learned: call
    ``pyro.clear_param_store()`` between two loads, and let the recipe name a function or class that makes the guide.

    Args:
        path: the folder that ``pyrometa train`` wrote, of which the best checkpoint is taken, or the last one where
            nothing was validated; or a checkpoint in it.

    Raises:
        FileNotFoundError: it is not there, or no ``recipe.toml`` is beside it.
        RecipeError: the recipe can't be followed; the message names file, table and key.
        CheckpointError: the checkpoint is not whole, or (from first data) of another program.

    Example:
        >>> import tempfile, pyrometa as pm
        >>> with tempfile.TemporaryDirectory() as folder:  # where pyrometa train would have written
        ...     pm.load(folder)
        Traceback (most recent call last):
        ...
        FileNotFoundError: ...has no recipe.toml beside it...
    """
    run = stored_run(path)
    meta = program(run.recipe)
    meta.load(run.checkpoint)
    return meta


def write_recipe(recipe: Recipe, out: Path) -> None:
    """Write a recipe into the folder of its run, with what the command line has set and where all that is."""
    out.mkdir(parents=True, exist_ok=True)
    trainer = {**recipe.table("trainer"), "out": os.path.relpath(out, recipe.folder)}
    write_whole(out / NAME, recipe.with_table("trainer", trainer).text(out.resolve()).encode())


def _best(folder: Folder) -> Path:
    if not folder.steps():
        raise CheckpointError(f"{folder.checkpoints} has no checkpoint yet")
    try:
        return folder.best()
    except CheckpointError:
        return folder.steps()[-1]


def _check_recipe(folder: Path, path: Path) -> None:
    if not (folder / NAME).is_file():
        raise FileNotFoundError(
            f"{path} has no {NAME} beside it, as pyrometa train writes: with a MetaSVI at hand call meta.load(path)"
        )
