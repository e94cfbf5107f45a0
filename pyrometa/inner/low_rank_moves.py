r"""Natural steps of a Gaussian with covariance :math:`\operatorname{diag}(s) (I + W W^\top) \operatorname{diag}(s)`."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrometa.inner.covariance import eye_like, matrix_inverse

_SMALL = 1e-3
"""Share of its mean diagonal entry below which an eigenvalue of the Fisher matrix counts for little; more in single."""

_FAR = 0.3
"""Damping of the first guess for each unit of mean squared change of the covariance."""

_NARROW = 0.05
"""What the first guess multiplies a variance by at the least before it is bent."""

_ROUNDS = 3
"""Rounds of expectation maximisation from the first guess."""


def low_rank_moved(
    scale: Tensor, factor: Tensor, slopes: tuple[Tensor, Tensor], rates: tuple[float | Tensor, float | Tensor]
) -> tuple[Tensor, Tensor]:
    r"""The new s and W, the latter of shape ``(*batch, size, rank)``.

    The natural gradient of :math:`(\log s, W)`, by the :func:`fisher` matrix, changes the covariance
    :math:`S = L L^\top` by :math:`- L A L^\top` for each unit of rate. The step leads to
    :math:`L (I + \rho A)^{-1} L^\top`, as with a full covariance, or towards it as a covariance of this form can: by a
    damped Fisher scoring step, which is exact to first order in the rate, and rounds of expectation maximisation for
    factor analysis, which do not diverge.

    Args:
        scale: s.
        factor: W.
        slopes: the gradients by :math:`\log s` and W.
        rates: of s and W.
    """
    covariance = _correlated(factor)
    matrix = fisher(factor)
    slope, turn = _solved(matrix, torch.zeros_like(scale[..., 0]), *slopes)
    root = torch.linalg.cholesky_ex(covariance).L
    change = _whitened(root, _tangent(factor, covariance, rates[0] * slope, rates[1] * turn))
    there = root @ matrix_inverse(eye_like(change) + change) @ root.mT
    wider, factor = _scored(factor, covariance, root, matrix, there)
    return _maximised(scale * wider, factor, scale[..., None] * there * scale[..., None, :])


def fisher(factor: Tensor) -> Tensor:
    r"""The Fisher matrix of :math:`(\log s, W)`, W row by row, shape ``(*batch, size (1 + rank), size (1 + rank))``.

    With :math:`K = I + W W^\top` and :math:`Q = K^{-1}`, of
    :math:`\frac12 \operatorname{tr} (Q E Q E)`, :math:`E = X K + K X + U W^\top + W U^\top` for changes X of
    :math:`\log s` and U of W.
    """
    covariance = _correlated(factor)
    inner = torch.linalg.inv(covariance)
    along, size, rank = inner @ factor, factor.shape[-2], factor.shape[-1]
    eye, batch = eye_like(covariance), factor.shape[:-2]
    both = eye[:, :, None] * along[..., :, None, :] + factor[..., :, None, :] * inner[..., :, :, None]
    both = both.reshape(*batch, size, size * rank)
    turns = torch.einsum("...cb,...ad->...abcd", along, along)
    turns = turns + torch.einsum("...bd,...ac->...abcd", factor.mT @ along, inner)
    turns = turns.reshape(*batch, size * rank, size * rank)
    return torch.cat([torch.cat([eye + inner * covariance, both], -1), torch.cat([both.mT, turns], -1)], -2)


def _scored(factor: Tensor, covariance: Tensor, root: Tensor, matrix: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """What s is multiplied by, and the new W, by one damped step of Fisher scoring towards a covariance."""
    change = there - covariance
    far = _whitened(root, change).square().sum((-2, -1)) / factor.shape[-2]
    inner = torch.linalg.inv(covariance)
    back = inner @ change @ inner @ factor
    wider, turn = _solved(matrix, _FAR * far, (change @ inner).diagonal(dim1=-2, dim2=-1), back)
    return _above_zero(1 + 2 * wider).sqrt(), factor + turn


def _maximised(scale: Tensor, factor: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """The s and W that expectation maximisation finds for draws of a covariance, from some that it starts at."""
    variance = there.diagonal(dim1=-2, dim2=-1)
    scale = (variance / (factor.square().sum(-1) + 1)).sqrt()
    rank = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    for _ in range(_ROUNDS):
        loading = scale[..., None] * factor
        covariance = loading @ loading.mT + torch.diag_embed(scale.square())
        read = torch.linalg.solve(covariance, loading).mT
        cross = there @ read.mT
        loading = torch.linalg.solve(rank - read @ loading + read @ cross, cross.mT).mT
        alone = variance - (loading * cross).sum(-1)
        scale = torch.maximum(alone, torch.finfo(alone.dtype).eps * variance).sqrt()
        factor = loading / scale[..., None]
    return scale, factor


def _tangent(factor: Tensor, covariance: Tensor, slope: Tensor, turn: Tensor) -> Tensor:
    """The change of K that changes of log s and W make."""
    half = slope[..., None] * covariance + turn @ factor.mT
    return half + half.mT


def _solved(matrix: Tensor, far: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    r"""The solution :math:`(M^2 + \delta^2 I)^{-1} M g` of :math:`M x = g`, :math:`M = F + \epsilon I`.

    Turns of W change no covariance, nor do other directions where there are more numbers than it has. The gradient of
    an ELBO's draws has a part along them all the same, which is noise, and M takes it out.
    """
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    matrix = matrix + mean * far[..., None, None] * eye_like(matrix)
    small = (max(_SMALL, torch.finfo(matrix.dtype).eps ** 0.375) * mean).square() * eye_like(matrix)
    return _parted(torch.linalg.solve(matrix @ matrix + small, matrix @ _joined(one, other)), one, other)


def _joined(one: Tensor, other: Tensor) -> Tensor:
    return torch.cat([one, other.flatten(-2)], -1)[..., None]


def _parted(joined: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    flat = joined.squeeze(-1)
    return flat[..., : one.shape[-1]], flat[..., one.shape[-1] :].reshape(other.shape)


def _whitened(root: Tensor, change: Tensor) -> Tensor:
    half = torch.linalg.solve_triangular(root, change, upper=False)
    return torch.linalg.solve_triangular(root, half.mT, upper=False)


def _correlated(factor: Tensor) -> Tensor:
    square = factor @ factor.mT
    return square + eye_like(square)


def _above_zero(share: Tensor) -> Tensor:
    """A number, or where that is small a positive one in its place, with a continuous derivative."""
    return torch.where(share >= _NARROW, share, _NARROW**2 / (2 * _NARROW - share.clamp(max=_NARROW)))
