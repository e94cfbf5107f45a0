"""A function of tasks side by side, recorded in parts: an inner step once, and not as often as it is taken.

Steps lead from point to point. Points of one form have the same tensors, so that one recording of a step from such a
point, and of its vector-Jacobian product, serves for all of them: it is replayed K times forward, and K times back.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from pyrometa.engine.asked import Asked
from pyrometa.engine.forms import Form
from pyrometa.engine.own_tensors import own_tensors
from pyrometa.engine.places import Place, record_place
from pyrometa.errors import UnsupportedProgramError
from pyrometa.inner import GradientOrder
from pyrometa.inner.adaptation import Look
from pyrometa.noise.drawn_steps import packed
from pyrometa.recording.part import Part
from pyrometa.recording.record import told
from pyrometa.recording.recordable import Graph
from pyrometa.types import Params

_MOST = 3
"""How many forms the points may have that steps of one order start from: the first ones differ from all later ones."""


@dataclass(frozen=True, eq=False)
class PathPart:
    """A part of what is done along a path.

    Attributes:
        part: its operations.
        form: of the point that it leads to, if it leads to one.
    """

    part: Part
    form: Form | None

    def mapped(self, form: Callable[[Graph], Graph]) -> PathPart:
        """The same with another form of its graphs."""
        forward, back = self.part.forward, self.part.back
        return replace(self, part=replace(self.part, forward=form(forward), back=back and form(back)))


class InParts:
    """The recording of a function in parts, which are recorded when they are first come to.

    Args:
        shared: the parts of all recordings, by what is fixed in them.
        compiled: whether to compile the operations.
    """

    def __init__(self, shared: MutableMapping[Any, Any], *, compiled: bool) -> None:
        self._shared, self._compiled = shared, compiled
        self._parts: dict[Place, PathPart] = {}

    @property
    def bytes(self) -> int:
        """How much memory its parts hold, about."""
        return sum(path_part.part.bytes for path_part in self._parts.values())

    def of(self, asked: Asked) -> Any:
        """What is asked, of other tensors than those that it was recorded on."""
        with torch.enable_grad():
            return asked.function(cast(Any, ReplayedPath(asked, self)))

    def mapped(self, form: Callable[[Graph], Graph]) -> InParts:
        """The same recording with another form of each graph."""
        made = InParts({}, compiled=self._compiled)
        made._parts = {place: part.mapped(form) for place, part in self._parts.items()}
        return made

    @property
    def size(self) -> int:
        """How many operations there are."""
        return sum(path_part.part.counts[0] for path_part in self._parts.values())

    def part(self, asked: Asked, place: Place, tensors: Sequence[Tensor]) -> PathPart:
        """The part that does what is to be done at a place, recorded now if it is new."""
        if place not in self._parts:
            self._check_alike(place)
            self._parts[place] = self._found_or_made(asked, place, tensors)
        return self._parts[place]

    def _found_or_made(self, asked: Asked, place: Place, tensors: Sequence[Tensor]) -> PathPart:
        key = (asked.fixed_in_parts, place.key)
        found: PathPart | None = self._shared.get(key)
        if found is None:
            part, form = record_place(asked, place, tensors, compiled=self._compiled)
            found = self._shared[key] = PathPart(part, form and self._shared.setdefault(form.key, form))
        return found

    def _check_alike(self, place: Place) -> None:
        """Refuse to record each step by itself.

        Raises:
            UnsupportedProgramError: the points of the path differ in form, all of them.
        """
        if sum((known.what, known.order) == (place.what, place.order) for known in self._parts) == _MOST:
            raise UnsupportedProgramError("each step is from a point of another form")

    def __str__(self) -> str:
        parts = [path_part.part for path_part in self._parts.values()]
        now, before = (sum(part.counts[i] for part in parts) for i in range(2))
        compiled = sum(part.seconds[1] or 0.0 for part in parts) if self._compiled else None
        return f"{len(parts)} parts of {told((now, before), (sum(part.seconds[0] for part in parts), compiled))}"


@dataclass(frozen=True)
class ReplayedPoint:
    """A point as the tensors of its own.

    Attributes:
        tensors: the tensors.
        form: how they hang together.
        attached: whether the outer loop differentiates through the point.
    """

    tensors: Sequence[Tensor]
    form: Form
    attached: bool


class ReplayedPath:
    """The path of tasks side by side, each part of which is replayed.

    Args:
        asked: what is computed of the path.
        recording: what has the parts.
    """

    def __init__(self, asked: Asked, recording: InParts) -> None:
        self.problem, self.order = asked.problem, asked.function.order
        self.unrolled_steps = asked.function.unrolled_steps
        self._asked, self._recording = asked, recording
        self._own = own_tensors(asked.problem, asked.batch)

    def start(self) -> ReplayedPoint:
        """The point where adaptation starts."""
        return self._point(Place("start", self.order), self._own)

    def stepped(self, point: ReplayedPoint, step: int, order: GradientOrder, look: Look) -> ReplayedPoint:
        """The point after a step, of which there is nothing to look at."""
        number = torch.full((), step, dtype=torch.float64, device=self._own[0].device)
        noise = packed(self._asked.batch.support_noise[step])
        return self._point(
            Place("step", order, point.form, point.attached), [*point.tensors, *self._own, *noise, number]
        )

    def score(self, point: ReplayedPoint) -> Tensor:
        """The query objective of each task, shape ``(tasks,)``."""
        noise = packed(self._asked.batch.query_noise)
        place = Place("score", self.order, point.form, point.attached)
        return self._made(place, [*point.tensors, *self._own, *noise])[0][0]

    def fast_weights(self, point: ReplayedPoint) -> Params:
        """The fast weights, each of shape ``(tasks, *parameter)``."""
        place = Place("weights", self.order, point.form, point.attached)
        weights, _ = self._made(place, [*point.tensors, *self._own])
        return dict(zip(self.problem.adapted, weights, strict=True))

    def _point(self, place: Place, tensors: Sequence[Tensor]) -> ReplayedPoint:
        made, form = self._made(place, tensors)
        return ReplayedPoint(made, cast(Form, form), place.order is not GradientOrder.NONE)

    def _made(self, place: Place, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Form | None]:
        found = self._recording.part(self._asked, place, tensors)
        return found.part(tensors), found.form
