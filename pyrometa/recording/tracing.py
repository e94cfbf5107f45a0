"""A run, written down as the tensor operations that it does.

As torch's ``make_fx`` writes them, but for what that keeps of each result to describe it, which takes it most of its
time: tensors are told apart by identity, and nothing holds on to those that the run has let go of.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import base_types, map_aggregate
from torch.utils.weak import WeakTensorKeyDictionary

from pyrometa.errors import UnsupportedProgramError
from pyrometa.internals import TorchDispatchMode, get_unwrapped, is_functorch_wrapped_tensor, tree_leaves

_aten = torch.ops.aten
_PLAIN = (Tensor, nn.Parameter)


class Traced(nn.Module):
    """Tensor operations, and as buffers the constants that they read.

    Attributes:
        graph: the operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()


class Tracing(TorchDispatchMode):
    """Writes down what is done while it is in force, which may be several times.

    Args:
        inputs: the tensors that the operations are written down for.
        parameters: tensors by name that change from one replay to the next. What is not an input is the same at every
            replay, so it must not share memory with one.
    """

    records = True

    def __init__(self, inputs: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._traced = Traced()
        self._nodes: Any = WeakTensorKeyDictionary()
        self._numbers: Any = WeakTensorKeyDictionary()
        self._constants: dict[int, tuple[Tensor, Node]] = {}
        self._parameters: dict[int | None, str] = {
            value.untyped_storage().data_ptr(): name for name, value in parameters.items() if value.numel()
        }
        self._inputs: list[Node] = []
        self.read(inputs)

    def read(self, inputs: Iterable[Tensor]) -> None:
        """Take further tensors as inputs."""
        graph = self._traced.graph
        for value in inputs:
            with graph.inserting_after(self._inputs[-1] if self._inputs else None):
                self._nodes[value] = node = graph.placeholder(f"given_{len(self._inputs)}")
            self._inputs.append(node)

    def traced(self, results: Sequence[Any]) -> Traced:
        """What was written down, up to some results."""
        self._traced.graph.output([self._argument(x) for x in results])
        return self._traced

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given: list[Tensor] = []
        map_aggregate((args, kwargs), lambda x: given.append(x) if isinstance(x, Tensor) else None)
        if not all(type(x) in _PLAIN or x in self._nodes for x in given):
            return NotImplemented
        read_args, read_kwargs = map_aggregate((args, kwargs), self._argument)
        fixed = all(x in self._numbers or x not in self._nodes for x in given)
        if torch.Tag.data_dependent_output in func.tags:
            _check_fixed(fixed)
            return func(*args, **kwargs)
        if func is _aten.lift_fresh.default:  # of a new tensor, which is a constant from now on, and may be written to
            func = _aten.lift_fresh_copy.default
        made = func(*args, **kwargs)
        self._follow(made, self._traced.graph.call_function(func, read_args, read_kwargs))
        self._note_numbers(func, args, kwargs, made, fixed and any(x in self._numbers for x in given))
        return made

    def _argument(self, x: Any) -> Any:
        """What stands for an argument in the graph."""
        if isinstance(x, Tensor):
            return self._nodes[x] if x in self._nodes else self._constant(x)
        if x is None or isinstance(x, base_types):
            return x
        raise UnsupportedProgramError(f"a recording can't hold a {type(x).__name__}, which an operation is given")

    def _constant(self, value: Tensor) -> Node:
        if id(value) not in self._constants:
            name = self._parameters.get(_address(value))
            if name is not None:
                raise UnsupportedProgramError(f"the program reads a tensor that shares memory with {name!r}: clone it")
            name = f"constant_{len(self._constants)}"
            self._traced.register_buffer(name, value, persistent=False)
            self._constants[id(value)] = value, self._traced.graph.get_attr(name)
        return self._constants[id(value)][1]

    def _follow(self, made: Any, node: Node) -> None:
        if isinstance(made, Tensor):
            self._nodes[made] = node
        elif isinstance(made, tuple | list):
            for i, each in enumerate(made):
                if isinstance(each, Tensor | tuple | list):
                    self._follow(each, self._traced.graph.call_function(operator.getitem, (node, i)))

    def _note_numbers(self, func: Any, args: Any, kwargs: Any, made: Any, of_numbers: bool) -> None:
        """Note single numbers that are the same at every run, as of ``torch.tensor(3.0)``: Python may read them."""
        if func is _aten.lift_fresh_copy.default or (of_numbers and torch.Tag.nondeterministic_seeded not in func.tags):
            self._numbers.update((x, None) for x in tree_leaves(made) if isinstance(x, Tensor) and x.numel() <= 1)
        elif func._schema.is_mutable:
            written = {_address(x) for x in _written(func, args, kwargs)}
            for x in [x for x in self._numbers if _address(x) in written]:
                del self._numbers[x]


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The tensors that an operation writes to."""
    names = [
        argument.name for argument in func._schema.arguments if argument.alias_info and argument.alias_info.is_write
    ]
    given = {**dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)), **kwargs}
    return [x for name in names for x in tree_leaves(given.get(name)) if isinstance(x, Tensor)]


def _check_fixed(fixed: bool) -> None:
    """Refuse to tell Python a value that differs from run to run.

    Raises:
        UnsupportedProgramError: with the cure.
    """
    if not fixed:
        raise UnsupportedProgramError(
            "a recording can't follow this: an if, an assert, .item(), float() or int() reads a tensor's value: leave "
            "it a tensor, or compute the number outside and give it as kwargs="
        )


def _address(value: Tensor) -> int | None:
    """Where the memory of a tensor is, under the wrappers of vmap; None for one that has none, as the sparse."""
    while is_functorch_wrapped_tensor(value):
        value = get_unwrapped(value)
    try:
        return value.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return None
