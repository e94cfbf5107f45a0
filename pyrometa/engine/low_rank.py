r"""Fast weights of linear layers as factors.

The inner gradient of a layer's weight is a sum of outer products over the few rows that reach it,
:math:`\nabla W = \sum_r \delta_r h_r^T`, so after some steps of SGD a task's weight is
:math:`W_0 + \sum_r a_r h_r^T` with :math:`a_r = -\text{lr}\,\delta_r`, and

.. math:: x W^T = x W_0^T + (x H^T) A

All tasks share the product with :math:`W_0`; each adds two thin ones. :math:`\delta` is the gradient at a zero
probe that is added to the layer's output, so everything is exact, second order included.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrometa.noise.batched import BatchedNoise

Factors = tuple[Tensor, Tensor]
"""``(A, H)`` of shapes ``(rank, out)`` and ``(rank, in)``."""

LeafProduct = tuple[str, int]
"""A layer's weight and the position of the argument that it is multiplied with."""

_HARMLESS = {
    getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "is_leaf", "_cdata")
} | {torch.Tensor.size, torch.Tensor.dim, torch.Tensor.is_floating_point}


class NotLinearError(Exception):
    """A weight that was to stay in factors reached another operation than ``F.linear``."""

    def __init__(self, name: str, operation: str) -> None:
        super().__init__(f"{name} is used by {operation}")
        self.name, self.operation = name, operation


class StalePlanError(Exception):
    """The program calls other layers than it did when the plan was made."""


@dataclass(frozen=True)
class Call:
    """One call of a linear layer.

    Attributes:
        name: whose weight.
        shape: of its output.
        on_data: whether its input is an argument of the program, the same at every inner step.
    """

    name: str
    shape: tuple[int, ...]
    on_data: bool

    def rank(self, steps: int) -> int:
        """What the call adds to the rank of the weight's update in so many steps."""
        return torch.Size(self.shape[:-1]).numel() * (1 if self.on_data else steps)


class BatchMode(BatchedNoise):
    """Under ``vmap``: replays noise, and runs ``F.linear`` on weights that only it knows.

    The program holds NaN-filled placeholders in place of the weights, so that a use that escapes the mode
    can't pass for an answer.

    Args:
        noise: one tensor a draw.
        fast: ids of the fast weights that the program holds; they count as requiring a gradient, which vmap hides.
        weights: the leaves by name.
        placeholders: what the program holds instead.
        factors: the task's update of each weight; none at the start.
        probes: zeros of the calls' shapes, in order; None adds none.
        arguments: the task's data. A layer's product with it is the same at every inner step.
        products: such products from an earlier step, by name and position.
    """

    def __init__(
        self,
        noise: Sequence[Tensor],
        fast: Collection[int],
        weights: Mapping[str, Tensor],
        placeholders: Mapping[str, Tensor],
        factors: Mapping[str, Factors],
        probes: Iterable[Tensor] | None,
        arguments: Sequence[Tensor] = (),
        products: Mapping[LeafProduct, Tensor] | None = None,
    ) -> None:
        super().__init__(noise)
        self._fast = fast
        self._weights, self._factors = weights, factors
        self._names = {id(placeholder): name for name, placeholder in placeholders.items()}
        self._probes = None if probes is None else iter(probes)
        self._arguments = {id(argument): i for i, argument in enumerate(arguments)}
        self.products: dict[LeafProduct, Tensor] = dict(products or {})
        self.inputs: list[Tensor] = []
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        special = _SPECIAL.get(func)
        if special is not None:
            return special(self, func, args, kwargs)
        if self._names and func not in _HARMLESS:
            self._refuse(func, args)
            self._refuse(func, kwargs.values())
        return super().__torch_function__(func, types, args, kwargs)

    def _on_linear(self, func: Any, args: Any, kwargs: Any) -> Any:
        x, weight, bias = _linear_arguments(*args, **kwargs)
        self._refuse(func, (x, bias))
        name = self._names.get(id(weight))
        return func(x, weight, bias) if name is None else self._linear(name, x, bias)

    def _on_cross_entropy(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The same in three operations; under vmap torch's own falls apart into a dozen."""
        if _is_elementwise(*args, **kwargs):
            x, target = args
            return F.softplus(x, threshold=40.0) - x * target
        return func(*args, **kwargs)

    def _on_all_true(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Pyro's validation of values, which is off here; the trial against the loop has it on."""
        return True

    def _on_requires_grad(self, func: Any, args: Any, kwargs: Any) -> Any:
        return id(args[0]) in self._fast or func(*args)

    def _linear(self, name: str, x: Tensor, bias: Tensor | None) -> Tensor:
        y = self._product(name, x)
        if bias is not None:
            y = y + bias
        if name in self._factors:
            a, h = self._factors[name]
            y = y + (x @ h.T) @ a
        if self._probes is not None:
            probe = next(self._probes, None)
            if probe is None or probe.shape != y.shape:
                raise StalePlanError(f"an unplanned call of {name}")
            y = y + probe
        self.inputs.append(x)
        self.calls.append(Call(name, tuple(y.shape), id(x) in self._arguments))
        return y

    def _product(self, name: str, x: Tensor) -> Tensor:
        position = self._arguments.get(id(x))
        if position is None:
            return F.linear(x, self._weights[name])
        if (name, position) not in self.products:
            self.products[name, position] = F.linear(x, self._weights[name])
        return self.products[name, position]

    def _refuse(self, func: Callable[..., Any], values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                if id(value) in self._names:
                    raise NotLinearError(self._names[id(value)], getattr(func, "__name__", str(func)))
            elif isinstance(value, list | tuple):
                self._refuse(func, value)


def _is_elementwise(*args: Any, reduction: str = "mean", **options: Any) -> bool:
    return len(args) == 2 and reduction == "none" and all(value is None for value in options.values())


def _linear_arguments(
    input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


_SPECIAL = {
    F.linear: BatchMode._on_linear,
    F.binary_cross_entropy_with_logits: BatchMode._on_cross_entropy,
    torch._is_all_true: BatchMode._on_all_true,
    torch.Tensor.requires_grad.__get__: BatchMode._on_requires_grad,  # type: ignore[attr-defined]
}
