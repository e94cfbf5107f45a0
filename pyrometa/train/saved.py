"""A run is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyrometa.train.run import Run


def save(run: Run, position: Mapping[str, Any], *, last: bool = False) -> None:
    """Have a checkpoint of this step, and none besides the last two and the best.

    Args:
        run: the run.
        position: where its generators and its source stand.
        last: whether it is the last of this process.
    """
    run.count_seconds()
    if run.state.step not in run.state.written[-1:]:
        _write(run, position)
    run.reports.saved(last)


def _write(run: Run, position: Mapping[str, Any]) -> None:
    state, folder = run.state, run.folder
    state.written = [*state.written[-1:], state.step]
    if folder is None or run.processes.rank > 0:
        return
    folder.write(state.step, run.state_dict(position))
    if state.best_step is not None and state.best_loss is not None:
        folder.note_best(state.best_step, state.best_loss)
    folder.keep([*state.written, *([] if state.best_step is None else [state.best_step])])
