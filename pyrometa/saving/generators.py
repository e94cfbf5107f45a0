"""The states of torch's, numpy's and Python's random generators."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def generators() -> dict[str, Any]:
    """The states of the generators that programs share, as a nest that :func:`pyrometa.saving.write` takes.

    Returns:
        Torch's on the CPU and on each CUDA device that is in use, numpy's global one and Python's.

    Example:
        >>> from pyrometa import saving
        >>> state = saving.generators()
        >>> before = torch.rand(3)
        >>> saving.set_generators(state)
        >>> bool((torch.rand(3) == before).all())
        True
    """
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": np.random.get_state(),  # noqa: NPY002 -- the one that libraries share
        "python": random.getstate(),
    }


def set_generators(state: Mapping[str, Any]) -> None:
    """Put the generators back to states of :func:`generators`.

    Raises:
        ValueError: the states are of more CUDA devices than there are; nothing was changed.
    """
    devices, needed = torch.cuda.device_count(), len(state["cuda"])
    if needed > devices:
        raise ValueError(
            f"the generators' states are of {needed} CUDA devices and there are {devices}: leave the others out of "
            "state['cuda']"
        )
    torch.set_rng_state(state["torch"])
    for device, of_device in enumerate(state["cuda"]):
        torch.cuda.set_rng_state(of_device, device)
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
