"""Natural-gradient steps of a guide's Gaussians, as an inner rule."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform

from pyrometa.inner.covariance import inverse, matrix_inverse
from pyrometa.inner.rates import Learn, Rates
from pyrometa.inner.rule import InnerRule
from pyrometa.types import DiagonalGaussian, FullGaussian, Geometry, Params

_OTHERS = "others."


@dataclass(frozen=True)
class NaturalGradient:
    r"""Natural-gradient steps of Gaussian guides: the mean by the covariance, the precision by the curvature.

    For a guide :math:`q = \text{Normal}(m, S)` with :math:`S = L L^\top`, the loss being the negative ELBO,

    .. math::
        A = \operatorname{sym}(L^\top \nabla_L \text{loss}), \qquad
        S_{k+1} = L \, (I + \rho A)^{-1} L^\top, \qquad
        m_{k+1} = m_k - \rho \, S_{k+1} \nabla_m \text{loss}

    where sym makes a symmetric matrix of a lower triangle. On average over the noise, with H the Hessian of the
    negative log joint density, :math:`A = L^\top \mathbb{E}[H] L - I`, so that the precision goes the way
    :math:`\rho` to :math:`\mathbb{E}[H]`: one step of rate 1 is exact where the posterior is Gaussian. With a
    diagonal S it is :math:`a = \sigma \, \partial \text{loss} / \partial \sigma` for each coordinate. An eigenvalue of
    :math:`I + \rho A` below 0.8 counts as one between 0.4 and 0.8, so that S stays positive definite.

    Far from the posterior the noise of A is large, as it has the mean's gradient times the mean of the draws in it:
    take ``noise=pm.Noise("sobol")``, where that is little, or a lower rate. Mean and variance may run away all the same
    where the posterior is far from Gaussian.

    Which parameters are means and scales is read off the guide on first data: sites of kind ``Normal`` and
    ``MultivariateNormal``, by themselves or beneath transforms, whose mean and scale (or ``scale_tril``) are
    parameters, also by their logarithm, that of the variance or softplus. So are those of ``AutoNormal``,
    ``AutoDiagonalNormal`` and ``AutoMultivariateNormal``, of a guide by hand with ``pyro.param`` and of a ``GuideList``
    of these. Give it no guide that multiplies them by data: where the first task makes the factor 1 that is not seen.
    A rate near 1 suits every size of task with ``reduction="sum"``, the default: a loss that is divided by
    the number of rows would make the rate depend on it, and is refused.

    Args:
        lr: the rate :math:`\rho`, or a mapping of name patterns to rates, as in :class:`~pyrometa.SGD`. The mean has
            one, and so has the precision, under the name of the scale; of a full covariance in two parameters, each has
            that of its own part of A.
        learn: which rates are learned, as in :class:`~pyrometa.SGD`.
        others: the rule of the adapted parameters that are no Gaussian's; names of what it learns begin by ``others.``.
        outer_lr: outer step size of all that is learned; None takes the optimiser's own.

    Raises:
        ValueError: a rate that is not positive and finite, an unknown ``learn``, or (on first data) parameters that are
            no Gaussian's without ``others``, or ``reduction="mean"``.

    References:
        Khan, Lin (2017), Conjugate-computation variational inference, https://arxiv.org/abs/1703.04265;
        Lin, Schmidt, Khan (2020), Handling the positive-definite constraint in the Bayesian learning rule,
        https://arxiv.org/abs/2002.10060.

    Example:
        >>> import pyro, pyro.distributions as dist, torch, pyrometa as pm
        >>> from pyro.infer import TraceMeanField_ELBO
        >>> from pyro.infer.autoguide import AutoNormal
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", x.shape[-1]):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> elbo = TraceMeanField_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=1)
        >>> options = {"inner": pm.NaturalGradient(lr=1.0), "noise": pm.Noise("sobol"), "steps": 3}
        >>> meta = pm.MetaSVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), elbo, **options)
        >>> x = 5 + torch.randn(2, 100)  # 2 tasks of 100 data
        >>> abs(meta.adapt(x[0]).median()["loc"] - x[0].mean()).item() < 0.1
        True
    """

    lr: float | Mapping[str, float] = 0.5
    learn: Learn | None = None
    others: InnerRule | None = None
    outer_lr: float | None = None
    _geometry: Geometry | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._rates.check()
        if self.others is not None and self.others.outer_lr is not None:
            raise ValueError(
                "others has an outer_lr of its own: give outer_lr to NaturalGradient, for all that is learned"
            )

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.lr, self.learn, self.outer_lr)

    def bound(self, geometry: Geometry) -> NaturalGradient:
        """The same rule for a guide of this geometry.

        Raises:
            ValueError: naming a parameter that is no Gaussian's, with the reason and the cure.
        """
        if geometry.per_row:
            raise ValueError(
                "NaturalGradient needs the whole loss, of which rates near 1 suit every size of task, and "
                "reduction='mean' divides it by the number of rows: use reduction='sum'"
            )
        if geometry.others and self.others is None:
            name, reason = next(iter(geometry.others.items()))
            raise ValueError(
                f"NaturalGradient moves means and scales of Gaussians, and {name!r} is neither: {reason}; give "
                "others=pm.SGD(lr) for what is no Gaussian's, leave it out by adapt=, or use inner=pm.Newton()"
            )
        return replace(self, _geometry=geometry)

    @property
    def _known(self) -> Geometry:
        if self._geometry is None:
            raise ValueError("NaturalGradient has seen no guide yet: give it to MetaSVI as inner=")
        return self._geometry

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Logarithms of the rates, of shape ``()``, ``(steps,)`` or the parameter's; and what ``others`` learns."""
        own, rest = self._parts(params)
        found = self._rates.learned(own, steps) if own else {}
        if self.others is None or not rest:
            return found
        return {**found, **{_OTHERS + name: value for name, value in self.others.learned(rest, steps).items()}}

    def init(self, params: Mapping[str, Tensor]) -> Any:
        """The state of ``others``; none before a guide is known, as where no steps are taken."""
        rest = {} if self._geometry is None else self._parts(params)[1]
        return None if self.others is None or not rest else self.others.init(rest)

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Any,
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, Any]:
        """One natural step of the Gaussians, and one step of ``others``."""
        own, rest = self._parts(params)
        rates = {name: self._rates.rate(name, learned, step) for name in own}
        moved = _diagonal_moved(self._known, own, grads, rates)
        for gaussian in self._known.full:
            moved.update(_full_moved(gaussian, own, grads, rates))
        if self.others is not None and rest:
            theirs = {name.removeprefix(_OTHERS): value for name, value in learned.items() if name.startswith(_OTHERS)}
            other, state = self.others.update(rest, {name: grads[name] for name in rest}, state, theirs, step)
            moved.update(other)
        return {name: moved[name] for name in params}, state

    def _parts(self, params: Mapping[str, Tensor]) -> tuple[Params, Params]:
        """The Gaussians' parameters and the others."""
        others: Collection[str] = self._known.others
        own = {name: value for name, value in params.items() if name not in others}
        return own, {name: params[name] for name in params if name in others}


_Rates = Mapping[str, float | Tensor]


def _diagonal_moved(geometry: Geometry, params: Params, grads: Mapping[str, Tensor], rates: _Rates) -> Params:
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


def _full_moved(gaussian: FullGaussian, params: Params, grads: Mapping[str, Tensor], rates: _Rates) -> Params:
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
    grown = matrix_inverse(_one_plus(_rated(gaussian, curvature, rates)))
    new = factor @ torch.linalg.cholesky_ex(grown).L
    moved = _held(gaussian, tril, new)
    if gaussian.mean is not None:
        along_mean = new @ (new.mT @ grads[gaussian.mean][..., None])
        moved[gaussian.mean] = params[gaussian.mean] - rates[gaussian.mean] * along_mean.squeeze(-1)
    return moved


def _rated(gaussian: FullGaussian, curvature: Tensor, rates: _Rates) -> Tensor:
    """The curvature times the rates, symmetric: that on the diagonal by the rate of the scale, if it has one."""
    below = (rates[gaussian.tril] * curvature).tril(-1)
    on = curvature.diagonal(dim1=-2, dim2=-1)
    if gaussian.scale is not None:
        return below + below.mT + torch.diag_embed(rates[gaussian.scale] * on)
    return below + below.mT + (rates[gaussian.tril] * torch.diag_embed(on))


def _one_plus(matrix: Tensor) -> Tensor:
    return matrix + torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def _held(gaussian: FullGaussian, tril: Tensor, factor: Tensor) -> Params:
    """The unconstrained parameters of a factor; what no one reads of them stays as it is."""
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    held = gaussian.transform.inv(diagonal)
    if gaussian.scale is None:
        return {gaussian.tril: factor.tril(-1) + torch.diag_embed(held) + tril.triu(1)}
    return {gaussian.tril: (factor / diagonal[..., None]).tril(-1) + tril.triu(), gaussian.scale: held}


def _derivative(transform: Transform, number: Tensor, scale: Tensor) -> Tensor:
    """The derivative of a scale by its unconstrained number."""
    return transform.log_abs_det_jacobian(number, scale).exp()
