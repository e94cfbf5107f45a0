"""Sites that share one posterior: where its numbers come from and how they become values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from torch import Tensor

from pyrometa.guides.families import MeanField, Posterior
from pyrometa.guides.sites import Plate, Site


@dataclass(frozen=True)
class Group:
    """Sites in the same plates, under one posterior for each cell of the plates.

    Attributes:
        name: of its parameters.
        sites: at least one.
    """

    name: str
    sites: tuple[Site, ...]

    @property
    def dim(self) -> int:
        """Real numbers of one cell."""
        return sum(site.size for site in self.sites)

    def batch_shape(self, features: Tensor) -> torch.Size:
        """The plates' sizes in this call, read from the features.

        Raises:
            ValueError: features of a shape that doesn't go with the plates.
        """
        batch = features.shape[:-1]
        plates = {plate.dim: plate.name for plate in self.sites[0].plates}
        rank = -min(plates, default=0)
        fits = len(batch) == rank and all(n == 1 or i - rank in plates for i, n in enumerate(batch))
        if features.dim() == 0 or not fits:
            want = "".join(f"{plates[d]}, " if d in plates else "1, " for d in range(-rank, 0))
            where = f"in plates {', '.join(plates.values())}" if plates else "outside of any plate"
            raise ValueError(
                f"the encoder's features for {self.name!r}, which is {where}, must have shape ({want}features), got "
                f"{tuple(features.shape)}: where sites differ in plates return {{site: features}}; features of a "
                "whole set come from SetEncoderGuide"
            )
        return batch

    def check_plates(self, batch: torch.Size) -> None:
        """Refuse features of other sizes than the model's plates on the same data.

        Raises:
            ValueError: naming the plate.
        """
        for plate in self.sites[0].plates:
            if batch[plate.dim] != plate.size:
                raise ValueError(
                    f"the encoder gives {batch[plate.dim]} rows of features for {self.name!r}, whose plate "
                    f"{plate.name!r} has {plate.size}: give one row each; to subsample, draw the mini-batch outside "
                    f"and write pyro.plate({plate.name!r}, size, subsample=indices) in the model"
                )

    def sample(self, posterior: Posterior, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Draw its sites in their plates from a posterior with parameters ``(*batch, size)``."""
        batch = next(iter(params.values())).shape[:-1]
        with ExitStack() as stack:
            for plate in self.sites[0].plates:
                stack.enter_context(_plate(plate, batch[plate.dim]))
            if isinstance(posterior, MeanField) and len(self.sites) == 1:
                return {self.sites[0].name: _sample_normal(self.sites[0], posterior(params).base_dist)}
            latent = pyro.sample(f"_{self.name}_latent", posterior(params), infer={"is_auxiliary": True})
            parts = latent.split([site.size for site in self.sites], dim=-1)
            return {site.name: sample_part(site, part) for site, part in zip(self.sites, parts, strict=True)}


def grouped(sites: Sequence[Site], *, joint: bool) -> list[Group]:
    """Each site by itself, or all sites in the same plates together."""
    if not joint:
        return [Group(site.name, (site,)) for site in sites]
    groups: dict[tuple[str, ...], list[Site]] = {}
    for site in sites:
        groups.setdefault(tuple(plate.name for plate in site.plates), []).append(site)
    return [Group("+".join(site.name for site in members), tuple(members)) for members in groups.values()]


def _plate(plate: Plate, size: int) -> pyro.plate:
    """The model's plate at this call's size, not itself a site, so that guides for other sites may have it too."""
    with poutine.block():
        if plate.full_size == plate.size:
            return pyro.plate(plate.name, size, dim=plate.dim)
        return pyro.plate(plate.name, plate.full_size, subsample=torch.arange(size), dim=plate.dim)


def _sample_normal(site: Site, normal: dist.Normal) -> Tensor:
    """Draw a site from its own normal: no auxiliary site, so that divergences known in closed form are used."""
    shape = normal.batch_shape[:-1] + site.shape
    fn = dist.Normal(normal.loc.reshape(shape), normal.scale.reshape(shape)).to_event(len(site.shape))
    if site.constrained:
        fn = dist.TransformedDistribution(fn, [site.transform])
    return pyro.sample(site.name, fn)


def sample_part(site: Site, part: Tensor) -> Tensor:
    """Draw a site as a function of its part of a vector of reals, ``(*batch, size)``."""
    unconstrained = part.reshape(part.shape[:-1] + site.shape)
    value = site.transform(unconstrained)
    log_det = site.transform.inv.log_abs_det_jacobian(value, unconstrained)
    log_density = sum_rightmost(log_det, log_det.dim() - value.dim() + site.event_dim)
    return pyro.sample(site.name, dist.Delta(value, log_density=log_density, event_dim=site.event_dim))
