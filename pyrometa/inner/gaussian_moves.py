"""Natural steps of Gaussians, by the parameters that hold their means and scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.distributions import Transform

from pyrometa.inner.covariance import eye_like, inverse, matrix_inverse
from pyrometa.inner.low_rank_moves import low_rank_moved
from pyrometa.types import DiagonalGaussian, FullGaussian, Geometry, LowRankGaussian, Params

Rated: TypeAlias = Mapping[str, float | Tensor]
"""The rate of each parameter."""


def gaussians_moved(
    geometry: Geometry, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], rates: Rated
) -> Params:
    """The new means and scales of all Gaussians of a geometry, by the names of the parameters."""
    moved = _diagonal_moved(geometry, params, grads, rates)
    for full in geometry.full:
        moved.update(_full_moved(full, params, grads, rates))
    for low_rank in geometry.low_rank:
        moved.update(_low_rank_moved(low_rank, params, grads, rates))
    return moved


def _diagonal_moved(
    geometry: Geometry, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], rates: Rated
) -> Params:
    """The new means and scales of all diagonal Gaussians together, as they may share them."""
    scales, moved = {}, {}
    for name, scale in geometry.scales.items():
        value = scale.transform(params[name])
        slope = value * grads[name] / _derivative(scale.transform, params[name], value)
        curvature = slope if scale.times is None else slope / scale.times
        scales[name] = value * inverse(1 + rates[name] * curvature).sqrt()
        moved[name] = scale.transform.inv(scales[name])
    precisions: Params = {}
    for gaussian in geometry.diagonal:
        if gaussian.mean is not None:
            here = _precision(gaussian, scales[gaussian.scale], params[gaussian.mean])
            precisions[gaussian.mean] = precisions[gaussian.mean] + here if gaussian.mean in precisions else here
    for name, precision in precisions.items():
        moved[name] = params[name] - rates[name] * grads[name] / precision
    return moved


def _precision(gaussian: DiagonalGaussian, scale: Tensor, mean: Tensor) -> Tensor:
    """The precision of each mean; of one that several coordinates share, the sum of theirs."""
    flat = scale.flatten().pow(-2)
    if gaussian.scale_at is not None:
        flat = flat[gaussian.scale_at]
    if gaussian.mean_at is not None:
        flat = flat.new_zeros(mean.numel()).index_add(0, gaussian.mean_at, flat)
    return flat.view(mean.shape)


def _full_moved(
    gaussian: FullGaussian, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], rates: Rated
) -> Params:
    """The new mean and factor of a Gaussian with a full covariance."""
    tril, slope = params[gaussian.tril], grads[gaussian.tril]
    held = tril.diagonal(dim1=-2, dim2=-1) if gaussian.scale is None else params[gaussian.scale]
    diagonal = gaussian.transform(held)
    along = slope.diagonal(dim1=-2, dim2=-1) if gaussian.scale is None else grads[gaussian.scale]
    along = along / _derivative(gaussian.transform, held, diagonal)
    below, slope, unit = tril.tril(-1), slope.tril(-1), diagonal[..., None]
    if gaussian.scale is not None:
        slope = slope / unit
        along = along - (slope * below).sum(-1)
        below = unit * below
    factor = below + torch.diag_embed(diagonal)
    curvature = factor.mT @ (slope + torch.diag_embed(along))
    grown = matrix_inverse(_rated(gaussian, curvature, rates) + eye_like(curvature))
    new = factor @ torch.linalg.cholesky_ex(grown).L
    moved = _held(gaussian, tril, new)
    if gaussian.mean is not None:
        along_mean = new @ (new.mT @ grads[gaussian.mean][..., None])
        moved[gaussian.mean] = params[gaussian.mean] - rates[gaussian.mean] * along_mean.squeeze(-1)
    return moved


def _rated(gaussian: FullGaussian, curvature: Tensor, rates: Rated) -> Tensor:
    """The curvature times the rates, symmetric: that on the diagonal by the rate of the scale, if it has one."""
    below = (rates[gaussian.tril] * curvature).tril(-1)
    on = curvature.diagonal(dim1=-2, dim2=-1)
    if gaussian.scale is not None:
        return below + below.mT + torch.diag_embed(rates[gaussian.scale] * on)
    return below + below.mT + (rates[gaussian.tril] * torch.diag_embed(on))


def _held(gaussian: FullGaussian, tril: Tensor, factor: Tensor) -> Params:
    """The unconstrained parameters of a factor; what no one reads of them stays as it is."""
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    held = gaussian.transform.inv(diagonal)
    if gaussian.scale is None:
        return {gaussian.tril: factor.tril(-1) + torch.diag_embed(held) + tril.triu(1)}
    return {gaussian.tril: (factor / diagonal[..., None]).tril(-1) + tril.triu(), gaussian.scale: held}


def _low_rank_moved(
    gaussian: LowRankGaussian, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], rates: Rated
) -> Params:
    """The new mean, scale and factor of a Gaussian with a covariance of low rank and a diagonal."""
    held, names = params[gaussian.scale], (gaussian.scale, gaussian.factor)
    scale = gaussian.transform(held)
    slope = scale * grads[gaussian.scale] / _derivative(gaussian.transform, held, scale)
    slopes = slope, grads[gaussian.factor]
    scale, factor = low_rank_moved(scale, params[gaussian.factor], slopes, (rates[names[0]], rates[names[1]]))
    kept = gaussian.transform.inv(scale), factor.clone()  # no fast weight is another's, whose gradients would add up
    moved = dict(zip(names, kept, strict=True))
    if gaussian.mean is not None:
        along = scale[..., None] * grads[gaussian.mean][..., None]
        along = scale[..., None] * (along + factor @ (factor.mT @ along))
        moved[gaussian.mean] = params[gaussian.mean] - rates[gaussian.mean] * along.squeeze(-1)
    return moved


def _derivative(transform: Transform, number: Tensor, scale: Tensor) -> Tensor:
    """The derivative of a scale by its unconstrained number."""
    return transform.log_abs_det_jacobian(number, scale).exp()
