"""Random numbers as an argument of the loss.

A program's draws are recorded once for each shape of data, as a tape. From then on the noise of a whole
meta-step is drawn ahead from the tape and handed to the program draw by draw, so a task's numbers do not
depend on how or in which order the tasks are run.

Draws that are built on normals and uniforms can be made ahead, among them choices (Bernoulli, Categorical), the
order of a subsampled plate and the masks of dropout. Others (Gamma, Poisson, ..., the dropout of attention and of
recurrent layers) stay with the global generator, as does a program whose draws depart from its tape: they agree between
engines in distribution only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrometa.functional.dropout import DROPOUT, dropout_call
from pyrometa.functional.random import BATCHED, IN_PLACE, OUT_OF_PLACE, RANDOM, Kind
from pyrometa.functional.twice import TWICE


@dataclass(frozen=True)
class Draw:
    """One draw of standard noise: what ``torch.randn`` (or ``torch.rand``) would be asked for."""

    kind: Kind
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def sample(self, *leading: int) -> Tensor:
        """Draw noise of shape ``(*leading, *shape)`` from the global generator, as torch.distributions does."""
        blank = torch.empty((*leading, *self.shape), dtype=self.dtype, device=self.device)
        return blank.normal_() if self.kind == "normal" else blank.uniform_()


Tape = tuple[Draw, ...]


class _NoiseMode(TorchFunctionMode, ABC):
    """Answers torch's random functions from ``self.next_draw`` instead of the global generator."""

    @abstractmethod
    def next_draw(self, draw: Draw) -> Tensor:
        """The noise that answers a draw, of its shape."""

    def fill(self, target: Tensor, value: Tensor) -> Tensor:
        """The result of an in-place draw."""
        return target.copy_(value)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in RANDOM:
            return self._dropped(func, args, kwargs) if func in DROPOUT else TWICE.get(func, func)(*args, **kwargs)
        in_place, out_of_place = IN_PLACE.get(func), OUT_OF_PLACE.get(func)
        if in_place is not None and kwargs.get("generator") is None:
            kind, transform = in_place
            target = args[0]
            noise = self.next_draw(Draw(kind, tuple(target.shape), target.dtype, target.device))
            return self.fill(target, transform(noise, *args[1:], **_without_generator(kwargs)))
        if out_of_place is not None and kwargs.get("generator") is None and kwargs.get("out") is None:
            kind, make_args, transform = out_of_place
            shape, dtype, device = make_args(*args, **kwargs)
            return transform(self.next_draw(Draw(kind, tuple(shape), dtype, device)), *args, **kwargs)
        return func(*args, **kwargs)

    def _dropped(self, func: Any, args: Any, kwargs: Any) -> Any:
        call = dropout_call(func, args, kwargs)
        if call is None:
            return func(*args, **kwargs)
        return call(self.next_draw(Draw("uniform", call.shape, call.input.dtype, call.input.device)))


class RecordNoise(_NoiseMode):
    """Collects the draws of whatever runs under it, which sees noise from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def next_draw(self, draw: Draw) -> Tensor:
        """Note the draw and make it."""
        self.draws.append(draw)
        return draw.sample()

    @property
    def tape(self) -> Tape:
        """The draws so far, in order."""
        return tuple(self.draws)


class ReplayNoise(_NoiseMode):
    """Hands out ``noise`` draw by draw; a draw that does not fit, and all after it, is made afresh."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        super().__init__()
        self._noise: Iterator[Tensor] = iter(noise)

    def next_draw(self, draw: Draw) -> Tensor:
        """The next tensor of the noise, or a fresh draw where the program departs from its tape."""
        noise = next(self._noise, None)
        if noise is None or tuple(noise.shape) != draw.shape or noise.dtype != draw.dtype:
            self._noise = iter(())
            return self.fresh(draw)
        return noise

    def fresh(self, draw: Draw) -> Tensor:
        """A draw that was not made ahead."""
        return draw.sample()


class BatchedNoise(ReplayNoise):
    """Replays noise under ``vmap``, where a draw can't be written into an unbatched tensor.

    In-place draws are answered with a new tensor. What was to be filled is filled with NaN, so that a program
    that goes on with it can't pass for right.
    """

    def fill(self, target: Tensor, value: Tensor) -> Tensor:
        """The value itself."""
        target.fill_(math.nan)
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = BATCHED.get(func)
        if answer is not None:
            return answer(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def fresh(self, draw: Draw) -> Tensor:
        """A draw for each task."""
        make = torch.randn if draw.kind == "normal" else torch.rand
        return make(draw.shape, dtype=draw.dtype, device=draw.device)


def _without_generator(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for a transform: no generator, and ``from`` is a Python keyword."""
    return {("low" if k == "from" else k): v for k, v in kwargs.items() if k != "generator"}
