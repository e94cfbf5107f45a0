"""Prove that fast weights reach the program."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from pyrometa import generators
from pyrometa.errors import ReachError
from pyrometa.program.program import Program
from pyrometa.program.traces import listed
from pyrometa.types import Data


def check_reach(program: Program, data: Data, adapted: Iterable[str]) -> None:
    """Prove that fast weights reach the program: on detached copies, no gradient may reach the originals.

    Raises:
        ReachError: naming the parameters that the program reads from elsewhere.
    """
    names = list(adapted)
    if not names:
        return
    copies = {n: program.leaves[n].tensor.detach().clone().requires_grad_() for n in names}
    with generators.forked(), torch.enable_grad():
        loss = program.loss(copies, data) + program.score(copies, data)
    if not loss.requires_grad:
        raise ReachError(f"the loss depends on none of {listed(names)}: does the program detach them?")
    originals = [program.leaves[n].tensor for n in names]
    grads = torch.autograd.grad(loss, originals, allow_unused=True)
    behind = tuple(n for n, grad in zip(names, grads, strict=True) if grad is not None)
    if behind:
        raise ReachError(
            f"the program reads {listed(behind)} from somewhere that fast weights do not reach (a tensor kept "
            "outside its module, a closure, or the param store itself): read it as a module attribute or by "
            "pyro.param within the model or guide",
            behind,
        )
