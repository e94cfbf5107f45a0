"""Put back what an update of the outer optimiser has changed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrometa.internals import flatten_dense_tensors, unflatten_dense_tensors

_Copies = list[tuple[Sequence[Tensor], Tensor]]


class Undo:
    """A context that undoes an update: if what runs within fails, all that it changed is put back.

    That is the leaves and their gradients, and the optimiser's state and groups.

    Args:
        optimizer: a torch optimiser.
        leaves: what it updates.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, leaves: Iterable[Tensor]) -> None:
        self._optimizer, self._attributes = optimizer, vars(optimizer).copy()
        self._grads = [(leaf, leaf.grad) for leaf in leaves]
        holders = [*optimizer.param_groups, *(state for state in optimizer.state.values() if isinstance(state, dict))]
        self._entries = [(holder, _kept(holder)) for holder in holders]
        self._states = dict(optimizer.state)
        held = [value for holder in holders for value in holder.values() if isinstance(value, Tensor)]
        self._copies = _copied([*(leaf for leaf, _ in self._grads), *held])

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._restore()

    @torch.no_grad()
    def _restore(self) -> None:
        for tensors, flat in self._copies:
            for tensor, value in zip(tensors, unflatten_dense_tensors(flat, tensors), strict=True):
                tensor.copy_(value)
        vars(self._optimizer).update(self._attributes)
        for holder, entries in self._entries:
            holder.clear()
            holder.update(entries)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._states)
        for leaf, grad in self._grads:
            leaf.grad = grad


def _kept(holder: dict[str, Any]) -> dict[str, Any]:
    """The same entries; containers other than the list of parameters are copied."""
    kept = holder.copy()
    for key, value in holder.items():
        if type(value) in (list, dict, set) and key != "params":
            kept[key] = copy.deepcopy(value)
    return kept


def _copied(tensors: Iterable[Tensor]) -> _Copies:
    """Copies of tensors, those of one type and device end to end: one copy is faster than many small ones."""
    alike: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    with torch.no_grad():
        return [(members, flatten_dense_tensors(members)) for members in alike.values()]
