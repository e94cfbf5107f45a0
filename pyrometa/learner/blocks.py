"""Find out on first data whether a program's Hessians are blocks and a border, and of which numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyrometa import generators
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.atomic.untouched import left_alone
from pyrometa.inner import Blocks, Surface, TaskRows
from pyrometa.program.elements import find_elements
from pyrometa.program.program import Program
from pyrometa.rewrites.twice import TwiceDifferentiable
from pyrometa.types import Data, Params

_MOST = 500
"""Products, beyond which nothing is tried."""


def find_blocks(program: Program, data: Data, adapted: Sequence[str]) -> Blocks | None:
    """Those that show a Hessian in the fewest products; None where none are there, or they save nothing.

    Near the parameters, at no special point: what happens to be zero at a start, such as a product of two means that
    are, does not pass for what is none.

    Args:
        program: the program.
        data: a task.
        adapted: names of the parameters that adapt.
    """
    values = _nearby(program, adapted)
    try:
        with left_alone(program):
            candidates = [Blocks(elements) for elements in find_elements(program, data, values)]
            return _proved(program, data, values, candidates)
    except Exception as error:  # whatever the program raises at other numbers than its own: no blocks are known
        check_interrupt(error)
        return None


def _nearby(program: Program, adapted: Sequence[str]) -> Params:
    generator = torch.Generator().manual_seed(5)

    def moved(value: Tensor) -> Tensor:
        noise = torch.randn(value.shape, generator=generator, device=generator.device, dtype=torch.float64).to(value)
        return (value.detach() + 0.1 * noise).requires_grad_()

    return {name: moved(program.leaves[name].tensor) for name in adapted}


def _proved(program: Program, data: Data, values: Params, candidates: Sequence[Blocks]) -> Blocks | None:
    """The first that hold, in the order of their products, of those with fewer than there are numbers."""
    names, size = tuple(values), sum(value.numel() for value in values.values())
    sized = [(blocks.products(names), blocks) for blocks in candidates]
    worth = sorted(((few, blocks) for few, blocks in sized if few < min(size, _MOST)), key=lambda pair: pair[0])
    if not worth:
        return None
    with generators.forked(), torch.enable_grad(), TwiceDifferentiable():
        here = _surface(program.loss(values, data), values)
        return next((blocks for _, blocks in worth if blocks.shown(here)), None)


def _surface(loss: Tensor, values: Params) -> Surface:
    fast = TaskRows(list(values.values()), 1)
    slope = fast.gradient(loss, create_graph=True)
    return Surface(fast, loss.view(-1), slope, False, lambda rows: rows, False, tuple(values))
