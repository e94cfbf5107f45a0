"""Linear systems of many tasks side by side, in a fixed number of products."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MatrixProduct = Callable[[Tensor], Tensor]


def conjugate_gradient(product: MatrixProduct, right: Tensor, iterations: int) -> Tensor:
    """Solve ``A x = b`` for each task by conjugate gradient, which is exact after as many iterations as unknowns.

    A task whose residual is zero stays where it is, and so does one that meets a direction of no or negative
    curvature, where ``A`` is not positive definite.

    Args:
        product: of each task's symmetric matrix with a vector, both of shape ``(tasks, size)``.
        right: the right-hand sides b, shape ``(tasks, size)``.
        iterations: how many, each with one product.

    Returns:
        The solutions x, shape ``(tasks, size)``.
    """
    x, residual, direction = torch.zeros_like(right), right, right
    square = _dot(residual, residual)
    for _ in range(iterations):
        along = product(direction)
        length = _ratio(square, _dot(direction, along))
        x = x + length * direction
        residual = residual - length * along
        previous, square = square, _dot(residual, residual)
        direction = residual + _ratio(square, previous) * direction
    return x


def solved(matrices: Tensor, right: Tensor) -> Tensor:
    """Solve ``A x = b`` for each task directly; where A is singular, as in what a loss does not depend on, the least x.

    Args:
        matrices: each task's symmetric A, shape ``(tasks, size, size)``.
        right: the right-hand sides b, shape ``(tasks, size)``.

    Returns:
        The solutions x, shape ``(tasks, size)``; NaN where A is not finite.
    """
    finite = torch.isfinite(matrices.sum((1, 2)))[:, None]
    inverses = torch.linalg.pinv(matrices.nan_to_num(0.0, 0.0, 0.0), hermitian=True)
    return torch.where(finite, (inverses @ right[..., None]).squeeze(-1), math.nan)


def neumann(product: MatrixProduct, right: Tensor, iterations: int, rate: float) -> Tensor:
    r"""Solve ``A x = b`` for each task by the Neumann series.

    .. math:: x = \alpha \sum_{j=0}^{J} (I - \alpha A)^j b

    which converges where the eigenvalues of A lie between 0 and :math:`2 / \alpha`.

    Args:
        product: of each task's matrix with a vector, both of shape ``(tasks, size)``.
        right: the right-hand sides b, shape ``(tasks, size)``.
        iterations: the last power J.
        rate: the step :math:`\alpha`.

    Returns:
        The solutions x, shape ``(tasks, size)``.
    """
    term = rate * right
    x = term
    for _ in range(iterations):
        term = term - rate * product(term)
        x = x + term
    return x


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner products, shape ``(tasks, 1)``."""
    return (left * right).sum(1, keepdim=True)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """The quotient where the denominator is positive, else 0."""
    positive = below > 0
    return torch.where(positive, above / torch.where(positive, below, 1.0), 0.0)
