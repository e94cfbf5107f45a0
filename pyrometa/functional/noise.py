"""Random numbers as an argument of the loss.

A program's draws are recorded once for each shape of data, as a tape. From then on the noise of a whole
meta-step is drawn ahead from the tape and handed to the program draw by draw, so a task's numbers do not
depend on how or in which order the tasks are run.

Draws that are built on normals and uniforms can be made ahead. Others (Gamma, Categorical, ...) stay with
the global generator, as does a program whose draws depart from its tape.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Kind = Literal["normal", "uniform"]


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
        if func not in _RANDOM:
            return func(*args, **kwargs)
        in_place, out_of_place = _IN_PLACE.get(func), _OUT_OF_PLACE.get(func)
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

    def fresh(self, draw: Draw) -> Tensor:
        """A draw for each task."""
        make = torch.randn if draw.kind == "normal" else torch.rand
        return make(draw.shape, dtype=draw.dtype, device=draw.device)


def draw_noise(tapes: Sequence[Tape], steps: int) -> list[tuple[Tensor, ...]]:
    """Draw the noise of a batch of tasks at once.

    Args:
        tapes: one tape a task.
        steps: evaluations of the loss that each task makes.

    Returns:
        For each task, one tensor a draw of shape ``(steps, *draw.shape)``. Tasks of different sizes
        read the leading block of a common draw.
    """
    noise: list[tuple[Tensor, ...]] = [()] * len(tapes)
    for members in _alike(tapes).values():
        columns = zip(*(tapes[i] for i in members), strict=True)
        blocks = [_largest(column).sample(len(members), steps) for column in columns]
        for row, i in enumerate(members):
            noise[i] = tuple(_leading(block[row], draw) for block, draw in zip(blocks, tapes[i], strict=True))
    return noise


def _leading(block: Tensor, draw: Draw) -> Tensor:
    """The part of one task's noise, shape ``(steps, *largest)``, that a draw reads."""
    for dim, size in enumerate(draw.shape, start=1):
        block = block.narrow(dim, 0, size)
    return block


def _alike(tapes: Sequence[Tape]) -> Mapping[Any, list[int]]:
    """Indices of the tapes that differ at most in the sizes of their draws."""
    groups: dict[Any, list[int]] = {}
    for i, tape in enumerate(tapes):
        key = tuple((d.kind, len(d.shape), d.dtype, d.device) for d in tape)
        groups.setdefault(key, []).append(i)
    return groups


def _largest(draws: Sequence[Draw]) -> Draw:
    shape = tuple(max(sizes) for sizes in zip(*(d.shape for d in draws), strict=True))
    return Draw(draws[0].kind, shape, draws[0].dtype, draws[0].device)


def _without_generator(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for a transform: no generator, and ``from`` is a Python keyword."""
    return {("low" if k == "from" else k): v for k, v in kwargs.items() if k != "generator"}


def _normal(z: Tensor, mean: Any = 0.0, std: Any = 1.0) -> Tensor:
    return z * std + mean


def _log_normal(z: Tensor, mean: float = 1.0, std: float = 2.0) -> Tensor:
    return (z * std + mean).exp()


def _uniform(u: Tensor, low: float = 0.0, to: float = 1.0) -> Tensor:
    return low + (to - low) * u


def _exponential(u: Tensor, lambd: float = 1.0) -> Tensor:
    return -torch.log1p(-u.clamp(min=torch.finfo(u.dtype).tiny)) / lambd


def _cauchy(u: Tensor, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    return median + sigma * torch.tan(math.pi * (u - 0.5))


def _geometric(u: Tensor, p: Any) -> Tensor:
    return torch.ceil(torch.log1p(-u) / torch.log1p(-torch.as_tensor(p, dtype=u.dtype))).clamp(min=1.0)


def _bernoulli_in_place(u: Tensor, p: Any = 0.5) -> Tensor:
    return (u < p).to(u.dtype)


_IN_PLACE: dict[Any, tuple[Kind, Callable[..., Tensor]]] = {
    torch.Tensor.normal_: ("normal", _normal),
    torch.Tensor.log_normal_: ("normal", _log_normal),
    torch.Tensor.uniform_: ("uniform", _uniform),
    torch.Tensor.exponential_: ("uniform", _exponential),
    torch.Tensor.cauchy_: ("uniform", _cauchy),
    torch.Tensor.geometric_: ("uniform", _geometric),
    torch.Tensor.bernoulli_: ("uniform", _bernoulli_in_place),
}

_Made = tuple[Sequence[int], torch.dtype, torch.device]


def _made_by_size(*size: Any, dtype: torch.dtype | None = None, device: Any = None, **options: Any) -> _Made:
    sizes = options.get("size", size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size)
    return sizes, dtype or torch.get_default_dtype(), torch.device(device or torch.get_default_device())


def _made_like(
    input: Tensor, _p: Any = None, *, dtype: torch.dtype | None = None, device: Any = None, **_: Any
) -> _Made:
    return input.shape, dtype or input.dtype, torch.device(device or input.device)


def _made_by_moments(mean: Any, std: Any = 1.0, size: Any = None, **options: Any) -> _Made:
    given = [x for x in (mean, std) if isinstance(x, Tensor)]
    if size is not None or not given:
        return _made_by_size(*(() if size is None else (size,)), **options)
    shape = torch.broadcast_shapes(*(x.shape for x in given))
    return shape, given[0].dtype, given[0].device


def _as_drawn(noise: Tensor, *_: Any, **__: Any) -> Tensor:
    return noise.clone()


def _by_moments(z: Tensor, mean: Any, std: Any = 1.0, *_: Any, **__: Any) -> Tensor:
    return z * std + mean


def _bernoulli(u: Tensor, input: Tensor, p: Any = None, **_: Any) -> Tensor:
    return (u < (input if p is None else p)).to(input.dtype)


_OUT_OF_PLACE: dict[Any, tuple[Kind, Callable[..., _Made], Callable[..., Tensor]]] = {
    torch.randn: ("normal", _made_by_size, _as_drawn),
    torch.rand: ("uniform", _made_by_size, _as_drawn),
    torch.randn_like: ("normal", _made_like, _as_drawn),
    torch.rand_like: ("uniform", _made_like, _as_drawn),
    torch.normal: ("normal", _made_by_moments, _by_moments),
    torch.bernoulli: ("uniform", _made_like, _bernoulli),
}

_RANDOM = _IN_PLACE.keys() | _OUT_OF_PLACE.keys()
