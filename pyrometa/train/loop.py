"""From one meta-step to the next, and what is due in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pyrometa.errors import NonFiniteError
from pyrometa.train.callbacks import Moment, called
from pyrometa.train.group import agreed, check_generators
from pyrometa.train.interrupts import Interrupted
from pyrometa.train.pairs import Pair, task_count
from pyrometa.train.reports import say
from pyrometa.train.run import Run
from pyrometa.train.saved import save
from pyrometa.train.schedule import after_step, after_validation
from pyrometa.train.state import Record
from pyrometa.train.validation import MetaBatches, adaptation_curve
from pyrometa.types import Params

RECORDS = 1000
"""A run has about so many records, besides those of validations: each is of the steps since the one before."""

SHARES = 20
"""A run is validated and saved so often where it is not said how often."""


def to_the_end(run: Run) -> str:
    """Take the steps that are left.

    Returns:
        Why it has ended: "max_steps", "patience" or "callback".

    Raises:
        Interrupted: a signal asks to stop; the state was saved.
        NonFiniteError: numbers are not finite; the state before them was saved.
    """
    while True:
        _heed_signals(run)
        why = _ended(run)
        if why is not None:
            break
        _advance(run)
    save(run, run.position(), last=True)
    called(run.options.callbacks, "on_end", _moment(run))
    return why


def _heed_signals(run: Run) -> None:
    """Save and end, if a signal to any of the processes asks to; agree on what their callbacks have asked for."""
    signal, stop = agreed(run.processes, [run.signals.noted, int(run.stop)])
    run.stop = bool(stop)
    if signal:
        save(run, run.position(), last=True)
        interruption = Interrupted(signal)
        if run.processes.rank == 0:
            say(_how_to_resume(run, interruption.signal.name))
        raise interruption


def _how_to_resume(run: Run, signal: str) -> str:
    stopped = f"stopped by {signal} after step {run.state.step}"
    if run.folder is None:
        return f"{stopped}: nothing was saved, for want of Trainer(out=...)"
    return f"{stopped}, saved as {run.folder.path(run.state.step)}: go on from there by {run.options.going_on}"


def _ended(run: Run) -> str | None:
    options, state = run.options, run.state
    if state.step >= options.max_steps:
        return "max_steps"
    if options.patience is not None and state.waited >= options.patience:
        return "patience"
    return "callback" if run.stop else None


def _advance(run: Run) -> None:
    """A meta-step, and what is due after it."""
    options, state = run.options, run.state
    loss = _step(run)
    validation = _validate(run, run.validation) if run.validation and _validates(run) else {}
    run.count_seconds()
    run.reports.stepped(state)
    if validation or _due(run, -(-options.max_steps // RECORDS)):
        run.reports.recorded(state.recorded(validation))
    _tell(run, "on_step", loss)
    if validation:
        _tell(run, "on_validation", loss)
    improved = bool(validation) and state.best_step == state.step
    if run.folder is not None and (improved or run.turned_back or _due(run, _every(run, options.checkpoint_every))):
        save(run, run.position())
        _tell(run, "on_checkpoint", loss)


def _validates(run: Run) -> bool:
    return _due(run, _every(run, run.options.validate_every))


def _every(run: Run, steps: int | None) -> int:
    return -(-run.options.max_steps // SHARES) if steps is None else steps


def _due(run: Run, every: int) -> bool:
    return run.state.step % every == 0 or run.state.step == run.options.max_steps


def _step(run: Run) -> float | None:
    """Learn from one meta-batch; its loss, None if it was skipped."""
    before = run.position()
    with run.processes.all_or_none():
        batch = run.next_batch()
    check_generators(run.processes)
    try:
        loss = _learn(run, batch)
    except NonFiniteError as error:
        _skip(run, error, before)
        loss = None
    run.state.stepped(loss, task_count(batch[0]))
    return loss


def _learn(run: Run, batch: Pair) -> float:
    loss, grads = run.meta.loss_and_grads(*batch)
    if run.options.clip_norm is not None:
        clip(grads, run.options.clip_norm)
    run.meta.update(grads)
    after_step(run.scheduler)
    return loss.item()


def clip(grads: Params, clip_norm: float) -> None:
    """Scale the whole meta-gradient to a norm of at most ``clip_norm``, in place, as torch's ``clip_grad_norm_``."""
    norm = torch.nn.utils.get_total_norm(list(grads.values()))
    factor = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    for grad in grads.values():
        grad.mul_(factor.to(grad.device))


def _skip(run: Run, error: NonFiniteError, before: Mapping[str, Any]) -> None:
    """Pass over numbers that are not finite, if that is wanted; else save the state before them.

    Raises:
        NonFiniteError: it is not wanted, or too many were passed over.
    """
    options, skipped = run.options, run.state.skipped
    if options.on_nonfinite == "skip" and skipped < options.max_skipped:
        return
    save(run, before, last=True)
    if options.on_nonfinite == "raise":
        raise error
    told = f"{error}; {skipped} meta-steps were skipped before, no more than max_skipped={options.max_skipped}"
    raise NonFiniteError(told, error.task, error.step, error.parameter) from error


def _validate(run: Run, batches: MetaBatches) -> Record:
    """The validation loss, and what the record says of it."""
    curve = _curve(run, batches)
    loss = None if curve is None else curve[-1]
    run.state.validated(loss)
    after_validation(run.scheduler, loss)
    return {"validation": loss, "adaptation": curve}


def _curve(run: Run, batches: MetaBatches) -> list[float] | None:
    """The adaptation curve on the validation tasks; None if it is not finite, and that may be."""
    try:
        return adaptation_curve(run.meta, batches(run.state.step), run.options.validation_seed)
    except NonFiniteError:
        if run.options.on_nonfinite == "skip":
            return None
        save(run, run.position(), last=True)
        raise


def _tell(run: Run, hook: str, loss: float | None) -> None:
    run.stop |= called(run.options.callbacks, hook, _moment(run, loss))


def _moment(run: Run, loss: float | None = None) -> Moment:
    state, folder = run.state, run.folder
    validations = [record["validation"] for record in state.history[-1:] if "validation" in record]
    checkpoint = folder.path(state.written[-1]) if folder and state.written else None
    return Moment(run.meta, state.step, loss, validations[-1] if validations else None, state.best_step, checkpoint)
