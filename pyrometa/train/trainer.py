"""Meta-training from the first meta-step to the last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyrometa.metasvi import MetaSVI
from pyrometa.processes import Processes
from pyrometa.train.curves import Curves
from pyrometa.train.folder import Folder, Found, found
from pyrometa.train.group import process_group
from pyrometa.train.interrupts import Signals
from pyrometa.train.loop import to_the_end
from pyrometa.train.options import Options
from pyrometa.train.options import Path as AnyPath
from pyrometa.train.progress import progress
from pyrometa.train.reports import JsonLines, Report, Reports, TensorBoard, say
from pyrometa.train.result import Result
from pyrometa.train.run import Run, begin
from pyrometa.train.seeded import generators_of_run
from pyrometa.train.sources import source_of
from pyrometa.train.validation import meta_batches


class Trainer(Options):
    """Meta-trains a :class:`MetaSVI`, and can be stopped and resumed anywhere.

    A run has random generators of its own: one seed gives one result, with the same bits wherever it was interrupted
    and resumed, and the caller's generators are left where they were. Started by torchrun, its processes share each
    meta-batch; process 0 writes and reports.

    Args:
        max_steps: number of meta-steps.
        meta_batch: how many tasks a sampler is asked for at each step.
        out: folder for ``log.jsonl``, TensorBoard's events, ``curves.png`` and ``checkpoints``; None to write nothing.
        validate_every: meta-steps between two validations. Default a twentieth of ``max_steps``; the last step is
            followed by one in any case.
        checkpoint_every: meta-steps between two checkpoints, likewise. The last two and the best are kept.
        patience: end after so many validations without improvement.
        clip_norm: largest norm of the whole meta-gradient, as torch's ``clip_grad_norm_``.
        schedule: a function of the torch optimiser to a torch scheduler, which is stepped once a meta-step
            (``ReduceLROnPlateau`` once a validation, with its loss).
        logger: some of ``"jsonl"`` and ``"tensorboard"``.
        callbacks: functions of a :class:`Moment`, called after each meta-step, or :class:`Callback` objects.
        progress: whether to show on the standard error how far the run is: a bar on a terminal, else about 20 lines.
        seed: seeds the run's generators. None: it goes on from the caller's as they stand, and leaves them where it
            ends, as a loop of one's own does; validation then takes the seed 0.
        on_nonfinite: what to do where a loss or gradient is not finite: ``"raise"`` the :class:`NonFiniteError`, after
            the state before was saved, or ``"skip"`` the meta-batch.
        max_skipped: raise nevertheless after so many skipped ones.

    Raises:
        TypeError, ValueError: an option of another type or out of range.
        ImportError: what writes the files is not installed.

    Example:
        >>> import pyro, pyro.distributions as dist, torch, pyrometa as pm
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> def guide(x):
        ...     scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        ...     pyro.sample("loc", dist.Normal(pyro.param("mean", torch.tensor(0.0)), scale))
        >>> meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), inner=pm.SGD(0.01), steps=3)
        >>> trainer = pm.Trainer(max_steps=40, validate_every=10, patience=3, progress=False)
        >>> result = trainer.fit(meta, lambda step: 5 + torch.randn(8, 10), validation=5 + torch.randn(20, 10))
        >>> first, *_, last = [record["validation"] for record in result.history if "validation" in record]
        >>> last < first
        True
    """

    def fit(self, meta: MetaSVI, train: Any, validation: Any = None, resume: AnyPath | None = None) -> Result:
        """Meta-train, from the first step or from a checkpoint, to the last step.

        A meta-batch is a ``MetaBatch``, a tuple ``(support, query)``, or support alone; several arguments of the model
        are a tuple within that tuple. What torch's own collation makes lists of is taken as tuples.

        Args:
            meta: what learns; afterwards it is as the last step leaves it.
            train: where meta-batches come from: a sampler of ``pyrometa.tasks``, a DataLoader or another iterable
                (iterated again when it ends), a function of the step from 0, or one meta-batch for all steps.
            validation: what to validate on, likewise. The validation loss is the mean query loss after adaptation, on
                the same noise each time. A sampler is asked once, and put back; an iterable is gone through each time.
            resume: ``"last"`` or ``"best"`` for that checkpoint in ``out``, or the path of one or of a run. What is in
                ``out`` of later steps is removed when the next is saved, or the run ends.

        Returns:
            The history of the run, its best step and what it has written.

        Raises:
            TypeError, ValueError: an argument that is none of these; nothing was done.
            CheckpointError: there is no such checkpoint, or it does not suit.
            NonFiniteError: a loss or gradient is not finite; the state before was saved.
            Interrupted: Ctrl-C or SIGTERM; the step was finished and the state saved. Not caught, it ends the program
                with exit code 130 or 143.
            ProcessError: of several processes, others have something else than this one, or have failed.
        """
        source = source_of("train", train, self.meta_batch)
        batches = None if validation is None else meta_batches(validation, self.meta_batch, self.validation_seed)
        folder = None if self.out is None else Folder(Path(self.out))
        _check_fit(self, meta, validation, resume)
        own = generators_of_run(self.seed)
        with process_group() as (processes, again), _sharing(meta, processes), own, Signals() as signals:
            checkpoint = _checkpoint(self, folder, resume, processes, again)
            run = Run(self, meta, source, batches, processes, signals, folder, _reports(self, folder, processes))
            try:
                begin(run, checkpoint)
                run.reports.begin(run.state)
                return _result(run, to_the_end(run))
            finally:
                run.reports.close()


def _check_fit(trainer: Trainer, meta: Any, validation: Any, resume: Any) -> None:
    if not isinstance(meta, MetaSVI):
        raise TypeError(f"meta must be a MetaSVI, got {type(meta).__name__}")
    if validation is None and trainer.patience is not None:
        raise ValueError(f"patience={trainer.patience} needs something to validate on: give validation=")
    if resume is None:
        return
    if not isinstance(resume, str | os.PathLike):
        raise TypeError(f"resume must be None, 'last', 'best' or a path, got {resume!r}")
    if trainer.out is None and resume in ("last", "best"):
        raise ValueError(f"resume={resume!r} looks for checkpoints in out, and that is None: give Trainer(out=...)")


@contextmanager
def _sharing(meta: MetaSVI, processes: Processes) -> Iterator[None]:
    before, meta.processes = meta.processes, processes
    try:
        yield
    finally:
        meta.processes = before


def _checkpoint(
    trainer: Trainer, folder: Folder | None, resume: AnyPath | None, processes: Processes, again: bool
) -> Found | None:
    """What to go on from, found by process 0: what was asked for, or after a restart by torchrun what is there."""
    with processes.all_or_none():
        if processes.rank > 0:
            return None
        there = folder is not None and bool(folder.steps())
        if there and again:
            resume = "last"
        elif there and resume is None:
            raise ValueError(
                f"{folder.out} holds a run: go on with it by {trainer.going_on}, or give another out"  # type: ignore[union-attr]
            )
        checkpoint = None if resume is None else found(resume, folder)
    for reason in checkpoint.refused if checkpoint else ():
        say(f"{reason}; going on from {checkpoint.path}")  # type: ignore[union-attr]
    return checkpoint


def _reports(trainer: Trainer, folder: Folder | None, processes: Processes) -> Reports:
    if processes.rank > 0:
        return Reports()
    shown: list[Report] = [progress(trainer.max_steps)] if trainer.progress else []
    if folder is not None:
        made: dict[str, Callable[[], Report]] = {
            "jsonl": lambda: JsonLines(folder.out / "log.jsonl"),
            "tensorboard": lambda: TensorBoard(folder.out),
        }
        shown += [*(made[name]() for name in trainer.loggers), Curves(folder.out / "curves.png")]
    return Reports(shown)


def _result(run: Run, ended: str) -> Result:
    state, folder = run.state, run.folder
    best = folder.path(state.best_step) if folder and run.best_is_here and state.best_step is not None else None
    last = folder.path(state.step) if folder else None
    parts = (state.step, state.best_step, state.best_loss, state.seconds, state.skipped, ended, best, last)
    return Result(tuple(state.history), *parts)
