"""The meta-gradient of iMAML: from the point that adaptation arrived at, whatever the way there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor

from pyrometa.engine import ScoredPath
from pyrometa.inner import GradientOrder, Newton, ProximalSGD, Rule, Surface, TaskRows, adapt
from pyrometa.outer.gradients import Made, gradients, of_first
from pyrometa.outer.solvers import conjugate_gradient, neumann, solved
from pyrometa.types import Params

Solver = Literal["cg", "neumann"]


@dataclass(frozen=True)
class Implicit:
    r"""The gradient of the query loss at the minimum of the inner loss, by the implicit function theorem (iMAML).

    .. math::
        u_t &= (H_t + \lambda I)^{-1} \nabla_\phi \text{score}(\phi_K^{(t)}, \theta; Q_t), \qquad
        H_t = \nabla_\phi^2 \, \text{loss}(\phi_K^{(t)}, \theta; S_t) \\
        g_\phi &= \frac{1}{B} \sum_{t=1}^B \lambda u_t, \qquad
        g_\theta = \frac{1}{B} \sum_{t=1}^B \left( \nabla_\theta \, \text{score}
            - \nabla_\theta \nabla_\phi \, \text{loss} \cdot u_t \right)

    with :math:`\lambda` the strength of ``inner=ProximalSGD(lr, strength)``, or 0 for ``inner=Newton()``. It is the
    meta-gradient to the degree that the inner loop has converged: give it steps enough. Its memory does not grow with
    their number. All inner steps of a task, and the Hessian-vector products, which are exact, see one draw of noise, so
    that there is one minimum to converge to.

    Newton steps are there after a few. The minimum then does not depend on where they started, so that what adapts has
    no meta-gradient; what learns is all else, such as the prior's parameters in the model: empirical Bayes. The Hessian
    of up to ``max_dim`` numbers a task is solved with directly.

    Args:
        iterations: of the solver, each with one Hessian-vector product.
        solver: ``"cg"``, conjugate gradient; or ``"neumann"``, the series
            :math:`\alpha \sum_{j=0}^J (I - \alpha (H + \lambda I))^j` with the rule's rate :math:`\alpha` (the least,
            if it has several), which converges where the inner loop does, and as slowly.

    Raises:
        ValueError: an option out of range, or (on first data) another rule than ``ProximalSGD`` and ``Newton``, a
            damping that is learned, ``"neumann"`` without a rate.
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
        """Refuse a rule that does not go to a minimum, or that learns what the minimum does not depend on.

        Raises:
            ValueError: naming the rule and the cure.
        """
        if isinstance(rule, ProximalSGD):
            return
        if not isinstance(rule, Newton):
            raise ValueError(
                f"Implicit() needs an inner loop that converges to the minimum of its loss, and "
                f"{type(rule).__name__} has none: use inner=ProximalSGD(lr, strength), or inner=Newton()"
            )
        if rule.learn is not None:
            raise ValueError(
                f"Implicit() is the gradient at the minimum, which no damping moves: Newton(learn={rule.learn!r}) "
                "would learn nothing; drop learn, or use meta_gradient=Unrolled()"
            )
        if self.solver == "neumann":
            raise ValueError("solver='neumann' needs the rate of ProximalSGD, and Newton has none: use solver='cg'")

    def __call__(self, path: ScoredPath) -> tuple[Tensor, Params]:
        """Query loss of each task, shape ``(tasks,)``, and the implicit gradient of their sum."""
        problem = path.problem
        for point in adapt(path, problem.steps):
            end = point
        losses = path.score(end)
        if not problem.steps:
            return losses.detach(), gradients(losses.sum(), problem.outer)
        strength = problem.rule.strength if isinstance(problem.rule, ProximalSGD) else 0.0
        inner = _surface(path, end, strength)
        solution = self._solved(problem.rule, inner, inner.fast.gradient(losses.sum()))
        theta = {name: leaf for name, leaf in problem.outer.items() if name not in problem.adapted}
        by_theta = gradients(losses.sum() - (inner.slope * solution).sum(), theta)
        if not strength:
            return losses.detach(), by_theta
        by_start = inner.fast.by_name(strength * solution, path.fast_weights(end))
        return losses.detach(), {**by_theta, **{name: grads.sum(0) for name, grads in by_start.items()}}

    def of_first(self, made: Made, tasks: int) -> Made:
        """What is made of a path of which only the first tasks count."""
        return of_first(made, tasks)

    def _solved(self, rule: Rule, inner: Surface, right: Tensor) -> Tensor:
        """The inner loss's Hessian's inverse times some rows, shape ``(tasks, size)``."""
        if isinstance(rule, Newton) and right.shape[1] <= rule.max_dim:
            return solved(inner.hessian(), right)
        if self.solver == "cg":
            return conjugate_gradient(inner.product, right, self.iterations)
        return neumann(inner.product, right, self.iterations, _least_rate(rule))


def _surface(path: ScoredPath, end: Any, strength: float) -> Surface:
    """The inner loss around the point that adaptation arrived at, with a pull of some strength to the start."""
    losses, variables, _ = path.loss(end, 0)
    fast = TaskRows(list(variables.values()), len(path.tasks))
    loss = losses.sum() + strength * fast.half_square() if strength else losses.sum()
    slope = fast.gradient(loss, create_graph=True)
    return Surface(fast, losses.view(-1), slope, False, partial(path.losses_at, step=0), path.batched)


def _least_rate(rule: Rule) -> float:
    """The least rate of what :meth:`Implicit.check` has let pass under ``"neumann"``."""
    if not isinstance(rule, ProximalSGD):
        raise TypeError(f"the Neumann series is of gradient descent, which {type(rule).__name__} is not")
    return min(rule.lr.values()) if isinstance(rule.lr, Mapping) else rule.lr
