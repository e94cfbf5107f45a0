"""Updates of weights as sums of products ``A^T H``: scaled, and added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyrometa.engine.low_rank import Factors, Pairs


class Slots(NamedTuple):
    """The rows of all inner steps in one pair, those of steps to come zero, so that a point has one form at all steps.

    Attributes:
        a: shape ``(tasks, steps * rows, out)``.
        h: shape ``(tasks, steps * rows, in)``.
    """

    a: Tensor
    h: Tensor


class Rows(NamedTuple):
    """What one step adds to :class:`Slots`.

    Attributes:
        a: shape ``(tasks, rows, out)``.
        h: shape ``(tasks, rows, in)``.
    """

    a: Tensor
    h: Tensor


def scaled(pairs: Pairs, factor: float | Tensor) -> Pairs:
    """An update times a number."""
    return tuple(_with_a(pair, factor * pair[0]) for pair in pairs)


def detached(pairs: Pairs) -> Pairs:
    """An update, each ``A`` of which is off its graph."""
    return tuple(_with_a(pair, pair[0].detach()) for pair in pairs)


def total(pairs: Pairs, more: Pairs, step: int | Tensor) -> Pairs:
    """The sum of two updates; where an ``H`` of both is one, such as the support set itself, the ``A`` are added.

    Args:
        pairs: the one.
        more: the other.
        step: which step it is, of shape ``()``, where there are slots.
    """
    for pair in more:
        pairs = _added(pairs, pair, step)
    return pairs


def rows_of(pairs: Sequence[Factors]) -> Rows:
    """What a step adds to slots: the rows of some pairs, one below the other."""
    return Rows(*(torch.cat(parts, 1) for parts in zip(*pairs, strict=True)))


def _with_a(pair: Factors, a: Tensor) -> Factors:
    return type(pair)(a, pair.h) if isinstance(pair, Slots | Rows) else (a, pair[1])


def _added(pairs: Pairs, pair: Factors, step: int | Tensor) -> Pairs:
    if isinstance(pair, Slots):
        return (Slots(pairs[0][0] + pair.a, pair.h), *pairs[1:])
    if isinstance(pair, Rows):
        return (_written(pairs[0], pair, torch.as_tensor(step).long().view(1)), *pairs[1:])
    a, h = pair
    for i, (known_a, known_h) in enumerate(pairs):
        if known_h is h or _same_memory(known_h, h):
            return (*pairs[:i], (known_a + a, known_h), *pairs[i + 1 :])
    return (*pairs, pair)


def _written(slots: Factors, rows: Rows, step: Tensor) -> Slots:
    """Slots with the rows of a step, to which ``a`` is added where they are there."""
    a, h = (value.unflatten(1, (-1, rows.a.shape[1])) for value in slots)
    return Slots(
        a.index_add(1, step, rows.a[:, None]).flatten(1, 2), h.index_copy(1, step, rows.h[:, None]).flatten(1, 2)
    )


def _same_memory(left: Tensor, right: Tensor) -> bool:
    return (
        not (left.requires_grad or right.requires_grad)
        and left.data_ptr() == right.data_ptr()
        and left.shape == right.shape
        and left.stride() == right.stride()
    )
