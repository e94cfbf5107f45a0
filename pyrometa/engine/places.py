"""What is done at the points of a path, as functions of tensors that can be recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from torch import Tensor

from pyrometa.engine.asked import Asked
from pyrometa.engine.batch import BatchPath, BatchPoint, side_by_side
from pyrometa.engine.forms import Form
from pyrometa.engine.own_tensors import data_tensors, on_others, own_tensors
from pyrometa.engine.packed_noise import unpacked
from pyrometa.inner import GradientOrder
from pyrometa.recording.part import Part, record_part
from pyrometa.types import StepNoise


@dataclass(frozen=True)
class Place:
    """What is done, and where.

    Attributes:
        what: the start of a path; or a step from a point, its score, its fast weights.
        order: how much of that is differentiated through.
        form: of the point, if there is one.
        attached: whether the point is differentiated through as well.
    """

    what: Literal["start", "step", "score", "weights"]
    order: GradientOrder
    form: Form | None = None
    attached: bool = False

    @property
    def key(self) -> Any:
        """What two places have to agree in for one part to serve both."""
        return self.what, self.order, self.form and self.form.key, self.attached


def record_place(asked: Asked, place: Place, tensors: Sequence[Tensor], *, compiled: bool) -> tuple[Part, Form | None]:
    """A part that does what is to be done at a place, and the form of the point that it leads to, if it does.

    Args:
        asked: what is computed, of which this is a part.
        place: what is done, and where.
        tensors: those of the point, those that :class:`Asked` reads, the noise, and in the end, for a step, its number.
        compiled: whether to compile the operations.
    """
    forms: list[Form] = []

    def done(given: Sequence[Tensor]) -> Sequence[Tensor]:
        results, form = _done(asked, place, given)
        forms[:] = [] if form is None else [form]
        return results

    of_point = place.form.on_graph if place.form else ()
    on_graph = [*of_point, *(x.requires_grad for x in own_tensors(asked.problem, asked.batch))]
    on_graph += [False] * (len(tensors) - len(on_graph))
    first = 0 if place.attached else len(of_point)
    by = [i for i, leaf in enumerate(on_graph) if leaf and i >= first and place.order is not GradientOrder.NONE]
    part = record_part(done, tensors, on_graph, by, asked.parameters, compiled=compiled)
    return part, forms[0] if forms else None


def _done(asked: Asked, place: Place, given: Sequence[Tensor]) -> tuple[Sequence[Tensor], Form | None]:
    """What is to be done, on other tensors; of a point, the tensors of its own and its form."""
    count = len(place.form.on_graph) if place.form else 0
    rest = iter(given[count:])
    problem, batch = on_others(asked.problem, asked.batch, rest)
    support = data_tensors(batch.support)
    point: Any = place.form.filled(given[:count], support) if place.form else None
    step: Any = None
    if place.what == "step":
        batch = replace(batch, support_noise=cast(Any, _Always(unpacked(rest, batch.support_noise[0]))))
        step = next(rest)  # stands for any; a rule that asks for more than a tensor can tell is not recorded so
    elif place.what == "score":
        batch = replace(batch, query_noise=unpacked(rest, batch.query_noise))

    def result(path: BatchPath) -> Any:
        if place.what == "score":
            return [path.score(point)]
        if place.what == "weights":
            return list(path.fast_weights(point).values())
        if place.what == "start":
            return path.start()
        return _as_before(path.stepped(point, step, place.order, _unseen), point)

    made = side_by_side(result, asked.path_on(problem, batch, in_slots=True), thorough=True)
    if isinstance(made, list):
        return made, None
    form, own = Form.of(made, support)
    return own, form


def _as_before(after: BatchPoint, before: BatchPoint) -> BatchPoint:
    """A point whose fast weights have the types that they had, whatever a rule has made of the number of the step."""
    held = zip(after.dense, before.dense, strict=True)
    return replace(after, dense=tuple(value.to(old.dtype) for value, old in held))


def _unseen(*given: Any) -> None:
    """Look at nothing, since what is recorded is not there yet."""


class _Always:
    """The noise of whatever step."""

    def __init__(self, noise: StepNoise) -> None:
        self._noise = noise

    def __getitem__(self, step: int) -> StepNoise:
        return self._noise
