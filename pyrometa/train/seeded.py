"""The random generators of a run, which are its own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from pyrometa.generators import states
from pyrometa.saving import generators, set_generators


def generators_of_run(seed: int | None) -> AbstractContextManager[None]:
    """Within, a run has generators of its own, started from a seed; without one the caller's, wherever they are."""
    return nullcontext() if seed is None else seeded(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch's, numpy's and Python's generators start from the seed; afterwards they are where they were."""
    before = generators()
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- the one that libraries share
    random.seed(seed)
    try:
        yield
    finally:
        set_generators(before)
        if not before["cuda"]:  # which a seed also reaches before it is in use
            torch.cuda.manual_seed_all(torch.initial_seed())


def own_generators() -> dict[str, Any]:
    """The generators' states: on CUDA of the current device alone, so that they are alike in all processes."""
    _, *cuda = states()
    return {**generators(), "cuda": cuda}


def set_own_generators(state: Mapping[str, Any]) -> None:
    """Put the generators back to states of :func:`own_generators`, on a machine without CUDA those that it has."""
    set_generators({**state, "cuda": []})
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
