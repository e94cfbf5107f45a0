"""The arguments that a table gives to a function or a class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pyrometa.errors import RecipeError
from pyrometa.recipes.fitting import Unfit, fitted, hints_of
from pyrometa.recipes.importing import imported
from pyrometa.recipes.nearest import meant
from pyrometa.recipes.recipe import Recipe


def arguments(
    recipe: Recipe,
    table: str,
    function: Callable[..., Any],
    *,
    besides: Collection[str] = (),
    without: Collection[str] = (),
    missing: Collection[str] = (),
) -> dict[str, Any]:
    """What a table gives to a function, checked against its arguments.

    Args:
        recipe: the recipe.
        table: the table.
        function: the function or class.
        besides: keys of the table that are not the function's.
        without: arguments that the table can't give.
        missing: arguments that it may leave out although they have no default.

    Raises:
        RecipeError: a key that nobody knows, a value of another type, or none for an argument without a default.
    """
    taken = {name: part for name, part in parameters(function).items() if name not in without}
    hints = hints_of(function)
    told = {key: value for key, value in recipe.table(table).items() if key not in besides}
    for key in told:
        if key not in taken:
            raise recipe.error(f"is a key that nobody knows: {meant(key, [*taken, *besides])}", table, key)
    for name, parameter in taken.items():
        if parameter.default is parameter.empty and name not in told and name not in missing:
            raise recipe.error(f"is missing: {_described(function)} needs it", table, name)
    return {
        key: columns(recipe, table, value)
        if key == "columns"
        else _argument(recipe, table, key, value, hints.get(key) or _hint(taken[key].default))
        for key, value in told.items()
    }


def columns(recipe: Recipe, table: str, value: Any) -> Any:
    """The columns of a model's arguments: of an array each entry is an argument, a name or an array of names.

    Raises:
        RecipeError: it is none of these.
    """
    parts = value if isinstance(value, list) else [value]
    if not parts or not all(isinstance(part, str) or _is_names(part) for part in parts):
        form = "a name, or an array with an entry for each argument of the model, as in [['x0', 'x1'], 'y']"
        raise recipe.error(f"must be {form}, got {value!r}", table, "columns")
    return tuple(value) if isinstance(value, list) else value


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _argument(recipe: Recipe, table: str, key: str, value: Any, hint: Any) -> Any:
    try:
        return fitted(value, hint, lambda path: imported(recipe, path, table, key))
    except Unfit as unfit:
        raise recipe.error(f"must be {unfit}, got {value!r}", table, key) from None


def _hint(default: Any) -> Any:
    """The type of an argument that has none written, by its default."""
    return type(default) if isinstance(default, bool | int | float | str) else Any


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments that a function has by name, private ones left out."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(function).parameters.items()
    return {name: part for name, part in found if part.kind in kinds and not name.startswith("_")}


def called(recipe: Recipe, table: str | None, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function returns.

    Raises:
        RecipeError: what it says of its arguments, with the place of these.
    """
    try:
        return function(*args, **kwargs)
    except RecipeError:
        raise
    except (TypeError, ValueError, ImportError, OSError) as error:
        raise _error(recipe, table, function, " ".join(str(error).split())) from error


def _error(recipe: Recipe, table: str | None, function: Callable[..., Any], message: str) -> RecipeError:
    """What a function says of its arguments; of one that it names first, with the key."""
    word, _, rest = message.partition(" ")
    if word in parameters(function):
        return recipe.error(rest, table, word)
    return recipe.error(f"can't be followed: {message}", table)


def _described(function: Any) -> str:
    return f"{getattr(function, '__name__', 'the function')}"
