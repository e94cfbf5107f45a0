"""The processes of a run, where torchrun has started several."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pyrometa.processes import Processes, checksum
from pyrometa.train.meeting import meet
from pyrometa.train.seeded import own_generators

_Value = TypeVar("_Value")
_GROUPS = itertools.count()
_CONNECTING = timedelta(minutes=1)
"""How long processes may take to connect once all are there, lest one wait for what never answers."""

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def process_group() -> Iterator[tuple[Processes, bool]]:
    """The processes of the default group, and whether they were started again, after one was lost.

    The group is the one that is there, or one that torchrun's variables ask for, which is ended afterwards.

    Raises:
        ProcessError: not all of them have come.
    """
    own = distributed.is_available() and not distributed.is_initialized() and all(map(os.environ.get, _TORCHRUN))
    again = restarted()
    if own:
        again |= _begin() > 1
    try:
        processes = Processes.of_group()
        yield processes, bool(*agreed(processes, [int(again)]))
        if own:
            distributed.barrier()
    finally:
        if own:
            distributed.destroy_process_group()


def restarted() -> bool:
    """Whether torchrun counts that it has started this process again; on several machines that differs."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def of_first(processes: Processes, value: _Value) -> _Value:
    """What process 0 has, in all of them."""
    if processes.count == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held, 0)
    return held[0]


def of_each(processes: Processes, value: _Value) -> list[_Value]:
    """What each process has, in all of them."""
    if processes.count == 1:
        return [value]
    held: list[Any] = [None] * processes.count
    distributed.all_gather_object(held, value)
    return held


def agreed(processes: Processes, numbers: list[int]) -> list[int]:
    """The largest of each number over the processes."""
    if processes.count == 1:
        return numbers
    return [int(largest) for largest in processes.of_all(numbers).amax(0)]


def check_generators(processes: Processes) -> None:
    """Refuse random generators of numpy and Python that are not the same in all processes; MetaSVI compares torch's.

    Raises:
        ProcessError: with the cure.
    """
    if processes.count > 1:
        state = own_generators()
        others = zlib.crc32(repr((state["numpy"][2:], state["python"])).encode())
        processes.check_alike({"random generators": checksum([torch.from_numpy(state["numpy"][1])], others)})


def _begin() -> int:
    """Start the group; how often its processes have been started."""
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))))
        torch.cuda.set_device(devices[-1])
    store, rank, count = next(rendezvous("env://"))
    own = PrefixStore(f"pyrometa/{next(_GROUPS)}", store)  # that of the last group still has its addresses
    start = meet(own, rank, count, default_pg_timeout)
    backend = "cpu:gloo,cuda:nccl" if len(devices) > 1 else "gloo"
    theirs = PrefixStore(str(start), own)
    distributed.init_process_group(backend, store=theirs, rank=rank, world_size=count, timeout=_CONNECTING)
    group: Any = distributed.group.WORLD
    for device in devices:
        group._get_backend(device)._set_default_timeout(default_pg_timeout)
    return start
