r"""Fast weights of linear layers as factors.

The inner gradient of a layer's weight is a sum of outer products over the few rows that reach it,
:math:`\nabla W = \sum_r \delta_r h_r^T`, so after some steps of SGD a task's weight is
:math:`W_0 + \sum_r a_r h_r^T` with :math:`a_r = -\text{lr}\,\delta_r`, and

.. math:: x W^T = x W_0^T + (x H^T) A

All tasks share the product with :math:`W_0`; each adds two thin ones. :math:`\delta` is the gradient at a zero
probe that is added to the layer's output, so everything is exact, second order included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrometa.types import Params

Factors = tuple[Tensor, Tensor]
"""``(A, H)`` of shapes ``(rank, out)`` and ``(rank, in)``."""

Pairs = tuple[Factors, ...]
"""A weight's update as a sum of products ``A^T H``, a pair for each set of rows."""

LeafProduct = tuple[str, int]
"""A layer's weight and the position of the argument that it is multiplied with."""


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
        name: of the layer's weight.
        shape: of the call's output.
        on_data: whether its input is an argument of the program, the same at every inner step.
    """

    name: str
    shape: tuple[int, ...]
    on_data: bool

    def rank(self, steps: int) -> int:
        """What the call adds to the rank of the weight's update in so many steps."""
        return torch.Size(self.shape[:-1]).numel() * (1 if self.on_data else steps)


class Placeholders:
    """What the program holds in the place of weights that stay in factors: tensors like them, filled with NaN.

    No task has a weight matrix of its own that the program could hold, and only ``F.linear`` can do without. A program
    that held the leaves instead would go on with unadapted weights wherever it used them otherwise, and look right.
    A use that is seen is refused by the weight's name; one that is not gives NaN, which can't pass for an answer.

    Args:
        weights: the leaves by name.

    Attributes:
        tensors: the placeholders, by the weights' names.
        names: the names, by the placeholders' ids.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self.tensors: Params = {n: torch.full_like(w, torch.nan).requires_grad_() for n, w in weights.items()}
        self.names = {id(placeholder): name for name, placeholder in self.tensors.items()}

    def refuse(self, func: Callable[..., Any], values: Iterable[Any]) -> None:
        """Refuse a function that was given a placeholder, also within tuples and lists.

        Raises:
            NotLinearError: naming the weight and the function.
        """
        for value in values:
            if isinstance(value, Tensor):
                if id(value) in self.names:
                    raise NotLinearError(self.names[id(value)], getattr(func, "__name__", str(func)))
            elif isinstance(value, list | tuple):
                self.refuse(func, value)


class FactoredLayers:
    """The linear layers of one evaluation whose weights are in factors.

    Args:
        placeholders: by which the layers' weights are known.
        factors: the task's update of each weight; none at the start.
        probes: zeros of the calls' shapes, in order; None adds none.
        arguments: the task's data. A layer's product with it is the same at every inner step.
        products: such products from an earlier step, by name and position.

    Attributes:
        calls: the calls of the layers so far, in order.
        inputs: the input of each call.
        products: products of the leaves with the task's data, those given and those made since.
    """

    def __init__(
        self,
        placeholders: Placeholders,
        factors: Mapping[str, Factors],
        probes: Iterable[Tensor] | None,
        arguments: Sequence[Tensor],
        products: Mapping[LeafProduct, Tensor],
    ) -> None:
        self.placeholders = placeholders
        self.calls: list[Call] = []
        self.inputs: list[Tensor] = []
        self.products = dict(products)
        self._factors = factors
        self._probes = None if probes is None else iter(probes)
        self._positions = {id(argument): i for i, argument in enumerate(arguments)}

    def linear(self, name: str, x: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer with this weight makes of an input.

        Raises:
            StalePlanError: there is no probe left for the call, or one of another shape.
        """
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
        self.calls.append(Call(name, tuple(y.shape), id(x) in self._positions))
        return y

    def _product(self, name: str, x: Tensor) -> Tensor:
        """The product of an input with the leaf, which all tasks share."""
        leaf, position = self.placeholders.weights[name], self._positions.get(id(x))
        if position is None:
            return F.linear(x, leaf)
        if (name, position) not in self.products:
            self.products[name, position] = F.linear(x, leaf)
        return self.products[name, position]
