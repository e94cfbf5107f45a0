"""A recipe as it is written: tables of keys and values, and where each comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyrometa.errors import RecipeError
from pyrometa.recipes.nearest import meant
from pyrometa.recipes.overrides import Override, overridden, override
from pyrometa.recipes.toml import NotTOML, parsed, written

NAME = "recipe.toml"
"""What a recipe is called in a folder."""

PROGRAM = ("model", "guide", "meta")
TABLES = ("optim", "inner", "meta_gradient", "engine", "noise", "loss", "score", "meta", "trainer", "tasks", "adapter")
_TOP = ("model", "guide", "meta", "folder", *(name for name in TABLES if name != "meta"))


@dataclass(frozen=True)
class Recipe:
    """What a recipe says.

    Attributes:
        file: its file.
        tables: all that stands in it.
        from_command: what the command line has set.
    """

    file: Path
    tables: Mapping[str, Any]
    from_command: Sequence[Override] = field(default=(), repr=False)

    @property
    def folder(self) -> Path:
        """Where modules and data are looked for: the recipe's own folder, or ``folder`` relative to that."""
        return (self.file.parent / self.tables.get("folder", ".")).resolve()

    @property
    def meta_function(self) -> Any:
        """The import path of what makes the MetaSVI, ``meta`` or its ``source``; None where tables describe it."""
        given = self.tables.get("meta")
        return given.get("source") if isinstance(given, Mapping) else given

    def table(self, name: str) -> Mapping[str, Any]:
        """A table; an empty one if it is left out."""
        return self.tables.get(name, {})

    def with_table(self, name: str, table: Mapping[str, Any]) -> Recipe:
        """The same with another table in the place of one."""
        return replace(self, tables={**self.tables, name: table})

    def error(self, message: str, table: str | None = None, key: str | None = None) -> RecipeError:
        """An error that names the place."""
        if any(said.sets(table, key) for said in self.from_command):
            return RecipeError(message, "--set", table, key)
        also = key is None and any(said.touches(table) for said in self.from_command)
        return RecipeError(message, f"{self.file} with --set" if also else str(self.file), table, key)

    def path(self, path: str) -> str:
        """A path that the recipe names, which is relative to its folder."""
        return str(self.folder / path)

    def text(self, beside: Path) -> str:
        """The recipe as TOML, for another folder."""
        return written({**self.tables, "folder": os.path.relpath(self.folder, beside)})


def read(path: str | os.PathLike[str], sets: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: its file, or a folder with a ``recipe.toml``.
        sets: what to set in it, such as ``"trainer.max_steps=100"``.

    Raises:
        FileNotFoundError: it is not there.
        RecipeError: it is no TOML, or has a key or table at its top that nobody knows.
    """
    file = Path(path) / NAME if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no recipe {file}: pyrometa init FOLDER writes one")
    try:
        tables = parsed(file.read_text(encoding="utf-8"))
    except NotTOML as error:
        raise RecipeError(f"is no TOML: {error}", str(file)) from None
    except UnicodeDecodeError:
        raise RecipeError("is no text in UTF-8", str(file)) from None
    from_command = [override(text) for text in sets]
    recipe = Recipe(file, overridden(tables, from_command), from_command)
    _check_top(recipe)
    return recipe


def seed_of(recipe: Recipe) -> int:
    """The seed of the trainer, by which all is drawn that a recipe's functions draw.

    Raises:
        RecipeError: it is none.
    """
    seed = recipe.table("trainer").get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise recipe.error(f"must be a whole number from 0 up to 2**32, got {seed!r}", "trainer", "seed")
    return seed


def _check_top(recipe: Recipe) -> None:
    for key, value in recipe.tables.items():
        is_table = isinstance(value, Mapping)
        if key not in _TOP:
            what = "table" if is_table else "key"
            raise recipe.error(f"is a {what} that nobody knows: {meant(key, _TOP)}", None, key)
        if key in ("model", "guide") and not isinstance(value, str | Mapping):
            raise recipe.error(f"must be an import path such as 'schools:{key}', got {value!r}", None, key)
        if key == "folder" and not isinstance(value, str):
            raise recipe.error(f"must be text, got {value!r}", None, key)
        if key in TABLES and key != "meta" and not is_table:
            raise recipe.error(f"must be a table, as in [{key}], got {value!r}", None, key)
