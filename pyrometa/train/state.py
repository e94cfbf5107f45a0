"""Where a run stands."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]
"""A line of the log.

``step``; ``loss``, the mean over the steps since the line before, None if all were skipped; ``seconds`` of training so
far; ``tasks_per_second`` since the line before; ``skipped`` so far; and where it was validated ``validation``, None
where that was not finite, and ``adaptation``, the validation loss after 0, 1, ..., K inner steps.
"""


@dataclass
class State:
    """Where a run stands, besides what it learns, its random generators and its source of meta-batches.

    Attributes:
        step: meta-steps taken, skipped ones too.
        skipped: those whose numbers were not finite.
        seconds: of training, over all processes that it was resumed in.
        losses: of the steps since the last record.
        tasks: how many these had.
        since: ``seconds`` at the last record.
        best_step: the step of the lowest validation loss; None before the first.
        best_loss: that loss.
        waited: validations since then.
        written: the steps of the last two checkpoints.
        history: the records so far.
    """

    step: int = 0
    skipped: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    tasks: int = 0
    since: float = 0.0
    best_step: int | None = None
    best_loss: float | None = None
    waited: int = 0
    written: list[int] = field(default_factory=list)
    history: list[Record] = field(default_factory=list)

    def stepped(self, loss: float | None, tasks: int) -> None:
        """Count a meta-step; its loss is None if it was skipped."""
        self.step += 1
        self.tasks += tasks
        if loss is None:
            self.skipped += 1
        else:
            self.losses.append(loss)

    def validated(self, loss: float | None) -> None:
        """Count a validation; a loss of None was not finite, and is no improvement."""
        if loss is not None and (self.best_loss is None or loss < self.best_loss):
            self.best_step, self.best_loss, self.waited = self.step, loss, 0
        else:
            self.waited += 1

    def recorded(self, validation: Record) -> Record:
        """Add a record of the steps since the last one, and of a validation if there was one."""
        seconds = self.seconds - self.since
        record = {
            "step": self.step,
            "loss": sum(self.losses) / len(self.losses) if self.losses else None,
            "seconds": round(self.seconds, 3),
            "tasks_per_second": round(self.tasks / seconds, 1) if seconds > 0 else None,
            "skipped": self.skipped,
            **validation,
        }
        self.history.append(record)
        self.losses, self.tasks, self.since = [], 0, self.seconds
        return record

    def state_dict(self) -> dict[str, Any]:
        """All of it, as a nest of plain values."""
        return asdict(self)
