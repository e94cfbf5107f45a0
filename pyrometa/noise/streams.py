"""Draws that are no function of standard noise, each from a stream of its task's own.

A Gamma or a Poisson variable is drawn by rejection, with a number of standard draws that depends on its parameters.
What is drawn ahead for it is a seed for each task: the draw is then made by a generator that starts from the seed, so
it does not depend on what is drawn for the other tasks, nor on when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrometa.internals import sample_dirichlet, standard_gamma
from pyrometa.noise.draws import generator_of

_Parameters = tuple[tuple[Tensor, ...], torch.Generator | None]


def _of_one(input: Tensor, generator: torch.Generator | None = None) -> _Parameters:
    return (input,), generator


def _of_two(count: Tensor, prob: Tensor, generator: torch.Generator | None = None) -> _Parameters:
    return (count, prob), generator


_READERS: dict[Any, Callable[..., _Parameters]] = {
    standard_gamma: _of_one,
    sample_dirichlet: _of_one,
    torch.poisson: _of_one,
    torch.binomial: _of_two,
}

STREAMED = _READERS.keys()
"""Functions that draw from a stream."""


def parameters(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, ...] | None:
    """The parameters of a call of one of these functions, or None where it brings a generator of its own."""
    given, generator = _READERS[func](*args, **kwargs)
    return given if generator is None else None


def drawn_from_stream(func: Any, given: Sequence[Tensor], seed: Tensor) -> Tensor:
    """What a function draws from the stream of a seed.

    Args:
        func: one of :data:`STREAMED`.
        given: its parameters.
        seed: shape ``()``.
    """
    return func(*given, generator=generator_of(seed, given[0].device))


def drawn_for_each_task(name: str, given: Sequence[Tensor], seed: Tensor) -> Tensor:
    """:func:`drawn_from_stream`, or standard noise from a stream, as an operation that vmap and recordings can hold.

    Under ``vmap`` each task's draw is from the stream of its own seed.

    Args:
        name: of the function in torch, or ``"normal_"``, ``"uniform_"`` or ``"random_"`` of ``given``'s shape and type.
        given: its parameters.
        seed: shape ``()``.
    """
    from pyrometa.noise.stream_operator import drawn

    return drawn(name, list(given), seed)


def stream_of(noise: Sequence[Tensor]) -> Tensor:
    """A seed, shape ``()``, for draws that a task's noise was not made for: the bits of all its noise, mixed.

    So it is another for each task and step, and the same however the tasks are run. Zeros add nothing to it, since
    noise is padded with them.
    """
    return torch.stack([_mixed(part).sum() for part in noise]).sum()


def _mixed(noise: Tensor) -> Tensor:
    bits = (noise.double() * 2.0**40).to(torch.int64) if noise.is_floating_point() else noise
    for factor in (0x2545F4914F6CDD1D, 0x369DEA0F31A53F85):
        bits = bits * factor
        bits = bits ^ (bits >> 29)
    return bits
