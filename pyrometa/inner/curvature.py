"""What a step divides a slope by: a Hessian, seen whole, in a few directions, or in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pyrometa.inner.arrow import Arrow
from pyrometa.inner.spectrum import Spectrum, rounded_sizes


class Curvature(Protocol):
    """The Hessians of some tasks, by the sizes of their eigenvalues.

    Attributes:
        total: the sum of each task's entries, shape ``(tasks,)``, for a look at whether all are finite.
    """

    @property
    def total(self) -> Tensor:
        """The sum of each task's entries."""

    def divided(self, slope: Tensor, damping: Tensor) -> Tensor:
        """Steps along constant slopes for several dampings ``(candidates, 1, 1)``: ``(candidates, tasks, size)``."""

    def step(self, slope: Tensor, damping: Tensor, taken: Tensor) -> Tensor:
        """A step, shape ``(tasks, size)``, with its derivatives by slope, Hessian and damping where it has them.

        Args:
            slope: gradients, shape ``(tasks, size)``.
            damping: of each task, shape ``(tasks, 1)``.
            taken: whether a task takes its step, shape ``(tasks, 1)``; else it is zero.
        """


@dataclass(frozen=True)
class Whole:
    """Every entry of the Hessians.

    Attributes:
        hessian: shape ``(tasks, size, size)``.
        spectrum: of it.
        exact: whether the outer loop differentiates through it.
    """

    hessian: Tensor
    spectrum: Spectrum
    exact: bool

    @classmethod
    def of(cls, hessian: Tensor, *, exact: bool) -> Whole:
        """By its eigenvalues."""
        return cls(hessian, Spectrum.of(hessian), exact)

    @property
    def total(self) -> Tensor:
        """The sum of each task's entries."""
        return self.hessian.sum((1, 2))

    def divided(self, slope: Tensor, damping: Tensor) -> Tensor:
        """Steps for several dampings."""
        return self.spectrum.divided(slope, damping)

    def step(self, slope: Tensor, damping: Tensor, taken: Tensor) -> Tensor:
        """A step with its derivatives."""
        return self.spectrum.step(slope, self.hessian if self.exact else None, damping, taken)


@dataclass(frozen=True)
class Within:
    """Some directions of the Hessians, which count as constant.

    Attributes:
        basis: orthonormal, shape ``(tasks, size, directions)``.
        whole: the Hessians in these.
    """

    basis: Tensor
    whole: Whole

    @property
    def total(self) -> Tensor:
        """The sum of each task's entries."""
        return self.whole.total

    def divided(self, slope: Tensor, damping: Tensor) -> Tensor:
        """Steps for several dampings."""
        return self._out(self.whole.divided(self._into(slope), damping))

    def step(self, slope: Tensor, damping: Tensor, taken: Tensor) -> Tensor:
        """A step, with its derivative by the damping."""
        return self._out(self.whole.step(self._into(slope.detach()), damping, taken))

    def _into(self, rows: Tensor) -> Tensor:
        return (self.basis.mT @ rows[..., None]).squeeze(-1)

    def _out(self, rows: Tensor) -> Tensor:
        return (self.basis @ rows[..., None]).squeeze(-1)


@dataclass(frozen=True)
class Either:
    """Of some tasks one curvature, of the others another.

    Attributes:
        first: which tasks have the one, shape ``(tasks,)``.
        one: that of these.
        other: that of all others.
    """

    first: Tensor
    one: Curvature
    other: Curvature

    @property
    def total(self) -> Tensor:
        """The sum of each task's entries."""
        return torch.where(self.first, self.one.total, self.other.total)

    def divided(self, slope: Tensor, damping: Tensor) -> Tensor:
        """Steps for several dampings."""
        return torch.where(self.first[:, None], self.one.divided(slope, damping), self.other.divided(slope, damping))

    def step(self, slope: Tensor, damping: Tensor, taken: Tensor) -> Tensor:
        """A step, with its derivative by the damping."""
        one, other = (some.step(slope, damping, taken) for some in (self.one, self.other))
        return torch.where(self.first[:, None], one, other)


@dataclass(frozen=True)
class InBlocks:
    r"""Hessians that are an arrow, which count as constant, by the eigenvalues of each block and of what is left over.

    Divided by is

    .. math:: \begin{pmatrix} |A| & B \\ B^\top & |S| + B^\top |A|^{-1} B \end{pmatrix} + \delta \, m I, \qquad
        S = C - B^\top |A|^{-1} B

    which is positive definite, and the Hessian itself where that is. Sizes of matrices are of their eigenvalues; m is
    the largest among the blocks' and C's.

    Attributes:
        arrow: where the parts are.
        total: the sum of each task's entries.
        sizes: the blocks' eigenvalues by size, shape ``(tasks, elements, width)``.
        vectors: their eigenvectors, one a column.
        border: B in coordinates of these, shape ``(tasks, elements, width, shared)``.
        left: :math:`|S|`, shape ``(tasks, shared, shared)``.
        largest: m, shape ``(tasks,)``.
    """

    arrow: Arrow
    total: Tensor
    sizes: Tensor
    vectors: Tensor
    border: Tensor
    left: Tensor
    largest: Tensor

    @classmethod
    def of(cls, arrow: Arrow, parts: tuple[Tensor, Tensor, Tensor]) -> InBlocks:
        """By the eigenvalues of :meth:`Arrow.parts`; what is not finite counts as zero."""
        total = torch.stack([part.detach().flatten(1).sum(1) for part in parts]).sum(0)
        a, b, c = (part.detach().nan_to_num(0.0, 0.0, 0.0) for part in parts)
        values, vectors = torch.linalg.eigh((a + a.mT) / 2)
        corner = torch.linalg.eigvalsh((c + c.mT) / 2)
        largest = torch.cat([values.abs().flatten(1), corner.abs()], 1).amax(1)
        sizes, border = rounded_sizes(values, largest[:, None, None]), vectors.mT @ b
        left = c - (border.mT @ (border / sizes[..., None])).sum(1)
        rest, turned = torch.linalg.eigh((left + left.mT) / 2)
        left = (turned * rounded_sizes(rest, largest[:, None])[:, None]) @ turned.mT
        return cls(arrow, total, sizes, vectors, border, left, largest)

    def divided(self, slope: Tensor, damping: Tensor) -> Tensor:
        """Steps for several dampings."""
        return self._solved(slope, damping.squeeze(-1) * self.largest)

    def step(self, slope: Tensor, damping: Tensor, taken: Tensor) -> Tensor:
        """A step, with its derivative by the damping."""
        held = (damping.detach().squeeze(-1) * self.largest)[None]
        way = self._solved(slope.detach(), held)[0]
        again = self.largest[:, None] * self._solved(way, held)[0]
        return torch.where(taken, way - (damping - damping.detach()) * again, 0.0)

    def _solved(self, rows: Tensor, added: Tensor) -> Tensor:
        """The rows divided, by Schur complements, with something ``(candidates, tasks)`` added to the diagonal."""
        own, shared = self.arrow.split(rows)
        own = (self.vectors.mT @ own[..., None]).squeeze(-1)
        added, back = added[..., None, None], self.border.mT
        sizes = self.sizes + added
        more = (added / (self.sizes * sizes))[..., None] * self.border
        eye = torch.eye(shared.shape[-1], dtype=rows.dtype, device=rows.device)
        schur = self.left + (back @ more).sum(-3) + added * eye
        right = shared - (back @ (own / sizes)[..., None]).sum(-3).squeeze(-1)
        size, turned = torch.linalg.eigh(schur)
        found = (turned @ ((turned.mT @ right[..., None]) / size[..., None])).squeeze(-1)
        rest = own - (self.border @ found[..., None, :, None]).squeeze(-1)
        return self.arrow.joined((self.vectors @ (rest / sizes)[..., None]).squeeze(-1), found)
