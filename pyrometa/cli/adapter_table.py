"""What a recipe says of adapters."""

from __future__ import annotations

from typing import Any

from pyrometa.adapter import Adapter
from pyrometa.recipes import Recipe
from pyrometa.recipes.arguments import arguments, columns

_FROM_TASKS = ("group", "columns")


def check_adapter_table(recipe: Recipe) -> None:
    """Refuse keys that an :class:`Adapter` does not have, and values that do not fit.

    Raises:
        RecipeError: naming the key.
    """
    arguments(recipe, "adapter", Adapter, without=("meta",), missing=_FROM_TASKS)


def adapter_arguments(recipe: Recipe) -> dict[str, Any]:
    """The arguments of an :class:`Adapter`; the columns are those of ``[tasks]`` where ``[adapter]`` does not say.

    Raises:
        RecipeError: as :func:`check_adapter_table`, or nothing says which columns.
    """
    told = arguments(recipe, "adapter", Adapter, without=("meta",), missing=_FROM_TASKS)
    tasks = recipe.table("tasks")
    for name in _FROM_TASKS:
        if name not in told and name in tasks:
            told[name] = columns(recipe, "tasks", tasks[name]) if name == "columns" else tasks[name]
        if name not in told:
            raise recipe.error("is missing: say it there, in [tasks] or by --set", "adapter", name)
    return told
