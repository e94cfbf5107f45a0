"""``pyrometa info``."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyrometa.recipes import Recipe, StoredRun, stored_run
from pyrometa.saving import META, read
from pyrometa.saving.frame import about
from pyrometa.train.folder import Folder


def told_of(run: Path) -> str:
    """What is in a run, read from its files alone: nothing of the program is imported."""
    found = stored_run(run)
    state = read(found.checkpoint, kind=META)
    pairs = [*_of_run(found, state), *_of_file(found.checkpoint)]
    lines = [f"{name:<12} {value}" for name, value in pairs]
    return "\n".join([*lines, "", *_parameters(state["parameters"])])


def _of_run(found: StoredRun, state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    recipe = found.recipe
    yield "run", str(found.folder)
    yield "program", f"{_program(recipe)}, from {recipe.folder}"
    yield "checkpoint", found.checkpoint.name
    kept = [path.stem for path in Folder(found.folder).steps()]
    yield "kept", ", ".join(kept)
    if "run" in state:
        told = state["run"]["state"]
        last = recipe.table("trainer").get("max_steps")
        yield "step", f"{told['step']} of {last}" + (f", {told['skipped']} skipped" if told["skipped"] else "")
        if told["best_step"] is not None:
            yield "best", f"validation loss {told['best_loss']:.6g} at step {told['best_step']}"
        yield "seconds", f"{told['seconds']:.1f} of training"


def _program(recipe: Recipe) -> str:
    if recipe.meta_function is not None:
        return f"meta {recipe.meta_function}"
    return f"model {recipe.tables.get('model')}, guide {recipe.tables.get('guide')}"


def _of_file(path: Path) -> Iterator[tuple[str, str]]:
    data = path.read_bytes()
    told = about(data)
    written = datetime.datetime.fromtimestamp(told["written"] / 1e9, datetime.timezone.utc)
    yield "written", f"{written:%Y-%m-%d %H:%M:%S} UTC, {len(data):,} bytes, format {told['format']}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in told["versions"].items())


def _parameters(parameters: Mapping[str, Any]) -> Iterator[str]:
    count = sum(math.prod(tensor.shape) for tensor in parameters.values())
    yield f"{len(parameters)} parameters, {count:,} numbers"
    width = max(map(len, parameters), default=0)
    for name, tensor in parameters.items():
        yield f"  {name:<{width}}  {tuple(tensor.shape)!s:<12} {str(tensor.dtype).removeprefix('torch.')}"
