"""The outer loop of an encoder: a rate that falls once it no longer pays, and a look at held-out tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from pyrometa.amortize.refinement import Refinement
from pyrometa.errors import NonFiniteError
from pyrometa.metasvi import MetaSVI

LOOK, PATIENCE, GAIN, FALL = 100, 3, 0.003, 0.4


class Progress(NamedTuple):
    """Where fitting stands.

    Attributes:
        stage: what is being fitted: ``"guess"`` or ``"refinement"``.
        step: meta-steps of this stage that were taken.
        held_out: mean loss of tasks that are not trained on, nats a row.
    """

    stage: str
    step: int
    held_out: float


def fit_stage(
    meta: MetaSVI | Refinement,
    stage: str,
    steps: int,
    batch: Callable[[], Any],
    held_out: Sequence[Any],
    report: Callable[[Progress], None],
) -> None:
    """Take meta-steps at one rate until held-out tasks gain no more, and some at a rate that falls to zero.

    A meta-step that is not finite updates nothing and is passed over, up to one in twenty.
    """
    meta.init(held_out[0])
    rates = [group["lr"] for group in meta.optimizer.param_groups]
    losses: list[float] = []
    end, passed = steps, 0
    falls = min(round(steps * (1 - FALL)), steps - 1)
    step = 0
    while step < end:
        for group, rate in zip(meta.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (end - step) / (end - falls))
        try:
            meta.step(batch())
        except NonFiniteError:
            passed += 1
            if passed > steps / 20:
                raise
        step += 1
        if step % LOOK == 0 or step == end:
            losses.append(_mean_loss(meta, held_out))
            report(Progress(stage, step, losses[-1]))
            if step < falls and _has_settled(losses):
                falls, end = step, min(end, step + max(LOOK, round(step * FALL)))


def _has_settled(losses: Sequence[float]) -> bool:
    before = losses[:-PATIENCE]
    return bool(before) and min(losses[-PATIENCE:]) > min(before) - GAIN


def _mean_loss(meta: MetaSVI | Refinement, batches: Sequence[Any]) -> float:
    """On the same noise every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return sum(meta.evaluate_loss(batch) for batch in batches) / len(batches)
