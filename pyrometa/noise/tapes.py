"""The tapes of a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyrometa import generators
from pyrometa.noise.draws import Kinds, Tape
from pyrometa.noise.replay import RecordNoise
from pyrometa.types.latest import Latest

_SEED = 0
"""Seed of the run that a tape is recorded from, so that how often a rejection sampler draws is always the same."""


_KEPT = 512
"""How many tapes are kept: a kilobyte or ten each."""


class Tapes:
    """The tapes of a program, each recorded once as long as it is in use, and what kinds of draws they are.

    A pickle holds the kinds alone: tapes are recorded anew.
    """

    def __init__(self) -> None:
        self.kinds = Kinds()
        self._recorded: Latest[Any, Tape] = Latest(_KEPT)

    def recorded(self, key: Any, run: Callable[[RecordNoise], object]) -> Tape:
        """The draws of a run.

        Args:
            key: all that they depend on.
            run: what draws, under a mode that it is given; it is called on first sight of the key.
        """
        if key not in self._recorded:
            recorder = RecordNoise()
            with generators.forked(), torch.enable_grad():
                generators.seed(_SEED)
                run(recorder)
            self._recorded[key] = recorder.tape
            self.kinds.add(recorder.tape)
        return self._recorded[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"kinds": self.kinds, "_recorded": Latest(_KEPT)}
