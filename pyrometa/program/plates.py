"""The plates of a program, read off one run of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyrometa import generators
from pyrometa.program.enumeration import enumerated
from pyrometa.types import Data

_Sizes: TypeAlias = tuple[int | Tensor, dict[str, int]]
"""The rows of a task, and the sizes of the plates on it by name."""


class RowPlates:
    """The plates of a program whose size is the number of rows, read once in each mode.

    A pickle holds none of them: they are read anew.
    """

    def __init__(self) -> None:
        self._known: dict[Any, frozenset[str]] = {}

    def read(self, mode: Any, sizes: Callable[[], tuple[_Sizes, _Sizes]]) -> frozenset[str]:
        """Their names.

        Args:
            mode: the mode that the program is in.
            sizes: what tells the sizes on two tasks of different sizes, asked on first sight of the mode.
        """
        if mode not in self._known:
            (rows, plates), (more_rows, more_plates) = sizes()
            same = (name for name in plates if (plates[name], more_plates.get(name)) == (rows, more_rows))
            self._known[mode] = frozenset(same)
        return self._known[mode]

    def __getstate__(self) -> dict[str, Any]:
        return {"_known": {}}


def plate_sizes(elbo: Any, model: Callable[..., Any], guide: Callable[..., Any], data: Data) -> dict[str, int]:
    """Sizes by name of the vectorised plates that model and guide have on some data, without those that subsample."""
    with generators.forked(), torch.no_grad():
        model, guide = enumerated(elbo, model, guide, data)
        drawn = poutine.trace(guide).get_trace(*data.args, **data.kwargs)
        trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*data.args, **data.kwargs)
    return {**_sizes(drawn), **_sizes(trace)}


def _sizes(trace: Trace) -> dict[str, int]:
    frames = (frame for site in trace.nodes.values() for frame in site.get("cond_indep_stack", ()))
    return {frame.name: frame.size for frame in frames if frame.vectorized and frame.full_size in (None, frame.size)}
