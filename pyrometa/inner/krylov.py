"""The part of a Hessian that a few products with vectors show, for tasks of many numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrometa.inner.surface import RowLosses


def krylov(here: RowLosses, size: int) -> tuple[Tensor, Tensor]:
    r"""Lanczos' method: the Hessian within the span of :math:`g, H g, \dots, H^{m-1} g`, in a fixed number of products.

    Conjugate gradient looks for its step there as well, and stops at negative curvature; here that is seen, and can be
    turned round. A task whose span is smaller gets zeros.

    Args:
        here: the losses, of which the derivatives are constants.
        size: how many products m.

    Returns:
        An orthonormal basis ``Q`` of shape ``(tasks, size, m)``, and ``Q^T H Q`` of shape ``(tasks, m, m)``.
    """
    vector, vectors, products = _unit(here.slope.detach(), 0.0), [], []
    for _ in range(size):
        product = here.product(vector).detach()
        vectors.append(vector)
        products.append(product)
        vector = _next(torch.stack(vectors, -1), product)
    basis = torch.stack(vectors, -1)
    return basis, basis.mT @ torch.stack(products, -1)


def _next(basis: Tensor, product: Tensor) -> Tensor:
    """The direction of a product that the basis lacks; zero where that is rounding."""
    rest = product
    for _ in range(2):  # once leaves rounding of the size of what it takes away
        rest = rest - (basis @ (basis.mT @ rest[..., None])).squeeze(-1)
    return _unit(rest, 1e3 * torch.finfo(rest.dtype).eps * product.norm(dim=1, keepdim=True))


def _unit(rows: Tensor, rounding: Tensor | float) -> Tensor:
    length = rows.norm(dim=1, keepdim=True)
    return torch.where(length > rounding, rows / length, 0.0)
