"""The learning-rate schedule of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

Schedule: TypeAlias = Callable[[Optimizer], Any]
"""A function of a torch optimiser to a torch scheduler."""


def scheduler(schedule: Schedule | None, optimizer: Optimizer) -> Any:
    """The scheduler of an optimiser; None without a schedule.

    Raises:
        TypeError: the function returns something else.
    """
    if schedule is None:
        return None
    made = schedule(optimizer)
    if not all(callable(getattr(made, name, None)) for name in ("step", "state_dict", "load_state_dict")):
        raise TypeError(f"schedule must return a torch scheduler, got {type(made).__name__}")
    return made


def after_step(made: Any) -> None:
    """Step a scheduler, but for one that waits for the validation loss."""
    if made is not None and not isinstance(made, ReduceLROnPlateau):
        made.step()


def after_validation(made: Any, loss: float | None) -> None:
    """Step a scheduler that waits for the validation loss."""
    if isinstance(made, ReduceLROnPlateau) and loss is not None:
        made.step(loss)
