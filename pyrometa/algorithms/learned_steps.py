"""MAML in which what a step does with the gradient is learned."""

from __future__ import annotations

from typing import Any

from pyrometa.algorithms.arguments import Loss, ModelOrGuide, Rate
from pyrometa.inner import LearnedOptimizer, Preconditioned
from pyrometa.inner.transforms import Named, Transform
from pyrometa.metasvi import MetaSVI
from pyrometa.outer import Optim, Unrolled


def meta_curvature(
    model: ModelOrGuide,
    guide: ModelOrGuide,
    optim: Optim,
    loss: Loss = None,
    steps: int = 5,
    *,
    lr: Rate = 1e-2,
    transform: Named | Transform = "meta_curvature",
    outer_lr: float | None = None,
    **options: Any,
) -> MetaSVI:
    r"""Meta-Curvature: MAML along a learned transform of each gradient; Kronecker-factored ones alike.

    .. math:: \phi_{k+1} = \phi_k - \alpha \, M_{in} \nabla \text{loss}(\phi_k; S) M_{out}

    Named transforms need ``pyrometa[learn2learn]``. Arguments and errors are those of :func:`~pyrometa.maml`, and:

    - ``transform``: ``"meta_curvature"``, ``"kronecker"`` or your own, as in :class:`~pyrometa.Preconditioned`.
    - ``outer_lr``: outer step size of the transforms; None takes the optimiser's own.

    References:
        Park, Oliva (2019), Meta-curvature, https://arxiv.org/abs/1902.03356;
        Arnold, Iqbal, Sha (2019), When MAML can adapt fast and how to assist when it cannot,
        https://arxiv.org/abs/1910.13603.

    Example:
        >>> from pyro.optim import Adam
        >>> meta_curvature(lambda x: None, lambda x: None, Adam({"lr": 1e-3})).inner.transform
        'meta_curvature'
    """
    rule = Preconditioned(transform, lr, outer_lr)
    return MetaSVI(model, guide, optim, loss, rule, steps, Unrolled(), **options)


def learned_optimizer(
    model: ModelOrGuide,
    guide: ModelOrGuide,
    optim: Optim,
    loss: Loss = None,
    steps: int = 20,
    *,
    lr: Rate = 1e-2,
    hidden: int = 20,
    outer_lr: float | None = None,
    truncate: int | None = 5,
    step_weights: tuple[float, ...] | None = None,
    **options: Any,
) -> MetaSVI:
    r"""A learned optimiser: a small network, shared by all coordinates, reads gradients and writes updates.

    .. math:: \phi_{k+1} = \phi_k - \alpha \, d_\psi(\nabla_0, \dots, \nabla_k), \qquad
        \nabla_k = \nabla \text{loss}(\phi_k; S)

    Arguments and errors are those of :func:`~pyrometa.maml`, and:

    - ``lr``: the step size.
    - ``hidden``: width of the network, as in :class:`~pyrometa.LearnedOptimizer`.
    - ``outer_lr``: outer step size of the network; None takes the optimiser's own.
    - ``truncate``: the number of last steps that count in second order, None for all; the paper counts none so.
    - ``step_weights``: learn from the query loss after every step, as in :class:`~pyrometa.Unrolled`; the
      paper's are equal to one another.

    References:
        Andrychowicz et al. (2016), Learning to learn by gradient descent by gradient descent,
        https://arxiv.org/abs/1606.04474.

    Example:
        >>> from pyro.optim import Adam
        >>> learned_optimizer(lambda x: None, lambda x: None, Adam({"lr": 1e-3})).meta_gradient.truncate
        5
    """
    rule, meta_gradient = LearnedOptimizer(lr, hidden, outer_lr=outer_lr), Unrolled(False, truncate, step_weights)
    return MetaSVI(model, guide, optim, loss, rule, steps, meta_gradient, **options)
