"""The draws of one evaluation of many tasks, in the few tensors that a recording reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from pyrometa.noise.drawn_steps import noise_and_seeds
from pyrometa.rewrites.end_to_end import unpack


def unpacked(given: Iterator[Tensor], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What :func:`packed <pyrometa.noise.drawn_steps.packed>` made of draws of such shapes."""
    found: dict[int, Tensor] = {}
    for alike in noise_and_seeds(like):
        parts = unpack(next(given), [like[i][0].numel() for i in alike])
        found.update((i, part.view(like[i].shape).to(like[i].dtype)) for i, part in zip(alike, parts, strict=True))
    return tuple(found[i] for i in range(len(like)))
