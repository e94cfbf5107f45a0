"""Answer the draws of many tasks that run side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrometa.noise.draws import Draw, Kind
from pyrometa.noise.replay import ReplayNoise
from pyrometa.noise.streams import drawn_for_each_task
from pyrometa.rewrites.batched import BATCHED
from pyrometa.rewrites.recurrent_layers import Layer, by_formula


class BatchedNoise(ReplayNoise):
    """Replays noise under ``vmap``, and answers what vmap can't do by :data:`pyrometa.rewrites.batched.BATCHED`.

    A draw differs from task to task, so that it can't be written into a tensor that all tasks share. An in-place draw
    is answered with a new tensor, and the one that was to be filled is filled with NaN, so that a program that goes on
    with it can't pass for right.
    """

    def fill(self, target: Tensor, value: Tensor) -> Tensor:
        """The value itself, as a new tensor; the target holds NaN from then on."""
        return filled_beside(target, value)

    def from_stream(self, func: Any, given: Sequence[Tensor], seed: Tensor) -> Tensor:
        """A draw for each task from its own stream."""
        return drawn_for_each_task(func.__name__, given, seed)

    def layer(self, layer: Layer) -> tuple[Tensor, ...]:
        """By formula: torch's own has no batching rule."""
        return by_formula(layer)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = BATCHED.get(func)
        if answer is not None:
            return answer(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def fresh(self, draw: Draw) -> Tensor:
        """A draw for each task."""
        return _FRESH[draw.kind](draw.shape, dtype=draw.dtype, device=draw.device)


def filled_beside(target: Tensor, value: Tensor) -> Tensor:
    """What an in-place draw of many tasks returns, in the place of a target that all of them share."""
    if target.is_floating_point():
        target.fill_(math.nan)
    return value.to(target.dtype)


def _any_seed(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randint(2**62, shape, dtype=dtype, device=device)


_FRESH: dict[Kind, Callable[..., Tensor]] = {"normal": torch.randn, "uniform": torch.rand, "seed": _any_seed}
