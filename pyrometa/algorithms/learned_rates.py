"""MAML with learned step sizes."""

from __future__ import annotations

from typing import Any

from pyrometa.algorithms.arguments import Loss, ModelOrGuide, Rate
from pyrometa.inner import SGD
from pyrometa.metasvi import MetaSVI
from pyrometa.outer import Optim, Unrolled


def meta_sgd(
    model: ModelOrGuide,
    guide: ModelOrGuide,
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

    Arguments and errors are those of :func:`~pyrometa.maml`, and:

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
    model: ModelOrGuide,
    guide: ModelOrGuide,
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

    Arguments and errors are those of :func:`~pyrometa.maml`, and:

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
