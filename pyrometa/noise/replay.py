"""Record the draws of what runs within, or answer them with noise that was drawn ahead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrometa.noise.draws import FILLED_BY, Draw, Kind, Kinds, Tape
from pyrometa.noise.dropout import DROPOUT, Dropout, dropout_call
from pyrometa.noise.standard import IN_PLACE, OUT_OF_PLACE
from pyrometa.noise.streams import STREAMED, drawn_for_each_task, drawn_from_stream, parameters, stream_of
from pyrometa.rewrites.hidden_draws import HIDDEN_DRAWS
from pyrometa.rewrites.recurrent_layers import RECURRENT, Layer, by_torch, recurrent
from pyrometa.rewrites.twice import TWICE

_SEED = Draw("seed", (), torch.int64, torch.device("cpu"))


class NoiseMode(TorchFunctionMode, ABC):
    """Within it, torch's random functions are answered from :meth:`next_draw` instead of the global generator."""

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
        return func(*args, **kwargs) if kwargs else recurrent(func, args, self._dropped_between, self.layer)

    def layer(self, layer: Layer) -> tuple[Tensor, ...]:
        """One layer of a recurrent network."""
        return by_torch(layer)

    def _dropped(self, func: Any, args: Any, kwargs: Any) -> Any:
        call = dropout_call(func, args, kwargs)
        return func(*args, **kwargs) if call is None else self._masked(call)

    def _dropped_between(self, data: Tensor, p: float) -> Tensor:
        return self._masked(Dropout(data, p, tuple(data.shape), alpha=False, in_place=False))

    def _masked(self, call: Dropout) -> Tensor:
        return call(self.next_draw(Draw("uniform", call.shape, call.input.dtype, call.input.device)))

    def _streamed(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        given = parameters(func, args, kwargs)
        return func(*args, **kwargs) if given is None else self.from_stream(func, given, self.next_draw(_SEED))

    def _in_other_words(self, func: Any, args: Any, kwargs: Any) -> Any:
        with self:
            return _IN_OTHER_WORDS[func](*args, **kwargs)


_IN_OTHER_WORDS = {**TWICE, **HIDDEN_DRAWS}

_ANSWERS: dict[Any, Callable[[NoiseMode, Any, Any, Any], Any]] = {
    **dict.fromkeys(IN_PLACE, NoiseMode._filled),
    **dict.fromkeys(OUT_OF_PLACE, NoiseMode._made),
    **dict.fromkeys(DROPOUT, NoiseMode._dropped),
    **dict.fromkeys(RECURRENT, NoiseMode._recurrent),
    **dict.fromkeys(STREAMED, NoiseMode._streamed),
    **dict.fromkeys(_IN_OTHER_WORDS, NoiseMode._in_other_words),
}


class RecordNoise(NoiseMode):
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


class ReplayNoise(NoiseMode):
    """Hands out noise draw by draw.

    A draw that the next tensor of the noise does not fit, and all draws after it, are made from a stream of the task's
    own, whose seed is made of its noise. Where there is no noise at all, they are from the global generator.

    Args:
        noise: one tensor a draw.
    """

    def __init__(self, noise: Sequence[Tensor]) -> None:
        super().__init__()
        self._start = tuple(noise)
        self._noise: Iterator[Tensor] = iter(self._start)
        self._kinds: Iterator[Kind] = iter(())
        self._late = 0

    def expecting(self, kinds: Kinds) -> ReplayNoise:
        """This mode, told the kinds of its noise: what is known to be normal answers no uniform draw, and so on.

        Args:
            kinds: those known of the program's noise; other noise counts as of the kind that is asked for.
        """
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
        return drawn_for_each_task(FILLED_BY[draw.kind], [draw.blank()], stream_of(self._start) + self._late)

    def fresh(self, draw: Draw) -> Tensor:
        """A draw from the global generator, for a program that drew nothing when its tape was recorded."""
        return draw.sample()


def _answers(noise: Tensor, kind: Kind, draw: Draw) -> bool:
    """Whether noise may answer a draw: it has its kind, shape and precision.

    Double for single is let pass: the trial runs single-precision programs in double, noise and all.
    """
    raised = (noise.dtype, draw.dtype) == (torch.float64, torch.float32)
    return kind == draw.kind and tuple(noise.shape) == draw.shape and (noise.dtype == draw.dtype or raised)


def _without_generator(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for a transform: no generator, and ``from`` is a Python keyword."""
    return {("low" if k == "from" else k): v for k, v in kwargs.items() if k != "generator"}
