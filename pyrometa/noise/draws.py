"""What a program draws: its draws of standard noise, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["normal", "uniform", "seed"]
FILLED_BY: dict[Kind, str] = {"normal": "normal_", "uniform": "uniform_", "seed": "random_"}


@dataclass(frozen=True)
class Draw:
    """One draw of standard noise, what ``torch.randn`` or ``torch.rand`` would be asked for, or of a stream's seed."""

    kind: Kind
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def sample(self, *leading: int) -> Tensor:
        """Draw noise of shape ``(*leading, *shape)`` from the global generator, as torch.distributions does."""
        return getattr(self.blank(*leading), FILLED_BY[self.kind])()

    def blank(self, *leading: int) -> Tensor:
        """A tensor to be filled."""
        return torch.empty((*leading, *self.shape), dtype=self.dtype, device=self.device)


Tape = tuple[Draw, ...]


class Kinds:
    """What kinds of draws the noise of a program's tapes is, by its shapes."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Kind, ...]] = {}

    def add(self, tape: Tape) -> None:
        """Note a tape; where another has its shapes and other kinds, neither is known."""
        kinds = tuple(draw.kind for draw in tape)
        known = self._known.setdefault(_shapes(tape), kinds)
        if known != kinds:
            self._known[_shapes(tape)] = ()

    def of(self, noise: Sequence[Tensor]) -> tuple[Kind, ...]:
        """One kind a draw; none where they are not known."""
        return self._known.get(_shapes(noise), ())


def _shapes(draws: Sequence[Draw | Tensor]) -> Any:
    return tuple((tuple(draw.shape), draw.dtype) for draw in draws)
