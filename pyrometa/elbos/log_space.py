"""Sums of products in log space, as a backend of opt_einsum that ``torch.func.vmap`` can batch."""

from __future__ import annotations

import string
from collections.abc import Sequence

import torch
from pyro.ops.einsum.util import Tensordot
from torch import Tensor


def einsum(equation: str, *operands: Tensor) -> Tensor:
    r"""The logarithm of a sum of products of exponentials, by names of dimensions.

    .. math:: y_o = \log \sum_{s} \exp \sum_i x^i_{o s}

    Args:
        equation: as in ``torch.einsum``, such as ``"ab,bc->ac"``.
        operands: logarithms, shapes as in the equation.

    Returns:
        A tensor of the shape after ``->``.
    """
    inputs, output = equation.split("->")
    if inputs == output:
        return operands[0].clone()
    scaled, total = [], torch.zeros((), dtype=operands[0].dtype, device=operands[0].device)
    for dims, operand in zip(inputs.split(","), operands, strict=True):
        summed = [i for i, dim in enumerate(dims) if dim not in output]
        top = operand.detach()
        top = (top.amax(summed, keepdim=True) if summed else top).clamp(min=torch.finfo(top.dtype).min)
        scaled.append((operand - top).exp())
        total = total + _aligned(top.squeeze(summed), [dim for dim in dims if dim in output], output)
    return _safe_log(torch.einsum(_renamed(equation), scaled)) + total


def transpose(operand: Tensor, axes: Sequence[int]) -> Tensor:
    """The operand with its dimensions in another order."""
    return operand.permute(*axes)


tensordot = Tensordot(einsum)


def _aligned(operand: Tensor, dims: Sequence[str], output: str) -> Tensor:
    """The operand with its dimensions where they stand in ``output``, and of size 1 where it has none."""
    ordered = operand.permute([dims.index(dim) for dim in output if dim in dims])
    sizes = iter(ordered.shape)
    return ordered.reshape([next(sizes) if dim in dims else 1 for dim in output])


def _renamed(equation: str) -> str:
    """The same equation in the letters that torch knows."""
    letters = dict(zip(sorted(set(equation) - set(",->")), string.ascii_letters, strict=False))
    return "".join(letters.get(symbol, symbol) for symbol in equation)


def _safe_log(x: Tensor) -> Tensor:
    """The logarithm, with a slope of at most 1/eps, as Pyro's."""
    eps = torch.finfo(x.dtype).eps
    held = x.detach()
    return torch.where(x > eps, x.clamp(min=eps).log(), held.log() + (x - held) / eps)
