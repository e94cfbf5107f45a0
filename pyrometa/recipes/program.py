"""The MetaSVI that a recipe describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyrometa.engine import Engine
from pyrometa.metasvi import MetaSVI
from pyrometa.noise.options import Noise
from pyrometa.recipes import parts
from pyrometa.recipes.arguments import arguments, called
from pyrometa.recipes.importing import function
from pyrometa.recipes.recipe import Recipe, seed_of
from pyrometa.train.seeded import seeded

_OF_OTHERS = ("model", "guide", "optim", "inner", "meta_gradient", "engine", "noise", "loss", "score")
"""Arguments of MetaSVI that [meta] does not give: each has a key or a table of its own."""


def program(recipe: Recipe) -> MetaSVI:
    """Make the MetaSVI, by the functions that the recipe names; what these draw follows from the trainer's seed.

    Raises:
        RecipeError: the recipe can't be followed.
    """
    if not isinstance(recipe.tables.get("meta", {}), str | Mapping):
        given = recipe.tables["meta"]
        raise recipe.error(
            f"must be an import path such as 'schools:make_meta' or a table, got {given!r}", None, "meta"
        )
    with seeded(seed_of(recipe)):
        return _by_tables(recipe) if recipe.meta_function is None else _by_function(recipe)


def _by_function(recipe: Recipe) -> MetaSVI:
    """By a function, whose arguments are the other keys of its table."""
    for name in _OF_OTHERS:
        if name in recipe.tables:
            told = "stands beside meta, whose function makes all of the MetaSVI: keep one of them"
            raise recipe.error(told, *((None, name) if name in ("model", "guide") else (name, None)))
    path, is_table = recipe.meta_function, isinstance(recipe.tables["meta"], Mapping)
    place = ("meta", "source") if is_table else (None, "meta")
    maker = function(recipe, path, *place)
    given = arguments(recipe, "meta", maker, besides=("source",)) if is_table else {}
    made = called(recipe, "meta", maker, **given)
    if not isinstance(made, MetaSVI):
        raise recipe.error(f"is {path!r}, which returned {type(made).__name__} and no MetaSVI", *place)
    return made


def _by_tables(recipe: Recipe) -> MetaSVI:
    for name in ("model", "guide"):
        if name not in recipe.tables:
            near = "give model and guide, or meta = 'schools:make_meta'"
            raise recipe.error(f"is missing: {near}", None, name)
    model = _made(function(recipe, recipe.tables["model"], None, "model"))
    told = arguments(recipe, "meta", MetaSVI, without=_OF_OTHERS)
    plain = {name: options(recipe, name, kind) for name, kind in (("engine", Engine), ("noise", Noise))}
    chosen = {name: parts.part(recipe, name) for name in parts.CLASSES}
    optim = parts.optim(recipe)
    return called(recipe, "meta", MetaSVI, model, _guide(recipe, model), optim, **told, **plain, **chosen)


def options(recipe: Recipe, table: str, kind: Any) -> Any:
    """An object of a class from the table of its options; None if it is left out.

    Raises:
        RecipeError: a key that nobody knows, or a value that does not fit.
    """
    return called(recipe, table, kind, **arguments(recipe, table, kind)) if table in recipe.tables else None


def _guide(recipe: Recipe, model: Any) -> Any:
    given = recipe.tables["guide"]
    if isinstance(given, str) and ":" in given:
        return _made(function(recipe, given, None, "guide"))
    return parts.guide(recipe, given, model)


def _made(found: Any) -> Any:
    """What an import path names; of a class an object, as a module that is shared by two runs would learn for both."""
    return found() if isinstance(found, type) else found
