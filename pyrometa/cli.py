"""The ``pyrometa`` command."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pyrometa

if TYPE_CHECKING:
    import typer

    from pyrometa.demo import DemoConfig

__all__ = ["main"]

NEEDED = ("matplotlib", "mlxtend", "tqdm", "typer")


def main() -> None:
    """The console entry point; exits with the cure where the extra is not installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(f'the pyrometa command needs {", ".join(missing)}: pip install "pyrometa[demo]"')
    _app()()


def _app() -> "typer.Typer":
    import typer

    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"pyrometa {pyrometa.__version__}")
            raise typer.Exit

    @app.callback()
    def _(
        version: Annotated[
            bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
        ] = False,
    ) -> None:
        """Meta-learned amortised variational inference for Pyro."""

    @app.command()
    def demo(
        out: Annotated[Path, typer.Option(help="Directory of the results.", file_okay=False)] = Path("demo"),
        quick: Annotated[bool, typer.Option("--quick", help="Small counts: a check that it runs.")] = False,
        seed: Annotated[int, typer.Option(min=0, help="Seeds everything.")] = 0,
    ) -> None:
        """Fit unseen digit tasks in five steps from a random, a pooled and a meta-learned start."""
        from pyrometa.demo import DemoConfig

        _demo(DemoConfig.quick(seed) if quick else DemoConfig(seed), out)
        if quick:
            typer.echo("\nThese are the small counts of --quick: they show that it runs, not what comes out.")

    return app


def _demo(config: "DemoConfig", out: Path) -> None:
    import torch
    import typer
    from tqdm import tqdm

    from pyrometa.demo import Demo, table

    run = Demo(config, out, lambda items, label: tqdm(items, desc=f"{label:<30}", dynamic_ncols=True))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these matrices are small: more threads gain little, and on a busy machine lose a lot
    try:
        result = run.run()
    except KeyboardInterrupt:
        finished = ", ".join(map(str, run.written)) or "nothing yet"
        typer.echo(f"\ninterrupted during: {run.stage}; finished: {finished}", err=True)
        raise typer.Exit(130) from None
    finally:
        torch.set_num_threads(threads)
    typer.echo(f"\n{table(result)}\n")
    typer.echo("\n".join(map(str, run.written)))
