"""Named algorithms: each a choice on the three axes, with its paper's defaults where a paper gives them.

``**options`` are the other options of :class:`~pyrometa.MetaSVI`: ``adapt``, ``reduction``, ``score`` and ``engine``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro.infer.elbo import ELBO

from pyrometa.inner import SGD, Adam, InnerRule, LearnedOptimizer, Preconditioned, ProximalSGD
from pyrometa.inner.preconditioned import Named, Transform
from pyrometa.metasvi import MetaSVI
from pyrometa.outer import Displacement, Implicit, Optim, Unrolled
from pyrometa.outer.implicit import Solver
from pyrometa.program.program import Objective
from pyrometa.program.selection import Selection

Program = Callable[..., Any]
Loss = ELBO | Objective | None
Rate = float | Mapping[str, float]


def maml(
    model: Program, guide: Program, optim: Optim, loss: Loss = None, steps: int = 1, *, lr: Rate = 1e-2, **options: Any
) -> MetaSVI:
    r"""MAML: through all steps of gradient descent, in second order.

    .. math:: \phi_{k+1} = \phi_k - \alpha \nabla \text{loss}(\phi_k; S), \qquad
        g = \nabla_{\phi_0} \text{score}(\phi_K; Q)

    Args:
        model: any Pyro model.
        guide: any Pyro guide.
        optim: the outer optimiser, as in :class:`~pyrometa.MetaSVI`.
        loss: the ELBO, as in :class:`~pyrometa.MetaSVI`.
        steps: inner steps K.
        lr: the inner rate.
        options: other options of :class:`~pyrometa.MetaSVI`.

    Raises:
        ValueError, TypeError: as :class:`~pyrometa.MetaSVI`.

    References:
        Finn, Abbeel, Levine (2017), Model-agnostic meta-learning, https://arxiv.org/abs/1703.03400.

    Example:
        >>> from pyro.optim import Adam
        >>> meta = maml(lambda x: None, lambda x: None, Adam({"lr": 1e-3}), steps=3)
        >>> meta.inner.lr, meta.steps, meta.meta_gradient.order.name
        (0.01, 3, 'SECOND')
    """
    return MetaSVI(model, guide, optim, loss, SGD(lr), steps, Unrolled(), **options)


def fomaml(
    model: Program, guide: Program, optim: Optim, loss: Loss = None, steps: int = 5, *, lr: Rate = 1e-2, **options: Any
) -> MetaSVI:
    r"""First-order MAML: inner gradients count as constants.

    .. math:: g = \nabla \text{score}(\phi_K; Q)

    Arguments and errors are those of :func:`maml`.

    References:
        Finn, Abbeel, Levine (2017), Model-agnostic meta-learning, https://arxiv.org/abs/1703.03400.

    Example:
        >>> from pyro.optim import Adam
        >>> fomaml(lambda x: None, lambda x: None, Adam({"lr": 1e-3})).meta_gradient.first_order
        True
    """
    return MetaSVI(model, guide, optim, loss, SGD(lr), steps, Unrolled(first_order=True), **options)


def reptile(
    model: Program,
    guide: Program,
    optim: Optim,
    loss: Loss = None,
    steps: int = 5,
    *,
    inner: InnerRule | None = None,
    **options: Any,
) -> MetaSVI:
    r"""Reptile: towards where adaptation arrived, by any rule and without a query set.

    .. math:: g = \phi_0 - \phi_K

    The paper's outer step is gradient descent with a rate of 1 that falls to 0:
    ``optim=pyro.optim.SGD({"lr": 1.0})`` and a scheduler on ``meta.optimizer``.

    Args:
        model: any Pyro model.
        guide: any Pyro guide.
        optim: the outer optimiser, as in :class:`~pyrometa.MetaSVI`.
        loss: the ELBO, as in :class:`~pyrometa.MetaSVI`.
        steps: inner steps K.
        inner: the inner rule. Default ``Adam(1e-3, betas=(0.0, 0.999))``, as in the paper.
        options: other options of :class:`~pyrometa.MetaSVI`.

    Raises:
        ValueError, TypeError: as :class:`~pyrometa.MetaSVI`; a rule that learns is refused on first data.

    References:
        Nichol, Achiam, Schulman (2018), On first-order meta-learning algorithms, https://arxiv.org/abs/1803.02999.

    Example:
        >>> import pyro, pyrometa as pm
        >>> reptile(lambda x: None, lambda x: None, pyro.optim.SGD({"lr": 1.0}), inner=pm.SGD(0.02)).meta_gradient
        Displacement()
    """
    rule = Adam(1e-3, betas=(0.0, 0.999)) if inner is None else inner
    return MetaSVI(model, guide, optim, loss, rule, steps, Displacement(), **options)


def meta_sgd(
    model: Program,
    guide: Program,
    optim: Optim,
    loss: Loss = None,
    steps: int = 1,
    *,
    lr: Rate = 1e-2,
    outer_lr: float | None = 1e-2,
    **options: Any,
) -> MetaSVI:
    r"""Meta-SGD: MAML with a learned rate for each element of each parameter.

    .. math:: \phi_{k+1} = \phi_k - \alpha \odot \nabla \text{loss}(\phi_k; S)

    The rates stay positive: they are learned as logarithms, ``inner.log_lr.<parameter>``.

    Arguments and errors are those of :func:`maml`, and:

    - ``lr``: the inner rate at the start.
    - ``outer_lr``: outer step size of the rates; None takes the optimiser's own, at which they may hardly move.

    References:
        Li, Zhou, Chen, Li (2017), Meta-SGD, https://arxiv.org/abs/1707.09835.

    Example:
        >>> from pyro.optim import Adam
        >>> meta_sgd(lambda x: None, lambda x: None, Adam({"lr": 1e-3})).inner
        SGD(lr=0.01, learn='parameter', outer_lr=0.01)
    """
    return MetaSVI(model, guide, optim, loss, SGD(lr, "parameter", outer_lr), steps, Unrolled(), **options)


def lslr(
    model: Program,
    guide: Program,
    optim: Optim,
    loss: Loss = None,
    steps: int = 5,
    *,
    lr: Rate = 1e-2,
    outer_lr: float | None = 1e-2,
    step_weights: tuple[float, ...] | None = None,
    **options: Any,
) -> MetaSVI:
    r"""MAML++: MAML with a learned rate for each parameter tensor and inner step, and the multi-step loss.

    .. math:: \phi_{k+1} = \phi_k - \alpha_k \nabla \text{loss}(\phi_k; S), \qquad
        g = \nabla_{\phi_0} \sum_{k=1}^{K} w_k \, \text{score}(\phi_k; Q)

    The paper starts from equal weights and anneals them to the last step: give ``meta.meta_gradient`` another
    ``Unrolled(step_weights=...)`` as training goes on.

    Arguments and errors are those of :func:`maml`, and:

    - ``lr``: the inner rates at the start.
    - ``outer_lr``: outer step size of the rates; None takes the optimiser's own, at which they may hardly move.
    - ``step_weights``: weights of the multi-step loss, as in :class:`~pyrometa.Unrolled`; None for the last
      step alone.

    References:
        Antoniou, Edwards, Storkey (2019), How to train your MAML, https://arxiv.org/abs/1810.09502.

    Example:
        >>> from pyro.optim import Adam
        >>> meta = lslr(lambda x: None, lambda x: None, Adam({"lr": 1e-3}), steps=2, step_weights=(0.5, 0.5))
        >>> meta.inner.learn, meta.meta_gradient.step_weights
        ('layer_step', (0.5, 0.5))
    """
    rule = SGD(lr, "layer_step", outer_lr)
    return MetaSVI(model, guide, optim, loss, rule, steps, Unrolled(step_weights=step_weights), **options)


def anil(
    model: Program,
    guide: Program,
    optim: Optim,
    loss: Loss = None,
    steps: int = 5,
    *,
    adapt: Selection,
    lr: Rate = 1e-2,
    **options: Any,
) -> MetaSVI:
    r"""ANIL, almost no inner loop: MAML in which a named part alone adapts, such as a network's head.

    Arguments and errors are those of :func:`maml`, and:

    - ``adapt``: what adapts, such as ``"guide.head.*"``; the rest learns in the outer loop only.

    References:
        Raghu, Raghu, Bengio, Vinyals (2020), Rapid learning or feature reuse?, https://arxiv.org/abs/1909.09157.

    Example:
        >>> from pyro.optim import Adam
        >>> anil(lambda x: None, lambda x: None, Adam({"lr": 1e-3}), adapt="guide.head.*").steps
        5
    """
    return MetaSVI(model, guide, optim, loss, SGD(lr), steps, Unrolled(), adapt=adapt, **options)


def imaml(
    model: Program,
    guide: Program,
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

    Arguments and errors are those of :func:`maml`, and:

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


def meta_curvature(
    model: Program,
    guide: Program,
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

    Named transforms need ``pyrometa[learn2learn]``. Arguments and errors are those of :func:`maml`, and:

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
    model: Program,
    guide: Program,
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

    Arguments and errors are those of :func:`maml`, and:

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
