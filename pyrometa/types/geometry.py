"""Which parameters are means and scales of a guide's Gaussians."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from torch import Tensor
from torch.distributions import Transform


@dataclass(frozen=True, eq=False)
class Scale:
    """An adapted parameter that holds scales of Gaussians.

    Attributes:
        transform: takes its unconstrained numbers to the scales, number by number.
        times: of how many coordinates each number is the scale, of the parameter's shape; None where of one each.
    """

    transform: Transform
    times: Tensor | None


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """Independent Gaussian coordinates of a guide, by the positions that their means and scales have in parameters.

    Attributes:
        scale: name of the parameter that holds the scales.
        mean: name of the parameter that holds the means; None where no adapted one does.
        scale_at: for each coordinate a position in the flat scales; None where these are the coordinates in order.
        mean_at: likewise in the flat means.
    """

    scale: str
    mean: str | None
    scale_at: Tensor | None
    mean_at: Tensor | None


@dataclass(frozen=True)
class FullGaussian:
    r"""A Gaussian of a guide with covariance :math:`L L^\top`.

    Attributes:
        tril: name of the parameter whose entries below the diagonal are those of L, each row divided by its ``scale``.
        scale: name of the parameter that holds the diagonal of L; None where the diagonal of ``tril`` does.
        mean: name of the parameter that is the mean; None where no adapted one is.
        transform: takes unconstrained numbers to the diagonal of L.
    """

    tril: str
    scale: str | None
    mean: str | None
    transform: Transform

    @property
    def covariance(self) -> tuple[str | None, str | None]:
        """The parameters that its covariance is made of."""
        return self.tril, self.scale


@dataclass(frozen=True)
class LowRankGaussian:
    r"""A Gaussian of a guide with covariance :math:`\operatorname{diag}(s) (I + W W^\top) \operatorname{diag}(s)`.

    Attributes:
        factor: name of the parameter that is W.
        scale: name of the parameter that holds s.
        mean: name of the parameter that is the mean; None where no adapted one is.
        transform: takes unconstrained numbers to s.
    """

    factor: str
    scale: str
    mean: str | None
    transform: Transform

    @property
    def covariance(self) -> tuple[str, str]:
        """The parameters that its covariance is made of."""
        return self.factor, self.scale


@dataclass(frozen=True, eq=False)
class ReadGaussians:
    """Gaussians whose means and unconstrained scales are linear in adapted parameters, by coefficients of the task's.

    Attributes:
        params: names of the parameters.
        sites: the sites, each with the transform of unconstrained numbers to its scales.
        like: numbers of the shapes of their means and unconstrained scales, by names of their own.
        geometry: which of these are means and scales.
    """

    params: tuple[str, ...]
    sites: Mapping[str, Transform]
    like: Mapping[str, Tensor]
    geometry: Geometry

    def without(self, frozen: Collection[str]) -> ReadGaussians | None:
        """These as moved by the parameters that still adapt; None where none do."""
        params = tuple(name for name in self.params if name not in frozen)
        return replace(self, params=params) if params else None


@dataclass(frozen=True, eq=False)
class Geometry:
    """Which adapted parameters are means and scales of a guide's Gaussians.

    Attributes:
        scales: the parameters that hold scales of diagonal Gaussians, by name.
        diagonal: the diagonal Gaussians.
        full: those with a full covariance.
        others: the adapted parameters that are neither mean nor scale, by name, each with the reason.
        per_row: whether the loss is divided by the number of rows.
        low_rank: those with a covariance of low rank and a diagonal.
        read: those that a network gives, say, of which the last layer adapts.
    """

    scales: Mapping[str, Scale]
    diagonal: tuple[DiagonalGaussian, ...]
    full: tuple[FullGaussian, ...]
    others: Mapping[str, str]
    per_row: bool = False
    low_rank: tuple[LowRankGaussian, ...] = ()
    read: ReadGaussians | None = None

    def without(self, frozen: Collection[str]) -> Geometry:
        """The geometry of what still adapts where some parameters no longer do."""
        if not frozen:
            return self
        mean_alone = "the scale that goes with it does not adapt"
        others = {name: why for name, why in self.others.items() if name not in frozen}
        whole: list[FullGaussian | LowRankGaussian] = []
        wholes: tuple[FullGaussian | LowRankGaussian, ...] = (*self.full, *self.low_rank)
        for gaussian in wholes:
            parts = {part for part in gaussian.covariance if part}
            if parts.isdisjoint(frozen):
                whole.append(replace(gaussian, mean=None if gaussian.mean in frozen else gaussian.mean))
            else:
                left = {part for part in (*parts, gaussian.mean) if part and part not in frozen}
                others.update(dict.fromkeys(left, mean_alone))
        alone = {g.mean for g in self.diagonal if g.mean and g.mean not in frozen and g.scale in frozen}
        others.update(dict.fromkeys(alone, mean_alone))
        diagonal = tuple(
            replace(g, mean=None if g.mean in frozen or g.mean in alone else g.mean)
            for g in self.diagonal
            if g.scale not in frozen
        )
        scales = {name: scale for name, scale in self.scales.items() if name not in frozen}
        full = tuple(g for g in whole if isinstance(g, FullGaussian))
        low_rank = tuple(g for g in whole if isinstance(g, LowRankGaussian))
        read = self.read and self.read.without(frozen)
        return Geometry(scales, diagonal, full, others, self.per_row, low_rank, read)
