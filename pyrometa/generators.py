"""Torch's random generators: on the CPU, and on the GPU that is in use, if there is one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def states() -> list[Tensor]:
    """The generators' states: of the current GPU alone, and without waking CUDA where nothing has used it yet."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _in_use())]


def restore(before: list[Tensor]) -> None:
    """Put the generators back into :func:`states` that they had."""
    cpu, *others = before
    torch.set_rng_state(cpu)
    for device, state in zip(_in_use(), others, strict=True):
        torch.cuda.set_rng_state(state, device)


def moved_since(before: list[Tensor]) -> bool:
    """Whether anything was drawn from the generators since they were in some states."""
    return not all(map(torch.equal, before, states()))


def forked() -> AbstractContextManager[Any]:
    """Within, what is drawn leaves the generators where they are."""
    return torch.random.fork_rng(devices=_in_use())


def seed(number: int) -> None:
    """Seed the generators.

    ``torch.manual_seed`` would have a traceback formatted at each call until CUDA is used, and keep the seed for then.
    """
    torch.default_generator.manual_seed(int(number))
    if _in_use():
        torch.cuda.manual_seed(int(number))


def _in_use() -> list[int]:
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
