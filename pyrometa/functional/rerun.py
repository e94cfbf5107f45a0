"""Refuse programs that run again, or read their parameters, in the backward pass, when fast weights are out of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrometa.errors import UnsupportedProgramError
from pyrometa.types import Data

if TYPE_CHECKING:
    from pyrometa.functional.program import Program

_CURE = "do not do so inside model or guide (Engine(chunk_size=...) bounds memory)"


class _NoCheckpoint(TorchFunctionMode):
    """Refuses tensor operations that run within ``torch.utils.checkpoint``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
                what = frame.f_locals.get("function", frame.f_locals.get("run_function"))
                name = "a part of the program" if what is None else getattr(what, "__qualname__", type(what).__name__)
                raise UnsupportedProgramError(
                    f"torch.utils.checkpoint runs {name} again in the backward pass, without its fast weights: {_CURE}"
                )
            frame = frame.f_back  # type: ignore[assignment]
        return func(*args, **(kwargs or {}))


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
    with torch.random.fork_rng(), torch.enable_grad():
        with _NoCheckpoint():
            loss = program.loss(copies, data) + program.score(copies, data)
        if not loss.requires_grad:
            return
        with program.using(copies):
            expected = torch.autograd.grad(loss, list(copies.values()), retain_graph=True, allow_unused=True)
        try:
            with program.using(decoys):
                found = torch.autograd.grad(loss, list(copies.values()), retain_graph=True, allow_unused=True)
        except Exception as error:
            raise UnsupportedProgramError(f"the backward pass runs the program again ({error}): {_CURE}") from error
    changed = [n for n, f, e in zip(names, found, expected, strict=True) if _differs(f, e)]
    if changed:
        raise UnsupportedProgramError(
            f"the gradient of {', '.join(map(repr, changed))} depends on parameters that are read in the backward pass "
            f"(a hook, or the backward of an autograd.Function), when fast weights are out of the program: {_CURE}"
        )


def _differs(found: Tensor | None, expected: Tensor | None) -> bool:
    if found is None or expected is None:
        return found is not expected
    return not torch.allclose(found, expected, rtol=1e-3, equal_nan=True)
