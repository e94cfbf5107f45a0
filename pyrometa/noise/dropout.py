r"""Dropout as a function of standard uniform noise.

With :math:`m = 1[u < 1 - p]` for each element, or for each channel of the feature forms,

.. math:: \text{dropout}(x) = \frac{m x}{1 - p}, \qquad
    \text{alpha\_dropout}(x) = a \, (m x + (1 - m) \alpha' + p \alpha'), \quad a = ((1 - p) (1 + p \alpha'^2))^{-1/2}

where :math:`\alpha'` is what SELU tends to below (Klambauer et al. 2017, https://arxiv.org/abs/1706.02515).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LOWEST = -1.7580993408473766


@dataclass(frozen=True)
class Dropout:
    """One call of dropout.

    Attributes:
        input: what is thinned out.
        p: the probability of being dropped.
        shape: of the noise, which broadcasts to the input's.
        alpha: whether mean and variance are kept.
        in_place: whether the result is written into the input.
    """

    input: Tensor
    p: float
    shape: tuple[int, ...]
    alpha: bool
    in_place: bool

    def __call__(self, u: Tensor) -> Tensor:
        """The result for standard uniform noise of the call's shape."""
        kept = (u < 1 - self.p).to(self.input.dtype)
        result = self._alpha(kept) if self.alpha else self._plain(kept)
        return self.input.copy_(result) if self.in_place else result

    def _plain(self, kept: Tensor) -> Tensor:
        return self.input * (kept / (1 - self.p) if self.p < 1 else kept)

    def _alpha(self, kept: Tensor) -> Tensor:
        if self.p == 1:
            return self.input * kept
        scale = ((1 - self.p) * (1 + self.p * _LOWEST**2)) ** -0.5
        return scale * (self.input * kept + _LOWEST * (1 - kept) - _LOWEST * self.p)


def dropout_call(func: Any, args: Any, kwargs: Any) -> Dropout | None:
    """A function call as a call of dropout, or None where it is something else or draws nothing."""
    read = _READERS.get(func)
    call = read(*args, **kwargs) if read else None
    return call if call is not None and 0 < call.p <= 1 else None


def _reader(shape: Callable[[Tensor], tuple[int, ...]], *, alpha: bool = False) -> Callable[..., Dropout | None]:
    def read(
        input: Tensor, p: float = 0.5, training: bool = not alpha, inplace: bool = False, *, train: bool | None = None
    ) -> Dropout | None:
        training = training if train is None else train
        return Dropout(input, p, shape(input), alpha, inplace) if training else None

    return read


def _in_place(read: Callable[..., Dropout | None]) -> Callable[..., Dropout | None]:
    return partial(read, inplace=True)


def _elements(input: Tensor) -> tuple[int, ...]:
    return tuple(input.shape)


def _channels(unbatched: int) -> Callable[[Tensor], tuple[int, ...]]:
    """The shape of a draw for each channel, of an input that is a batch unless it has so few dimensions."""

    def shape(input: Tensor) -> tuple[int, ...]:
        leading = 1 if input.dim() == unbatched else 2
        return (*input.shape[:leading], *(1,) * (input.dim() - leading))

    return shape


_NEVER = -1

_READERS: dict[Any, Callable[..., Dropout | None]] = {
    F.dropout: _reader(_elements),
    F.dropout1d: _reader(_channels(2)),
    F.dropout2d: _reader(_channels(_NEVER)),
    F.dropout3d: _reader(_channels(4)),
    F.alpha_dropout: _reader(_elements, alpha=True),
    F.feature_alpha_dropout: _reader(_channels(_NEVER), alpha=True),
    torch.dropout: _reader(_elements),
    torch.dropout_: _in_place(_reader(_elements)),
    torch.feature_dropout: _reader(_channels(_NEVER)),
    torch.feature_dropout_: _in_place(_reader(_channels(_NEVER))),
    torch.alpha_dropout: _reader(_elements, alpha=True),
    torch.alpha_dropout_: _in_place(_reader(_elements, alpha=True)),
    torch.feature_alpha_dropout: _reader(_channels(_NEVER), alpha=True),
    torch.feature_alpha_dropout_: _in_place(_reader(_channels(_NEVER), alpha=True)),
}

DROPOUT = _READERS.keys()
