"""The curves of a run: training, validation, and adaptation at meta-test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyrometa.saving.whole_files import write_png
from pyrometa.train.reports import Report
from pyrometa.train.state import Record, State

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TRAIN, _VALIDATION, _FIRST = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito: safe for the colour-blind
_PAUSE = 60.0  # seconds between two drawings


class Curves(Report):
    """A figure that is drawn now and then, and at last.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._drawn = path, time.perf_counter()
        self._history: list[Record] = []

    def begin(self, state: State) -> None:
        """Note what was recorded up to here."""
        self._history = list(state.history)

    def recorded(self, record: Record) -> None:
        """Note it."""
        self._history.append(record)

    def saved(self, last: bool) -> None:
        """Draw the figure, but not every time."""
        if not (last or time.perf_counter() - self._drawn > _PAUSE):
            return
        draw(self._history, self._path)
        self._drawn = time.perf_counter()


def draw(history: Sequence[Record], path: Path) -> None:
    """Write the curves of a run as an image."""
    write_png(path, curves(history))


def curves(history: Sequence[Record]) -> Figure:
    """Losses by meta-step, and the adaptation curves of the first and the best validation.

    Args:
        history: the records of a run.

    Returns:
        A figure of two panels; of one where nothing was validated.
    """
    from matplotlib.figure import Figure

    validated = [record for record in history if record.get("validation") is not None]
    figure = Figure(figsize=(9.0 if validated else 5.4, 3.6), layout="constrained")
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    _losses(panels[0], history, validated)
    if validated:
        _adaptation(panels[1], validated)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    return figure


def _losses(axes: Axes, history: Sequence[Record], validated: Sequence[Record]) -> None:
    trained = [record for record in history if record["loss"] is not None]
    axes.plot(*_columns(trained, "loss"), color=_TRAIN, linewidth=1, label="training")
    if validated:
        axes.plot(*_columns(validated, "validation"), color=_VALIDATION, marker="o", markersize=4, label="validation")
    axes.set_xlabel("meta-step")
    axes.set_ylabel("query loss after adaptation")
    axes.legend(frameon=False)


def _columns(records: Sequence[Record], name: str) -> tuple[list[int], list[float]]:
    return [record["step"] for record in records], [record[name] for record in records]


def _adaptation(axes: Axes, validated: Sequence[Record]) -> None:
    best = min(validated, key=lambda record: record["validation"])
    for record, color, which in ((validated[0], _FIRST, "first"), (best, _VALIDATION, "best")):
        label = f"{which} validation, step {record['step']}"
        axes.plot(record["adaptation"], color=color, marker="o", markersize=4, label=label)
    axes.set_xticks(range(len(best["adaptation"])))
    axes.set_xlabel("inner steps on a validation task")
    axes.set_ylabel("query loss")
    axes.legend(frameon=False)
