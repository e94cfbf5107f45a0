"""The tensors that a program keeps, in an attribute or elsewhere, of a run of many tasks side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from pyrometa.recording.kept import mend, mend_attributes


class Kept:
    """Whether a thorough look has ever found such a tensor.

    To look everywhere takes long, so that it is done for such programs only, and where it is asked for.
    """

    def __init__(self) -> None:
        self._some = False

    def mend(self, roots: Iterable[Any], modules: Iterable[nn.Module], *, thorough: bool) -> None:
        """Replace each by the last task's, as the loop over tasks would leave it.

        Args:
            roots: what all that a program holds can be reached from.
            modules: its modules, whose attributes are looked at in any case.
            thorough: look everywhere; once the program kept something, that is always done.
        """
        if thorough or self._some:
            self._some = mend(roots) or self._some
        else:
            mend_attributes(modules)
