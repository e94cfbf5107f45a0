"""A learned optimiser as an inner rule."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrometa.inner.moments import averaged, magnitude, unbiased, zeros
from pyrometa.inner.ranges import check_decay
from pyrometa.inner.rates import Rates
from pyrometa.inner.steps import by_step
from pyrometa.types import Params

_SECOND_DECAY, _EPS = 0.999, 1e-8  # Adam's
_LOG_SCALE = 10.0  # of log magnitudes, as in the paper
_HORIZONS = (1, 10, 100)  # inner steps

State: TypeAlias = tuple[tuple[Params, ...], Params]


@dataclass(frozen=True)
class LearnedOptimizer:
    r"""A small network that reads a coordinate's gradients and writes its update, shared by all coordinates.

    .. math:: \phi_{k+1} = \phi_k - \alpha \, e^{s} \left( \frac{\hat m}{\sqrt{\hat v} + \epsilon} + d \right),
        \qquad (d, s) = W_2 \tanh(W_0 x + b_0) + b_2

    with :math:`\hat m, \hat v` Adam's unbiased moments (:math:`\hat m` of the last of ``decays``), and features
    :math:`x` that depend neither on the size of the model nor, but for one, on the scale of the loss: the gradient
    and its moving averages over :math:`\sqrt{\hat v}`, and over the root mean square of :math:`\sqrt{\hat v}` in
    their tensor; the logarithm of the one over the other, and (this is the one) of the other; the inner step.

    The output layer starts at zero: the first meta-step sees Adam with step size ``lr``, and learns what is better.
    The weights, ``inner.net.0.weight`` of shape ``(hidden, features)``, ``inner.net.0.bias``,
    ``inner.net.2.weight`` of shape ``(2, hidden)`` and ``inner.net.2.bias``, fit any model: move them by
    ``state_dict`` or by name. Gradients are not cut from the graph, so that meta-gradients are exact.

    Args:
        lr: the step size :math:`\alpha` at the start, or a mapping of name patterns to step sizes, as in
            :class:`~pyrometa.SGD`.
        hidden: width of the hidden layer.
        decays: of the moving averages of gradients, in [0, 1).
        outer_lr: outer step size of the network; None takes the optimiser's own.
        seed: of the hidden layer's first weights; the global generator is not touched.

    Raises:
        ValueError: a step size, a width or a decay out of range.

    References:
        Andrychowicz et al. (2016), Learning to learn by gradient descent by gradient descent,
        https://arxiv.org/abs/1606.04474;
        Metz et al. (2019), Understanding and correcting pathologies in the training of learned optimizers,
        https://arxiv.org/abs/1810.10180.

    Example:
        >>> import torch
        >>> rule = LearnedOptimizer(lr=0.5)
        >>> params = {"guide.loc": torch.tensor([2.0, 2.0])}
        >>> learned = rule.learned(params, steps=1)
        >>> {name: tuple(weight.shape) for name, weight in learned.items()}
        {'net.0.weight': (20, 11), 'net.0.bias': (20,), 'net.2.weight': (2, 20), 'net.2.bias': (2,)}
        >>> grads = {"guide.loc": torch.tensor([1.0, -100.0])}
        >>> rule.update(params, grads, rule.init(params), learned, step=0)[0]
        {'guide.loc': tensor([1.5000, 2.5000])}
    """

    lr: float | Mapping[str, float] = 1e-2
    hidden: int = 20
    decays: tuple[float, ...] = (0.5, 0.9)
    outer_lr: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("hidden", self.hidden, 1), ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if not (isinstance(self.decays, tuple | list) and self.decays):
            raise ValueError(f"decays must be at least one number, as in decays=(0.9,), got {self.decays!r}")
        for i, decay in enumerate(self.decays):
            check_decay(f"decays[{i}]", decay)
        self._rates.check()

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.lr, outer_lr=self.outer_lr)

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """The network's weights; their shapes depend on the rule alone."""
        self._rates.check_names(params)
        like = next(iter(params.values()))
        features = 2 * (1 + len(self.decays)) + 2 + len(_HORIZONS)
        gauss = random.Random(self.seed).gauss
        weight = [[gauss(0.0, features**-0.5) for _ in range(features)] for _ in range(self.hidden)]
        return {
            "net.0.weight": torch.tensor(weight, dtype=like.dtype, device=like.device),
            "net.0.bias": like.new_zeros(self.hidden),
            "net.2.weight": like.new_zeros(2, self.hidden),
            "net.2.bias": like.new_zeros(2),
        }

    def init(self, params: Mapping[str, Tensor]) -> State:
        """All moving averages zero, of each parameter's shape."""
        return tuple(zeros(params) for _ in self.decays), zeros(params)

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: State,
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, State]:
        """One step; the state is the moving averages of gradients, one for each decay, and of their squares."""
        weights = learned or self.learned(params, step)  # none where MetaSVI has steps=0
        pairs = zip(state[0], self.decays, strict=True)
        averages = tuple(averaged(average, grads, decay) for average, decay in pairs)
        squares = averaged(state[1], {n: grad.square() for n, grad in grads.items()}, _SECOND_DECAY)
        along = {}
        for name, grad in grads.items():
            momenta = [unbiased(m[name], decay, step) for m, decay in zip(averages, self.decays, strict=True)]
            size = magnitude(squares[name], _SECOND_DECAY, step, _EPS)
            shift, log_scale = _network(_features([grad, *momenta], size, step), weights).unbind(-1)
            along[name] = log_scale.exp() * (momenta[-1] / size + shift)
        return self._rates.moved(params, along, learned, step), (averages, squares)


def _features(gradients: Sequence[Tensor], size: Tensor, step: int | Tensor) -> Tensor:
    """What the network reads of each coordinate, shape ``(*parameter, features)``."""
    overall = size.square().mean().sqrt()
    horizons = [torch.zeros_like(size) + by_step(step / (step + horizon), size) for horizon in _HORIZONS]
    return torch.stack(
        [
            *(g / size for g in gradients),
            *(g / overall for g in gradients),
            (size / overall).log() / _LOG_SCALE,
            overall.log().expand_as(size) / _LOG_SCALE,
            *horizons,
        ],
        dim=-1,
    )


def _network(features: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    hidden = torch.tanh(F.linear(features, weights["net.0.weight"], weights["net.0.bias"]))
    return F.linear(hidden, weights["net.2.weight"], weights["net.2.bias"])
