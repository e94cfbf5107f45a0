"""Operations captured by torch's ``CUDAGraph``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pyrometa.recording.capturable import CannotCaptureError
from pyrometa.recording.held import KEPT
from pyrometa.recording.recordable import Graph

_SHARE = 4
"""The cache of recordings is full when captured graphs hold one part in so many of a device's memory."""

_BROKEN_OFF: list[torch.cuda.CUDAGraph] = []
"""Captures that could not be ended: torch's allocator may go on to ask them, so that they are kept for good."""


@dataclass(frozen=True)
class Launch:
    """A captured graph.

    Attributes:
        replay: does all of it once more.
        results: where its results come to lie.
        bytes: the device's memory that it holds, in bytes of the cache of recordings.
    """

    replay: Callable[[], None]
    results: Sequence[Tensor]
    bytes: int


def on_cuda(operations: Graph, inputs: Sequence[Tensor]) -> Launch:
    """Capture operations on inputs that stay where they are, after a run on another stream.

    Raises:
        CannotCaptureError: an earlier capture was broken off, and has left torch's allocator in no state to trust.
    """
    if _BROKEN_OFF:
        raise CannotCaptureError("an earlier capture was broken off")
    device, graph = inputs[0].device, torch.cuda.CUDAGraph()
    current = torch.cuda.current_stream(device)
    warm, side = _streams(device)
    with torch.cuda.device(device), torch.cuda.stream(current):  # put back even where the capture can't be ended
        warm.wait_stream(current)
        with torch.cuda.stream(warm):
            operations(*inputs)
        current.wait_stream(warm)
        try:
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                before = torch.cuda.memory_reserved(device)
                results = operations(*inputs)
                held = torch.cuda.memory_reserved(device) - before
        except BaseException:
            _BROKEN_OFF.append(graph)
            raise
    whole = torch.cuda.get_device_properties(device).total_memory
    return Launch(graph.replay, results, KEPT * _SHARE * (held + sum(x.nbytes for x in inputs)) // whole)


@cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """One to warm up on, and one to capture on."""
    return torch.cuda.Stream(device), torch.cuda.Stream(device)
