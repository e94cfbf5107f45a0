"""The Gaussians that a guide samples from, as one run of it shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro.distributions.transforms import LowerCholeskyAffine
from torch import Tensor
from torch.distributions import AffineTransform, LowRankMultivariateNormal, MultivariateNormal, Normal, Transform

from pyrometa.elbos.wrapped_distributions import layers
from pyrometa.noise.still import StillNoise
from pyrometa.program.program import Program
from pyrometa.types import Data, Params


@dataclass(frozen=True)
class GaussianSite:
    """A Gaussian that a guide samples from.

    Attributes:
        name: of the sample site.
        loc: its mean, of the shape of a draw.
        scale: of that shape too; or the lower triangular factor of its covariance; or of a low-rank one the deviations
            of its diagonal part.
        full: whether it is the factor.
        in_plate: whether draws of a plate lie side by side in it.
        low_rank: W, of a covariance ``diag(scale) (I + W W^T) diag(scale)``.
        moved: whether an affine transform makes it of a standard normal.
    """

    name: str
    loc: Tensor
    scale: Tensor
    full: bool
    in_plate: bool
    low_rank: Tensor | None = None
    moved: bool = False

    @property
    def diagonal(self) -> Tensor:
        """The scales, of a factor those on its diagonal."""
        return self.scale.diagonal(dim1=-2, dim2=-1) if self.full else self.scale

    def numbers(self, transform: Transform) -> Params:
        """Mean and scale with unconstrained scales, by the names that :func:`names_of` gives them."""
        free = transform.inv(self.diagonal)
        loc, scale = names_of(self.name, full=self.full)
        return {loc: self.loc, scale: self.scale.tril(-1) + torch.diag_embed(free) if self.full else free}


def names_of(site: str, *, full: bool) -> tuple[str, str]:
    """What a site's mean and scale, or factor, are called."""
    return f"{site}.loc", f"{site}.tril" if full else f"{site}.scale"


def shown(program: Program, params: Mapping[str, Tensor], data: Data, sites: Mapping[str, Transform]) -> Params:
    """Means and unconstrained scales of Gaussian sites that depend on no draw.

    Args:
        program: the program.
        params: unconstrained values by name; a leaf that is not named keeps the user's tensor.
        data: a task.
        sites: names of sites, each with the transform of unconstrained numbers to its scales.
    """
    numbers: Params = {}
    for gaussian in still_gaussians(program, params, data, sites):
        numbers.update(gaussian.numbers(sites[gaussian.name]))
    return numbers


def still_gaussians(
    program: Program, params: Mapping[str, Tensor], data: Data, names: Iterable[str]
) -> list[GaussianSite]:
    """The Gaussians of some sites as they are, not what a transform makes of them, where nothing is drawn."""
    with StillNoise(params.values()), pyro.validation_enabled(False):
        found = program.latents_of_guide(params, data)
        gaussians = [_untransformed(name, found[name]) for name in names]
    return [gaussian for gaussian in gaussians if gaussian is not None]


def gaussian_sites(sites: Mapping[str, Any]) -> Iterator[GaussianSite]:
    """The Gaussians among sample sites, be they in the coordinates of the site or beneath transforms."""
    for name, site in sites.items():
        gaussian = _untransformed(name, site)
        if gaussian is not None:
            *above, _ = layers(site["fn"])
            yield _beneath(gaussian, [part for fn in above[::-1] for part in getattr(fn, "transforms", ())])


def _untransformed(name: str, site: Any) -> GaussianSite | None:
    """A site's innermost distribution, if it is a Gaussian."""
    *_, innermost = layers(site["fn"])
    in_plate = any(frame.vectorized for frame in site["cond_indep_stack"])
    if isinstance(innermost, LowRankMultivariateNormal):
        scale = innermost.cov_diag.sqrt()
        return GaussianSite(name, innermost.loc, scale, False, in_plate, innermost.cov_factor / scale[..., None])
    if isinstance(innermost, MultivariateNormal):
        return GaussianSite(name, innermost.loc, innermost.scale_tril, True, in_plate)
    return (
        GaussianSite(name, innermost.loc, innermost.scale, False, in_plate) if isinstance(innermost, Normal) else None
    )


def _beneath(gaussian: GaussianSite, transforms: Sequence[Transform]) -> GaussianSite:
    """A Gaussian, or what the affine transform above it makes of a standard one."""
    loc, scale = gaussian.loc, gaussian.scale
    first = transforms[0] if transforms and not gaussian.full and (loc == 0).all() and (scale == 1).all() else None
    if isinstance(first, LowerCholeskyAffine):
        return replace(gaussian, loc=first.loc, scale=first.scale_tril, full=True, moved=True)
    if isinstance(first, AffineTransform):
        loc, scale = (torch.as_tensor(part).to(loc).expand(loc.shape) for part in (first.loc, first.scale))
        return replace(gaussian, loc=loc, scale=scale, moved=True)
    return gaussian


def kind_of(fn: Any) -> str:
    """A distribution's kind in words, by the innermost one."""
    *_, innermost = layers(fn)
    return f"a distribution of kind {type(innermost).__name__}"
