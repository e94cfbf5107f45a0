"""Gradient descent with momentum as an inner rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from pyrometa.inner.moments import zeros
from pyrometa.inner.ranges import check_decay, check_flag
from pyrometa.inner.rates import Learn, Rates
from pyrometa.types import Params


@dataclass(frozen=True)
class Momentum:
    r"""Gradient descent with momentum, differentiable through its velocity.

    .. math::
        v_{k+1} = \mu v_k + \nabla_{\phi_k} \text{loss}(\phi_k), \qquad \phi_{k+1} = \phi_k - \alpha \, v_{k+1},
        \qquad v_0 = 0

    and with ``nesterov`` along :math:`\nabla_{\phi_k} \text{loss}(\phi_k) + \mu v_{k+1}` instead. The numbers are
    those of ``torch.optim.SGD`` with the same arguments.

    Args:
        lr: the rate, or a mapping of name patterns to rates, as in :class:`~pyrometa.SGD`.
        momentum: the velocity's decay :math:`\mu` in [0, 1).
        nesterov: look ahead, which is the second form above.
        learn: which rates are learned, as in :class:`~pyrometa.SGD`.
        outer_lr: outer step size of the learned rates; None takes the optimiser's own.

    Raises:
        ValueError: a rate or a decay out of range, an unknown ``learn``, or ``nesterov`` without momentum.
        TypeError: ``nesterov`` is not True or False.

    References:
        Sutskever, Martens, Dahl, Hinton (2013), On the importance of initialization and momentum in deep learning,
        https://proceedings.mlr.press/v28/sutskever13.html.

    Example:
        >>> import torch
        >>> rule = Momentum(0.5, momentum=0.9)
        >>> params = {"guide.loc": torch.tensor([2.0])}
        >>> state = rule.init(params)
        >>> for step in range(2):
        ...     params, state = rule.update(params, {"guide.loc": torch.tensor([1.0])}, state, {}, step)
        >>> params
        {'guide.loc': tensor([0.5500])}
    """

    lr: float | Mapping[str, float] = 1e-2
    momentum: float = 0.9
    nesterov: bool = False
    learn: Learn | None = None
    outer_lr: float | None = None

    def __post_init__(self) -> None:
        check_decay("momentum", self.momentum)
        check_flag("nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True looks ahead along the momentum, which is 0: give momentum, or use SGD")
        self._rates.check()

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.lr, self.learn, self.outer_lr)

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Logarithms of the learned rates: shape ``()``, ``(steps,)`` or the parameter's."""
        return self._rates.learned(params, steps)

    def init(self, params: Mapping[str, Tensor]) -> Params:
        """A velocity of zero, of each parameter's shape."""
        return zeros(params)

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, Params]:
        """One step against the velocity; the state is the velocity."""
        velocity = {n: self.momentum * state[n] + grad for n, grad in grads.items()}
        along = {n: grads[n] + self.momentum * v for n, v in velocity.items()} if self.nesterov else velocity
        return self._rates.moved(params, along, learned, step), velocity

    @property
    def one_rate_for(self) -> Literal["all", "tensor", "element"]:
        """What has a single rate, so that engines may take the step, as of any ``MomentumDescent``."""
        return self._rates.one_rate_for

    def rate(self, name: str, learned: Mapping[str, Tensor], step: int) -> float | Tensor:
        """The rate of a parameter at an inner step."""
        return self._rates.rate(name, learned, step)
