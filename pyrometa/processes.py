"""The processes of a run, each of which computes its share of a meta-batch."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from pyrometa import nest
from pyrometa.errors import NonFiniteError, ProcessError, in_short
from pyrometa.generators import states as generator_states
from pyrometa.types import TaskBatch

_CURES = {
    "meta-batches": "each takes its share of the whole meta-batch, so give all the same: one seed, no "
    "DistributedSampler",
    "random generators": "seed all alike, and draw in all of them or in none, in callbacks and in what gives "
    "meta-batches too",
}


@dataclass(frozen=True)
class Processes:
    r"""The processes that work on one meta-batch, and which of them this is.

    All hold the same parameters and draw the same meta-batch with the same noise, so that a task's noise does not
    depend on how many they are. Process r of W computes tasks :math:`\lfloor r B / W \rfloor` up to
    :math:`\lfloor (r + 1) B / W \rfloor`, which may be none, and sums go to all of them:

    .. math:: g = \frac{1}{B} \sum_{r} \sum_{t \in \text{share}(r)} g_t

    Attributes:
        rank: which process this is.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @staticmethod
    def of_group() -> Processes:
        """Those of torch's default process group; this one alone where there is none."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return ALONE
        return Processes(distributed.get_rank(), distributed.get_world_size())

    def share(self, groups: Sequence[TaskBatch]) -> list[TaskBatch]:
        """This process's tasks of a meta-batch, with their positions in the whole of it."""
        if self.count == 1:
            return list(groups)
        total = sum(len(group) for group in groups)
        mine = range(total * self.rank // self.count, total * (self.rank + 1) // self.count)
        rows = [[row for row, index in enumerate(group.index) if index in mine] for group in groups]
        return [group.chosen(some) for group, some in zip(groups, rows, strict=True) if some]

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """What runs within succeeds in all processes, or fails in all of them with one message.

        Raises:
            NonFiniteError: of any process, in all.
            ProcessError: another error, in the processes that it was not raised in.
        """
        error = None
        try:
            yield
        except Exception as raised:
            if self.count == 1:
                raise
            error = raised
        if self.count > 1:
            self._raise_first(error)

    def gathered(self, own: Sequence[tuple[Sequence[int], Tensor]], count: int, shape: Sequence[int] = ()) -> Tensor:
        """The rows of all tasks of a meta-batch, from the processes that have them.

        Args:
            own: this process's rows, some at a time: their positions in the meta-batch, and a tensor of shape
                ``(positions, *shape)``.
            count: the number of tasks.
            shape: a row's; all rows are of it.

        Returns:
            Shape ``(count, *shape)``; in double precision if there are several processes.
        """
        if self.count == 1:
            return _in_order(own)
        rows = torch.zeros(count, *shape, dtype=torch.float64, device=_device())
        for index, some in own:
            rows[list(index)] = some.to(rows)
        self.sum_up([rows])
        return rows

    def sum_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over the processes, in place."""
        if self.count == 1:
            return
        kinds = dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors)
        for kind in kinds:
            some = [tensor for tensor in tensors if (tensor.dtype, tensor.device) == kind]
            flat = torch.cat([tensor.reshape(-1) for tensor in some])
            distributed.all_reduce(flat)
            for tensor, part in zip(some, flat.split([tensor.numel() for tensor in some]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def of_all(self, numbers: Sequence[int]) -> Tensor:
        """The numbers of each process, all below 2**53, shape ``(processes, numbers)``."""
        row = torch.tensor(numbers, dtype=torch.float64)
        return self.gathered([((self.rank,), row[None])], self.count, row.shape).cpu()

    def check_batch(self, batch: Any) -> None:
        """Refuse meta-batches, or generators of torch to draw their noise from, that are not the same in all processes.

        Args:
            batch: any nest; its tensors are compared.

        Raises:
            ProcessError: with the cure.
        """
        if self.count > 1:
            generators = checksum(generator_states())
            self.check_alike({"meta-batches": checksum(nest.tensors(batch)), "random generators": generators})

    def check_alike(self, checksums: Mapping[str, int]) -> None:
        """Refuse to go on where processes that should agree do not.

        Args:
            checksums: of this process, of "meta-batches" or "random generators".

        Raises:
            ProcessError: with what each process has, and the cure.
        """
        for what, column in zip(checksums, self.of_all(list(checksums.values())).T, strict=True):
            if (column != column[0]).any():
                theirs = ", ".join(str(int(number)) for number in column)
                raise ProcessError(f"processes have different {what} ({theirs}): {_CURES[what]}")

    def _raise_first(self, error: Exception | None) -> None:
        """Raise the error of the first process that has one."""
        failed = torch.tensor([float(error is not None)], device=_device())
        distributed.all_reduce(failed)
        if not failed:
            return
        rank, first = next((rank, told) for rank, told in enumerate(self._told(_said(error))) if told is not None)
        if rank == self.rank and error is not None:
            raise error
        raise _raised(rank, first)

    def _told(self, own: Any) -> list[Any]:
        """What each process says, in their order."""
        everyone: list[Any] = [None] * self.count
        distributed.all_gather_object(everyone, own)
        return everyone


def _in_order(parts: Sequence[tuple[Sequence[int], Tensor]]) -> Tensor:
    index = [i for some, _ in parts for i in some]
    rows = torch.cat([some for _, some in parts])
    return rows if index == sorted(index) else rows[torch.tensor(index, device=rows.device).argsort()]


ALONE = Processes()
"""One process, which computes everything."""


def checksum(tensors: Iterable[Tensor], of: int = 0) -> int:
    """One number of the shapes and bits of tensors, going on from another one."""
    for tensor in tensors:
        of = zlib.crc32(_bytes(tensor), zlib.crc32(str(tuple(tensor.shape)).encode(), of))
    return of


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _device() -> torch.device:
    """Where a process group takes its tensors from."""
    on_gpu = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _said(error: Exception | None) -> dict[str, Any] | None:
    if error is None:
        return None
    if isinstance(error, NonFiniteError):
        where = {"task": error.task, "step": error.step, "parameter": error.parameter}
        return {"message": str(error), "where": where}
    return {"message": in_short(error)}


def _raised(rank: int, said: Mapping[str, Any]) -> Exception:
    if "where" in said:
        return NonFiniteError(said["message"], **said["where"])
    return ProcessError(f"process {rank} ended: {said['message']}")
