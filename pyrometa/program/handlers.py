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

    Most messages ask by a name that is one leaf's alone, and are answered by it. A module with local parameters asks by
    a name that other modules may have too: it is answered by what it holds, where :func:`swapped` put the value.

    Args:
        leaves: the program's parameters.
        values: unconstrained values by the leaves' names; a leaf that is not named keeps its own.
        answers: what the program sees for some of the values, where that is known already.
    """

    def __init__(
        self, leaves: Iterable[Leaf], values: Mapping[str, Tensor], answers: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        named = list(leaves)
        self._leaves = {leaf.name: leaf for leaf in named}
        self._leaves.update((site, leaf) for leaf in named for site in leaf.sites)
        self._values, self._given = values, {id(value) for value in values.values()}
        self._by_value = {id(values[name]): answer for name, answer in (answers or {}).items()}
        self._by_name = {name: _answer(answer, values[name]) for name, answer in (answers or {}).items()}

    def _pyro_param(self, msg: Any) -> None:
        leaf = self._leaves.get(msg["name"])
        if leaf is None:
            raise ReachError(
                f"the program asks for parameter {msg['name']!r}, which it did not have on first data: "
                "create every parameter on every path through the model and the guide"
            )
        is_local = msg["fn"].__module__ == PyroModule.__module__
        msg["value"] = self._of_module(msg) if is_local else self._of_leaf(leaf)
        msg["done"] = True
        # SVI that goes on from an adapted guide sees the adapted values and leaves the user's own alone
        msg["stop"] = id(msg["value"].unconstrained()) not in self._given

    def _of_leaf(self, leaf: Leaf) -> Tensor:
        """The same tensor each time that the program asks."""
        if leaf.name not in self._by_name:
            self._by_name[leaf.name] = constrained(leaf, self._values.get(leaf.name, leaf.tensor))
        return self._by_name[leaf.name]

    def _of_module(self, msg: Any) -> Tensor:
        """What the module that sends the message holds, constrained."""
        held = msg["fn"]()
        if not hasattr(held, "unconstrained"):
            held.unconstrained = weakref.ref(held)
        return self._by_value.get(id(held.unconstrained()), held)


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
    """Lets only the rows of padded data count that are the task's own, at every site of a plate over the rows."""

    def __init__(self, rows: CountedRows) -> None:
        super().__init__()
        self._rows = rows

    def _pyro_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.name in self._rows.plates:
                counts = self._rows.mask(frame.size).reshape(-1, *(1,) * (-1 - frame.dim))
                msg["mask"] = counts if msg["mask"] is None else msg["mask"] & counts


class MaskSupport(Messenger):
    """Answers the ``row_mask`` message of a guide that reads padded data: which rows are the task's own."""

    def __init__(self, rows: CountedRows) -> None:
        super().__init__()
        self._rows = rows

    def _pyro_row_mask(self, msg: Any) -> None:
        whole = msg["fn"](*msg["args"])
        msg["value"], msg["done"] = whole & self._rows.mask(whole.shape[-1]), True
