"""The log density of a model's latents and data, as a function of one vector of reals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.elbo import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrometa.elbos import loss_of
from pyrometa.guides.groups import sample_part
from pyrometa.guides.sites import Site


class LogJoint:
    r"""Mean log density of a model at some points of its latents, which are outside of plates.

    .. math:: \frac{1}{S} \sum_{s=1}^S \log p(z(u_s), x) + \log |\det \partial z / \partial u_s|

    with :math:`u` the unconstrained latents, end to end in one vector. Enumerated sites are summed out.

    Args:
        model: a Pyro model.
        sites: its latent sites, but for those that are enumerated.
        elbo: an ELBO of one particle for it, ``TraceEnum_ELBO`` if it enumerates, whose ``max_plate_nesting`` leaves
            a dimension for the points.
        plates: names of the plates over the rows of the data.
        broadcasts: whether the model may be run on all points at once, in a plate, as on an ELBO's vectorised
            particles; otherwise it is run on one after the other.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        sites: Sequence[Site],
        elbo: ELBO,
        plates: frozenset[str],
        *,
        broadcasts: bool,
    ) -> None:
        self._model, self._sites, self._plates, self._broadcasts = model, sites, plates, broadcasts
        self._elbo, self._dim = elbo, -elbo.max_plate_nesting

    def __call__(self, points: Tensor, mask: Tensor, *args: Any) -> Tensor:
        """The mean, a scalar.

        Args:
            points: unconstrained latents, ``(S, D)``.
            mask: which rows of the data count, boolean ``(N,)``.
            args: the model's positional arguments.
        """
        with poutine.block(), _Rows(mask, self._plates):
            if not self._broadcasts:
                return torch.stack([self._sum(self._model, point, args) for point in points]).mean()
            plate = pyro.plate("_points", len(points), dim=self._dim)
            apart = points.reshape(-1, *(1,) * (-1 - self._dim), points.shape[-1])
            return self._sum(plate(self._model), apart, args, plate) / len(points)

    def _sum(self, model: Callable[..., Any], points: Tensor, args: tuple[Any, ...], plate: Any = None) -> Tensor:
        def given(*_: Any) -> None:
            parts = points.split([site.size for site in self._sites], dim=-1)
            with plate or nullcontext():
                for site, part in zip(self._sites, parts, strict=True):
                    sample_part(site, part)

        return -loss_of(self._elbo)(model, given, *args)

    def derivatives(self, points: Tensor, mask: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        """Mean gradient ``(D,)`` and mean negative Hessian ``(D, D)``."""

        def slope(at: Tensor) -> tuple[Tensor, Tensor]:
            total = torch.func.grad(lambda u: self(u, mask, *args))(at).sum(0)
            return total, total

        hessians, gradient = torch.func.jacrev(slope, has_aux=True)(points)
        return gradient, -hessians.sum(1)


class _Rows(Messenger):
    """Lets only some rows count at every site in a plate over the rows."""

    def __init__(self, mask: Tensor, plates: frozenset[str]) -> None:
        super().__init__()
        self._mask, self._plates = mask, plates

    def _pyro_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.name in self._plates:
                counts = self._mask.reshape(-1, *(1,) * (-1 - frame.dim))
                msg["mask"] = counts if msg["mask"] is None else msg["mask"] & counts
