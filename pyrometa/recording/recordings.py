"""When to record, and what to replay."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.errors import UnsupportedProgramError
from pyrometa.internals import tree_leaves
from pyrometa.recording.agreement import agree
from pyrometa.recording.fingerprint import Fingerprint
from pyrometa.recording.record import Recording, record
from pyrometa.types.latest import Latest

_PATIENCE = 20
"""Runs without a change after which recording, which takes about a hundred of them, is worth while."""

_UNUSED = 3
"""Recordings in a row of which none was replayed, after which there is no point in another."""

_KEPT = 8
"""How many recordings are kept: enough for a few shapes, training and evaluation, meta-steps and scores."""


_WATCHED = 512
"""Of how many functions it is remembered what became of them."""


class Recordable(Protocol):
    """A function of tensors, and of state that is not in them."""

    @property
    def key(self) -> Hashable:
        """What is fixed in a recording besides the state: where two keys agree, the tensors have the same shapes."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Tensors by name that change from run to run; the function may read them among its tensors only."""

    def state(self, known: Fingerprint | None) -> Fingerprint:
        """What the function depends on besides its tensors; ``known`` itself where that still holds."""

    def tensors(self) -> list[Tensor]:
        """The tensors to run on."""

    def run(self) -> Any:
        """The function of :meth:`tensors`, as it is."""

    def on(self, tensors: Sequence[Tensor]) -> Any:
        """The function of other tensors, in the form that is recorded."""

    def told(self, error: Exception) -> str:
        """An error in words for whoever wrote the function."""


class Recordings:
    """The recordings of functions that share their state, as those of one program do.

    Args:
        eager: record on first sight, and raise where that can't be done; else record what comes again and again, and
            run what can't be recorded as it is.
        compiled: compile what is recorded.

    Attributes:
        kept: recordings by key and state, the least recently used first.
    """

    def __init__(self, *, eager: bool, compiled: bool) -> None:
        self.kept: OrderedDict[tuple[Hashable, Fingerprint], Recording] = OrderedDict()
        self._eager, self._compiled = eager, compiled
        self._last_state: Fingerprint | None = None
        self._runs_unchanged: Latest[Hashable, tuple[Fingerprint, int]] = Latest(_WATCHED)
        self._not_replayed: Latest[Hashable, list[Fingerprint]] = Latest(_WATCHED)
        self._refused: Latest[Hashable, None] = Latest(_WATCHED)

    def recording(self, function: Recordable) -> Recording | None:
        """The recording to replay, made now if it is time for it; None to run the function as it is.

        Raises:
            UnsupportedProgramError: the function can't be recorded, and was to be.
        """
        key = function.key
        if key in self._refused:
            return None
        try:
            return self._found_or_made(key, function)
        except UnsupportedProgramError as error:
            check_interrupt(error)
            if self._eager:
                raise
            self._refused[key] = None
            return None

    def _found_or_made(self, key: Hashable, function: Recordable) -> Recording | None:
        state = self._last_state = function.state(self._last_state)
        found = self.kept.get((key, state))
        if found is not None:
            self.kept.move_to_end((key, state))
            self._not_replayed[key] = []
            return found
        if not (self._eager or self._keeps_coming(key, state)):
            return None
        self._check_use(key, state)
        made = _checked(function, state, compiled=self._compiled)
        if made is None:
            return None
        self.kept[key, state] = made
        self._not_replayed.setdefault(key, []).append(state)
        if len(self.kept) > _KEPT:
            self.kept.popitem(last=False)
        return made

    def _check_use(self, key: Hashable, state: Fingerprint) -> None:
        """Refuse another recording where the last ones were never replayed, since the state changes at every run.

        Raises:
            UnsupportedProgramError: naming what differs.
        """
        unused = self._not_replayed.get(key, [])
        if len(unused) == _UNUSED:
            raise UnsupportedProgramError(
                f"this program can't be recorded: {unused[-1].first_difference(state)} is another at every run; give "
                "what changes as an argument, or use Engine(record=False)"
            )

    def _keeps_coming(self, key: Hashable, state: Fingerprint) -> bool:
        last, count = self._runs_unchanged.get(key, (state, 0))
        count = count + 1 if last == state else 1
        self._runs_unchanged[key] = (state, count)
        return count > _PATIENCE


def _checked(function: Recordable, state: Fingerprint, *, compiled: bool) -> Recording | None:
    """Make a recording, and check that a replay gives the numbers that the function gives.

    Where these are not finite, there is nothing to check it by, and a run of the function as it is can say why.

    Returns:
        The recording; None where it can't be checked.

    Raises:
        UnsupportedProgramError: with the reason why there is none.
    """
    with torch.random.fork_rng():
        before = torch.get_rng_state()
        expected = function.run()
        draws_its_own = not torch.equal(before, torch.get_rng_state())
    changed = state.first_difference(function.state(state))
    if changed is not None:
        raise UnsupportedProgramError(
            f"this program can't be recorded: it changes {changed} as it runs; keep that outside, or use "
            "Engine(record=False)"
        )
    if not all(bool(torch.isfinite(value).all()) for value in tree_leaves(expected)):
        return None
    try:
        made = record(function.on, function.tensors(), function.parameters, compiled=compiled)
    except Exception as error:  # whatever torch or the program raises is the reason
        raise UnsupportedProgramError(
            f"this program can't be recorded: {function.told(error)}; use Engine(record=False)", has_line=True
        ) from error
    if not (draws_its_own or _says(made, function.tensors(), expected)):  # other draws give other numbers by design
        raise UnsupportedProgramError(
            "this program can't be recorded: replayed it gives other numbers; use Engine(record=False)"
        )
    return made


def _says(made: Recording, tensors: Sequence[Tensor], expected: Any) -> bool:
    """Whether a replay gives what was expected."""
    with torch.random.fork_rng():
        found = made.replay(tensors)
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return all(agree(f, e, double=1e-9, single=1e-3) for f, e in pairs)
