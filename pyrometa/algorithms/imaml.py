"""The implicit gradient at the point that adaptation converged to."""

from __future__ import annotations

from typing import Any

from pyrometa.algorithms.arguments import Loss, ModelOrGuide, Rate
from pyrometa.inner import ProximalSGD
from pyrometa.metasvi import MetaSVI
from pyrometa.outer import Implicit, Optim
from pyrometa.outer.implicit import Solver


def imaml(
    model: ModelOrGuide,
    guide: ModelOrGuide,
    optim: Optim,
    loss: Loss = None,
    steps: int = 16,
    *,
    lr: Rate = 1e-2,
    strength: float = 2.0,
    iterations: int = 5,
    solver: Solver = "cg",
    **options: Any,
) -> MetaSVI:
    r"""iMAML: proximal gradient descent to convergence, and the gradient at the point that it converged to.

    .. math:: g = (I + H / \lambda)^{-1} \, \nabla \text{score}(\phi_K; Q), \qquad H = \nabla^2 \text{loss}(\phi_K; S)

    Arguments and errors are those of :func:`~pyrometa.maml`, and:

    - ``steps``: inner steps K, enough to converge.
    - ``strength``: the pull :math:`\lambda` to the initialisation, as in :class:`~pyrometa.ProximalSGD`.
    - ``iterations``: of the solver, as in :class:`~pyrometa.Implicit`.
    - ``solver``: ``"cg"`` or ``"neumann"``.

    References:
        Rajeswaran, Finn, Kakade, Levine (2019), Meta-learning with implicit gradients,
        https://arxiv.org/abs/1909.04630.

    Example:
        >>> from pyro.optim import Adam
        >>> imaml(lambda x: None, lambda x: None, Adam({"lr": 1e-3})).inner
        ProximalSGD(lr=0.01, strength=2.0)
    """
    return MetaSVI(model, guide, optim, loss, ProximalSGD(lr, strength), steps, Implicit(iterations, solver), **options)
