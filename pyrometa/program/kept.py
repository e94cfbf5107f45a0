"""What a program keeps of a run of many tasks side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from pyrometa.recording.kept import mend, mend_attributes


class Kept:
    """Whether a program has kept tensors of its tasks, which are then looked for everywhere."""

    def __init__(self) -> None:
        self._some = False

    def mend(self, roots: Iterable[Any], modules: Iterable[nn.Module], *, thorough: bool) -> None:
        """Leave the last task's tensors in their place, as the loop over tasks does.

        Args:
            roots: what all that a program holds can be reached from.
            modules: its modules, whose attributes are looked at in any case.
            thorough: look everywhere; once the program kept something, that is always done.
        """
        if thorough or self._some:
            self._some = mend(roots) or self._some
        else:
            mend_attributes(modules)
