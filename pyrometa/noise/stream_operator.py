"""A draw from a stream as an operator of torch: with a shape, a derivative and a rule for vmap.

To register it takes torch 10 ms, so that it is imported when a program first draws so, which few do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyrometa.internals import standard_gamma_grad
from pyrometa.noise.draws import generator_of


@torch.library.custom_op("pyrometa::drawn", mutates_args=(), schema="(str name, Tensor[] given, Tensor seed) -> Tensor")
def drawn(name: str, given: Sequence[Tensor], seed: Tensor) -> Tensor:
    """One draw for each seed; parameters have the seeds' dimensions in front."""
    if seed.dim():
        tasks = zip(*(part.unbind(0) for part in given), seed.unbind(0), strict=True)
        return torch.stack([drawn(name, list(parts), one) for *parts, one in tasks])
    generator = generator_of(seed, given[0].device)
    if name in _FILLED:
        return getattr(torch.empty_like(given[0]), name)(generator=generator)
    return getattr(torch, name)(*given, generator=generator)


_FILLED = ("normal_", "uniform_", "random_")


@drawn.register_fake
def _shape(name: str, given: Sequence[Tensor], seed: Tensor) -> Tensor:
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


drawn.register_autograd(_backward, setup_context=_keep)


@drawn.register_vmap
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
    return drawn(name, leading, seed), at
