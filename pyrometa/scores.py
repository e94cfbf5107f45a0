"""Query objectives other than the ELBO, for ``MetaSVI(score=...)``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor


@dataclass(frozen=True)
class PredictiveLoss:
    r"""Negative log predictive density of the data, under samples from the guide.

    .. math:: -\log \frac{1}{M} \sum_{m=1}^{M} p(D \mid w_m), \qquad w_m \sim q(w)

    As ``score=`` it asks of the adapted guide what prediction asks: the KL divergence of global latents, which the
    support set's ELBO has counted, is not counted again. An observed site in a plate is a factor for each
    row, and the rows of a task are scored jointly. M samples give an upper bound in expectation.

    Args:
        num_particles: M.
        vectorize_particles: draw all samples at once, in the batch dimension to the left of the plates, which model
            and guide must allow for; the particles of a :class:`~pyrometa.guides.ParticleGuide` count as samples.
        max_plate_nesting: the number of batch dimensions that plates take; needed with ``vectorize_particles``.

    Raises:
        ValueError: a number out of range, or a missing ``max_plate_nesting``.

    References:
        Gordon et al. (2019), Meta-learning probabilistic inference for prediction, https://arxiv.org/abs/1805.09921.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> def guide(x):
        ...     pyro.sample("mean", dist.Delta(torch.tensor(0.5)))
        >>> x = torch.tensor([0.0, 1.0])
        >>> PredictiveLoss()(model, guide, x), -dist.Normal(0.5, 1.0).log_prob(x).sum()
        (tensor(2.0879), tensor(2.0879))
    """

    num_particles: int = 10
    vectorize_particles: bool = False
    max_plate_nesting: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.num_particles, int) or self.num_particles < 1:
            raise ValueError(f"num_particles must be a whole number of at least 1, got {self.num_particles!r}")
        if self.vectorize_particles and self.max_plate_nesting is None:
            raise ValueError("vectorize_particles=True needs max_plate_nesting, the dimensions that the plates take")

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """The loss of one task.

        Args:
            model: a Pyro model.
            guide: a Pyro guide.
            args: what both take.
            kwargs: what both take.

        Returns:
            A scalar tensor.
        """
        if self.vectorize_particles:
            logs = self._at_once(model, guide, args, kwargs)
        else:
            draws = range(self.num_particles)
            logs = torch.stack([_log_likelihood(_trace(model, guide, args, kwargs), ()) for _ in draws])
        return math.log(self.num_particles) - logs.logsumexp(0)

    def _at_once(self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        dim = -1 - (self.max_plate_nesting or 0)
        with pyro.plate("num_particles_vectorized", self.num_particles, dim=dim):
            trace = _trace(model, guide, args, kwargs)
        return _log_likelihood(trace, (self.num_particles, *(1,) * (-1 - dim)))


def _trace(model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any) -> Trace:
    drawn = poutine.trace(guide).get_trace(*args, **kwargs)
    trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs)
    trace.compute_log_prob(lambda name, site: site["is_observed"])
    return trace


def _log_likelihood(trace: Trace, samples: tuple[int, ...]) -> Tensor:
    """Summed over all sites and plates but that of the samples, of which the shape is given."""
    logs = [site["log_prob"] for site in trace.nodes.values() if "log_prob" in site]
    if not logs:
        raise ValueError("the model has no observed site, so there is nothing to predict: give it data to observe")
    return sum(_kept(log, samples) for log in logs)  # type: ignore[return-value]


def _kept(log: Tensor, samples: tuple[int, ...]) -> Tensor:
    if not samples:
        return log.sum()
    whole = log.expand(torch.broadcast_shapes(log.shape, samples))
    return whole.flatten(1).sum(1) if whole.dim() > 1 else whole
