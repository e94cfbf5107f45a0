"""Let a program run on other parameter values than its own."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import transform_to

from pyrometa.errors import ReachError
from pyrometa.program.leaves import Leaf
from pyrometa.types import CountedRows


class AnswerParams(Messenger):
    """Answers every ``param`` message with a given value, so that none reaches the param store.

    It works under both settings of Pyro's ``module_local_params``, for ``PyroParam``, for ``pyro.module``
    and for bare ``pyro.param`` alike. Each answer carries ``.unconstrained`` as the param store's do.
    """

    def __init__(
        self, leaves: Iterable[Leaf], values: Mapping[str, Tensor], answers: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        named = list(leaves)
        self._leaves = {leaf.name: leaf for leaf in named}
        self._leaves.update((site, leaf) for leaf in named for site in leaf.sites)
        self._values = values
        self._by_value = {id(values[name]): answer for name, answer in (answers or {}).items()}
        self._answers = {name: _answer(answer, values[name]) for name, answer in (answers or {}).items()}

    def _pyro_param(self, msg: Any) -> None:
        leaf = self._leaves.get(msg["name"])
        if leaf is None:
            raise ReachError(
                f"the program asks for parameter {msg['name']!r}, which it did not have on first data: "
                "create every parameter on every path through the model and the guide"
            )
        if msg["fn"].__module__ == PyroModule.__module__:  # a local parameter, of a name that others may have too
            held: Any = _local_value(msg)
            msg["value"] = self._by_value.get(id(held.unconstrained()), held)
        else:
            if leaf.name not in self._answers:
                self._answers[leaf.name] = constrained(leaf, self._values.get(leaf.name, leaf.tensor))
            msg["value"] = self._answers[leaf.name]
        msg["done"] = True
        # SVI that goes on from an adapted guide sees the adapted values and leaves the user's own alone
        msg["stop"] = not any(msg["value"].unconstrained() is value for value in self._values.values())


def _local_value(msg: Any) -> Tensor:
    """What the module that sends the message holds, where :func:`swapped` has put the value that counts."""
    value = msg["fn"]()
    if not hasattr(value, "unconstrained"):
        value.unconstrained = weakref.ref(value)
    return value


def constrained(leaf: Leaf, value: Tensor) -> Tensor:
    """The value that the program sees for an unconstrained one, with ``.unconstrained`` set."""
    return _answer(transform_to(leaf.constraint)(value), value)


def _answer(answer: Tensor, unconstrained: Tensor) -> Tensor:
    answer.unconstrained = weakref.ref(unconstrained)  # type: ignore[attr-defined]
    return answer


@contextmanager
def swapped(leaves: Iterable[Leaf], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Hold ``values`` in the modules' parameter slots, and put the users' own tensors back at the end."""
    changed = [(module, key, values[leaf.name]) for leaf in leaves if leaf.name in values for module, key in leaf.slots]
    recurrent = {id(m): m for m, _, _ in changed if isinstance(m, nn.RNNBase)}.values()
    saved = [(module, key, module._parameters[key]) for module, key, _ in changed]
    saved_flat = [(module, module._flat_weights, module._flat_weight_refs) for module in recurrent]
    try:
        for module, key, value in changed:
            module._parameters[key] = value  # type: ignore[assignment]
        for rnn in recurrent:
            rnn._flat_weights = [rnn._parameters[name] for name in rnn._flat_weights_names]
            rnn._flat_weight_refs = [None if w is None else weakref.ref(w) for w in rnn._flat_weights]
        yield
    finally:
        for module, key, tensor in saved:
            module._parameters[key] = tensor
        for rnn, flat, refs in saved_flat:
            rnn._flat_weights, rnn._flat_weight_refs = flat, refs


class MaskRows(Messenger):
    """Counts only the first rows of padded data, at every site of the plates that have a size of so many rows."""

    def __init__(self, rows: CountedRows) -> None:
        super().__init__()
        self._rows = rows

    def _pyro_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.name in self._rows.plates:
                counts = self._rows.mask(frame.size).reshape(-1, *(1,) * (-1 - frame.dim))
                msg["mask"] = counts if msg["mask"] is None else msg["mask"] & counts


class MaskSupport(Messenger):
    """Tells a guide that reads padded data which of its rows count, where it asks by a ``row_mask`` message."""

    def __init__(self, rows: CountedRows) -> None:
        super().__init__()
        self._rows = rows

    def _pyro_row_mask(self, msg: Any) -> None:
        whole = msg["fn"](*msg["args"])
        msg["value"], msg["done"] = whole & self._rows.mask(whole.shape[-1]), True
