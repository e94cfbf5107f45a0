"""What is known of the values in a graph before it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

LARGEST_CONSTANT = 2**20  # elements
_NUMBERS = {bool, int, float}


@dataclass(frozen=True)
class Known:
    """What is known of the value of a node.

    Attributes:
        like: its value without data (on the meta device), or the value itself if it is not a tensor.
        device: where the value is.
        constant: the value itself, where it is the same at every run and not too large to keep.
    """

    like: Any
    device: torch.device | None = None
    constant: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape of the value."""
        return self.like.shape

    def agrees_with(self, other: Known) -> bool:
        """Whether one can stand for the other: equal shapes, dtypes and devices; strides may differ."""
        mine, theirs = self.like, other.like
        tensors = isinstance(mine, Tensor) and isinstance(theirs, Tensor)
        return tensors and (mine.shape, mine.dtype, self.device) == (theirs.shape, theirs.dtype, other.device)

    def is_full_of(self, number: float) -> bool:
        """Whether it is a constant of which every element is this number."""
        return self.constant is not None and bool((self.constant == number).all())


class KnownValues(dict[Node, Known]):
    """What is known of each node of a graph that is being built.

    Args:
        likes: values without data, one of a layout, and by the operation and its operands' layouts what it makes of
            these. Graphs that are made of each other share it: few operations on few layouts come thousands of times.
    """

    def __init__(self, likes: dict[Any, Any]) -> None:
        super().__init__()
        self._likes = likes

    def of_tensor(self, value: Tensor, *, constant: bool) -> Known:
        """What is known of a tensor that is at hand."""
        like = self._alike(_without_data(value))
        return Known(like, value.device, value if constant and value.numel() <= LARGEST_CONSTANT else None)

    def of_call(self, target: Any, args: Any, kwargs: Any) -> Known:
        """What is known of an operation's result, by running it on the meta device, where tensors have no data."""
        key = (target, hashable(args, self._layout), hashable(kwargs, self._layout))
        if key not in self._likes:
            given_args, given_kwargs = map_arg((args, kwargs), lambda node: self[node].like)
            if "device" in given_kwargs:
                given_kwargs = {**given_kwargs, "device": torch.device("meta")}
            self._likes[key] = self._alike(target(*given_args, **given_kwargs))
        return Known(self._likes[key], kwargs.get("device") or self._device(nodes_in((args, kwargs))))

    def _device(self, operands: Sequence[Node]) -> torch.device:
        """Where a result is: with its operands, of which a scalar may be on the CPU while the others are not."""
        known = sorted((self[node] for node in operands), key=_is_scalar)
        return next((one.device for one in known if one.device is not None), torch.device("cpu"))

    def _layout(self, node: Node) -> int:
        return id(self[node].like)

    def _alike(self, value: Any) -> Any:
        """The value that stands for all of its layout."""
        if isinstance(value, Tensor):
            value = value if value.is_meta else _without_data(value)  # an operation on numbers alone makes data
            layout = (value.shape, value.stride(), value.dtype, value.is_conj(), value.is_neg())
            return self._likes.setdefault(layout, value)
        return [self._alike(x) for x in value] if isinstance(value, list | tuple) else value


def _without_data(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _is_scalar(known: Known) -> bool:
    return isinstance(known.like, Tensor) and known.like.dim() == 0


def nodes_in(tree: Any) -> list[Node]:
    """The nodes in a nest of arguments."""
    found: list[Node] = []
    map_arg(tree, found.append)
    return found


def hashable(tree: Any, of_node: Callable[[Node], Any] = lambda node: node) -> Any:
    """Arguments as a key of a dictionary, in which ``1``, ``1.0`` and ``True`` differ."""
    kind = type(tree)
    if kind is Node:
        return of_node(tree)
    if kind in _NUMBERS:
        return kind, tree
    if isinstance(tree, list | tuple):
        return ("sequence", *[hashable(x, of_node) for x in tree])
    if isinstance(tree, dict):
        return tuple([(key, hashable(tree[key], of_node)) for key in sorted(tree)])
    return tree


def is_number(known: KnownValues, value: Any, number: float) -> bool:
    """Whether an argument is this number, or a constant full of it."""
    return known[value].is_full_of(number) if isinstance(value, Node) else value == number
