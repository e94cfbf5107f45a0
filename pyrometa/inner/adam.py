"""Adam as an inner rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from pyrometa.inner.moments import averaged, magnitude, unbiased, zeros
from pyrometa.inner.ranges import check_decay, check_positive
from pyrometa.inner.rates import Learn, Rates
from pyrometa.types import Params


@dataclass(frozen=True)
class Adam:
    r"""Adam, differentiable through both of its moments.

    .. math::
        m_{k+1} &= \beta_1 m_k + (1 - \beta_1) g_k, \qquad v_{k+1} = \beta_2 v_k + (1 - \beta_2) g_k^2 \\
        \phi_{k+1} &= \phi_k - \alpha \,
            \frac{m_{k+1} / (1 - \beta_1^{k+1})}{\sqrt{v_{k+1} / (1 - \beta_2^{k+1})} + \epsilon}

    with :math:`g_k = \nabla_{\phi_k} \text{loss}(\phi_k)` and :math:`m_0 = v_0 = 0`. The numbers are those of
    ``torch.optim.Adam``. Where a gradient has been exactly zero so far, the root's derivative counts as 0, so that
    second-order meta-gradients stay finite there; the step's derivative by the gradient is then of the order
    :math:`\alpha / \epsilon`, as it is in truth.

    Args:
        lr: the rate, or a mapping of name patterns to rates, as in :class:`~pyrometa.SGD`.
        betas: decays of the two moments, in [0, 1).
        eps: added to the denominator.
        learn: which rates are learned, as in :class:`~pyrometa.SGD`.
        outer_lr: outer step size of the learned rates; None takes the optimiser's own.

    Raises:
        ValueError: a rate, a decay or ``eps`` out of range, or an unknown ``learn``.

    References:
        Kingma, Ba (2015), Adam: a method for stochastic optimization, https://arxiv.org/abs/1412.6980.

    Example:
        >>> import torch
        >>> rule = Adam(0.5)
        >>> params = {"guide.loc": torch.tensor([2.0, 2.0])}
        >>> grads = {"guide.loc": torch.tensor([1.0, -100.0])}
        >>> rule.update(params, grads, rule.init(params), {}, step=0)[0]
        {'guide.loc': tensor([1.5000, 2.5000])}
    """

    lr: float | Mapping[str, float] = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    learn: Learn | None = None
    outer_lr: float | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.betas, tuple | list) and len(self.betas) == 2):
            raise ValueError(f"betas must be two decays, as in betas=(0.9, 0.999), got {self.betas!r}")
        for i, beta in enumerate(self.betas):
            check_decay(f"betas[{i}]", beta)
        check_positive("eps", self.eps)
        self._rates.check()

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.lr, self.learn, self.outer_lr)

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Logarithms of the learned rates: shape ``()``, ``(steps,)`` or the parameter's."""
        return self._rates.learned(params, steps)

    def init(self, params: Mapping[str, Tensor]) -> tuple[Params, Params]:
        """Both moments zero, of each parameter's shape."""
        return zeros(params), zeros(params)

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: tuple[Params, Params],
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, tuple[Params, Params]]:
        """One step; the state is the pair of moments ``(m, v)``."""
        beta1, beta2 = self.betas
        first = averaged(state[0], grads, beta1)
        second = averaged(state[1], {n: grad.square() for n, grad in grads.items()}, beta2)
        along = {n: unbiased(m, beta1, step) / magnitude(second[n], beta2, step, self.eps) for n, m in first.items()}
        return self._rates.moved(params, along, learned, step), (first, second)
