"""Proximal gradient descent as an inner rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from pyrometa.inner.ranges import check_positive
from pyrometa.inner.rates import Rates
from pyrometa.types import Params


@dataclass(frozen=True)
class ProximalSGD:
    r"""Gradient descent on the loss plus a pull back to the initialisation, the inner rule of iMAML.

    .. math::
        \phi_{k+1} = \phi_k - \alpha \left( \nabla_{\phi_k} \text{loss}(\phi_k) + \lambda (\phi_k - \phi_0) \right)

    which is gradient descent on :math:`\text{loss}(\phi) + \frac{\lambda}{2} \lVert \phi - \phi_0 \rVert^2`. It
    converges for :math:`\alpha < 2 / (L + \lambda)` with :math:`L` the loss's largest curvature.

    Args:
        lr: the rate, or a mapping of name patterns to rates, as in :class:`~pyrometa.SGD`.
        strength: the pull :math:`\lambda`.

    Raises:
        ValueError: a rate or ``strength`` that is not positive and finite.

    References:
        Rajeswaran, Finn, Kakade, Levine (2019), Meta-learning with implicit gradients,
        https://arxiv.org/abs/1909.04630.

    Example:
        >>> import torch
        >>> rule = ProximalSGD(0.5, strength=1.0)
        >>> params = {"guide.loc": torch.tensor([2.0])}
        >>> state = rule.init(params)
        >>> for step in range(20):  # loss = loc^2 / 2: the minimum is half way between 2 and 0
        ...     params, state = rule.update(params, {"guide.loc": params["guide.loc"]}, state, {}, step)
        >>> params
        {'guide.loc': tensor([1.])}
    """

    lr: float | Mapping[str, float] = 1e-2
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_positive("strength", self.strength)
        self._rates.check()

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.lr)

    @property
    def outer_lr(self) -> None:
        """There is nothing to learn."""

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Nothing."""
        return self._rates.learned(params, steps)

    def init(self, params: Mapping[str, Tensor]) -> Params:
        """The initialisation itself, on its graph."""
        return dict(params)

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Params,
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, Params]:
        """One step; the state is the initialisation, which no step changes."""
        along = {n: grad + self.strength * (params[n] - state[n]) for n, grad in grads.items()}
        return self._rates.moved(params, along, learned, step), state
