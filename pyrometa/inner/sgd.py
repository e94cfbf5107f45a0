"""Stochastic gradient descent as an inner rule, with fixed or learned rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from pyrometa.inner.rates import Learn, Rates
from pyrometa.types import Params


@dataclass(frozen=True)
class SGD:
    r"""Gradient descent on the fast weights, with one rate or one for each parameter.

    .. math:: \phi_{k+1} = \phi_k - \alpha \, \nabla_{\phi_k} \text{loss}(\phi_k)

    Learned rates are held as ``log_lr``, so that they stay positive, and have their own outer step size: at a
    network's 1e-3 they hardly move, 1e-2 or more is usual. Their names are ``inner.log_lr`` for a single rate and
    ``inner.log_lr.<parameter>`` otherwise. Steps beyond the last that has a rate of its own use the last one's.

    Args:
        lr: the rate, or where ``learn`` is not ``"rate"`` a mapping of name patterns to rates; the first
            pattern that matches a parameter counts.
        learn: None for fixed rates; ``"rate"`` learns one; ``"layer"`` one for each parameter tensor (a layer's
            weight, its bias); ``"layer_step"`` one for each tensor and inner step (LSLR); ``"parameter"`` one for
            each element (Meta-SGD).
        outer_lr: outer step size of the learned rates; None takes the optimiser's own.

    Raises:
        ValueError: a rate that is not positive and finite, or an unknown ``learn``.

    References:
        Finn, Abbeel, Levine (2017), https://arxiv.org/abs/1703.03400;
        Li et al. (2017), Meta-SGD, https://arxiv.org/abs/1707.09835;
        Antoniou, Edwards, Storkey (2019), How to train your MAML, https://arxiv.org/abs/1810.09502.

    Example:
        >>> import torch
        >>> rule = SGD(0.5)
        >>> params = {"guide.loc": torch.tensor([2.0])}
        >>> grads = {"guide.loc": torch.tensor([1.0])}
        >>> rule.update(params, grads, rule.init(params), {}, step=0)[0]
        {'guide.loc': tensor([1.5000])}
    """

    lr: float | Mapping[str, float] = 1e-2
    learn: Learn | None = None
    outer_lr: float | None = None

    def __post_init__(self) -> None:
        self._rates.check()

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.lr, self.learn, self.outer_lr)

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Logarithms of the learned rates: shape ``()``, ``(steps,)`` or the parameter's."""
        return self._rates.learned(params, steps)

    def init(self, params: Mapping[str, Tensor]) -> None:
        """SGD has no state."""

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: None,
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, None]:
        """One step along ``-grads``."""
        return self._rates.moved(params, grads, learned, step), None

    @property
    def one_rate_for(self) -> Literal["all", "tensor", "element"]:
        """What has a single rate, so that engines may take the step, as of any ``GradientDescent``."""
        return self._rates.one_rate_for

    def rate(self, name: str, learned: Mapping[str, Tensor], step: int) -> float | Tensor:
        """The rate of a parameter at an inner step."""
        return self._rates.rate(name, learned, step)
