"""Hessians that are blocks and a border: how few products show one, and whether one is no more than that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Arrow:
    r"""Where in a task's numbers the own numbers of each element of a plate are, and where those that all share.

    Given the shared numbers s, the elements do not depend on each other, so that a Hessian is

    .. math:: H = \begin{pmatrix} A & B \\ B^\top & C \end{pmatrix}, \qquad A = \mathrm{diag}(A_1, \dots, A_N)

    Unit vectors of one coordinate of all elements added up show this column of every :math:`A_n` in one product
    (Curtis, Powell, Reid 1974, https://doi.org/10.1093/imamat/13.1.117), and each shared number takes one. So as many
    products as an element has numbers, and as are shared, are all; one more, with an arbitrary vector, shows whether
    there is anything else in H.

    Attributes:
        own: positions of each element's numbers in a row, shape ``(elements, width)``; ``size`` where it has fewer.
        shared: positions of the shared numbers.
        probe: for each number, which product shows its column.
        size: how many numbers a task has.
    """

    own: Tensor
    shared: Tensor
    probe: Tensor
    size: int

    @classmethod
    def of(cls, elements: Tensor) -> Arrow:
        """The arrow of numbers of which each belongs to an element, or to none if that is -1; shape ``(size,)``."""
        size, own = len(elements), (elements >= 0).nonzero().flatten()
        shared = (elements < 0).nonzero().flatten()
        _, element, counts = elements[own].unique(return_inverse=True, return_counts=True)
        order = element.argsort(stable=True)
        own, element = own[order], element[order]
        coordinate = torch.arange(len(own), device=own.device) - (counts.cumsum(0) - counts)[element]
        width = int(counts.max()) if len(counts) else 0
        held = own.new_full((len(counts), width), size)
        held[element, coordinate] = own
        probe = own.new_empty(size)
        probe[own], probe[shared] = coordinate, width + torch.arange(len(shared), device=own.device)
        return cls(held, shared, probe, size)

    @property
    def products(self) -> int:
        """How many products show a Hessian."""
        return self.own.shape[1] + len(self.shared)

    def vectors(self, like: Tensor) -> Tensor:
        """What to multiply Hessians with, shape ``(products + 1, size)``: last the arbitrary vector."""
        return self._vectors.to(like)

    @cached_property
    def _vectors(self) -> Tensor:
        unit = self.probe == torch.arange(self.products, device=self.probe.device)[:, None]
        return torch.cat([unit.to(self._arbitrary), self._arbitrary[None]])

    @cached_property
    def _arbitrary(self) -> Tensor:
        """No two numbers alike in size, and none small, so that nothing cancels by chance."""
        generator = torch.Generator().manual_seed(12)
        sizes, signs = (torch.rand(self.size, generator=generator, device="cpu", dtype=torch.float64) for _ in range(2))
        return ((0.5 + sizes) * (signs - 0.5).sign()).to(self.probe.device)

    def dense(self, products: Tensor) -> Tensor:
        """The matrix that products show, shape ``(tasks, size, size)``."""
        return _padded(products[:-1])[:, self._dense_at]

    @cached_property
    def _dense_at(self) -> Tensor:
        """For each entry of the matrix, its position among the products end to end; just past them where it is 0."""
        element = self.probe.new_full((self.size + 1,), -1)
        element[self.own] = torch.arange(len(self.own), device=self.own.device)[:, None].expand_as(self.own)
        element, here = element[:-1], torch.arange(self.size, device=self.own.device)
        shown = self.probe * self.size + here[:, None]  # row i of column j
        is_shared = element < 0
        shown = torch.where(is_shared[:, None] & ~is_shared, shown.T, shown)
        together = (element[:, None] == element) | is_shared[:, None] | is_shared
        return torch.where(together, shown, self.products * self.size)

    def parts(self, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and C of each task: shapes ``(tasks, elements, width, width)``, ``(..., width, shared)``, and C's."""
        flat, width = _padded(products[:-1]), self.own.shape[1]
        past, probes = self.products * self.size, torch.arange(self.products, device=self.own.device)
        at = torch.where(self.own[..., None] < self.size, probes * self.size + self.own[..., None], past)
        missing = (self.own == self.size)[:, None]
        block = at[..., :width].masked_fill(missing, past)
        corner = probes[width:] * self.size + self.shared[:, None]
        return flat[:, block], flat[:, at[..., width:]], flat[:, corner]

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``(..., size)`` in the elements' numbers ``(..., elements, width)``, with zeros, and the shared."""
        padded = torch.cat([rows, torch.zeros_like(rows[..., :1])], -1)
        return padded[..., self.own], rows[..., self.shared]

    def joined(self, own: Tensor, shared: Tensor) -> Tensor:
        """The rows that :meth:`split` takes apart."""
        return torch.cat([own.flatten(-2), shared], -1)[..., self._joined_at]

    @cached_property
    def _joined_at(self) -> Tensor:
        at = self.probe.new_empty(self.size + 1)
        at[self.own.flatten()] = torch.arange(self.own.numel(), device=at.device)
        at[self.shared] = self.own.numel() + torch.arange(len(self.shared), device=at.device)
        return at[:-1]

    def is_apart(self, products: Tensor) -> Tensor:
        """Whether a task's Hessian is more than blocks and a border, shape ``(tasks,)``; not so where it is not finite.

        Its product with the arbitrary vector must be that of its parts, number by number, up to rounding.
        """
        found, vector = products[-1], self._arbitrary.to(products)
        parts = [part.detach() for part in self.parts(products)]
        expected = self._product(parts, vector)
        scale = self._product([part.abs() for part in parts], vector.abs())
        return ((found.detach() - expected).abs() > torch.finfo(found.dtype).eps ** 0.5 * scale).any(1)

    def _product(self, parts: list[Tensor], vector: Tensor) -> Tensor:
        """The arrow's product with one vector ``(size,)``, shape ``(tasks, size)``."""
        a, b, c = parts
        own, shared = self.split(vector)
        first = (a @ own[..., None]).squeeze(-1) + b @ shared
        return self.joined(first, (b * own[..., None]).sum((1, 2)) + c @ shared)


def _padded(products: Tensor) -> Tensor:
    """Products ``(products, tasks, size)`` end to end, ``(tasks, products * size + 1)``, with a zero after them."""
    flat = products.movedim(0, 1).flatten(1)
    return torch.cat([flat, torch.zeros_like(flat[:, :1])], 1)
