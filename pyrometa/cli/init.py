"""``pyrometa init``."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path

import typer

_FILES = ("recipe.toml", "schools.py", "make_data.py")


def write_starter(folder: Path) -> None:
    """Write a recipe, its program, and data with what made them.

    Raises:
        ValueError: one of the files is there already.
        ImportError: the data can't be written for want of pyarrow.
    """
    there = [name for name in (*_FILES, "data") if (folder / name).exists()]
    if there:
        raise ValueError(f"{folder / there[0]} is there already: give another folder")
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError('the data need pyarrow: pip install "pyrometa[tables]"')
    from pyrometa.cli.starter.make_data import write

    folder.mkdir(parents=True, exist_ok=True)
    starter = files("pyrometa.cli") / "starter"
    for name in _FILES:
        (folder / name).write_text((starter / name).read_text(encoding="utf-8"), encoding="utf-8")
    write(folder / "data")
    typer.echo(
        f"{folder} has {', '.join(_FILES)} and data. Now:\n\n"
        f"  cd {folder}\n"
        "  pyrometa train\n"
        "  pyrometa evaluate runs/recipe\n"
        "  pyrometa adapt runs/recipe --data data/new.parquet --out posterior.parquet"
    )
