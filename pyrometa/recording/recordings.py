"""When to record, and what to replay."""

from __future__ import annotations

import time
from collections.abc import Hashable, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakValueDictionary

import torch

from pyrometa import generators
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.errors import UnsupportedProgramError
from pyrometa.internals import tree_leaves
from pyrometa.recording import cuda_graphs
from pyrometa.recording.accounts import Account, Counts, Stage
from pyrometa.recording.agreement import agree
from pyrometa.recording.fingerprint import Fingerprint
from pyrometa.recording.going_over import GoingOver
from pyrometa.recording.held import KEPT
from pyrometa.recording.record import record
from pyrometa.recording.recordable import Recordable, Replayable
from pyrometa.types.latest import Latest, LatestBytes

_PATIENCE = 40
"""Runs without a change after which recording, which takes about twenty of them, is sure to be worth while."""

_UNUSED = 3
"""Recordings in a row of which none was replayed, after which there is no point in another."""

_WATCHED = 512
"""Of how many functions it is remembered what became of them."""


@dataclass(frozen=True)
class _Checked:
    """A recording, and what it gave when it was checked.

    Attributes:
        recording: the recording.
        result: of the function at hand; None where another replay would draw other numbers.
    """

    recording: Replayable
    result: Any


class Recordings:
    """The recordings of functions that share their state, as those of one program do.

    Args:
        eager: record on first sight, and raise where that can't be done; else record what comes again and again, and
            run what can't be recorded as it is.
        compiled: compile what is recorded: now, never, or after so many replays that it pays.

    Attributes:
        kept: recordings by key and state, the least recently used first.
        counts: how often functions were run.
        accounts: what there is to say of the runs, by function.
    """

    def __init__(self, *, eager: bool, compiled: bool | Literal["auto"]) -> None:
        self.kept: LatestBytes[tuple[Hashable, Fingerprint], Replayable] = LatestBytes(KEPT)
        self.counts = Counts()
        self.accounts: Latest[Hashable, Account] = Latest(_WATCHED)
        self._eager, self._compiled = eager, compiled
        self._parts: dict[Fingerprint, WeakValueDictionary[Any, Any]] = {}
        self._last_state: Fingerprint | None = None
        self._known: tuple[Recordable, Any] | None = None
        self._labels: Latest[Hashable, str] = Latest(_WATCHED)
        self._not_replayed: Latest[Hashable, list[Fingerprint]] = Latest(_WATCHED)
        self._refused: Latest[Hashable, None] = Latest(_WATCHED)

    def recording(self, function: Recordable) -> Replayable | None:
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
            self._account(key, function).why = str(error)
            return None

    def replayed(self, recording: Replayable, function: Recordable) -> Any:
        """What a recording gives; of the function that it was just checked on, what it gave then."""
        known, self._known = self._known, None
        return recording.of(function) if known is None or known[0] is not function else known[1]

    @property
    def last_state(self) -> Fingerprint | None:
        """The state of the last run."""
        return self._last_state

    def again(self, function: Recordable) -> Replayable | None:
        """The recording that the last run was a replay of, for a run of the same function.

        None where the program is not what it was then, or where more is to do than to replay. What comes of it is told
        by :meth:`repeated`.
        """
        key, state = function.key, self._last_state
        if state is None or (key, state) not in self.kept or key not in self._labels:
            return None
        try:
            self._last_state = function.state(state)
        except UnsupportedProgramError as error:
            check_interrupt(error)
            return None
        label, made = self._labels[key], self.kept[key, state]
        replays = self._replays(self.counts.next(label, state))
        if self._last_state is not state or (isinstance(made, GoingOver) and made.is_due(replays)):
            return None
        self._not_replayed[key] = []
        return made

    def repeated(self, function: Recordable, recording: Replayable, seconds: float) -> None:
        """Count a replay of :meth:`again` that was of use."""
        if self._last_state is not None:
            self.counts.count(self._labels[function.key], self._last_state)
        self.ran(function, recording, seconds)

    def ran(self, function: Recordable, recording: Replayable | None, seconds: float) -> None:
        """Note how long a run took."""
        self._account(function.key, function).add(self._stage(recording), seconds)

    def told(self) -> list[Account]:
        """What there is to say of the runs."""
        for (key, _), recording in self.kept.items():
            account = self.accounts.get(key)
            if account is not None:
                account.graphs = cuda_graphs.told(recording)
        return list(self.accounts.values())

    def _stage(self, recording: Replayable | None) -> Stage:
        if recording is None:
            return "as it is"
        compiled = recording.seconds is not None if isinstance(recording, GoingOver) else self._compiled is True
        return "compiled" if compiled else "recorded"

    def _account(self, key: Hashable, function: Recordable) -> Account:
        if key not in self.accounts:
            self.accounts[key] = Account(function.title)
        return self.accounts[key]

    def _found_or_made(self, key: Hashable, function: Recordable) -> Replayable | None:
        state = self._last_state = function.state(self._last_state)
        if key not in self._labels:
            self._labels[key] = function.label
        replays = self._replays(self.counts.count(self._labels[key], state))
        if replays <= 0:
            return None
        account, started = self._account(key, function), time.perf_counter()
        made = self._kept_or_made(key, state, function)
        account.recording += time.perf_counter() - started
        if isinstance(made, GoingOver):
            made.at(replays, function)
            account.compiling, account.why = made.seconds or 0.0, made.stays or ""
            self._known = self._known if made.seconds is None else None  # compiled it rounds otherwise
        return made

    def _replays(self, runs: int) -> int:
        """How many of so many runs are replays."""
        return runs - (0 if self._eager else _PATIENCE)

    def _kept_or_made(self, key: Hashable, state: Fingerprint, function: Recordable) -> Replayable | None:
        self._known = None
        if (key, state) in self.kept:
            self._not_replayed[key] = []
            return self.kept[key, state]
        self._check_use(key, state)
        checked = _checked(function, state, self._parts_of(state), compiled=self._compiled is True)
        if checked is None:
            return None
        made = GoingOver(checked.recording) if self._compiled == "auto" else checked.recording
        self._known = None if checked.result is None else (function, checked.result)
        self.kept[key, state] = made
        self._not_replayed.setdefault(key, []).append(state)
        return made

    def _parts_of(self, state: Fingerprint) -> MutableMapping[Any, Any]:
        """The parts of recordings that are kept, of one state."""
        self._parts = {known: parts for known, parts in self._parts.items() if parts}
        return self._parts.setdefault(state, WeakValueDictionary())

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


def _checked(
    function: Recordable, state: Fingerprint, parts: MutableMapping[Any, Any], *, compiled: bool
) -> _Checked | None:
    """Make a recording, and check that a replay gives the numbers that the function gives.

    Where these are not finite, there is nothing to check it by, and a run of the function as it is can say why.

    Returns:
        The recording; None where it can't be checked.

    Raises:
        UnsupportedProgramError: with the reason why there is none.
    """
    with generators.forked():
        before = generators.states()
        expected = function.run()
        draws_its_own = generators.moved_since(before)
    changed = state.first_difference(function.state(state))
    if changed is not None:
        raise UnsupportedProgramError(
            f"this program can't be recorded: it changes {changed} as it runs; keep that outside, or use "
            "Engine(record=False)"
        )
    if not all(bool(torch.isfinite(value).all()) for value in tree_leaves(expected)):
        return None
    expected = None if draws_its_own else expected  # other draws give other numbers by design
    return _in_parts(function, expected, parts, compiled=compiled) or _whole(function, expected, compiled=compiled)


def _in_parts(
    function: Recordable, expected: Any, parts: MutableMapping[Any, Any], *, compiled: bool
) -> _Checked | None:
    """A recording in parts; None without one, or where one of the whole may do what it can't."""
    made = function.in_parts(parts, compiled=compiled)
    try:
        return None if made is None else _replayed(made, function, expected)
    except Exception as error:
        check_interrupt(error)
        return None


def _whole(function: Recordable, expected: Any, *, compiled: bool) -> _Checked:
    """A recording of the whole function.

    Raises:
        UnsupportedProgramError: with the reason why there is none.
    """
    try:
        made = record(function.on, function.tensors(), function.parameters, compiled=compiled)
    except Exception as error:  # whatever torch or the program raises is the reason
        raise UnsupportedProgramError(
            f"this program can't be recorded: {function.told(error)}; use Engine(record=False)", has_line=True
        ) from error
    checked = _replayed(made, function, expected)
    if checked is None:
        raise UnsupportedProgramError(
            "this program can't be recorded: replayed it gives other numbers; use Engine(record=False)"
        )
    return checked


def _replayed(made: Replayable, function: Recordable, expected: Any) -> _Checked | None:
    """A recording with what a replay gives; None where that is not what is expected, if something is."""
    with generators.forked():
        found = made.of(function)
    if expected is None:
        return _Checked(made, None)
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return _Checked(made, found) if all(agree(f, e, double=1e-9, single=1e-3) for f, e in pairs) else None
