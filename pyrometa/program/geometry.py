"""Find out which parameters are the means and the scales of a guide's Gaussians."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.transforms import LowerCholeskyAffine
from torch import Tensor
from torch.distributions import AffineTransform, ComposeTransform, ExpTransform, MultivariateNormal, Normal, Transform
from torch.distributions.transforms import SoftplusTransform, identity_transform

from pyrometa.elbos.wrapped_distributions import layers
from pyrometa.program.autograd_graph import leaf_ids
from pyrometa.program.program import Program
from pyrometa.program.traces import latents
from pyrometa.types import Data, DiagonalGaussian, FullGaussian, Geometry, Params, Scale

_TO_SCALES: tuple[Transform, ...] = (
    ExpTransform(),
    SoftplusTransform(),
    ComposeTransform([AffineTransform(0.0, 0.5), ExpTransform()]),
)
"""How an unconstrained number may become a scale; the last from the logarithm of a variance."""


def find_geometry(program: Program, data: Data, adapted: Collection[str]) -> Geometry:
    """Which adapted parameters are means and scales of Gaussians, read off one run of the guide.

    It runs on numbers that are all different and mean nothing. So a site's mean is a parameter if it has the same
    numbers, and as derivatives by that parameter those of a selection, whatever the guide calls it and however it is
    viewed and expanded; and likewise its scale. A guide that multiplies them by what is 1 for this task is taken for
    one that does not.

    Args:
        program: the program.
        data: a task.
        adapted: names of the parameters that adapt.
    """
    values = _generic({name: program.leaves[name].tensor for name in adapted})
    with program.using(values), torch.random.fork_rng(), torch.enable_grad():
        taken = program.given.for_program(data)
        trace = poutine.trace(program.conditioned(data)).get_trace(*taken.args, **taken.kwargs)
        sites = latents(trace)
        return _Search(values, sites).geometry(per_row=program.given.reduction == "mean")


def _generic(like: Mapping[str, Tensor]) -> Params:
    """Different numbers of the shapes given, in no regular order and of no great size."""
    generator = torch.Generator().manual_seed(0)

    def numbers(tensor: Tensor) -> Tensor:
        count = tensor.numel()
        spread = torch.randperm(count, generator=generator) + 0.6 * torch.rand(count, generator=generator)
        return (spread / max(count, 1) - 0.5).view(tensor.shape).to(tensor).requires_grad_()

    return {name: numbers(tensor) for name, tensor in like.items()}


@dataclass(frozen=True)
class _Site:
    """A Gaussian that a guide samples from.

    Attributes:
        loc: its mean, of the shape of a draw.
        scale: of that shape too; or the lower triangular factor of its covariance.
        full: whether it is the factor.
        in_plate: whether draws of a plate lie side by side in it.
    """

    loc: Tensor
    scale: Tensor
    full: bool
    in_plate: bool


class _Search:
    """Looks for the numbers of the sites among those of the parameters."""

    def __init__(self, values: Params, sites: Mapping[str, Any]) -> None:
        self._leaves = values
        self._values = {name: value.detach() for name, value in values.items()}
        self._sites, self._ids = sites, {id(value): name for name, value in values.items()}
        self._reasons: dict[str, str] = {}

    def geometry(self, *, per_row: bool) -> Geometry:
        """What the sites show, without the parameters that are more than one thing at once."""
        sites = list(_gaussians(self._sites.values()))
        full = [found for found in map(self._full, sites) if found]
        transformed = [found for found in map(self._diagonal, sites) if found]
        self._refuse_mixed(full, transformed)
        transforms = {g.scale: transform for g, transform in transformed if g.scale not in self._reasons}
        diagonal = tuple(self._without_refused(g) for g, _ in transformed if g.scale in transforms)
        full = [gaussian for gaussian in full if self._reasons.keys().isdisjoint(_names(gaussian))]
        scales = {name: Scale(transform, self._times(name, diagonal)) for name, transform in transforms.items()}
        known = {name for names in (*map(_names, full), *map(_names, diagonal)) for name in names}
        others = {name: self._reason(name) for name in self._values if name not in known}
        return Geometry(scales, diagonal, tuple(full), others, per_row)

    def _without_refused(self, gaussian: DiagonalGaussian) -> DiagonalGaussian:
        return replace(gaussian, mean=None) if gaussian.mean in self._reasons else gaussian

    def _diagonal(self, site: _Site) -> tuple[DiagonalGaussian, Transform] | None:
        if site.full:
            return None
        mean, mean_at = self._mean(site)
        for transform in _TO_SCALES:
            for name, value in self._values.items():
                at = self._selected(site.scale, name, transform)
                if at is not None and self._tells_coordinates_apart(name, at, site):
                    return DiagonalGaussian(name, mean, _unless_in_order(at, value.numel()), mean_at), transform
        if mean:
            self._reasons[mean] = "the scale that goes with it is no parameter that adapts"
        return None

    def _mean(self, site: _Site) -> tuple[str | None, Tensor | None]:
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

    def _tells_coordinates_apart(self, name: str, at: Tensor, site: _Site) -> bool:
        """Whether no two draws of a plate share a number; how many would do so may differ from task to task."""
        scalar = self._values[name].dim() == 0
        if site.in_plate and (scalar or len(at.unique()) < len(at)):
            self._reasons[name] = "the draws of a plate share it"
        return name not in self._reasons

    def _full(self, site: _Site) -> FullGaussian | None:
        if not site.full:
            return None
        diagonal, below = site.scale.diagonal(dim1=-2, dim2=-1), site.scale.tril(-1)
        mean = next((name for name, value in self._values.items() if _equal(value, site.loc)), None)
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
        if mean:
            self._reasons[mean] = "the covariance that goes with it is no parameter that adapts"
        return None

    def _refuse_mixed(
        self, full: Sequence[FullGaussian], diagonal: Sequence[tuple[DiagonalGaussian, Transform]]
    ) -> None:
        """Note the parameters that are two things, or of which a part is nothing, and the means of such scales."""
        roles: list[set[str | None]] = [{*_names(g)} for g in full]
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
                return f"{site!r} comes from {_kind(node['fn'])} that depends on it in another way"
        return "the guide draws nothing from it"


def _names(gaussian: DiagonalGaussian | FullGaussian) -> tuple[str, ...]:
    tril = (gaussian.tril,) if isinstance(gaussian, FullGaussian) else ()
    return tuple(name for name in (*tril, gaussian.scale, gaussian.mean) if name)


def _gaussians(sites: Iterable[Any]) -> Iterator[_Site]:
    """The Gaussians among sample sites, be they in the coordinates of the site or beneath transforms."""
    for site in sites:
        *above, innermost = layers(site["fn"])
        in_plate = any(frame.vectorized for frame in site["cond_indep_stack"])
        if isinstance(innermost, Normal):
            yield _beneath(innermost, [part for fn in above[::-1] for part in getattr(fn, "transforms", ())], in_plate)
        elif isinstance(innermost, MultivariateNormal):
            yield _Site(innermost.loc, innermost.scale_tril, True, in_plate)


def _beneath(normal: Normal, transforms: Sequence[Transform], in_plate: bool) -> _Site:
    """A normal, or what an affine transform makes of a standard one."""
    loc, scale = normal.loc, normal.scale
    first = transforms[0] if transforms and (loc == 0).all() and (scale == 1).all() else None
    if isinstance(first, LowerCholeskyAffine):
        return _Site(first.loc, first.scale_tril, True, in_plate)
    if isinstance(first, AffineTransform):
        loc, scale = (torch.as_tensor(part).to(loc).expand(loc.shape) for part in (first.loc, first.scale))
    return _Site(loc, scale, False, in_plate)


def _kind(fn: Any) -> str:
    *_, innermost = layers(fn)
    return f"a distribution of kind {type(innermost).__name__}"


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
