"""Stochastic gradient descent as an inner rule, with fixed or learned rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import Tensor

from pyrometa.types import Params

Learn = Literal["rate", "layer", "layer_step", "parameter"]


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
        if self.learn is not None and self.learn not in get_args(Learn):
            raise ValueError(
                f"learn must be None or one of {', '.join(map(repr, get_args(Learn)))}, got {self.learn!r}"
            )
        if isinstance(self.lr, Mapping) and self.learn == "rate":
            raise ValueError("learn='rate' learns one rate for all parameters: give lr as one number")
        for name, rate in self._rates().items():
            if isinstance(rate, bool) or not (isinstance(rate, int | float) and math.isfinite(rate) and rate > 0):
                raise ValueError(f"{name} must be positive and finite, got {rate!r}")

    def _rates(self) -> dict[str, float | None]:
        rates: dict[str, float | None] = (
            {f"lr[{pattern!r}]": rate for pattern, rate in self.lr.items()}
            if isinstance(self.lr, Mapping)
            else {"lr": self.lr}
        )
        return rates if self.outer_lr is None else {**rates, "outer_lr": self.outer_lr}

    def _rate(self, name: str) -> float:
        if not isinstance(self.lr, Mapping):
            return self.lr
        for pattern, rate in self.lr.items():
            if fnmatchcase(name, pattern):
                return rate
        raise ValueError(f"lr has no rate for {name!r}: its patterns are {', '.join(self.lr)}; add one, or '*'")

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Logarithms of the learned rates: shape ``()``, ``(steps,)`` or the parameter's."""
        if self.learn == "rate":
            like = next(iter(params.values()))
            return {"log_lr": like.new_full((), math.log(self._rate("")))}
        rates = {name: self._rate(name) for name in params}
        if self.learn is None:
            return {}
        return {
            f"log_lr.{name}": p.new_full(self._rate_shape(p, steps), math.log(rates[name]))
            for name, p in params.items()
        }

    def _rate_shape(self, param: Tensor, steps: int) -> tuple[int, ...]:
        if self.learn == "layer_step":
            return (steps,)
        return tuple(param.shape) if self.learn == "parameter" else ()

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
        return {n: p - self.rate(n, learned, step) * grads[n] for n, p in params.items()}, None

    def rate(self, name: str, learned: Mapping[str, Tensor], step: int) -> float | Tensor:
        """The rate of a parameter at an inner step."""
        if not learned:
            return self._rate(name)
        log_lr = learned["log_lr" if self.learn == "rate" else f"log_lr.{name}"]
        if self.learn == "layer_step":
            log_lr = log_lr[min(step, len(log_lr) - 1)]
        return torch.exp(log_lr)
