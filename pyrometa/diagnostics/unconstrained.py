"""A model's log density on unconstrained space, its prior and its likelihood apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to
from torch.func import grad_and_value, vmap

from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.elbos import loss_of
from pyrometa.elbos.particles import log_prob
from pyrometa.internals import make_fx
from pyrometa.noise.batched_noise import BatchedNoise
from pyrometa.program.traces import draws

__all__ = ["LogJoint", "Tempered", "is_discrete"]


_TRIED = 3
"""Points that are compared with those run one by one."""


class Tempered(NamedTuple):
    """A density between prior and posterior, at some points.

    Attributes:
        log_density: ``log p(z) + beta log p(x | z)``, shape ``(points,)``.
        log_likelihood: ``log p(x | z)``, likewise.
        gradient: of the log density, shape ``(points, size)``.
    """

    log_density: Tensor
    log_likelihood: Tensor
    gradient: Tensor


class LogJoint:
    """A model on some data, as a function of its continuous latent sites end to end, in unconstrained space.

    Discrete latent sites are summed out, whose number the prior of no continuous one may depend on.

    Args:
        model: a Pyro model.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        ValueError: a discrete site that has infinitely many values, or a site that is scaled.
    """

    def __init__(self, model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._model = poutine.infer_config(model, _enumerated)  # type: ignore[arg-type]
        self._args, self._kwargs = args, kwargs
        sites = self._prior()
        found = {name: site for name, site in sites.items() if not site["is_observed"]}
        _check(sites)
        self._names = [name for name, site in found.items() if not is_discrete(site)]
        self._shapes = {name: _unconstrained(found[name]).shape for name in self._names}
        dims = (frame.dim for site in sites.values() for frame in site["cond_indep_stack"] if frame.vectorized)
        kind = Trace_ELBO if len(self._names) == len(found) else TraceEnum_ELBO
        self._loss = loss_of(kind(max_plate_nesting=-min(dims, default=0)))
        self._recorded: dict[torch.Size, Callable[[Tensor, Tensor], Any]] = {}

    @property
    def size(self) -> int:
        """How many numbers a point has."""
        return sum(shape.numel() for shape in self._shapes.values())

    def from_prior(self, count: int) -> Tensor:
        """Draws from the prior, shape ``(count, size)``."""
        drawn = [self._prior() for _ in range(count)]
        return torch.stack(
            [torch.cat([_unconstrained(sites[name]).flatten() for name in self._names]) for sites in drawn]
        )

    def log_evidence(self) -> Tensor:
        """``log p(x)`` exactly, where there is no continuous latent site; shape ``()``."""
        return self._parts(torch.zeros(0))[1]

    def tempered(self, points: Tensor, beta: float) -> Tempered:
        """The density with the likelihood to the power ``beta``, at points of shape ``(points, size)``."""
        at = points.new_tensor(beta)
        if points.shape not in self._recorded:
            self._recorded[points.shape] = self._fastest(points, at)
        with pyro.validation_enabled(False):
            gradient, (density, likelihood) = self._recorded[points.shape](points, at)
        return Tempered(density, likelihood, gradient)

    def _fastest(self, points: Tensor, beta: Tensor) -> Callable[[Tensor, Tensor], Any]:
        """Points side by side as a recording, where that gives what they give one by one.

        What vmap can run branches on no value, so that its recording holds at all points.
        """
        expected = torch.stack([self._by_point(point, beta)[1][1] for point in points[:_TRIED]])
        try:
            with pyro.validation_enabled(False):
                recorded = make_fx(lambda points, beta: self._side_by_side(points, beta))(points, beta)
                _, (_, found) = recorded(points, beta)
        except Exception as error:  # a program is the user's own code, and vmap meets it with errors of any type
            check_interrupt(error)
            return self._one_by_one
        agree = torch.allclose(found[:_TRIED], expected, rtol=1e-4, atol=1e-4)
        return recorded if agree else self._one_by_one

    def _side_by_side(self, points: Tensor, beta: Tensor) -> Any:
        with BatchedNoise(()):
            return vmap(self._by_point, (0, None))(points, beta)

    def _one_by_one(self, points: Tensor, beta: Tensor) -> Any:
        each = [self._by_point(point, beta) for point in points]
        density, likelihood = (torch.stack([values[i] for _, values in each]) for i in (0, 1))
        return torch.stack([gradient for gradient, _ in each]), (density, likelihood)

    def _by_point(self, point: Tensor, beta: Tensor) -> Any:
        """Gradient, density and log likelihood at one point."""

        def density(point: Tensor) -> tuple[Tensor, Tensor]:
            prior, likelihood = self._parts(point)
            return prior + beta * likelihood, likelihood

        return grad_and_value(density, has_aux=True)(point)

    def _prior(self) -> dict[str, Any]:
        with torch.no_grad():
            return draws(poutine.trace(self._model).get_trace(*self._args, **self._kwargs))

    def _parts(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Log prior, with the Jacobian, and log likelihood; each of shape ``()``."""
        parts = point.split([shape.numel() for shape in self._shapes.values()]) if self._names else []
        placed = _Placed({name: part.view(self._shapes[name]) for name, part in zip(self._names, parts, strict=True)})
        joint = -self._loss(placed(self._model), lambda *_, **__: None, *self._args, **self._kwargs)
        joint = torch.as_tensor(joint)
        return placed.log_prior + placed.log_jacobian, joint - placed.log_prior


class _Placed(Messenger):
    """Puts sites where unconstrained values say, and adds up their log density and the log Jacobian."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values
        self.log_prior: Any = 0.0
        self.log_jacobian: Any = 0.0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self._values:
            return
        unconstrained = self._values[msg["name"]]
        transform = biject_to(msg["fn"].support)
        msg["value"], msg["is_observed"] = transform(unconstrained), True
        jacobian = transform.log_abs_det_jacobian(unconstrained, msg["value"])
        self.log_jacobian = self.log_jacobian + jacobian.sum()

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self._values:
            self.log_prior = self.log_prior + log_prob(msg).sum()


def is_discrete(site: Any) -> bool:
    """Whether a latent site is a choice, and no number."""
    try:
        return bool(site["fn"].support.is_discrete)
    except NotImplementedError:  # a distribution of the user's own need not tell
        return False


def _enumerated(site: Any) -> dict[str, Any]:
    if site["type"] != "sample" or site["is_observed"] or not getattr(site["fn"], "has_enumerate_support", False):
        return {}
    return {"enumerate": site["infer"].get("enumerate") or "parallel"}


def _unconstrained(site: Any) -> Tensor:
    return biject_to(site["fn"].support).inv(site["value"])


def _check(sites: Mapping[str, Any]) -> None:
    for name, site in sites.items():
        if not (torch.as_tensor(site["scale"]) == 1).all():
            raise ValueError(
                f"site {name!r} is scaled (by a plate that subsamples, or poutine.scale), so there is no evidence of "
                "the data: give all rows, and no scale"
            )
        if not site["is_observed"] and is_discrete(site) and not site["fn"].has_enumerate_support:
            raise ValueError(
                f"site {name!r} is discrete and has no list of values to sum over: give the evidence by other means"
            )
