"""The demo's meta-training as a recipe: what its file names, and the run that a demo makes by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from pyrometa import MetaSVI, Trainer
from pyrometa.demo.config import DemoConfig
from pyrometa.demo.data import demo_tasks
from pyrometa.demo.training import fit_pooled, new_meta, new_vae
from pyrometa.recipes import Recipe, read, trainer, write_recipe
from pyrometa.tasks import MetaBatch, TaskSampler
from pyrometa.train import Moment
from pyrometa.train.folder import Folder

__all__ = ["RECIPE", "begun_run", "make_meta", "make_tasks", "recipe_of"]

RECIPE = Path(__file__).with_name("recipe.toml")
"""The recipe, which ``pyrometa train`` takes."""


def make_meta(
    hidden: int,
    latent: int,
    pooled_steps: int,
    pooled_batch: int,
    pooled_lr: float,
    extra_lr: float,
    inner_steps: int,
    rate: float,
    rate_lr: float,
) -> MetaSVI:
    """The VAE as SVI leaves it, the demo's own bits under torch's seed, and how it meta-learns.

    The arguments are those of :class:`DemoConfig`.
    """
    config = DemoConfig(
        seed=torch.initial_seed(),
        hidden=hidden,
        latent=latent,
        pooled_steps=pooled_steps,
        pooled_batch=pooled_batch,
        pooled_lr=pooled_lr,
        extra_lr=extra_lr,
        inner_steps=inner_steps,
        rate=rate,
        rate_lr=rate_lr,
    )
    vae = new_vae(config)
    fit_pooled(vae, demo_tasks(config).pooled, pooled_steps, pooled_lr, config, lambda items, label: items, "")
    return new_meta(vae, config)


def make_tasks(
    support: int, query: int, validation_tasks: int, test_tasks: int
) -> tuple[TaskSampler, MetaBatch, MetaBatch]:
    """The demo's tasks under torch's seed: to train on, to validate on, and of unseen classes."""
    config = DemoConfig(
        seed=torch.initial_seed(),
        support=support,
        query=query,
        validation_tasks=validation_tasks,
        test_tasks=test_tasks,
    )
    tasks = demo_tasks(config)
    return tasks.train, tasks.validation, tasks.test


def begun_run(config: DemoConfig, folder: Path, on_step: Callable[[Moment], None]) -> Trainer:
    """Write the recipe of a demo into the folder of its run, in the place of one that is there, and make its Trainer.

    The Trainer goes on from torch's generator as it stands, and shows nothing.
    """
    recipe = recipe_of(config, folder)
    write_recipe(recipe, folder)
    there = Folder(folder)
    there.keep(())
    (there.checkpoints / "best.json").unlink(missing_ok=True)
    return replace(trainer(recipe), seed=None, progress=False, callbacks=[on_step])


def recipe_of(config: DemoConfig, folder: Path) -> Recipe:
    """The recipe with a demo's counts, as it stands in the folder of a run.

    It makes no pooled start, as the run's checkpoints have what became of it.
    """
    recipe, told = read(RECIPE), {**asdict(config), "pooled_steps": 0}

    def filled(table: str, **others: Any) -> dict[str, Any]:
        return {**{key: told.get(key, value) for key, value in recipe.table(table).items()}, **others}

    steps = config.meta_steps
    schedule = {**recipe.table("trainer")["schedule"], "T_max": steps}
    tables = {"meta": filled("meta"), "tasks": filled("tasks")}
    tables["trainer"] = filled("trainer", max_steps=steps, schedule=schedule, out=".")
    return Recipe(folder / RECIPE.name, tables)
