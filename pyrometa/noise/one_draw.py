"""One draw for several evaluations of a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyrometa.internals import is_functorch_wrapped_tensor
from pyrometa.noise.batched_noise import filled_beside
from pyrometa.noise.draws import Draw
from pyrometa.noise.replay import NoiseMode
from pyrometa.noise.streams import drawn_for_each_task, drawn_from_stream


class OneDraw(NoiseMode):
    """What runs under it first draws, from whatever is outside; what runs later sees the same noise.

    A run that departs from the first draws afresh from there on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Tensor] = []
        self._next = 0

    def again(self) -> OneDraw:
        """This mode, from its first draw on."""
        self._next = 0
        return self

    def next_draw(self, draw: Draw) -> Tensor:
        """The next of the noise."""
        at, self._next = self._next, self._next + 1
        if at < len(self._kept) and (tuple(self._kept[at].shape), self._kept[at].dtype) != (draw.shape, draw.dtype):
            del self._kept[at:]
        if at == len(self._kept):
            self._kept.append(draw.sample())
        return self._kept[at]

    def fill(self, target: Tensor, value: Tensor) -> Tensor:
        """As within a task alone; side by side, as :class:`BatchedNoise` does."""
        if not is_functorch_wrapped_tensor(value):
            return super().fill(target, value)
        return filled_beside(target, value)

    def from_stream(self, func: Any, given: Sequence[Tensor], seed: Tensor) -> Tensor:
        """Of the task, or of each task."""
        if is_functorch_wrapped_tensor(seed):
            return drawn_for_each_task(func.__name__, given, seed)
        return drawn_from_stream(func, given, seed)
