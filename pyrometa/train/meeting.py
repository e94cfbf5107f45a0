"""The processes that torchrun has started together find each other, whatever those before them have left."""

from __future__ import annotations

import time
from datetime import timedelta

from torch.distributed.distributed_c10d import Store

from pyrometa.errors import ProcessError

_PAUSE = 0.05


def meet(store: Store, rank: int, count: int, wait: timedelta) -> int:
    """Wait for the other processes of one start.

    torchrun keeps its store as it starts processes again, and with it the addresses of those that are gone. So process
    0 opens a start, the others sign it, each by a number of its own, and take it for theirs once that is answered.
    ``TORCHELASTIC_RESTART_COUNT`` would not tell starts apart: on several machines it differs, as a machine does not
    count those that another one has asked for.

    Args:
        store: where they meet.
        rank: which process this is.
        count: how many there are.
        wait: how long one may wait for another.

    Returns:
        The number of the start, from 1, the same in all of them.

    Raises:
        ProcessError: not all have come.
    """
    until = time.monotonic() + wait.total_seconds()
    return _opened(store, count, until) if rank == 0 else _joined(store, rank, until)


def _opened(store: Store, count: int, until: float) -> int:
    start = store.add("starts", 1)
    store.set("open", str(start))
    others = range(1, count)
    while missing := [rank for rank in others if not store.check([_signature(start, rank)])]:
        _pause(until, f"process {missing[0]} has not come")
    for rank in others:
        store.set(_answer(start, int(store.get(_signature(start, rank)))), "")
    return start


def _joined(store: Store, rank: int, until: float) -> int:
    number = store.add("processes", 1)
    while not (start := _answered(store, rank, number)):
        _pause(until, f"process {rank} waits for the others")
    return start


def _answered(store: Store, rank: int, number: int) -> int:
    """Sign the start that is open; its number if this process was answered, else 0."""
    if not store.check(["open"]):
        return 0
    start = int(store.get("open"))
    store.set(_signature(start, rank), str(number))
    return start if store.check([_answer(start, number)]) else 0


def _signature(start: int, rank: int) -> str:
    return f"{start}/signed by {rank}"


def _answer(start: int, number: int) -> str:
    return f"{start}/answer to {number}"


def _pause(until: float, waits: str) -> None:
    if time.monotonic() > until:
        raise ProcessError(f"the processes have not all come to the start of the run: {waits}")
    time.sleep(_PAUSE)
