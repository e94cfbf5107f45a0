"""Symmetric matrices by their eigenvalues, and steps with them that have derivatives where these are degenerate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    r"""The Hessian H of each task, in eigenvalues and eigenvectors that are constants.

    What steps divide by is

    .. math:: B = V \left( f(\Lambda) + \delta \, m I \right) V^\top, \qquad
        f(\lambda) = \sqrt{\lambda^2 + \epsilon^2 m^2}, \qquad m = \max |\lambda|

    :math:`f` is the size of an eigenvalue, and smooth at zero by a tiny :math:`\epsilon`. The derivative of B by H is
    taken by divided differences (Daleckii and Krein), which need no derivative of eigenvectors,

    .. math:: \mathrm{d} f(H) = V \left( L \circ V^\top \mathrm{d} H \, V \right) V^\top, \qquad
        L_{ij} = \frac{f(\lambda_i) - f(\lambda_j)}{\lambda_i - \lambda_j}
            = \frac{\lambda_i + \lambda_j}{f(\lambda_i) + f(\lambda_j)}

    Attributes:
        matrix: H, shape ``(tasks, size, size)``, symmetric and off any graph.
        values: its eigenvalues, shape ``(tasks, size)``.
        vectors: its eigenvectors, one a column.
    """

    matrix: Tensor
    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Spectrum:
        """The spectrum of matrices ``(tasks, size, size)``; what is not finite counts as zero."""
        held = _symmetric(matrix.detach().nan_to_num(0.0, 0.0, 0.0))
        return cls(held, *torch.linalg.eigh(held))

    @property
    def _largest(self) -> Tensor:
        return self.values.abs().amax(-1, keepdim=True)

    @property
    def _tiny(self) -> Tensor:
        """What rounds off the eigenvalues' sizes at zero, shape ``(tasks, 1)``."""
        return _tiny(self._largest)

    @property
    def _sizes(self) -> Tensor:
        return rounded_sizes(self.values, self._largest)

    def divided(self, slope: Tensor, damping: Tensor) -> Tensor:
        """``B^-1 g`` for several dampings ``(candidates, 1, 1)``, of shape ``(candidates, tasks, size)``."""
        along = self._turned(slope) / (self._sizes + damping * self._largest)
        return (self.vectors @ along[..., None]).squeeze(-1)

    def step(self, slope: Tensor, hessian: Tensor | None, damping: Tensor, taken: Tensor) -> Tensor:
        r"""``B^-1 g``, shape ``(tasks, size)``, with its derivatives by slope, Hessian and damping on the graph.

        .. math:: \mathrm{d} (B^{-1} g) = B^{-1} \left( \mathrm{d} g - \mathrm{d} B \, B^{-1} g \right)

        Args:
            slope: g, shape ``(tasks, size)``.
            hessian: H on its graph; None where it is a constant.
            damping: of each task, shape ``(tasks, 1)``.
            taken: whether a task takes its step, shape ``(tasks, 1)``; else it is zero, and its derivative too.
        """
        held = damping.detach()
        inverse = torch.where(taken, 1 / (self._sizes + held * self._largest), 0.0)
        along = self._turned(slope)
        constant = along.detach() * inverse
        if hessian is not None:
            along = along - self._bent(_symmetric(hessian) - self.matrix, constant, held)
        along = along - (damping - held) * self._largest * constant
        return (self.vectors @ (along * inverse)[..., None]).squeeze(-1)

    def _bent(self, change: Tensor, along: Tensor, damping: Tensor) -> Tensor:
        """``dB x`` for a change of H, with x and the result in coordinates of the eigenvectors."""
        turned, sizes = self.vectors.mT @ change @ self.vectors, self._sizes
        ratios = (self.values[:, :, None] + self.values[:, None]) / (sizes[:, :, None] + sizes[:, None])
        top = self.values.abs().argmax(-1, keepdim=True)
        grown = turned.diagonal(dim1=1, dim2=2).gather(1, top) * self.values.gather(1, top).sign()
        weight = damping + self._tiny.square() / (self._largest.clamp(min=torch.finfo(sizes.dtype).tiny) * sizes)
        return ((ratios * turned) @ along[..., None]).squeeze(-1) + weight * grown * along

    def _turned(self, rows: Tensor) -> Tensor:
        """Rows in coordinates of the eigenvectors."""
        return (self.vectors.mT @ rows[..., None]).squeeze(-1)


def rounded_sizes(values: Tensor, largest: Tensor) -> Tensor:
    """The sizes of eigenvalues, rounded off at zero by what is tiny beside the largest of all."""
    return (values.square() + _tiny(largest).square()).sqrt()


def _tiny(largest: Tensor) -> Tensor:
    info = torch.finfo(largest.dtype)
    return (info.eps**0.5 * largest).clamp(min=info.tiny**0.5)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2
