"""Where meta-batches come from, and where that stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor

from pyrometa import nest
from pyrometa.tasks import MetaBatch
from pyrometa.train.iterated import Iterated
from pyrometa.train.pairs import Pair, pair
from pyrometa.train.stateful import state_of


class Source(Protocol):
    """Where meta-batches come from."""

    def draw(self, step: int) -> Pair:
        """The meta-batch of a step, counted from 0."""

    def state_dict(self) -> Any:
        """Where it stands, as a nest of plain values and tensors."""

    def load_state_dict(self, state: Any) -> None:
        """Stand where a state was taken; may move the random generators."""


def source_of(name: str, given: Any, meta_batch: int | None) -> Source:
    """The source that a sampler, an iterable, a function of the step or a single meta-batch is.

    Args:
        name: what the argument is called, for errors.
        given: what the user gave.
        meta_batch: how many tasks a sampler is asked for.

    Raises:
        TypeError: it is none of these.
        ValueError: a sampler, and no ``meta_batch``.
    """
    if callable(getattr(given, "sample", None)):
        if meta_batch is None:
            raise ValueError(f"{name}, a {type(given).__name__}, is asked for so many tasks: give meta_batch=16, say")
        return Sampled(given, meta_batch)
    if callable(getattr(given, "draw", None)) and not (isinstance(given, Iterable) or callable(given)):
        kind = type(given).__name__
        raise TypeError(
            f"{name} is a {kind}, of which TaskSampler({kind}(...), shots=5, queries=10, seed=0) draws tasks"
        )
    if is_meta_batch(given):
        return Fixed(pair(given))
    if isinstance(given, Iterable):
        return Iterated(given)
    if callable(given):
        return Computed(given)
    raise TypeError(
        f"{name} must give meta-batches: a sampler of pyrometa.tasks, a DataLoader, an iterable of them, a function of "
        f"the step, or one meta-batch, got {type(given).__name__}"
    )


def is_meta_batch(given: Any) -> bool:
    """Whether something is itself a meta-batch, rather than what gives them."""
    return isinstance(given, MetaBatch | Tensor | Mapping | tuple) or (
        nest.is_nest(given) and not isinstance(given, Iterable)
    )


class Fixed:
    """The same meta-batch at all steps."""

    def __init__(self, batch: Pair) -> None:
        self._batch = batch

    def draw(self, step: int) -> Pair:
        """The meta-batch."""
        return self._batch

    def state_dict(self) -> None:
        """It stands nowhere."""

    def load_state_dict(self, state: Any) -> None:
        """It stands nowhere."""


class Computed:
    """A function of the step, which may draw from the run's generators."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self._function = function

    def draw(self, step: int) -> Pair:
        """Its value."""
        return pair(self._function(step))

    def state_dict(self) -> None:
        """It stands nowhere."""

    def load_state_dict(self, state: Any) -> None:
        """It stands nowhere."""


class Sampled:
    """A sampler, whose state is saved if it says one; else it may draw from the run's generators."""

    def __init__(self, sampler: Any, tasks: int) -> None:
        self._sampler, self._tasks = sampler, tasks

    def draw(self, step: int) -> Pair:
        """So many tasks."""
        return pair(self._sampler.sample(self._tasks))

    def state_dict(self) -> Any:
        """The sampler's own."""
        return state_of(self._sampler)

    def load_state_dict(self, state: Any) -> None:
        """Put the sampler there."""
        if state is not None:
            self._sampler.load_state_dict(state)
