"""Stein variational gradient descent as an inner rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pyrometa.inner.ranges import check_positive
from pyrometa.inner.rates import Learn, Rates
from pyrometa.types import Params


@dataclass(frozen=True)
class SVGD:
    r"""Stein variational gradient descent: particles that follow their shared gradients and repel each other.

    .. math::
        x_i \leftarrow x_i - \alpha \sum_{j=1}^{P} \Bigl[ k(x_j, x_i) \, \nabla_{x_j} \text{loss}
            - \tfrac{1}{P} \nabla_{x_j} k(x_j, x_i) \Bigr], \qquad k(x, x') = \exp(-\lVert x - x' \rVert^2 / h)

    The first dimension of every parameter that adapts is that of the P particles, as in
    :class:`~pyrometa.guides.ParticleGuide`; :math:`x_j` is all that adapts of particle j. The loss is the mean over
    particles of their negative log joint densities, as ``Trace_ELBO(num_particles=P, vectorize_particles=True)``
    gives it; with ``reduction="sum"`` the particles then go to the posterior. One particle is gradient descent.

    Args:
        lr: the rate, or a mapping of name patterns to rates, as in :class:`~pyrometa.SGD`.
        bandwidth: :math:`h`; None for the median of the squared distances between particles over :math:`\log P`,
            anew in each step, through which second-order meta-gradients are differentiated.
        learn: which rates are learned, as in :class:`~pyrometa.SGD`.
        outer_lr: outer step size of the learned rates; None takes the optimiser's own.

    Raises:
        ValueError: a rate or bandwidth that is not positive and finite, an unknown ``learn``, or (on first data)
            parameters that do not share their first dimension.

    References:
        Liu, Wang (2016), Stein variational gradient descent, https://arxiv.org/abs/1608.04471;
        Yoon et al. (2018), Bayesian model-agnostic meta-learning, https://arxiv.org/abs/1806.03836.

    Example:
        >>> import torch
        >>> rule = SVGD(0.5)
        >>> params = {"guide.w": torch.tensor([[-1.0], [1.0]])}
        >>> still = {"guide.w": torch.zeros(2, 1)}
        >>> rule.update(params, still, rule.init(params), {}, step=0)[0]  # they only repel each other
        {'guide.w': tensor([[-1.0866],
                [ 1.0866]])}
    """

    lr: float | Mapping[str, float] = 1e-2
    bandwidth: float | None = None
    learn: Learn | None = None
    outer_lr: float | None = None

    def __post_init__(self) -> None:
        if self.bandwidth is not None:
            check_positive("bandwidth", self.bandwidth)
        self._rates.check()

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.lr, self.learn, self.outer_lr)

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Logarithms of the learned rates: shape ``()``, ``(steps,)`` or the parameter's."""
        shapes = {name: tuple(value.shape) for name, value in params.items()}
        if len({shape[:1] for shape in shapes.values()}) > 1 or () in shapes.values():
            raise ValueError(
                "SVGD needs a first dimension of particles, of one size in all that adapts; got "
                f"{', '.join(f'{name} {shape}' for name, shape in shapes.items())}: "
                "use a ParticleGuide, or choose by adapt="
            )
        return self._rates.learned(params, steps)

    def init(self, params: Mapping[str, Tensor]) -> None:
        """SVGD has no state."""

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: None,
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, None]:
        """One step of all particles."""
        x, slope = _particles(params), _particles({name: grads[name] for name in params})
        along = slope if len(x) == 1 else _stein(x, slope, self.bandwidth)
        sizes = [value[0].numel() for value in params.values()]
        parts = zip(params.items(), along.split(sizes, 1), strict=True)
        return self._rates.moved(params, {n: part.reshape(p.shape) for (n, p), part in parts}, learned, step), None


def _particles(values: Mapping[str, Tensor]) -> Tensor:
    """All that adapts, of shape ``(particles, size)``."""
    return torch.cat([value.flatten(1) if value.dim() > 1 else value[:, None] for value in values.values()], 1)


def _stein(x: Tensor, slope: Tensor, bandwidth: float | None) -> Tensor:
    """The direction that the particles move against, of the shape ``(particles, size)`` of ``x``."""
    count = len(x)
    apart = x[:, None] - x
    squares = apart.square().sum(-1)
    width = _median_width(squares) if bandwidth is None else bandwidth
    kernel = torch.exp(-squares / width)
    repulsion = 2 * (kernel[..., None] * apart).sum(1) / width
    return kernel @ slope - repulsion / count


def _median_width(squares: Tensor) -> Tensor:
    """The median of the squared distances over log P; 1 where all particles are in one place."""
    count = len(squares)
    rows, columns = torch.triu_indices(count, count, 1)
    ordered = squares[rows, columns].sort().values
    median = ordered[len(ordered) // 2]
    return torch.where(median > 0, median, torch.ones_like(median)) / math.log(count)
