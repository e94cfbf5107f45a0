"""Find out which parameters are the means and the scales of a guide's Gaussians."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import AffineTransform, ComposeTransform, ExpTransform, Transform
from torch.distributions.transforms import SoftplusTransform, identity_transform

from pyrometa.program.autograd_graph import leaf_ids
from pyrometa.program.gaussian_sites import GaussianSite, gaussian_sites, kind_of
from pyrometa.program.generic import generic_numbers, latents_here_and_elsewhere
from pyrometa.program.program import Program
from pyrometa.program.read_gaussians import find_read
from pyrometa.types import Data, DiagonalGaussian, FullGaussian, Geometry, LowRankGaussian, Params, Scale

_TO_SCALES: tuple[Transform, ...] = (
    ExpTransform(),
    SoftplusTransform(),
    ComposeTransform([AffineTransform(0.0, 0.5), ExpTransform()]),
)
"""How an unconstrained number may become a scale; the last from the logarithm of a variance."""

_Whole = FullGaussian | LowRankGaussian


def find_geometry(program: Program, data: Data, adapted: Collection[str]) -> Geometry:
    """Which adapted parameters are means and scales of Gaussians, read off runs of the guide.

    It runs on numbers that are all different and mean nothing. So a site's mean is a parameter if it has the same
    numbers, and as derivatives by that parameter those of a selection, whatever the guide calls it and however it is
    viewed and expanded; and likewise its scale. What is another number on slightly other data is neither, but may be
    linear in parameters.

    Args:
        program: the program.
        data: a task.
        adapted: names of the parameters that adapt.
    """
    values = generic_numbers({name: program.leaves[name].tensor for name in adapted})
    per_row = program.given.reduction == "mean"
    with torch.enable_grad():
        sites, elsewhere = latents_here_and_elsewhere(program, values, data)
        search = _Search(values, sites, elsewhere)
        found = search.geometry(per_row=per_row)
        read = find_read(program, data, values, search.explained)
        if read is None:
            return found
        rest = {name: value for name, value in values.items() if name not in read.params}
        return replace(_Search(rest, sites, elsewhere, read.sites).geometry(per_row=per_row), read=read)


class _Search:
    """Looks for the numbers of the sites among those of the parameters."""

    def __init__(
        self, values: Params, sites: Mapping[str, Any], elsewhere: Mapping[str, Any], left_out: Collection[str] = ()
    ) -> None:
        self.explained: set[str] = set()
        self._left_out = left_out
        self._elsewhere = {gaussian.name: gaussian for gaussian in gaussian_sites(elsewhere)}
        self._leaves = values
        self._values = {name: value.detach() for name, value in values.items()}
        self._sites, self._ids = sites, {id(value): name for name, value in values.items()}
        self._reasons: dict[str, str] = {}

    def geometry(self, *, per_row: bool) -> Geometry:
        """What the sites show, without the parameters that are more than one thing at once."""
        sites = [self._without_data(site) for site in gaussian_sites(self._sites) if site.name not in self._left_out]
        whole = [found for found in map(self._whole, sites) if found]
        transformed = [found for found in map(self._diagonal, sites) if found]
        self._refuse_mixed(whole, transformed)
        transforms = {g.scale: transform for g, transform in transformed if g.scale not in self._reasons}
        diagonal = tuple(self._without_refused(g) for g, _ in transformed if g.scale in transforms)
        whole = [gaussian for gaussian in whole if self._reasons.keys().isdisjoint(_names(gaussian))]
        full = tuple(gaussian for gaussian in whole if isinstance(gaussian, FullGaussian))
        low_rank = tuple(gaussian for gaussian in whole if isinstance(gaussian, LowRankGaussian))
        scales = {name: Scale(transform, self._times(name, diagonal)) for name, transform in transforms.items()}
        known = {name for gaussian in (*whole, *diagonal) for name in _names(gaussian)}
        others = {name: self._reason(name) for name in self._values if name not in known}
        return Geometry(scales, diagonal, full, others, per_row, low_rank)

    def _without_data(self, site: GaussianSite) -> GaussianSite:
        """A site with numbers that no parameter has in the place of those that are others on other data."""
        other = self._elsewhere.get(site.name)
        if other is None:
            return site
        loc, scale = (
            one if _equal(one, another) else one * math.nan
            for one, another in ((site.loc, other.loc), (site.scale, other.scale))
        )
        return replace(site, loc=loc, scale=scale)

    def _without_refused(self, gaussian: DiagonalGaussian) -> DiagonalGaussian:
        return replace(gaussian, mean=None) if gaussian.mean in self._reasons else gaussian

    def _diagonal(self, site: GaussianSite) -> tuple[DiagonalGaussian, Transform] | None:
        if site.full or site.low_rank is not None:
            return None
        mean, mean_at = self._mean(site)
        for transform in _TO_SCALES:
            for name, value in self._values.items():
                at = self._selected(site.scale, name, transform)
                if at is not None and self._tells_coordinates_apart(name, at, site):
                    self._explain(site, mean)
                    return DiagonalGaussian(name, mean, _unless_in_order(at, value.numel()), mean_at), transform
        if mean:
            self._reasons[mean] = "the scale that goes with it is no parameter that adapts"
        return None

    def _mean(self, site: GaussianSite) -> tuple[str | None, Tensor | None]:
        for name, value in self._values.items():
            at = self._selected(site.loc, name, identity_transform)
            if at is not None and self._tells_coordinates_apart(name, at, site):
                return name, _unless_in_order(at, value.numel())
        return None, None

    def _selected(self, numbers: Tensor, name: str, transform: Transform) -> Tensor | None:
        """The positions in a parameter that numbers come from; None where they do not, or are equal by chance."""
        at = _positions(numbers, transform(self._values[name])) if numbers.requires_grad else None
        if at is None:
            return None
        leaf, flat = self._leaves[name], numbers.flatten()
        weights = torch.linspace(0.5, 1.5, len(flat)).to(flat)
        (found,) = torch.autograd.grad(flat, leaf, weights, retain_graph=True, allow_unused=True)
        (expected,) = torch.autograd.grad(transform(leaf).flatten()[at], leaf, weights)
        return at if found is not None and _close(found, expected) else None

    def _tells_coordinates_apart(self, name: str, at: Tensor, site: GaussianSite) -> bool:
        """Whether no two draws of a plate share a number; how many would do so may differ from task to task."""
        scalar = self._values[name].dim() == 0
        if site.in_plate and (scalar or len(at.unique()) < len(at)):
            self._reasons[name] = "the draws of a plate share it"
        return name not in self._reasons

    def _explain(self, site: GaussianSite, mean: str | None) -> None:
        """Note a site whose scale is found, if there is nothing else that could be."""
        if mean or not site.loc.requires_grad:
            self.explained.add(site.name)

    def _whole(self, site: GaussianSite) -> _Whole | None:
        """The Gaussian of a site with covariances."""
        if not site.full and site.low_rank is None:
            return None
        mean = next((name for name, value in self._values.items() if _equal(value, site.loc)), None)
        found = self._full(site, mean) if site.low_rank is None else self._low_rank(site, mean, site.low_rank)
        if found:
            self._explain(site, mean)
        elif mean:
            self._reasons[mean] = "the covariance that goes with it is no parameter that adapts"
        return found

    def _full(self, site: GaussianSite, mean: str | None) -> FullGaussian | None:
        diagonal, below = site.diagonal, site.scale.tril(-1)
        for transform in _TO_SCALES:
            for tril, value in self._values.items():
                if value.shape != below.shape:
                    continue
                if _equal(transform(value.diagonal(dim1=-2, dim2=-1)), diagonal) and _equal(value.tril(-1), below):
                    return FullGaussian(tril, None, mean, transform)
                for scale, held in self._values.items():
                    rows = transform(held)
                    if _equal(rows, diagonal) and _equal(rows[..., None] * value.tril(-1), below):
                        return FullGaussian(tril, scale, mean, transform)
        return None

    def _low_rank(self, site: GaussianSite, mean: str | None, factor: Tensor) -> LowRankGaussian | None:
        name = next((name for name, value in self._values.items() if _equal(value, factor)), None)
        for transform in _TO_SCALES:
            for scale, held in self._values.items():
                if name and _equal(transform(held), site.scale):
                    return LowRankGaussian(name, scale, mean, transform)
        return None

    def _refuse_mixed(self, whole: Sequence[_Whole], diagonal: Sequence[tuple[DiagonalGaussian, Transform]]) -> None:
        """Note the parameters that are two things, or of which a part is nothing, and the means of such scales."""
        roles: list[set[str | None]] = [{*_names(g)} for g in whole]
        roles.append({g.mean for g, _ in diagonal})
        roles += [{g.scale for g, each in diagonal if each is transform} for transform in _TO_SCALES]
        for name in self._values:
            if sum(name in role for role in roles) > 1:
                self._reasons[name] = "it is more than one thing of the guide's Gaussians"
            elif self._is_read_in_part(name, [g for g, _ in diagonal]):
                self._reasons[name] = "the guide's Gaussians read a part of it only"
        for g, _ in diagonal:
            if g.mean and g.scale in self._reasons:
                self._reasons[g.mean] = f"{g.scale!r}, the scale that goes with it, is refused"

    def _is_read_in_part(self, name: str, diagonal: Sequence[DiagonalGaussian]) -> bool:
        pairs = [pair for g in diagonal for pair in ((g.mean, g.mean_at), (g.scale, g.scale_at)) if pair[0] == name]
        read = [at for _, at in pairs if at is not None]
        return bool(read) and len(read) == len(pairs) and len(torch.cat(read).unique()) < self._values[name].numel()

    def _times(self, name: str, diagonal: Sequence[DiagonalGaussian]) -> Tensor | None:
        """Of how many coordinates each number of a parameter is the scale."""
        value = self._values[name]
        every = torch.arange(value.numel(), device=value.device)
        read = [every if g.scale_at is None else g.scale_at for g in diagonal if g.scale == name]
        times = torch.cat(read).bincount(minlength=value.numel())
        return None if times.eq(1).all() else times.view(value.shape).to(value)

    def _reason(self, name: str) -> str:
        """Why a parameter is neither a mean nor a scale."""
        if name in self._reasons:
            return self._reasons[name]
        for site, node in self._sites.items():
            if name in {self._ids.get(key) for key in leaf_ids([node["value"], node["fn"].log_prob(node["value"])])}:
                where = ", in a plate" if any(frame.vectorized for frame in node["cond_indep_stack"]) else ""
                return f"{site!r} comes from {kind_of(node['fn'])} that depends on it in another way{where}"
        return "the guide draws nothing from it"


def _names(gaussian: DiagonalGaussian | _Whole) -> tuple[str, ...]:
    covariance = (gaussian.scale,) if isinstance(gaussian, DiagonalGaussian) else gaussian.covariance
    return tuple(name for name in (*covariance, gaussian.mean) if name)


def _positions(numbers: Tensor, among: Tensor) -> Tensor | None:
    """The position of each number in a flat tensor; None where some are not in it."""
    numbers, (ordered, order) = numbers.detach().flatten().contiguous(), among.flatten().sort()
    if not len(ordered) or numbers.dtype != among.dtype:
        return None
    after = torch.searchsorted(ordered, numbers).clamp(max=len(ordered) - 1)
    before = (after - 1).clamp(min=0)
    nearer = (ordered[before] - numbers).abs() < (ordered[after] - numbers).abs()
    nearest = torch.where(nearer, before, after)
    return order[nearest] if _equal(ordered[nearest], numbers) else None


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether tensors are equal, but for rounding."""
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and _close(one.detach(), other.detach())


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, torch.finfo(one.dtype).eps ** 0.75, 0.0)


def _unless_in_order(at: Tensor, size: int) -> Tensor | None:
    return None if torch.equal(at, torch.arange(size, device=at.device)) else at
