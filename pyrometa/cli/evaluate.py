"""``pyrometa evaluate``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import typer
from torch import Tensor

from pyrometa.cli.devices import moved, on_device
from pyrometa.cli.trust import trust
from pyrometa.recipes import Sources, program, read, sources, stored_run, trainer
from pyrometa.recipes.recipe import NAME
from pyrometa.train.validation import meta_batches, query_losses


def evaluate_run(run: Path, split: str, sets: Sequence[str], device: str | None) -> None:
    """Print the query loss of a run's tasks after each number of inner steps, and what their posteriors are worth."""
    if split not in Sources._fields:
        raise ValueError(f"--split must be {', '.join(Sources._fields)}, got {split!r}")
    found = stored_run(run)
    recipe = read(found.folder / NAME, sets)
    made = trainer(recipe)
    with on_device(device):
        with torch.device("cpu"):
            tasks = getattr(sources(recipe), split)
        if tasks is None:
            raise ValueError(f"the recipe's tasks have no {split} split")
        meta = program(recipe)
        meta.load(found.checkpoint)
        batches = list(meta_batches(moved(tasks, device), made.meta_batch, made.validation_seed)(0))
        losses = query_losses(meta, batches, made.validation_seed).cpu()
        told = trust(meta, batches, made.validation_seed)
    typer.echo(f"{found.checkpoint.stem} of {found.folder}: {losses.shape[1]} {split} tasks")
    typer.echo(_table(losses))
    typer.echo(told)


def _table(losses: Tensor) -> str:
    """Mean and standard error over tasks, a line for each number of inner steps."""
    means, count = losses.mean(1), losses.shape[1]
    errors = losses.std(1) / math.sqrt(count) if count > 1 else means * math.nan
    pairs = enumerate(zip(means.tolist(), errors.tolist(), strict=True))
    rows = [f"{k:>11}  {mean:>10.4f} ± {error:.4f}" for k, (mean, error) in pairs]
    return "\n".join(["inner steps  query loss ± standard error", *rows])
