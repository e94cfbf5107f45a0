"""Towards where adaptation arrived."""

from __future__ import annotations

from typing import Any

from pyrometa.algorithms.arguments import Loss, ModelOrGuide
from pyrometa.inner import Adam, InnerRule
from pyrometa.metasvi import MetaSVI
from pyrometa.outer import Displacement, Optim


def reptile(
    model: ModelOrGuide,
    guide: ModelOrGuide,
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

    Arguments and errors are those of :func:`~pyrometa.maml`, and:

    - ``inner``: the inner rule. Default ``Adam(1e-3, betas=(0.0, 0.999))``, as in the paper. One that learns is
      refused on first data.

    References:
        Nichol, Achiam, Schulman (2018), On first-order meta-learning algorithms, https://arxiv.org/abs/1803.02999.

    Example:
        >>> import pyro, pyrometa as pm
        >>> reptile(lambda x: None, lambda x: None, pyro.optim.SGD({"lr": 1.0}), inner=pm.SGD(0.02)).meta_gradient
        Displacement()
    """
    rule = Adam(1e-3, betas=(0.0, 0.999)) if inner is None else inner
    return MetaSVI(model, guide, optim, loss, rule, steps, Displacement(), **options)
