"""A run is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyrometa.train.folder import Folder
from pyrometa.train.group import of_each
from pyrometa.train.run import Run


def save(run: Run, position: Mapping[str, Any], *, last: bool = False) -> None:
    """Have a checkpoint of this step, and none besides the last two and the best.

    Args:
        run: the run.
        position: where its generators and its source stand.
        last: whether it is the last of this process.
    """
    state, folder = run.state, run.folder
    run.count_seconds()
    run.best_is_here = run.best_is_here or state.best_step == state.step
    state.written = [*(step for step in state.written if step != state.step), state.step][-2:]
    runs = of_each(run.processes, run.runs())
    if folder is not None and run.processes.rank == 0 and run.saved != state.step:
        _write(run, folder, {**position, "runs": runs})
        run.saved = state.step
    run.turned_back = False
    run.reports.saved(last)


def _write(run: Run, folder: Folder, position: Mapping[str, Any]) -> None:
    state = run.state
    folder.write(state.step, run.state_dict(position))
    folder.note_best(state.best_step if run.best_is_here else None, state.best_loss)
    folder.keep([*state.written, *([] if state.best_step is None else [state.best_step])])
