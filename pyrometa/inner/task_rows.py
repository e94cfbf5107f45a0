"""Fast weights of some tasks as rows of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from pyrometa.types import Params


@dataclass(frozen=True)
class TaskRows:
    """The tensors that the loss of a path is differentiated by, end to end: one row a task.

    Attributes:
        variables: tensors with a leading task dimension each; those of a single task may be without.
        tasks: number of tasks.
    """

    variables: Sequence[Tensor]
    tasks: int

    def gradient(self, output: Tensor, along: Tensor | None = None, *, create_graph: bool = False) -> Tensor:
        """The gradient of an output, shape ``(tasks, size)``, keeping the output's graph.

        Args:
            output: a scalar, or a tensor together with ``along``.
            along: what each element of the output is multiplied with.
            create_graph: whether the gradient can be differentiated again.
        """
        found = torch.autograd.grad(
            output, list(self.variables), along, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
        parts = [torch.zeros_like(v) if g is None else g for v, g in zip(self.variables, found, strict=True)]
        return self.end_to_end(parts)

    def gradients(self, output: Tensor, along: Tensor, *, create_graph: bool = False) -> Tensor:
        """:meth:`gradient` for many ``along`` side by side, which lie along a first dimension that the result has too.

        ``is_grads_batched`` would lose the graph of custom autograd functions.
        """
        return vmap(lambda one: self.gradient(output, one, create_graph=create_graph))(along)

    def by_name(self, rows: Tensor, weights: Mapping[str, Tensor]) -> Params:
        """Rows of shape ``(tasks, size)`` in the form of fast weights.

        How an engine lays the variables out is its own business. But the fast weights are linear in them, ``J v``, and
        ``J`` applied to the rows is what is asked for. Backward, autograd gives ``J^T p`` for any p, which is linear in
        p; the derivative of that, again backward, along the rows is ``J rows``.

        Args:
            rows: what to rearrange.
            weights: the fast weights, each of shape ``(tasks, *parameter)``, on the variables' graph.
        """
        p = [torch.zeros_like(weight).requires_grad_() for weight in weights.values()]
        transposed = torch.autograd.grad(list(weights.values()), list(self.variables), p, create_graph=True)
        return dict(zip(weights, torch.autograd.grad(transposed, p, self.split(rows)), strict=True))

    def end_to_end(self, values: Sequence[Tensor]) -> Tensor:
        """Tensors of the variables' shapes as rows, shape ``(tasks, size)``."""
        return torch.cat([value.reshape(self.tasks, -1) for value in values], dim=1)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Rows of shape ``(tasks, size)`` in parts of the variables' shapes."""
        parts = rows.split([v.numel() // self.tasks for v in self.variables], 1)
        return [part.reshape(v.shape).to(v.dtype) for part, v in zip(parts, self.variables, strict=True)]

    def half_square(self) -> Tensor:
        """Half the squared length of all rows together, a scalar."""
        return torch.stack([0.5 * v.square().sum() for v in self.variables]).sum()
