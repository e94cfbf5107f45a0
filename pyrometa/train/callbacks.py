"""What a user's own code is told of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pyrometa.metasvi import MetaSVI

_HOOKS = ("on_step", "on_validation", "on_checkpoint", "on_end")


@dataclass(frozen=True)
class Moment:
    """Where a run stands as a callback is called.

    Attributes:
        meta: what learns.
        step: meta-steps taken.
        loss: of the last one; None if it was skipped.
        validation: the last validation loss; None before the first, and where it was not finite.
        best_step: the step of the lowest validation loss; None before the first.
        checkpoint: the last checkpoint; None before the first, and in processes that write none.
    """

    meta: MetaSVI
    step: int
    loss: float | None = None
    validation: float | None = None
    best_step: int | None = None
    checkpoint: Path | None = None


Hook: TypeAlias = Callable[[Moment], bool | None]
"""A function that is called after each meta-step."""


class Callback(Protocol):
    """What a callback may have; a plain function is an ``on_step``.

    A hook that returns True ends the run, as if it had come to its last step. In a run of several processes each is
    called in all of them. One that has ``state_dict`` and ``load_state_dict`` is saved in checkpoints.

    Example:
        >>> import pyrometa as pm
        >>> class UntilGood(pm.train.Callback):
        ...     def on_validation(self, moment):
        ...         return moment.validation is not None and moment.validation < 0.1
        >>> trainer = pm.Trainer(max_steps=1000, callbacks=[UntilGood()])
    """

    def on_step(self, moment: Moment) -> bool | None:
        """After a meta-step."""

    def on_validation(self, moment: Moment) -> bool | None:
        """After a validation."""

    def on_checkpoint(self, moment: Moment) -> bool | None:
        """After a checkpoint was written."""

    def on_end(self, moment: Moment) -> bool | None:
        """After the last step, as long as the run was not interrupted."""


def check_callbacks(callbacks: Any) -> None:
    """Refuse what can't be called.

    Raises:
        TypeError: with the names of the hooks.
    """
    if not isinstance(callbacks, tuple | list):
        raise TypeError(f"callbacks must be a tuple or list, got {type(callbacks).__name__}")
    for callback in callbacks:
        if not callable(callback) and not any(hasattr(callback, hook) for hook in _HOOKS):
            raise TypeError(
                f"a callback must be a function of the moment, or have some of {', '.join(_HOOKS)}, got "
                f"{type(callback).__name__}"
            )


def called(callbacks: Sequence[Any], hook: str, moment: Moment) -> bool:
    """Call one hook of each; whether one of them asks to stop."""
    hooks = [_hook(callback, hook) for callback in callbacks]
    asked = [function(moment) for function in hooks if function is not None]
    return any(asked)


def _hook(callback: Any, hook: str) -> Any:
    found = getattr(callback, hook, None)
    return callback if found is None and hook == "on_step" and callable(callback) else found
