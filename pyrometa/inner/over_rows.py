"""A function of one row's tensors, such as a rule of one task's, for many rows side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.func import vmap

from pyrometa.internals import tree_flatten, tree_map, tree_unflatten

_TENSOR = object()


def over_rows(function: Callable[..., Any], *given: Any) -> Any:
    """A function of one row's tensors, on all rows; what else it takes and returns is the same for all.

    ``vmap`` lets a function return tensors only, so anything else is put aside as it runs, and put back in its place.

    Args:
        function: takes and returns tuples, lists and dictionaries of tensors and of anything else.
        given: its arguments, in which each tensor has a leading dimension of rows.
    """
    structure: list[Any] = []

    def tensors(*one: Any) -> list[Tensor]:
        found, spec = tree_flatten(function(*one))
        structure[:] = [[_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in found], spec]
        return [leaf for leaf in found if isinstance(leaf, Tensor)]

    dims = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, given)
    batched = iter(vmap(tensors, dims)(*given))
    others, spec = structure
    return tree_unflatten([next(batched) if leaf is _TENSOR else leaf for leaf in others], spec)
