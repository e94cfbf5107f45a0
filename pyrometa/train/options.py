"""What a trainer is told, and whether it can be done."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pyrometa.tasks.checks import at_least, positive
from pyrometa.train.callbacks import Callback, Hook, check_callbacks
from pyrometa.train.schedule import Schedule

LOGGERS = ("jsonl", "tensorboard")
_SEEDS = 2**32  # numpy's


Path: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a :class:`Trainer`, which explains them."""

    max_steps: int
    meta_batch: int | None = None
    out: Path | None = None
    validate_every: int | None = None
    checkpoint_every: int | None = None
    patience: int | None = None
    clip_norm: float | None = None
    schedule: Schedule | None = None
    logger: str | Sequence[str] = ("jsonl",)
    callbacks: Sequence[Callback | Hook] = ()
    progress: bool = True
    seed: int | None = 0
    on_nonfinite: Literal["raise", "skip"] = "raise"
    max_skipped: int = 10

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def loggers(self) -> tuple[str, ...]:
        """The names of the loggers."""
        return (self.logger,) if isinstance(self.logger, str) else tuple(self.logger)

    @property
    def going_on(self) -> str:
        """What one does to go on from the last checkpoint."""
        return "fit(..., resume='last')"

    @property
    def validation_seed(self) -> int:
        """The seed of validation's noise, and of what is drawn to validate on."""
        return 0 if self.seed is None else self.seed


def check_options(options: Options) -> None:
    """Refuse options of a wrong type or out of range.

    Raises:
        TypeError, ValueError: naming the option, what it got and the cure.
        ImportError: a package that an option needs is not installed.
    """
    positive("max_steps", options.max_steps)
    for name in ("meta_batch", "validate_every", "checkpoint_every", "patience"):
        if getattr(options, name) is not None:
            positive(name, getattr(options, name))
    at_least(0, "max_skipped", options.max_skipped)
    if options.seed is not None and at_least(0, "seed", options.seed) >= _SEEDS:
        raise ValueError(f"seed must be below 2**32, got {options.seed}")
    if options.clip_norm is not None:
        _norm(options.clip_norm)
    if options.schedule is not None and not callable(options.schedule):
        raise TypeError(
            f"schedule must be a function of the torch optimiser to a torch scheduler, got "
            f"{type(options.schedule).__name__}: lambda optimizer: CosineAnnealingLR(optimizer, 1000), say"
        )
    if options.on_nonfinite not in ("raise", "skip"):
        raise ValueError(f"on_nonfinite must be 'raise' or 'skip', got {options.on_nonfinite!r}")
    if not isinstance(options.progress, bool):
        raise TypeError(f"progress must be True or False, got {options.progress!r}")
    check_callbacks(options.callbacks)
    _check_files(options)


def _check_files(options: Options) -> None:
    for name in options.loggers:
        if name not in LOGGERS:
            raise ValueError(f"logger {name!r} is unknown: give some of {', '.join(map(repr, LOGGERS))}")
    if options.out is None:
        if "tensorboard" in options.loggers:
            raise ValueError("logger 'tensorboard' writes into a folder: give out=")
        if options.checkpoint_every is not None:
            raise ValueError("checkpoint_every needs a folder for the checkpoints: give out=")
        return
    needed = ["matplotlib", *(["tensorboard"] if "tensorboard" in options.loggers else [])]
    for package in needed:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"a run that is written to out= needs {package}: pip install 'pyrometa[train]'")


def _norm(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"clip_norm must be a number, got {value!r}")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"clip_norm must be positive and finite, got {value}; None for no clipping")
