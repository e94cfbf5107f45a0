"""``pyrometa evaluate``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import typer
from torch import Tensor

from pyrometa.cli.devices import moved, on_device
from pyrometa.cli.trust import Trust, gaps, weights
from pyrometa.plots import query_curve
from pyrometa.recipes import Sources, program, read, sources, stored_run, trainer
from pyrometa.recipes.recipe import NAME
from pyrometa.saving.whole_files import write_png
from pyrometa.train.validation import meta_batches, query_losses

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def evaluate_run(run: Path, split: str, sets: Sequence[str], device: str | None, tasks: int) -> None:
    """Print and draw the query loss after each number of inner steps, and what the posteriors are worth."""
    if split not in Sources._fields:
        raise ValueError(f"--split must be {', '.join(Sources._fields)}, got {split!r}")
    found = stored_run(run)
    recipe = read(found.folder / NAME, sets)
    made = trainer(recipe)
    with on_device(device):
        with torch.device("cpu"):
            given = getattr(sources(recipe), split)
        if given is None:
            raise ValueError(f"the recipe's tasks have no {split} split")
        meta = program(recipe)
        meta.load(found.checkpoint)
        seed = made.validation_seed
        batches = list(meta_batches(moved(given, device), made.meta_batch, seed)(0))
        losses = query_losses(meta, batches, seed).cpu()
        head = f"{found.checkpoint.stem} of {found.folder}: {losses.shape[1]} {split} tasks"
        typer.echo(f"{head}\n{_table(losses)}")
        trust = {"weights": weights(meta, batches, seed)}
        typer.echo(trust["weights"].told)
        if tasks:
            trust["gaps"] = gaps(meta, batches, seed, tasks)
            typer.echo(trust["gaps"].told)
    folder = found.folder / "evaluation" / split
    try:
        _draw(folder, {"losses": query_curve(losses, title=head), **_figures(trust)})
    except OSError as error:
        typer.echo(f"figures: none, as {error}")
    else:
        typer.echo(f"figures: {folder}")


def _table(losses: Tensor) -> str:
    """Mean and standard error over tasks, a line for each number of inner steps."""
    means, count = losses.mean(1), losses.shape[1]
    errors = losses.std(1) / math.sqrt(count) if count > 1 else means * math.nan
    pairs = enumerate(zip(means.tolist(), errors.tolist(), strict=True))
    rows = [f"{k:>11}  {mean:>10.4f} ± {error:.4f}" for k, (mean, error) in pairs]
    return "\n".join(["inner steps  query loss ± standard error", *rows])


def _figures(trust: Mapping[str, Trust]) -> dict[str, Figure]:
    return {name: one.figure for name, one in trust.items() if one.figure is not None}


def _draw(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write figures, and remove those of another evaluation that this one has not."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("losses", "weights", "gaps"):
        path = folder / f"{name}.png"
        if name in figures:
            write_png(path, figures[name])
        else:
            path.unlink(missing_ok=True)
