"""The processes of a run, where torchrun has started several."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pyrometa.processes import Processes, checksum
from pyrometa.train.seeded import own_generators

_Value = TypeVar("_Value")
_GROUPS = itertools.count()
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def process_group() -> Iterator[Processes]:
    """The processes of the default group: the one that is there, or one that torchrun's variables ask for.

    The latter is ended afterwards.
    """
    own = distributed.is_available() and not distributed.is_initialized() and all(map(os.environ.get, _TORCHRUN))
    if own:
        _begin()
    try:
        yield Processes.of_group()
        if own:
            distributed.barrier()
    finally:
        if own:
            distributed.destroy_process_group()


def restarted() -> bool:
    """Whether torchrun has started these processes again, after one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def of_first(processes: Processes, value: _Value) -> _Value:
    """What process 0 has, in all of them."""
    if processes.count == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held, 0)
    return held[0]


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


def _begin() -> None:
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    store, rank, count = next(rendezvous("env://"))
    own = PrefixStore(f"pyrometa/{next(_GROUPS)}", store)  # that of the last group still has its addresses
    distributed.init_process_group(backend, store=own, rank=rank, world_size=count)
