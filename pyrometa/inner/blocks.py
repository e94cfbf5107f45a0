"""What is known of a program's Hessians: that they are blocks and a border, until one is seen that is more."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyrometa.inner.arrow import Arrow
from pyrometa.inner.curvature import Curvature, InBlocks, Whole
from pyrometa.inner.surface import RowLosses
from pyrometa.types import Elements


@dataclass(eq=False)
class Blocks:
    """Which numbers of a task are an element's own, element by element of a plate.

    That a Hessian is no more than blocks and a border is shown anew at every step, for each task, by one product with
    an arbitrary vector. Up to ``max_dim`` numbers the first task that shows more ends it: its step and all later ones
    are taken by whole Hessians, which are the same matrices; beyond, each task that shows more takes its step without
    blocks, and no other task's step depends on it. A recording, which can't look, has a NaN in the place of such a
    task's step; so it is run again, seen. Not shown is the Hessian's derivative: a coupling that first data lack and
    that is zero, but not its derivative, just where another task's step is taken, is missing from a meta-gradient
    through that step.

    Attributes:
        elements: for each adapted parameter, the element of each of its numbers.
        hold: whether no Hessian was seen so far that is more.
    """

    elements: Elements
    hold: bool = True
    _arrows: dict[tuple[str, ...], Arrow] = field(default_factory=dict, repr=False)

    def curvature(self, here: RowLosses, max_dim: int) -> Curvature | None:
        """The Hessians by few products, NaN for a task of which they hide something; None where blocks save none.

        Args:
            here: the tasks' losses.
            max_dim: up to how many numbers a matrix is taken by its own eigenvalues.
        """
        arrow = self._worth(here, max_dim) if self.hold else None
        if arrow is None:
            return None
        products = here.products(_of_each(arrow, here))
        apart = arrow.is_apart(products)
        if here.seen and arrow.size <= max_dim and apart.any():
            self.hold = False
            return None
        products = torch.where(apart[:, None], torch.nan, products)
        if arrow.size <= max_dim:
            return Whole.of(arrow.dense(products), exact=here.exact)
        return InBlocks.of(arrow, arrow.parts(products))

    def products(self, names: tuple[str, ...]) -> int:
        """How many products a Hessian in these parameters takes, with the one that shows that they suffice."""
        return self._arrow(names).products + 1

    def shown(self, here: RowLosses) -> bool:
        """Whether Hessians are no more than that."""
        arrow = self._arrow(here.names)
        return not arrow.is_apart(here.products(_of_each(arrow, here))).any()

    def _worth(self, here: RowLosses, max_dim: int) -> Arrow | None:
        """Where the numbers are in a row; None where that is not known, or blocks save nothing."""
        if not here.names:
            return None
        arrow = self._arrow(here.names)
        fits = max(arrow.own.shape[1], len(arrow.shared)) <= max_dim
        return arrow if fits and self.products(here.names) < arrow.size else None

    def _arrow(self, names: tuple[str, ...]) -> Arrow:
        if names not in self._arrows:
            self._arrows[names] = Arrow.of(torch.cat([self.elements[name].flatten() for name in names]))
        return self._arrows[names]


def _of_each(arrow: Arrow, here: RowLosses) -> Tensor:
    """The vectors, the same for all tasks."""
    return arrow.vectors(here.slope)[:, None].expand(-1, *here.slope.shape)
