"""The validation loss: of the same tasks, on the same noise, whenever it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyrometa.errors import NonFiniteError
from pyrometa.metasvi import MetaSVI
from pyrometa.train.pairs import Pair, collated, pair
from pyrometa.train.seeded import seeded
from pyrometa.train.sources import is_meta_batch, source_of
from pyrometa.train.stateful import state_of

MetaBatches: TypeAlias = Callable[[int], Iterable[Pair]]
"""What is validated on at a step."""


def meta_batches(given: Any, meta_batch: int | None, seed: int) -> MetaBatches:
    """What a ``validation`` argument asks for.

    Of a sampler these are the tasks that it would give next, always the same, and it is left as it was.

    Args:
        given: what the user gave.
        meta_batch: how many tasks a sampler is asked for.
        seed: seeds the generators that a sampler without a state may draw from.

    Raises:
        TypeError, ValueError: as :func:`source_of`, or it can be iterated only once.
    """
    if isinstance(given, Iterable) and not is_meta_batch(given) and not callable(getattr(given, "sample", None)):
        if iter(given) is given:
            raise ValueError("validation can be iterated only once: give a list, a DataLoader or one meta-batch")
        return lambda step: _all_of(given)
    source = source_of("validation", given, meta_batch)
    if not callable(getattr(given, "sample", None)):
        return lambda step: [source.draw(step)]
    fixed = _drawn(given, source.draw, seed)
    return lambda step: [fixed]


def adaptation_curve(meta: MetaSVI, batches: Iterable[Pair], seed: int) -> list[float]:
    """The mean query loss over all tasks after 0, 1, ..., K inner steps.

    Raises:
        NonFiniteError: an inner step or a loss is not finite.
        ValueError: there are no tasks.
    """
    curve = query_losses(meta, batches, seed).mean(1)
    if not curve.isfinite().all():
        raise NonFiniteError(f"the validation loss is {curve[-1].item():g} after {len(curve) - 1} inner steps")
    return curve.tolist()


def query_losses(meta: MetaSVI, batches: Iterable[Pair], seed: int) -> Tensor:
    """The query loss of each task after 0, 1, ..., K inner steps, shape ``(K + 1, tasks)``, on the noise of a seed.

    Raises:
        ValueError: there are no tasks.
    """
    with seeded(seed):
        losses = [meta.evaluate(support, query).double() for support, query in batches]
    if not losses:
        raise ValueError("validation has no meta-batch: give at least one")
    return torch.cat(losses, dim=1)


def _all_of(given: Iterable[Any]) -> Iterator[Pair]:
    generator = getattr(given, "generator", None)
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    yield from (pair(collated(given, batch)) for batch in given)
    if state is not None:
        generator.set_state(state)  # type: ignore[union-attr]


def _drawn(sampler: Any, draw: Callable[[int], Pair], seed: int) -> Pair:
    state = state_of(sampler)
    with seeded(seed):
        batch = draw(0)
    if state is not None:
        sampler.load_state_dict(state)
    return batch
