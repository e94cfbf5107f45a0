"""Random numbers as an argument of the loss.

A program's draws are recorded once for each shape of data, as a tape. From then on the noise of a whole
meta-step is drawn ahead from the tape and handed to the program draw by draw, so a task's numbers do not
depend on how or in which order the tasks are run.

Draws that are built on normals and uniforms are made ahead, among them choices (Bernoulli, Categorical), the order of a
subsampled plate and the masks of dropout. Of others (Gamma, Poisson, ...) the seed is drawn ahead, for a stream of the
task's own. Where a program's draws depart from its tape, the rest of the run draws from a stream that starts from the
task's noise; only where there is none, and where a draw brings a generator of its own, do engines agree in distribution
only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrometa.functional.composed import COMPOSED
from pyrometa.functional.dropout import DROPOUT, Dropout, dropout_call
from pyrometa.functional.random import BATCHED, IN_PLACE, OUT_OF_PLACE, Kind
from pyrometa.functional.recurrent import RECURRENT, Layer, by_formula, by_torch, recurrent
from pyrometa.functional.streams import STREAMED, drawn_for_each_task, drawn_from_stream, parameters, stream_of
from pyrometa.functional.twice import TWICE


@dataclass(frozen=True)
class Draw:
    """One draw of standard noise, what ``torch.randn`` or ``torch.rand`` would be asked for, or of a stream's seed."""

    kind: Kind
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def sample(self, *leading: int) -> Tensor:
        """Draw noise of shape ``(*leading, *shape)`` from the global generator, as torch.distributions does."""
        return getattr(self.blank(*leading), _FILLED_BY[self.kind])()

    def blank(self, *leading: int) -> Tensor:
        """A tensor to be filled."""
        return torch.empty((*leading, *self.shape), dtype=self.dtype, device=self.device)


_FILLED_BY = {"normal": "normal_", "uniform": "uniform_", "seed": "random_"}
_SEED = Draw("seed", (), torch.int64, torch.device("cpu"))

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


class _NoiseMode(TorchFunctionMode, ABC):
    """Answers torch's random functions from ``self.next_draw`` instead of the global generator."""

    @abstractmethod
    def next_draw(self, draw: Draw) -> Tensor:
        """The noise that answers a draw, of its shape."""

    def fill(self, target: Tensor, value: Tensor) -> Tensor:
        """The result of an in-place draw."""
        return target.copy_(value)

    def from_stream(self, func: Any, given: Sequence[Tensor], seed: Tensor) -> Tensor:
        """What a function of these parameters draws from the stream of a seed."""
        return drawn_from_stream(func, given, seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = _ANSWERS.get(func)
        if answer is None or kwargs.get("generator") is not None or kwargs.get("out") is not None:
            return func(*args, **kwargs)
        return answer(self, func, args, kwargs)

    def _filled(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        kind, transform = IN_PLACE[func]
        target = args[0]
        dtype = target.dtype if target.is_floating_point() else torch.get_default_dtype()
        noise = self.next_draw(Draw(kind, tuple(target.shape), dtype, target.device))
        return self.fill(target, transform(noise, *args[1:], **_without_generator(kwargs)))

    def _made(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        kind, make_args, transform = OUT_OF_PLACE[func]
        shape, dtype, device = make_args(*args, **kwargs)
        return transform(self.next_draw(Draw(kind, tuple(shape), dtype, device)), *args, **kwargs)

    def _recurrent(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs) if kwargs else recurrent(func, args, self._masked, self.layer)

    def layer(self, layer: Layer) -> tuple[Tensor, ...]:
        """One layer of a recurrent network."""
        return by_torch(layer)

    def _dropped(self, func: Any, args: Any, kwargs: Any) -> Any:
        call = dropout_call(func, args, kwargs)
        return func(*args, **kwargs) if call is None else self._masked(call)

    def _masked(self, call: Dropout) -> Tensor:
        return call(self.next_draw(Draw("uniform", call.shape, call.input.dtype, call.input.device)))

    def _streamed(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        given = parameters(func, args, kwargs)
        return func(*args, **kwargs) if given is None else self.from_stream(func, given, self.next_draw(_SEED))

    def _composed(self, func: Any, args: Any, kwargs: Any) -> Any:
        with self:
            return _IN_OTHER_WORDS[func](*args, **kwargs)


_IN_OTHER_WORDS = {**TWICE, **COMPOSED}

_ANSWERS: dict[Any, Callable[[_NoiseMode, Any, Any, Any], Any]] = {
    **dict.fromkeys(IN_PLACE, _NoiseMode._filled),
    **dict.fromkeys(OUT_OF_PLACE, _NoiseMode._made),
    **dict.fromkeys(DROPOUT, _NoiseMode._dropped),
    **dict.fromkeys(RECURRENT, _NoiseMode._recurrent),
    **dict.fromkeys(STREAMED, _NoiseMode._streamed),
    **dict.fromkeys(_IN_OTHER_WORDS, _NoiseMode._composed),
}


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
    """Hands out ``noise`` draw by draw; a draw that does not fit, and all after it, is from the task's own stream."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        super().__init__()
        self._start = tuple(noise)
        self._noise: Iterator[Tensor] = iter(self._start)
        self._kinds: Iterator[Kind] = iter(())
        self._late = 0

    def expecting(self, kinds: Kinds) -> ReplayNoise:
        """Itself, handing out noise only for the kind of draw that it is."""
        self._kinds = iter(kinds.of(self._start))
        return self

    def next_draw(self, draw: Draw) -> Tensor:
        """The next tensor of the noise, or another draw where the program departs from its tape."""
        noise, kind = next(self._noise, None), next(self._kinds, None)
        if noise is None or not _answers(noise, kind or draw.kind, draw):
            self._noise = iter(())
            return self._drawn_late(draw) if any(part.numel() for part in self._start) else self.fresh(draw)
        return noise

    def _drawn_late(self, draw: Draw) -> Tensor:
        self._late += 1
        return drawn_for_each_task(_FILLED_BY[draw.kind], [draw.blank()], stream_of(self._start) + self._late)

    def fresh(self, draw: Draw) -> Tensor:
        """A draw of a program that drew nothing when its tape was recorded."""
        return draw.sample()


class BatchedNoise(ReplayNoise):
    """Replays noise under ``vmap``, where a draw can't be written into an unbatched tensor.

    In-place draws are answered with a new tensor. What was to be filled is filled with NaN, so that a program
    that goes on with it can't pass for right.
    """

    def fill(self, target: Tensor, value: Tensor) -> Tensor:
        """The value itself."""
        if target.is_floating_point():
            target.fill_(math.nan)
        return value.to(target.dtype)

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


def _any_seed(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randint(2**62, shape, dtype=dtype, device=device)


_FRESH: dict[Kind, Callable[..., Tensor]] = {"normal": torch.randn, "uniform": torch.rand, "seed": _any_seed}


def _answers(noise: Tensor, kind: Kind, draw: Draw) -> bool:
    """Whether noise may answer a draw: of its kind, shape and precision, or raised to double with all that it meets."""
    raised = (noise.dtype, draw.dtype) == (torch.float64, torch.float32)
    return kind == draw.kind and tuple(noise.shape) == draw.shape and (noise.dtype == draw.dtype or raised)


def _without_generator(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for a transform: no generator, and ``from`` is a Python keyword."""
    return {("low" if k == "from" else k): v for k, v in kwargs.items() if k != "generator"}
