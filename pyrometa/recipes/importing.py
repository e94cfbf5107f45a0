"""What a recipe names by an import path."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pyrometa.errors import in_short
from pyrometa.recipes.nearest import meant
from pyrometa.recipes.recipe import Recipe

_FORM = "an import path is 'module:name', as in 'schools:model'"


def imported(recipe: Recipe, path: str, table: str | None, key: str) -> Any:
    """What is at an import path such as ``"schools:model"``, whose module is looked for beside the recipe first.

    The recipe's folder becomes the first on Python's path, and stays there, as that of a script does.

    Raises:
        RecipeError: there is no such module or name, it can't be imported, or another module has its name here.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name or module_name.startswith("."):
        raise recipe.error(f"is {path!r}, and {_FORM}", table, key)
    found: Any = _module(recipe, module_name, table, key)
    for part in name.split("."):
        if not hasattr(found, part):
            known = [known for known in vars(found) if not known.startswith("_")]
            raise recipe.error(f"is {path!r}, and {module_name} has no {part!r}: {meant(part, known)}", table, key)
        found = getattr(found, part)
    return found


def function(recipe: Recipe, path: Any, table: str | None, key: str) -> Callable[..., Any]:
    """The function at an import path.

    Raises:
        RecipeError: as :func:`imported`, or it is none.
    """
    if not isinstance(path, str):
        raise recipe.error(f"must be an import path such as 'schools:{key}', got {path!r}", table, key)
    found = imported(recipe, path, table, key)
    if not callable(found):
        raise recipe.error(f"is {path!r}, which is no function but {type(found).__name__}", table, key)
    return found


def _module(recipe: Recipe, name: str, table: str | None, key: str) -> ModuleType:
    folder = str(recipe.folder)
    top = name.partition(".")[0]
    _check_name(recipe, top, table, key)
    if folder not in sys.path:
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise recipe.error(
                f"names module {name!r}, which is neither in {folder} nor installed", table, key
            ) from None
        raise recipe.error(_failed(name, error), table, key) from error
    except Exception as error:
        raise recipe.error(_failed(name, error), table, key) from error


def _check_name(recipe: Recipe, top: str, table: str | None, key: str) -> None:
    """Refuse another module of this name that is there already, which would be taken in silence."""
    beside = {(recipe.folder / f"{top}.py").resolve(), (recipe.folder / top / "__init__.py").resolve()}
    there = getattr(sys.modules.get(top), "__file__", None)
    own = [path for path in beside if path.is_file()]
    if own and top in sys.modules and (there is None or Path(there).resolve() not in beside):
        told = f"names module {top!r}, and this process has another of that name, {there or 'a built-in one'}"
        raise recipe.error(f"{told}: rename {own[0]}, or start another process", table, key)


def _failed(name: str, error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    where = error.filename if isinstance(error, SyntaxError) else frames[-1].filename if frames else name
    return f"names module {name!r}, which can't be imported: {in_short(error)} ({where}, line {line})"
