"""The meta-gradient of Reptile: how far adaptation moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pyrometa.engine import ScoredPath
from pyrometa.inner import GradientOrder, Rule, adapt
from pyrometa.outer.gradients import Made, gradients, of_first
from pyrometa.types import Params


@dataclass(frozen=True)
class Displacement:
    r"""The way from where adaptation arrived back to where it started (Reptile), which needs no query set.

    .. math:: g_\phi = \frac{1}{B} \sum_{t=1}^B \left( \phi_0 - \phi_K^{(t)} \right), \qquad
        g_\theta = \nabla_\theta \frac{1}{B} \sum_{t=1}^B \text{score}(\phi_K^{(t)}, \theta; Q_t)

    An outer optimiser of plain gradient descent with rate :math:`\epsilon` then moves the initialisation by
    :math:`\epsilon` towards the mean of the adapted parameters. No second derivative is taken, so that the
    inner loop may be long and any rule will do that learns nothing of its own. The query set is scored for the
    loss that is reported and for parameters :math:`\theta` that do not adapt; they learn by its gradient. With
    no inner steps all parameters do.

    Raises:
        ValueError: on first data, a rule that has something to learn.

    References:
        Nichol, Achiam, Schulman (2018), On first-order meta-learning algorithms, https://arxiv.org/abs/1803.02999.

    Example:
        >>> Displacement().order.name
        'FIRST'
    """

    @property
    def order(self) -> GradientOrder:
        """It takes first derivatives only."""
        return GradientOrder.FIRST

    @property
    def unrolled_steps(self) -> int:
        """It differentiates through none of the steps."""
        return 0

    @property
    def one_noise(self) -> bool:
        """Every inner step sees noise of its own."""
        return False

    def check(self, rule: Rule, learned: Mapping[str, Tensor], steps: int) -> None:
        """Refuse a rule that learns.

        Raises:
            ValueError: naming what it would learn.
        """
        if learned:
            raise ValueError(
                f"{type(rule).__name__} has {next(iter(learned))!r} to learn, of which a displacement says nothing: "
                "use a rule with fixed rates, or meta_gradient=Unrolled(first_order=True)"
            )

    def __call__(self, path: ScoredPath) -> tuple[Tensor, Params]:
        """Query loss of each task, shape ``(tasks,)``, and the displacement of what adapts, summed over tasks."""
        problem = path.problem
        for point in adapt(path, problem.steps):
            end = point
        losses = path.score(end)
        moved = problem.adapted if problem.steps else ()
        others = {name: leaf for name, leaf in problem.outer.items() if name not in moved}
        fast = path.fast_weights(end) if moved else {}
        back = {name: (problem.leaves[name] - fast[name]).detach().sum(0) for name in moved}
        return losses.detach(), {**gradients(losses.sum(), others), **back}

    def of_first(self, made: Made, tasks: int) -> Made:
        """What is made of a path of which only the first tasks count."""
        return of_first(made, tasks)
