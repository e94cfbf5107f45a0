"""The function mode that tasks run under side by side: it answers draws, and calls of linear layers held as factors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrometa.engine.low_rank import FactoredLayers
from pyrometa.noise.batched_noise import BatchedNoise

_HARMLESS = {
    getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "is_leaf", "_cdata")
} | {torch.Tensor.size, torch.Tensor.dim, torch.Tensor.is_floating_point}
"""What may be asked of a placeholder, which answers as the weight would."""


class BatchMode(BatchedNoise):
    """Under ``vmap``: hands ``F.linear`` to the factored layers, and refuses them to all other functions.

    Draws are answered as in :class:`BatchedNoise`, and what vmap can't do by :mod:`pyrometa.rewrites.batched`.

    Args:
        noise: one tensor a draw.
        fast: the fast weights that the program holds; they count as requiring a gradient, which vmap hides.
        layers: the linear layers whose weights are in factors.
    """

    def __init__(self, noise: Sequence[Tensor], fast: Iterable[Tensor], layers: FactoredLayers) -> None:
        super().__init__(noise)
        self._fast = {id(value) for value in fast}
        self._layers, self._placeholders = layers, layers.placeholders

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        own = _OWN.get(func)
        if own is not None:
            return own(self, func, args, kwargs)
        if self._placeholders.names and func not in _HARMLESS:
            self._placeholders.refuse(func, args)
            self._placeholders.refuse(func, kwargs.values())
        return super().__torch_function__(func, types, args, kwargs)

    def _linear(self, func: Any, args: Any, kwargs: Any) -> Any:
        x, weight, bias = _linear_arguments(*args, **kwargs)
        self._placeholders.refuse(func, (x, bias))
        name = self._placeholders.names.get(id(weight))
        return func(x, weight, bias) if name is None else self._layers.linear(name, x, bias)

    def _requires_grad(self, func: Any, args: Any, kwargs: Any) -> Any:
        return id(args[0]) in self._fast or func(*args)


def _linear_arguments(
    input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


_OWN = {
    F.linear: BatchMode._linear,
    torch.Tensor.requires_grad.__get__: BatchMode._requires_grad,  # type: ignore[attr-defined]
}
