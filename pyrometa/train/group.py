"""The processes of a run, where torchrun has started several."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pyrometa import nest
from pyrometa.processes import Processes
from pyrometa.train.pairs import Pair
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
    return [int(largest) for largest in _of_all(processes, numbers).amax(0)]


def check_alike(processes: Processes, batch: Pair) -> None:
    """Refuse meta-batches and random generators that are not the same in all processes.

    Raises:
        ProcessError: with the cure.
    """
    if processes.count == 1:
        return
    numbers = [_checksum(nest.tensors(batch)), _generators()]
    rows = _of_all(processes, numbers)
    if (rows == rows[0]).all():
        return
    whole = "each takes its share of the whole meta-batch, so give all the same: one seed, no DistributedSampler"
    processes.check_alike("meta-batches", numbers[0], whole)
    cure = "draw in all of them or in none, in callbacks and in what gives meta-batches too"
    processes.check_alike("random generators", numbers[1], cure)


def _begin() -> None:
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    store, rank, count = next(rendezvous("env://"))
    own = PrefixStore(f"pyrometa/{next(_GROUPS)}", store)  # that of the last group still has its addresses
    distributed.init_process_group(backend, store=own, rank=rank, world_size=count)


def _of_all(processes: Processes, numbers: list[int]) -> Tensor:
    """The numbers of each process, shape ``(processes, numbers)``."""
    row = torch.tensor(numbers, dtype=torch.float64)
    return processes.gathered({processes.rank: row}, processes.count, row.shape).cpu()


def _checksum(tensors: list[Tensor]) -> int:
    number = 0
    for tensor in tensors:
        number = zlib.crc32(_bytes(tensor), zlib.crc32(str(tuple(tensor.shape)).encode(), number))
    return number


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _generators() -> int:
    state = own_generators()
    tensors = [state["torch"], *state["cuda"], torch.from_numpy(state["numpy"][1])]
    return zlib.crc32(repr((state["numpy"][2:], state["python"])).encode(), _checksum(tensors))
