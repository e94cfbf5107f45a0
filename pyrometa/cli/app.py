"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import pyrometa

_Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Set a key of the recipe; may be given several times."),
]
_Device = Annotated[str | None, typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda, cuda:1.")]
_Seed = Annotated[int | None, typer.Option(min=0, help="Seeds what is random.")]
_Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or a checkpoint in it.")]


def made_app() -> typer.Typer:
    """The command, with its options read and nothing imported that it may not need."""
    app = typer.Typer(no_args_is_help=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(_pyrometa)
    for command in (demo, init, train, evaluate, adapt, info, plot):
        app.command()(command)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pyrometa {pyrometa.__version__}")
        raise typer.Exit


def _pyrometa(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Meta-learned amortised variational inference for Pyro."""


def demo(
    out: Annotated[Path, typer.Option(help="Directory of the results.", file_okay=False)] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Small counts: a check that it runs.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seeds everything.")] = 0,
) -> None:
    """Fit unseen digit tasks in five steps from a pooled and a meta-learned start."""
    from pyrometa.cli.demo import run_demo

    run_demo(out, quick, seed)


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; made if need be.")],
) -> None:
    """Write a recipe, a program and data that run as they are."""
    from pyrometa.cli.init import write_starter

    write_starter(folder)


def train(
    recipe: Annotated[Path, typer.Argument(metavar="[RECIPE]", help="A TOML file, or its folder.")] = Path("."),
    sets: _Sets = None,
    device: _Device = None,
    seed: _Seed = None,
    resume: Annotated[
        str | None, typer.Option(metavar="[last|best|PATH]", help="Go on from a checkpoint: last if not said.")
    ] = None,
) -> None:
    """Meta-train by a recipe."""
    from pyrometa.cli.train import train_by

    train_by(recipe, _overrides(sets, trainer__seed=seed), device, resume)


def evaluate(
    run: _Run,
    split: Annotated[str, typer.Option(metavar="NAME", help="validation, test or train.")] = "validation",
    sets: _Sets = None,
    device: _Device = None,
    seed: _Seed = None,
    gaps: Annotated[int, typer.Option(min=0, metavar="TASKS", help="Tasks of which all lost nats are traced.")] = 4,
) -> None:
    """Print and draw query losses after each number of inner steps, and whether posteriors can be trusted."""
    from pyrometa.cli.evaluate import evaluate_run

    evaluate_run(run, split, _overrides(sets, trainer__seed=seed), device, gaps)


def adapt(
    run: _Run,
    data: Annotated[list[str], typer.Option(metavar="FILES", help="Parquet files sorted by group: 'users/*.parquet'.")],
    out: Annotated[Path, typer.Option(help="The file to write, a row a group.", dir_okay=False)],
    group: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column that names the group.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Groups in memory at once.")] = None,
    sets: _Sets = None,
    device: _Device = None,
    seed: _Seed = None,
) -> None:
    """Adapt every group of Parquet files to a row of a table of posteriors."""
    from pyrometa.cli.adapt import adapt_by

    told = _overrides(sets, adapter__group=group, adapter__batch_size=batch_size, adapter__seed=seed)
    adapt_by(run, data, out, told, device)


def info(run: _Run) -> None:
    """Say what is in a run."""
    from pyrometa.cli.info import told_of

    typer.echo(told_of(run))


def plot(
    run: _Run,
    out: Annotated[Path | None, typer.Option(help="The file; curves.png in the run if not said.")] = None,
) -> None:
    """Draw the curves of a run again."""
    from pyrometa.cli.plot import draw

    typer.echo(str(draw(run, out)))


def _overrides(sets: list[str] | None, **told: Any) -> list[str]:
    """What ``--set`` says, and after it what an option of its own says."""
    own = [f"{key.replace('__', '.')}={_toml(value)}" for key, value in told.items() if value is not None]
    return [*(sets or ()), *own]


def _toml(value: Any) -> str:
    import json

    return json.dumps(value)
