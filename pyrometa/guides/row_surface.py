"""The losses of data around their variational parameters, for an inner rule that asks for more than gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.func import grad, vjp, vmap

from pyrometa.inner import LossRule
from pyrometa.internals import is_functorch_wrapped_tensor
from pyrometa.types import Params

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""Of numbers ``(rows, size)`` and of what each row counts, ``(rows,)``, to a scalar."""

_TOGETHER = (
    "the data depend on each other through the model, so that none can be refined by itself: use rule=Momentum(lr)"
)


@dataclass(frozen=True, eq=False)
class RowSurface:
    """What :class:`pyrometa.inner.Surface` is of tasks, of data: each a function of a row of a common loss's numbers.

    A row's own loss is the derivative of all rows' by what the row counts. Products with all rows' Hessians are those
    of the common loss's, which holds nothing else if no row depends on another; that is shown by one product more.

    Attributes:
        loss: of all rows.
        rows: the numbers, shape ``(rows, size)``.
        losses: each row's own, shape ``(rows,)``.
        slope: their gradients, shape ``(rows, size)``.
        pullback: takes a vector to its product with the Hessian of all rows.
        exact: whether what is returned is on a graph.
        names: of no parameters of a program.
        seen: as values of several tasks side by side can't be.
    """

    loss: RowLoss
    rows: Tensor
    losses: Tensor
    slope: Tensor
    pullback: Callable[[Any], tuple[Tensor]]
    exact: bool = True
    names: tuple[str, ...] = ()
    seen: bool = False

    @classmethod
    def at(cls, loss: RowLoss, rows: Tensor) -> RowSurface:
        """Around some numbers."""
        once = torch.ones_like(rows[:, 0])
        found = vjp(lambda at: grad(loss, (0, 1))(at, once), rows)
        slope, losses = found[0]
        return cls(loss, rows, losses, slope, found[1])

    def as_constant(self) -> RowSurface:
        """The same, off any graph."""
        return replace(self, exact=False)

    def losses_at(self, rows: Tensor) -> Tensor:
        """The losses of candidates ``(candidates, rows, size)``, one after the other, off any graph."""
        once = torch.ones_like(rows[0, :, 0])
        with torch.no_grad(), pyro.validation_enabled(False):
            return torch.stack([grad(self.loss, 1)(some, once).detach() for some in rows.detach()])

    def hessian(self) -> Tensor:
        """Each row's, shape ``(rows, size, size)``; NaN for one that depends on others.

        Raises:
            ValueError: a row depends on others, as far as values can be looked at.
        """
        size = self.rows.shape[1]
        unit = torch.eye(size, dtype=self.rows.dtype, device=self.rows.device)
        products = self.products(torch.cat([unit[:, None].expand(-1, *self.rows.shape), self._arbitrary[None]]))
        found = products[:-1].movedim(0, 1)
        apart = self._is_apart(found.detach(), products[-1].detach())
        if not is_functorch_wrapped_tensor(apart) and apart.any():
            raise ValueError(_TOGETHER)
        return torch.where(apart[:, None, None], torch.nan, found)

    def products(self, vectors: Tensor) -> Tensor:
        """The Hessian of all rows times vectors ``(vectors, rows, size)``."""
        return vmap(self.product)(vectors)

    def product(self, vectors: Tensor) -> Tensor:
        """The Hessian of all rows times one vector ``(rows, size)``."""
        found = self.pullback((vectors, torch.zeros_like(self.losses)))[0]
        return found if self.exact else found.detach()

    @property
    def _arbitrary(self) -> Tensor:
        """No two numbers alike in size, and none small."""
        count = torch.arange(1, self.rows.numel() + 1, dtype=torch.float64, device=self.rows.device)
        signs = (count * 0.7548776662466927 % 1 - 0.5).sign()
        return ((0.5 + count * 0.6180339887498949 % 1) * signs).view(self.rows.shape).to(self.rows)

    def _is_apart(self, found: Tensor, product: Tensor) -> Tensor:
        """Whether a row's numbers in a product are not its own Hessian's, shape ``(rows,)``."""
        vector = self._arbitrary[..., None]
        scale = (found.abs() @ vector.abs()).squeeze(-1)
        off = (product - (found @ vector).squeeze(-1)).abs()
        return (off > torch.finfo(product.dtype).eps ** 0.5 * scale).any(1)


class RowsByLoss:
    """A rule that sees the losses of rows: tensors ``(*plates, size)`` are moved as that many rows of all their sizes.

    Args:
        rule: the inner rule.
        proposal: tensors of the names and shapes to be moved.
        loss: of such tensors.

    Raises:
        ValueError: tensors of different plates.
    """

    def __init__(self, rule: LossRule, proposal: Mapping[str, Tensor], loss: Callable[[Params], Tensor]) -> None:
        self._rule, self._loss = rule, loss
        self._shapes = {name: value.shape for name, value in proposal.items()}
        plates = {name: tuple(shape[:-1]) for name, shape in self._shapes.items()}
        self._plates = next(iter(plates.values()))
        other = next((name for name, sizes in plates.items() if sizes != self._plates), None)
        if other:
            raise ValueError(
                f"{type(rule).__name__} refines sites in the same plates, one row of numbers for each datum, and "
                f"{next(iter(plates))!r} has plates of sizes {self._plates}, {other!r} {plates[other]}: use "
                "rule=Momentum(lr)"
            )

    def check(self, proposal: Mapping[str, Tensor]) -> None:
        """Refuse rows that depend on each other, or a loss that does not say what each row has in it.

        Raises:
            ValueError: with the cure.
        """
        rows = self._packed(proposal).detach()
        moved = torch.randn(rows.shape, generator=torch.Generator().manual_seed(7), device="cpu")
        rows = rows + 0.1 * moved.to(rows)
        here = RowSurface.at(self._evaluated, rows)
        here.hessian()
        once, times = torch.ones_like(rows[:, 0]), torch.linspace(0.5, 1.5, len(rows)).to(rows)
        summed = grad(lambda at: grad(self._evaluated, 1)(at, once) @ times)(rows)
        expected = times[:, None] * here.slope  # as no row's loss has another row in it
        if not torch.allclose(summed, expected, 1e-3, 1e-3 * here.slope.detach().abs().max().item()):
            raise ValueError(
                f"loss: {type(self._rule).__name__} chooses each datum's step by its own loss, and this loss is no sum "
                "over data, each by the scale of its sites in the data's plate: give Trace_ELBO() or "
                "TraceMeanField_ELBO(), and keep each datum's sites at its place in the plate"
            )

    def moved(self, proposal: Mapping[str, Tensor], learned: Mapping[str, Tensor], step: int) -> Params:
        """One step of each row."""
        here = RowSurface.at(self._evaluated, self._packed(proposal))
        return self._unpacked(self._rule.moved(here, learned, step))

    def _evaluated(self, rows: Tensor, weights: Tensor) -> Tensor:
        with _Weighed(weights.view(self._plates)):
            return self._loss(self._unpacked(rows))

    def _packed(self, proposal: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([proposal[name].reshape(-1, shape[-1]) for name, shape in self._shapes.items()], 1)

    def _unpacked(self, rows: Tensor) -> Params:
        parts = rows.split([shape[-1] for shape in self._shapes.values()], 1)
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}


class _Weighed(Messenger):
    """Scales the sites within some plates, cell by cell; others have no part in the cells' losses."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self._weights = weights

    def _pyro_sample(self, msg: Any) -> None:
        sizes = {frame.dim: frame.size for frame in msg["cond_indep_stack"] if frame.vectorized}
        plates = enumerate(self._weights.shape, start=-self._weights.dim())
        if all(sizes.get(dim) == size for dim, size in plates if size > 1):
            msg["scale"] = msg["scale"] * self._weights
