"""Tensors end to end, and apart again, with derivatives that are each other's to any order.

torch differentiates ``cat`` into slices, and those into zero-filled tensors that are added up: of a dozen small
parts, the second derivative is mostly that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from pyrometa.internals import is_being_recorded


def pack(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of shapes ``(*leading, n)`` end to end, shape ``(*leading, sum of n)``."""
    return _Pack.apply(*parts) if len(parts) > 1 else parts[0]


def pack_in_vmap(parts: Sequence[Tensor]) -> Tensor:
    """The same under ``vmap``, where a custom derivative costs more than it saves unless it is being recorded."""
    return pack(parts) if is_being_recorded() else torch.cat(list(parts), -1)


def unpack(flat: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """What :func:`pack` made of parts of such sizes."""
    return _Unpack.apply(flat, tuple(sizes)) if len(sizes) > 1 else (flat,)


class _Pack(Function):
    @staticmethod
    def forward(*parts: Tensor) -> Tensor:
        return torch.cat(parts, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.sizes = tuple(part.shape[-1] for part in inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return _Unpack.apply(grad, ctx.sizes)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *parts: Tensor) -> tuple[Tensor, int]:
        leading = (
            part.expand(info.batch_size, *part.shape) if dim is None else part.movedim(dim, 0)
            for part, dim in zip(parts, in_dims, strict=True)
        )
        return _Pack.apply(*leading), 0


class _Unpack(Function):
    @staticmethod
    def forward(flat: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
        return flat.split(sizes, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, ...]], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Pack.apply(*grads), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None], flat: Tensor, sizes: tuple[int, ...]
    ) -> tuple[tuple[Tensor, ...], int]:
        return _Unpack.apply(flat.movedim(in_dims[0], 0), sizes), 0
