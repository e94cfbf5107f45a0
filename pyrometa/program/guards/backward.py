"""Refuse programs that run again, or read their parameters, in the backward pass, when fast weights are out of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrometa import generators
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.errors import UnsupportedProgramError
from pyrometa.program.autograd_graph import graph_nodes
from pyrometa.program.program import Program
from pyrometa.types import Data, Params

_CURE = "do not do so inside model or guide (Engine(chunk_size=...) bounds memory)"


class _NoCheckpoint(TorchFunctionMode):
    """Refuses tensor operations that run within ``torch.utils.checkpoint``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _checkpointed(sys._getframe(1))
        if name is not None:
            raise UnsupportedProgramError(
                f"torch.utils.checkpoint runs {name} again in the backward pass, without its fast weights: {_CURE}"
            )
        return func(*args, **(kwargs or {}))


def _checkpointed(frame: FrameType | None) -> str | None:
    """What ``torch.utils.checkpoint`` runs around this frame, outermost; None where it runs nothing."""
    found = None
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            what = frame.f_locals.get("function", frame.f_locals.get("run_function"))
            if what is not None:
                found = getattr(what, "__qualname__", type(what).__name__)
            found = found or "a part of the program"
        frame = frame.f_back
    return found


def check_backward(program: Program, data: Data, adapted: Iterable[str]) -> None:
    """Prove that the backward pass reads no parameter: with NaN in their place, gradients must stay what they are.

    Raises:
        UnsupportedProgramError: naming the function that is checkpointed, or the parameters whose gradient changes.
    """
    names = list(adapted)
    if not names:
        return
    copies = {n: program.leaves[n].tensor.detach().clone().requires_grad_() for n in names}
    decoys = {n: torch.full_like(value, torch.nan) for n, value in copies.items()}
    with generators.forked(), torch.enable_grad():
        with _NoCheckpoint():
            loss = program.loss(copies, data) + program.score(copies, data)
        if not loss.requires_grad:
            return
        try:
            with program.using(copies):
                expected = _gradients(loss, copies)
        except RuntimeError as error:  # a backward pass that fails in any case is for the run itself to report
            check_interrupt(error)
            return
        try:
            with program.using(decoys):
                found = _gradients(loss, copies)
        except Exception as error:
            raise UnsupportedProgramError(f"the backward pass runs the program again ({error}): {_CURE}") from error
    gathered = [n for n, copy in copies.items() if copy.grad is not None]
    if gathered:
        raise UnsupportedProgramError(
            f"the backward pass runs a part of the program again, which adds to .grad of "
            f"{', '.join(map(repr, gathered))} past the gradient that is asked for: {_CURE}"
        )
    changed = [n for n, f, e in zip(names, found, expected, strict=True) if _differs(f, e)]
    if changed:
        raise UnsupportedProgramError(
            f"the gradient of {', '.join(map(repr, changed))} depends on parameters that are read in the backward pass "
            f"(a hook, or the backward of an autograd.Function), when fast weights are out of the program: {_CURE}"
        )


def _gradients(loss: Tensor, params: Params) -> list[Tensor | None]:
    """The gradient of each parameter; those of all other leaves are run for, so that no node is left out."""
    given = list(params.values())
    leaves = [node.variable for node in graph_nodes([loss.grad_fn]) if hasattr(node, "variable")]
    others = [leaf for leaf in leaves if not any(leaf is value for value in given)]
    grads = torch.autograd.grad(loss, given + others, retain_graph=True, allow_unused=True)
    return list(grads[: len(given)])


def _differs(found: Tensor | None, expected: Tensor | None) -> bool:
    if found is None or expected is None:
        return found is not expected
    found, expected = found.to_dense(), expected.to_dense()
    scale = expected.abs().nan_to_num(0.0, 0.0).max().item() if expected.numel() else 0.0
    return not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)
