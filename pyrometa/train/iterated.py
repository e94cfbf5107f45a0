"""An iterable of meta-batches, from its beginning again whenever it ends."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch

from pyrometa.train.pairs import Pair, collated, pair
from pyrometa.train.seeded import own_generators, set_own_generators
from pyrometa.train.stateful import has_state

_END = object()


class Iterated:
    """A source that iterates, again and again.

    Where it stands is what the iterable says of itself, as torchdata's StatefulDataLoader does, or how many
    meta-batches were drawn since it began. To stand there again, these are drawn and thrown away, from the random
    generators' states at that beginning, so that a DataLoader shuffles alike.

    Args:
        given: the iterable.
    """

    def __init__(self, given: Any) -> None:
        self._given, self._once = given, iter(given) is given
        self._iterator: Iterator[Any] | None = None
        self._latest: Any = None
        self._drawn = 0
        self._began: dict[str, Any] = {}

    def draw(self, step: int) -> Pair:
        """The next meta-batch."""
        if self._iterator is None:
            self._begin()
        batch = self._next()
        if batch is _END:
            self._begin()
            batch = self._next()
        if batch is _END:
            raise ValueError(
                f"the iterable of meta-batches ended after {self._drawn}, and gives none when iterated again: give a "
                "list, a DataLoader, a function of the step, or a generator without an end"
            )
        self._drawn, self._latest = self._drawn + 1, batch
        return pair(collated(self._given, batch))

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        if has_state(self._given):
            return {"own": self._given.state_dict()}
        return {"drawn": self._drawn, "began": self._began}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand there."""
        if "own" in state:
            self._given.load_state_dict(state["own"])
            self._iterator = iter(self._given)  # now, since it may draw
        elif state["began"]:
            self._wind(state["drawn"], state["began"])
        elif self._drawn:
            self._iterator = chain([self._latest], self._iterator or ()) if self._once else None
            self._drawn = 0

    def _wind(self, drawn: int, began: dict[str, Any]) -> None:
        set_own_generators(began["generators"])
        if began["loader"] is not None:
            _generator(self._given).set_state(began["loader"])  # type: ignore[union-attr]
        if not self._once:  # a generator goes on from where it is
            self._begin()
        while self._drawn < drawn and self._next() is not _END:
            self._drawn += 1
        if self._drawn != drawn:
            raise ValueError(
                f"the checkpoint stands {drawn} meta-batches into an iterable that stands at {self._drawn}: give the "
                "iterable of that run, from its beginning"
            )

    def _begin(self) -> None:
        generator = _generator(self._given)
        loader = None if generator is None else generator.get_state()
        self._began = {"generators": own_generators(), "loader": loader}
        iterator = iter(self._given)
        if iterator is not self._iterator:
            self._drawn = 0
        self._iterator = iterator

    def _next(self) -> Any:
        return next(self._iterator, _END)  # type: ignore[arg-type]


def _generator(given: Any) -> torch.Generator | None:
    """The generator that a DataLoader shuffles by, if it has one of its own."""
    found = getattr(given, "generator", None)
    return found if isinstance(found, torch.Generator) else None
