"""What a program computes with and the outer loop does not learn."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn

from pyrometa.program.param_recorder import root_module
from pyrometa.program.program import Program
from pyrometa.types import Params


def constants(program: Program, learned: Collection[str]) -> Params:
    """Parameters that are not learned, and persistent buffers, by name: first data may have set some of them.

    What is of no leaf is named by its side and path, of a module that a function registers ``module0.`` and so on.
    """
    found = {name: leaf.tensor for name, leaf in program.leaves.items() if name not in learned}
    seen = {id(leaf.tensor) for leaf in program.leaves.values()}
    for prefix, root in _roots(program):
        persistent = root.state_dict(keep_vars=True)
        for name, tensor in (*root.named_parameters(), *root.named_buffers()):
            if name in persistent and not tensor.requires_grad and id(tensor) not in seen:
                seen.add(id(tensor))
                found[f"{prefix}.{name}"] = tensor
    return found


def _roots(program: Program) -> Iterator[tuple[str, nn.Module]]:
    for side, root in (("guide", root_module(program.guide)), ("model", root_module(program.model))):
        if root is not None:
            yield side, root
    for i, module in enumerate(program.found.registered):
        yield f"module{i}", module
