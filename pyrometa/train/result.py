"""What a run comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyrometa.train.curves import curves
from pyrometa.train.state import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Result:
    """What a run comes to, from its first step on, wherever it was interrupted.

    Attributes:
        history: the records, as in ``log.jsonl``: dictionaries of ``step``, ``loss`` (the mean over the steps since
            the record before), ``seconds``, ``tasks_per_second``, ``skipped``, and where it was validated
            ``validation`` and ``adaptation``, the validation loss after 0, 1, ..., K inner steps.
        steps: meta-steps taken.
        best_step: the step of the lowest validation loss; None without validation.
        best_loss: that loss.
        seconds: of training.
        skipped: meta-steps whose numbers were not finite.
        ended: "max_steps", "patience" or "callback".
        best: the checkpoint of ``best_step``, from which ``meta.load`` takes over; None if there is none.
        last: that of the last step.
    """

    history: Sequence[Record] = field(repr=False)
    steps: int
    best_step: int | None
    best_loss: float | None
    seconds: float
    skipped: int
    ended: str
    best: Path | None
    last: Path | None

    def plot(self) -> Figure:
        """Training and validation loss by meta-step, and adaptation curves, as in ``curves.png``."""
        return curves(self.history)
