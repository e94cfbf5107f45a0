"""The traces of an ELBO's particles, and the terms of the ELBO that are computed from a trace."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pyro import poutine
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.util import scale_and_mask
from pyro.infer.elbo import ELBO
from pyro.poutine import Trace
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor


def traces(
    elbo: ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Iterator[tuple[Trace, Trace]]:
    """Model and guide traces, a pair a particle; one pair for all particles where the ELBO vectorises them."""
    model, guide = for_particles(elbo, model, guide, args, kwargs)
    for _ in range(runs(elbo)):
        model_trace, guide_trace = pair(model, guide, args, kwargs)
        yield prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


def for_particles(
    elbo: ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Model and guide as the ELBO runs them: in a plate of particles, where it vectorises these."""
    if not elbo.vectorize_particles:
        return model, guide
    if elbo.max_plate_nesting == float("inf"):
        elbo._guess_max_plate_nesting(model, guide, args, kwargs)
    return elbo._vectorized_num_particles(model), elbo._vectorized_num_particles(guide)


def runs(elbo: ELBO) -> int:
    """How often the ELBO runs model and guide."""
    return 1 if elbo.vectorize_particles else elbo.num_particles


def pair(
    model: Callable[..., Any], guide: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Trace, Trace]:
    """Model and guide traces of one run; a guide that is a messenger, as Pyro's ``AutoNormalMessenger``, makes both."""
    messenger = poutine.unwrap(guide)
    if isinstance(messenger, GuideMessenger):
        guide(*args, **kwargs)
        return messenger.get_traces()
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs), guide_trace


def average(elbo: ELBO, totals: Iterator[Tensor]) -> Tensor:
    """The mean over particles of sums over particles."""
    total = functools.reduce(operator.add, totals)
    return total / elbo.num_particles if elbo.num_particles > 1 else total


def samples(trace: Trace) -> Iterator[Any]:
    """The sample sites of a trace."""
    return (site for site in trace.nodes.values() if site["type"] == "sample")


def log_prob(site: Any) -> Tensor:
    """A site's log probability, scaled and masked, of the site's batch shape."""
    value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(value, scale=site["scale"], mask=site["mask"])


def score_parts(site: Any) -> ScoreParts:
    """A guide site's log probability and the parts of it that gradients pass, each of the site's batch shape."""
    parts = site["fn"].score_parts(site["value"], *site["args"], **site["kwargs"])
    return parts.scale_and_mask(site["scale"], site["mask"])
