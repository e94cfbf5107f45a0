"""Numbers and data that mean nothing, to see what a guide makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrometa import generators
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.program.program import Program
from pyrometa.types import Data, Params

_LITTLE = 1e-3


def generic_numbers(like: Mapping[str, Tensor], seed: int = 0) -> Params:
    """Different numbers of the shapes given, in no regular order and of no great size."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(tensor: Tensor) -> Tensor:
        count = tensor.numel()
        order = torch.randperm(count, generator=generator, device="cpu")
        spread = order + 0.6 * torch.rand(count, generator=generator, device="cpu")
        return (spread / max(count, 1) - 0.5).view(tensor.shape).to(tensor).requires_grad_()

    return {name: numbers(tensor) for name, tensor in like.items()}


def latents_here_and_elsewhere(program: Program, values: Params, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
    """The latent sites of two runs of the guide with the same draws: on a task, and on slightly other data.

    A guide that refuses the other data shows no sites there.
    """
    with generators.forked():
        here = program.latents_of_guide(values, data)
    try:
        with generators.forked():
            return here, program.latents_of_guide(values, _elsewhere(data))
    except Exception as error:  # whatever a program raises on data that it was not given
        check_interrupt(error)
        return here, {}


def _elsewhere(data: Data) -> Data:
    """Data whose real numbers are a little higher, each by a share of its own, so that none is zero, one or equal."""
    generator = torch.Generator().manual_seed(1)

    def higher(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        share = 0.5 + torch.rand(tensor.shape, generator=generator, device="cpu", dtype=torch.float64).to(tensor)
        size = tensor.abs().mean()
        return tensor + _LITTLE * share * (tensor.abs() + torch.where(size > 0, size, 1.0))

    return data.on(iter([higher(tensor) for tensor in data.tensors()]))
