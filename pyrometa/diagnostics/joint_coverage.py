"""Does a joint posterior cover the truth as often as it says? Tests of accuracy with random points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrometa import generators
from pyrometa.diagnostics.rank_calibration import FALSE_ALARMS
from pyrometa.diagnostics.simulated import Simulated, below, simulated
from pyrometa.diagnostics.uniformity import Uniformity, uniformity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Coverage", "coverage"]


@dataclass(frozen=True)
class Coverage:
    """Credibility of regions against how often they hold the truth.

    Attributes:
        credibility: what share of the posterior a region holds, shape ``(draws,)``, ascending in (0, 1).
        coverage: what share of the tasks have the truth in it, likewise; equal to ``credibility`` if calibrated.
        p_value: of the two being equal.
        verdict: "calibrated", "over-confident", "under-confident" or "shifted", in words.
        tasks: how many.
    """

    credibility: Tensor
    coverage: Tensor
    p_value: float
    verdict: str
    tasks: int

    def plot(self) -> Figure:
        """Coverage against credibility; calibrated posteriors lie on the diagonal."""
        from pyrometa.plots import coverage_curve

        return coverage_curve(self.credibility, self.coverage, tasks=self.tasks, title=self.verdict)


def coverage(
    meta: Any,
    prior_tasks: Any,
    *,
    rows: int = 20,
    tasks: int = 200,
    draws: int = 100,
    steps: int | None = None,
    seed: int = 0,
) -> Coverage:
    r"""Expected coverage of the joint posterior of all sites, by balls around random points (TARP).

    .. math::
        f_t = \frac{1}{L} \#\{l : d(\theta_{tl}, r_t) < d(\theta_t, r_t)\}, \qquad
        \text{coverage}(\alpha) = P(f_t < \alpha)

    with :math:`r_t` the truth of another task and d the distance in units of the prior's standard deviations. Unlike
    :func:`sbc`, which looks at each number by itself, it sees wrong correlations. Arguments, what is drawn, errors and
    the rate of false alarms are those of :func:`sbc`. A ball around a far point can't tell a shift from
    over-confidence: which of them it is called is read off the ranks of single numbers.

    References:
        Lemos, Coogan, Hezaveh, Perreault-Levasseur (2023), Sampling-based accuracy testing of posterior estimators for
        general inference, https://arxiv.org/abs/2302.03026.
    """
    found = simulated(meta, prior_tasks, tasks=tasks, rows=rows, draws=draws, steps=steps, seed=seed)
    with generators.forked():
        generators.seed(seed + 1)
        nearer = _nearer(found)
    tested = uniformity(nearer.unsqueeze(1), draws)
    levels = torch.arange(1, draws + 1, dtype=torch.double)
    covered = (nearer.unsqueeze(1) < levels).double().mean(0)
    p_value = tested.p_values.item()
    return Coverage(
        levels / (draws + 1), covered, p_value, _verdict(tested, uniformity(found.rank_columns(), draws)), tasks
    )


def _nearer(found: Simulated) -> Tensor:
    """How many of a task's draws are nearer to another task's truth than its own truth is, equal ones by lot."""
    _, truths, draws = found.columns()
    unit = truths.std(0)
    unit[unit == 0] = 1.0
    reference = truths.roll(1, 0)
    of_truth = ((truths - reference) / unit).square().sum(-1).unsqueeze(1)
    of_draws = ((draws - reference.unsqueeze(1)) / unit).square().sum(-1)
    return below(of_truth, of_draws)


def _verdict(tested: Uniformity, numbers: Uniformity) -> str:
    p_value = tested.p_values.item()
    if p_value > FALSE_ALARMS:
        return f"calibrated: as far as coverage tells (p-value {p_value:.2g})"
    if tested.spread < 0:
        return "under-confident: regions hold the truth in too many tasks"
    if (numbers.p_values * len(numbers.p_values) > FALSE_ALARMS).all():
        return "over-confident: regions hold the truth in too few tasks, though each number by itself is calibrated"
    if numbers.lean.abs().max() > numbers.spread.abs().max():
        return "shifted: the truth is on one side of the draws too often"
    return "over-confident: regions hold the truth in too few tasks"
