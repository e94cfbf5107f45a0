"""The Trainer that a recipe describes, and the tasks that it trains on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from pyrometa.recipes import parts
from pyrometa.recipes.arguments import arguments, called
from pyrometa.recipes.importing import function
from pyrometa.recipes.recipe import Recipe, seed_of
from pyrometa.tasks import GroupedTasks, GroupSampler, from_parquet
from pyrometa.train import Trainer
from pyrometa.train.seeded import seeded

_META_BATCH = 16
_VALIDATION_TASKS = 512


class Sources(NamedTuple):
    """Where tasks come from.

    Attributes:
        train: for meta-training, as ``Trainer.fit`` takes it.
        validation: likewise; None if there are none.
        test: likewise.
    """

    train: Any
    validation: Any = None
    test: Any = None


class RecipeTrainer(Trainer):
    """The trainer of a recipe, which the command line runs."""

    @property
    def going_on(self) -> str:
        """What one does to go on from the last checkpoint."""
        return f"pyrometa train {os.path.relpath(str(self.out))} --resume last"


def trainer(recipe: Recipe) -> Trainer:
    """Make the Trainer, which writes into ``trainer.out``: ``runs/`` and the recipe's name if that is left out.

    Raises:
        RecipeError: a key that nobody knows, or a value that does not fit.
    """
    table = recipe.table("trainer")
    plain = {key: value for key, value in table.items() if key != "schedule"}
    told = arguments(recipe.with_table("trainer", plain), "trainer", Trainer)
    if "schedule" in table:
        told["schedule"] = _schedule(recipe, table["schedule"])
    told["callbacks"] = [made() if isinstance(made, type) else made for made in told.get("callbacks", ())]
    told["out"] = recipe.path(told.get("out", f"runs/{recipe.file.stem}"))
    return called(recipe, "trainer", RecipeTrainer, **{"meta_batch": _META_BATCH, **told})


def sources(recipe: Recipe) -> Sources:
    """Find the tasks: by the function that ``source`` names, which draws by the trainer's seed, or in Parquet files.

    Raises:
        RecipeError: the table can't be followed, or the files are not what it says.
    """
    table = recipe.table("tasks")
    if "source" in table:
        with seeded(seed_of(recipe)):
            return _by_function(recipe)
    if "path" not in table:
        raise recipe.error("needs source = 'schools:make_tasks' or path = 'data/*.parquet'", "tasks")
    return _in_files(recipe)


def _by_function(recipe: Recipe) -> Sources:
    path = recipe.table("tasks")["source"]
    made = function(recipe, path, "tasks", "source")
    found = called(recipe, "tasks", made, **arguments(recipe, "tasks", made, besides=("source",)))
    if not isinstance(found, tuple) or not 1 <= len(found) <= 3:
        kind = f"a tuple of {len(found)}" if isinstance(found, tuple) else type(found).__name__
        raise recipe.error(
            f"is {path!r}, which must return (train, validation), and returned {kind}", "tasks", "source"
        )
    return Sources(*found)


def _in_files(recipe: Recipe) -> Sources:
    table = recipe.table("tasks")
    told = arguments(recipe, "tasks", from_parquet, besides=("support", "validation_tasks"))
    seed = told.get("seed", 0)
    paths = told.pop("path")
    paths = [recipe.path(path) for path in paths] if isinstance(paths, list) else recipe.path(paths)
    splits = called(recipe, "tasks", from_parquet, paths, **told)
    support, most = table.get("support", 0.5), table.get("validation_tasks", _VALIDATION_TASKS)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise recipe.error(f"must be a whole number from 1 up, got {most!r}", "tasks", "validation_tasks")

    def fixed(tasks: GroupedTasks) -> Any:
        """The same tasks, with the same rows to adapt to, whenever they are asked for."""
        if not len(tasks):
            return None
        return called(recipe, "tasks", GroupSampler, tasks, support=support, seed=seed).sample(min(most, len(tasks)))

    train = called(recipe, "tasks", GroupSampler, splits.train, support=support, seed=seed_of(recipe))
    return Sources(train, fixed(splits.validation), fixed(splits.test))


def _schedule(recipe: Recipe, told: Any) -> Any:
    if isinstance(told, Mapping):
        return parts.schedule(recipe, told)
    return function(recipe, told, "trainer", "schedule")
