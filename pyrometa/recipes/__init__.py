"""Recipes: a program and how it is trained, in a TOML file."""

from pyrometa.recipes.program import program
from pyrometa.recipes.recipe import Recipe, read
from pyrometa.recipes.runs import StoredRun, load, stored_run, write_recipe
from pyrometa.recipes.training import Sources, sources, trainer

__all__ = [
    "Recipe",
    "Sources",
    "StoredRun",
    "load",
    "program",
    "read",
    "sources",
    "stored_run",
    "trainer",
    "write_recipe",
]
