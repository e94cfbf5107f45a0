"""An inner rule on the variational parameters of many data, each datum by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyrometa.inner import InnerRule, over_rows

Params = dict[str, Tensor]


class RowRule:
    """A rule that sees one row at a time: tensors ``(*plates, size)`` are moved as that many of ``(size,)``.

    Args:
        rule: the inner rule.
        proposal: tensors of the names and shapes to be moved.
    """

    def __init__(self, rule: InnerRule, proposal: Mapping[str, Tensor]) -> None:
        self._rule = rule
        self._plates = {name: value.shape[:-1] for name, value in proposal.items()}
        shapes = dict.fromkeys(self._plates.values())
        self._kinds = [[n for n, s in self._plates.items() if s == shape] for shape in shapes]

    def init(self, proposal: Mapping[str, Tensor]) -> list[Any]:
        """The rule's first state of each row, for each shape of plates."""
        return [over_rows(self._rule.init, self._rows(names, proposal)) for names in self._kinds]

    def update(
        self,
        proposal: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        states: list[Any],
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, list[Any]]:
        """One step of each row."""

        def one(params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
            return self._rule.update(params, grads, state, learned, step)

        moved, after = {}, []
        for names, state in zip(self._kinds, states, strict=True):
            rows, state = over_rows(one, self._rows(names, proposal), self._rows(names, grads), state)
            moved.update({name: rows[name].reshape(self._plates[name] + rows[name].shape[1:]) for name in names})
            after.append(state)
        return {name: moved[name] for name in proposal}, after

    @staticmethod
    def _rows(names: list[str], tensors: Mapping[str, Tensor]) -> Params:
        return {name: tensors[name].reshape(-1, tensors[name].shape[-1]) for name in names}
