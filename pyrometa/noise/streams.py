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

from pyrometa.internals import sample_dirichlet, standard_gamma, standard_gamma_grad

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
    return func(*given, generator=_generator(seed, given[0].device))


def drawn_for_each_task(name: str, given: Sequence[Tensor], seed: Tensor) -> Tensor:
    """:func:`drawn_from_stream`, or standard noise from a stream, as an operation that vmap and recordings can hold.

    Under ``vmap`` each task's draw is from the stream of its own seed.

    Args:
        name: of the function in torch, or ``"normal_"``, ``"uniform_"`` or ``"random_"`` of ``given``'s shape and type.
        given: its parameters.
        seed: shape ``()``.
    """
    return _drawn(name, list(given), seed)


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


def _generator(seed: Tensor, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(seed))


@torch.library.custom_op("pyrometa::drawn", mutates_args=(), schema="(str name, Tensor[] given, Tensor seed) -> Tensor")
def _drawn(name: str, given: Sequence[Tensor], seed: Tensor) -> Tensor:
    """One draw for each seed; parameters have the seeds' dimensions in front."""
    if seed.dim():
        tasks = zip(*(part.unbind(0) for part in given), seed.unbind(0), strict=True)
        return torch.stack([_drawn(name, list(parts), one) for *parts, one in tasks])
    generator = _generator(seed, given[0].device)
    if name in _FILLED:
        return getattr(torch.empty_like(given[0]), name)(generator=generator)
    return getattr(torch, name)(*given, generator=generator)


_FILLED = ("normal_", "uniform_", "random_")


@_drawn.register_fake
def _shape_of_drawn(name: str, given: Sequence[Tensor], seed: Tensor) -> Tensor:
    return torch.empty_like(given[0], memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[str, Sequence[Tensor], Tensor], output: Tensor) -> None:
    ctx.name, given, _ = inputs
    ctx.save_for_backward(given[0], output)


def _backward(ctx: Any, grad: Tensor) -> tuple[None, list[Tensor | None], None]:
    """By implicit reparameterisation, as torch does for a Gamma; the others have no derivative."""
    count = 2 if ctx.name == "binomial" else 1
    if ctx.name != "_standard_gamma":
        return None, [None] * count, None
    alpha, output = ctx.saved_tensors
    return None, [grad * standard_gamma_grad(alpha, output)], None


_drawn.register_autograd(_backward, setup_context=_keep)


@_drawn.register_vmap
def _batched(info: Any, in_dims: Any, name: str, given: Sequence[Tensor], seed: Tensor) -> tuple[Tensor, int]:
    """The rule for vmap.

    Where seeds are batched, each draws its task's part. Where only parameters are, the one stream draws for all of
    them, so that their dimension comes after the seeds'.
    """
    _, dims, seed_dim = in_dims
    if seed_dim is not None:
        seed = seed.movedim(seed_dim, 0)
    at = 0 if seed_dim is not None else seed.dim()
    leading = [
        part.unsqueeze(at).expand(*part.shape[:at], info.batch_size, *part.shape[at:])
        if dim is None
        else part.movedim(dim, at)
        for part, dim in zip(given, dims, strict=True)
    ]
    return _drawn(name, leading, seed), at
