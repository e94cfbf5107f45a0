"""The plates of a program, read off one run of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace

from pyrometa.program.enumeration import enumerated
from pyrometa.types import Data


def plate_sizes(elbo: Any, model: Callable[..., Any], guide: Callable[..., Any], data: Data) -> dict[str, int]:
    """Sizes by name of the vectorised plates that model and guide have on some data, without those that subsample."""
    with torch.random.fork_rng(), torch.no_grad():
        model, guide = enumerated(elbo, model, guide, data)
        drawn = poutine.trace(guide).get_trace(*data.args, **data.kwargs)
        trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*data.args, **data.kwargs)
    return {**_sizes(drawn), **_sizes(trace)}


def _sizes(trace: Trace) -> dict[str, int]:
    frames = (frame for site in trace.nodes.values() for frame in site.get("cond_indep_stack", ()))
    return {frame.name: frame.size for frame in frames if frame.vectorized and frame.full_size in (None, frame.size)}
