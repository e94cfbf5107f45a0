"""Which recorded operations can be captured as a CUDA graph: those that wait for nothing, and draw nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from pyrometa.internals import tree_leaves

_FEW = 10
"""Operations that are as quick one by one as together with the copies of what they are given and make."""

_WAITS = re.compile(
    r"_?(linalg_(?!vector_norm)|cholesky|lu_|geqrf|orgqr|ormqr|triangular_solve|lstsq|embedding_bag|repeat_interleave"
    r"|nonzero|masked_select|unique|local_scalar|bincount|histc)"
)
"""Operations by name of which torch, on a GPU, reads something on the CPU: a size, or whether a factor was found."""


class CannotCaptureError(Exception):
    """There is no captured form."""


def check_capturable(graph: GraphModule, inputs: Sequence[Tensor]) -> None:
    """Run a graph, and look at what each operation is given and makes.

    Raises:
        CannotCaptureError: naming the operation that can't be captured; or there are too few to gain anything.
    """
    looking = _Looking(graph, inputs[0].device)
    looking.run(*inputs)
    if looking.computes < _FEW:
        raise CannotCaptureError(f"fewer than {_FEW} operations")


class _Looking(Interpreter):
    """Runs a graph on one device, and counts the operations that are no views."""

    def __init__(self, graph: GraphModule, device: torch.device) -> None:
        super().__init__(graph)
        self.computes = 0
        self._device = device

    def run_node(self, n: Node) -> Any:
        """The node's results, once it is known that it can be captured."""
        name = getattr(n.target, "__name__", str(n.target))
        given = [x for x in tree_leaves(self.fetch_args_kwargs_from_env(n)) if isinstance(x, Tensor)]
        if torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ()):
            raise CannotCaptureError(f"{name} draws")
        if _WAITS.match(name) or ("index" in name and any(x.dtype == torch.bool for x in given[1:])):
            raise CannotCaptureError(f"{name} waits for the device")
        made = super().run_node(n)
        tensors = [x for x in tree_leaves(made) if isinstance(x, Tensor)]
        elsewhere = next((x for x in tensors if x.device != self._device), None)
        if elsewhere is not None:
            raise CannotCaptureError(f"a tensor of {name} is on {elsewhere.device}")
        if n.op == "call_function" and not {_memory(x) for x in tensors} <= {_memory(x) for x in given}:
            self.computes += 1
        return made


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
