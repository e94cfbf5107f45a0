"""Where a command computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.tasks import MetaBatch


@contextmanager
def on_device(device: str | None) -> Iterator[None]:
    """Within, new tensors are on a device; ``cuda`` is each process's own where torchrun has started several.

    Raises:
        ValueError: there is no such device.
    """
    if device is None:
        yield
        return
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.zeros(1, device=device).item()
    # how torch says that there is no such device, that it was not built for it, or that it computes nothing there
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {device} can't be used: {reason}") from None
    with torch.device(device):
        yield


def moved(source: Any, device: str | None) -> Any:
    """A source of meta-batches that are on a device; its own draws stay where they were."""
    if device is None or source is None:
        return source
    if callable(getattr(source, "sample", None)):
        return _Sampler(source, device)
    if isinstance(source, MetaBatch | Tensor | tuple):
        return _there(source, device)
    raise ValueError(f"--device {device} moves what samplers of pyrometa.tasks give: have the program move its own")


class _Sampler:
    """A sampler whose meta-batches are moved."""

    def __init__(self, sampler: Any, device: str) -> None:
        self._sampler, self._device = sampler, device

    def sample(self, tasks: int) -> Any:
        with torch.device("cpu"):
            batch = self._sampler.sample(tasks)
        return _there(batch, self._device)

    def state_dict(self) -> Any:
        return self._sampler.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._sampler.load_state_dict(state)


def _there(batch: Any, device: str) -> Any:
    return nest.mapped(lambda tensor: tensor.to(device), batch)
