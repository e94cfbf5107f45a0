"""The meta-gradient of iMAML: from the point that adaptation arrived at, whatever the way there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from pyrometa.engine import ScoredPath
from pyrometa.inner import GradientOrder, ProximalSGD, Rule, TaskRows, adapt
from pyrometa.outer.gradients import gradients
from pyrometa.outer.solvers import MatrixProduct, conjugate_gradient, neumann
from pyrometa.types import Params

Solver = Literal["cg", "neumann"]


@dataclass(frozen=True)
class Implicit:
    r"""The gradient of the query loss at the minimum of the proximal loss, by the implicit function theorem (iMAML).

    .. math::
        u_t &= (H_t + \lambda I)^{-1} \nabla_\phi \text{score}(\phi_K^{(t)}, \theta; Q_t), \qquad
        H_t = \nabla_\phi^2 \, \text{loss}(\phi_K^{(t)}, \theta; S_t) \\
        g_\phi &= \frac{1}{B} \sum_{t=1}^B \lambda u_t, \qquad
        g_\theta = \frac{1}{B} \sum_{t=1}^B \left( \nabla_\theta \, \text{score}
            - \nabla_\theta \nabla_\phi \, \text{loss} \cdot u_t \right)

    with :math:`\lambda` the strength of ``inner=ProximalSGD(lr, strength)``. It is the meta-gradient to the degree
    that the inner loop has converged: give it steps enough. Its memory does not grow with their number. All inner
    steps of a task, and the Hessian-vector products, which are exact, see one draw of noise, so that there is one
    minimum to converge to.

    Args:
        iterations: of the solver, each with one Hessian-vector product.
        solver: ``"cg"``, conjugate gradient; or ``"neumann"``, the series
            :math:`\alpha \sum_{j=0}^J (I - \alpha (H + \lambda I))^j` with the rule's rate :math:`\alpha` (the least,
            if it has several), which converges where the inner loop does, and as slowly.

    Raises:
        ValueError: an option out of range, or (on first data) another rule than ``ProximalSGD``.
        TypeError: ``iterations`` is not a whole number.

    References:
        Rajeswaran, Finn, Kakade, Levine (2019), Meta-learning with implicit gradients,
        https://arxiv.org/abs/1909.04630;
        Lorraine, Vicol, Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation,
        https://arxiv.org/abs/1911.02590, for the Neumann series.

    Example:
        >>> Implicit(iterations=10).solver
        'cg'
    """

    iterations: int = 5
    solver: Solver = "cg"

    def __post_init__(self) -> None:
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int):
            raise TypeError(f"iterations must be a whole number, got {self.iterations!r}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver must be one of {', '.join(map(repr, get_args(Solver)))}, got {self.solver!r}")

    @property
    def order(self) -> GradientOrder:
        """It takes second derivatives of the loss."""
        return GradientOrder.SECOND

    @property
    def unrolled_steps(self) -> int:
        """It differentiates through none of the steps."""
        return 0

    @property
    def one_noise(self) -> bool:
        """All inner steps of a task see the same noise."""
        return True

    def check(self, rule: Rule, learned: Mapping[str, Tensor], steps: int) -> None:
        """Refuse a rule without a proximal term.

        Raises:
            ValueError: naming the rule and the cure.
        """
        if not isinstance(rule, ProximalSGD):
            raise ValueError(
                f"Implicit() needs an inner loop that converges to the minimum of a proximal loss, and "
                f"{type(rule).__name__} has none: use inner=ProximalSGD(lr, strength)"
            )

    def __call__(self, path: ScoredPath) -> tuple[Tensor, Params]:
        """Query loss of each task, shape ``(tasks,)``, and the implicit gradient of their sum."""
        problem = path.problem
        for point in adapt(path, problem.steps):
            end = point
        losses = path.score(end)
        if not problem.steps:
            return losses.detach(), gradients(losses.sum(), problem.outer)
        support, variables, _ = path.loss(end, 0)
        rule, fast = _rule(path), TaskRows(list(variables.values()), len(path.tasks))
        proximal = support.sum() + rule.strength * fast.half_square()
        slope = fast.gradient(proximal, create_graph=True)
        solution = self._solved(rule, lambda rows: fast.gradient(slope, rows), fast.gradient(losses.sum()))
        theta = {name: leaf for name, leaf in problem.outer.items() if name not in problem.adapted}
        by_theta = gradients(losses.sum() - (slope * solution).sum(), theta)
        by_start = fast.by_name(rule.strength * solution, path.fast_weights(end))
        return losses.detach(), {**by_theta, **{name: grads.sum(0) for name, grads in by_start.items()}}

    def _solved(self, rule: ProximalSGD, product: MatrixProduct, right: Tensor) -> Tensor:
        if self.solver == "cg":
            return conjugate_gradient(product, right, self.iterations)
        rate = min(rule.lr.values()) if isinstance(rule.lr, Mapping) else rule.lr
        return neumann(product, right, self.iterations, rate)


def _rule(path: ScoredPath) -> ProximalSGD:
    """What :meth:`Implicit.check` has let pass."""
    rule = path.problem.rule
    if not isinstance(rule, ProximalSGD):
        raise TypeError(f"Implicit() is defined by a proximal rule, which {type(rule).__name__} is not")
    return rule
