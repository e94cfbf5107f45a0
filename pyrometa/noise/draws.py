"""The draws that a program makes of standard noise, in order."""

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
    """One draw: of standard noise, as ``torch.randn`` or ``torch.rand`` makes it, or of a stream's seed.

    Attributes:
        kind: ``"normal"`` or ``"uniform"`` noise, or the ``"seed"`` of a stream that other draws are made from.
        shape: for one task and one evaluation of the loss.
        dtype: of the noise.
        device: where it is drawn.
    """

    kind: Kind
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def sample(self, *leading: int) -> Tensor:
        """Draw noise of shape ``(*leading, *shape)`` from the global generator, as torch.distributions does."""
        return getattr(self.blank(*leading), FILLED_BY[self.kind])()

    def blank(self, *leading: int) -> Tensor:
        """A tensor of that shape, not yet filled."""
        return torch.empty((*leading, *self.shape), dtype=self.dtype, device=self.device)


Tape = tuple[Draw, ...]
"""The draws of one evaluation of a program's loss, in its order."""


class Kinds:
    """The kinds of draws that noise was made for.

    A tensor of noise does not say whether it is normal or uniform. Where a program departs from its tape and asks for
    one in the place of the other, of the same shape, the noise must not answer it. Its tapes know; which of them noise
    was drawn from is told by its shapes, as far as these tell.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Kind, ...]] = {}

    def add(self, tape: Tape) -> None:
        """Note a tape; where an earlier one has the same shapes and other kinds, neither's are known any more."""
        shapes, kinds = _shapes(tape), tuple(draw.kind for draw in tape)
        if self._known.setdefault(shapes, kinds) != kinds:
            self._known[shapes] = ()

    def of(self, noise: Sequence[Tensor]) -> tuple[Kind, ...]:
        """One kind a draw; none where they are not known."""
        return self._known.get(_shapes(noise), ())


def _shapes(draws: Sequence[Draw | Tensor]) -> Any:
    return tuple((tuple(draw.shape), draw.dtype) for draw in draws)


def generator_of(seed: Tensor, device: torch.device) -> torch.Generator:
    """One that starts from a seed of shape ``()``."""
    return torch.Generator(device).manual_seed(int(seed))
