"""MAML, and what is MAML with less: constant inner gradients, or a part that adapts."""

from __future__ import annotations

from typing import Any

from pyrometa.algorithms.arguments import Loss, ModelOrGuide, Rate
from pyrometa.inner import SGD
from pyrometa.metasvi import MetaSVI
from pyrometa.outer import Optim, Unrolled
from pyrometa.program.selection import Selection


def maml(
    model: ModelOrGuide,
    guide: ModelOrGuide,
    optim: Optim,
    loss: Loss = None,
    steps: int = 1,
    *,
    lr: Rate = 1e-2,
    **options: Any,
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
    model: ModelOrGuide,
    guide: ModelOrGuide,
    optim: Optim,
    loss: Loss = None,
    steps: int = 5,
    *,
    lr: Rate = 1e-2,
    **options: Any,
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


def anil(
    model: ModelOrGuide,
    guide: ModelOrGuide,
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
