"""The evidence by annealed importance sampling: along a path from the prior to the posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrometa.diagnostics.counts import check_count
from pyrometa.diagnostics.store import store_left_as_it_is
from pyrometa.diagnostics.unconstrained import LogJoint, Tempered

__all__ = ["AIS", "ais_log_evidence"]

_ACCEPTED = 0.8
"""How much of the moves the pilot's step sizes aim at."""


class AIS(NamedTuple):
    """An estimate of the evidence.

    Attributes:
        log_evidence: of the data, in nats.
        standard_error: of that, over chains.
        log_weights: of the chains, whose mean weight is the estimate; double, shape ``(chains,)``.
        acceptance: share of moves that were accepted.
    """

    log_evidence: float
    standard_error: float
    log_weights: Tensor
    acceptance: float


class _Path(NamedTuple):
    """What the pilot finds, at each temperature but the first: ``(steps,)``, and of scales ``(steps, size)``."""

    betas: Tensor
    scales: Tensor
    step_sizes: Tensor


def ais_log_evidence(
    model: Callable[..., Any],
    *args: Any,
    chains: int = 64,
    temperatures: int = 100,
    leapfrog: int = 3,
    kwargs: Mapping[str, Any] | None = None,
) -> AIS:
    r"""The log evidence of a model on some data, by annealed importance sampling.

    .. math::
        \hat p(x) = \frac{1}{S} \sum_s \prod_{t=1}^{T} p(x \mid z_{s,t-1})^{\beta_t - \beta_{t-1}}, \qquad
        0 = \beta_0 < \dots < \beta_T = 1

    with :math:`z_{s,0}` from the prior and :math:`z_{s,t}` a Hamiltonian move from :math:`z_{s,t-1}` that leaves
    :math:`p(z) \, p(x \mid z)^{\beta_t}` as it is, in unconstrained space. It is unbiased for :math:`p(x)`, so
    its logarithm is low on average, and above the truth by b nats with a probability of at most :math:`e^{-b}`. A
    pilot run on chains of its own sets temperatures in equal steps of thermodynamic length, scales and step sizes; the
    chains that count leave these as they are. Chains go side by side where the model allows it.

    Discrete latent sites with a list of values are summed out. Where nothing else is latent the evidence is exact.

    Args:
        model: a Pyro model, all rows of whose data are given, by ``obs=``.
        args: its positional arguments.
        chains: how many; at least 2.
        temperatures: how many steps T from prior to posterior.
        leapfrog: steps of each Hamiltonian move.
        kwargs: keyword arguments of the model.

    Raises:
        ValueError: counts out of range; a site that is scaled, or discrete without a list of values; a likelihood that
            is not finite in all draws of the prior.

    References:
        Neal (2001), Annealed importance sampling, https://arxiv.org/abs/physics/9803008;
        Grosse, Ghahramani, Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo,
        https://arxiv.org/abs/1511.02543;
        Wu, Burda, Salakhutdinov, Grosse (2017), On the quantitative analysis of decoder-based generative models,
        https://arxiv.org/abs/1611.04273.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> found = ais_log_evidence(model, torch.tensor(2.0), temperatures=20)
        >>> exact = dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(2.0)).item()
        >>> abs(found.log_evidence - exact) < 4 * found.standard_error
        True
    """
    for name, value, least in (("chains", chains, 2), ("temperatures", temperatures, 2), ("leapfrog", leapfrog, 1)):
        check_count(name, value, least)
    with store_left_as_it_is():
        joint = LogJoint(model, args, dict(kwargs or {}))
        if not joint.size:
            return AIS(joint.log_evidence().item(), 0.0, joint.log_evidence().double().expand(chains), 1.0)
        path = _pilot(joint, chains, temperatures, leapfrog)
        log_weights, accepted = _annealed(joint, path, chains, leapfrog)
    relative = (log_weights - log_weights.max()).exp()
    log_evidence = (log_weights.max() + relative.mean().log()).item()
    error = (relative.std() / relative.mean()).item() / math.sqrt(chains)
    return AIS(log_evidence, error, log_weights, accepted)


def _annealed(joint: LogJoint, path: _Path, chains: int, leapfrog: int) -> tuple[Tensor, float]:
    """Log weights of chains along the path, and the share of moves accepted."""
    points, before = _start(joint, chains)
    log_weights, last, accepted = torch.zeros(chains, dtype=torch.double), 0.0, []
    for beta, scale, size in zip(path.betas.tolist(), path.scales, path.step_sizes.tolist(), strict=True):
        log_weights += (beta - last) * before.log_likelihood.double().cpu()
        points, before, moved = _moved(joint, points, beta, size * scale, leapfrog)
        accepted.append(moved.mean().item())
        last = beta
    return log_weights, sum(accepted) / len(accepted)


def _pilot(joint: LogJoint, chains: int, temperatures: int, leapfrog: int) -> _Path:
    """Temperatures, scales and step sizes, from a run along a path of powers."""
    points, before = _start(joint, chains)
    betas = (torch.arange(1, temperatures + 1).double() / temperatures) ** 4
    size, found = joint.size**-0.25, []
    spreads = [before.log_likelihood.double().std().item()]
    for beta in betas.tolist():
        scale = points.std(0).clamp(min=1e-6)
        points, before, moved = _moved(joint, points, beta, size * scale, leapfrog)
        found.append((scale, size))
        spreads.append(before.log_likelihood.double().std().item())
        size *= math.exp(0.5 * (moved.mean().item() - _ACCEPTED))
    return _even(betas, torch.stack([scale for scale, _ in found]), torch.tensor([s for _, s in found]), spreads)


def _even(betas: Tensor, scales: Tensor, sizes: Tensor, spreads: list[float]) -> _Path:
    """The path in as many equal steps of length, the integral of the log likelihood's spread over beta."""
    ends = torch.cat([torch.zeros(1, dtype=torch.double), betas])
    spread = torch.tensor(spreads, dtype=torch.double).nan_to_num(0.0)
    length = ((spread[1:] + spread[:-1]) / 2 * ends.diff() + 1e-6 * ends.diff()).cumsum(0)
    wanted = torch.arange(1, len(betas) + 1).double() / len(betas) * length[-1]
    right = torch.searchsorted(length, wanted.clamp(max=length[-1])).clamp(max=len(betas) - 1)
    begun = torch.cat([torch.zeros(1, dtype=torch.double), length])[right]
    share = (wanted - begun) / (length[right] - begun)
    even = ends[right] + share * (ends[right + 1] - ends[right])
    even[-1] = 1.0
    return _Path(even, scales[right], sizes[right])


def _start(joint: LogJoint, chains: int) -> tuple[Tensor, Tempered]:
    points = joint.from_prior(chains)
    at = joint.tempered(points, 0.0)
    if not at.log_likelihood.isfinite().any():
        raise ValueError(
            "the log likelihood is no finite number in any draw of the prior: look for NaN in the data, and for a "
            "prior under which they are impossible"
        )
    return points, at


def _moved(
    joint: LogJoint, points: Tensor, beta: float, step: Tensor, leapfrog: int
) -> tuple[Tensor, Tempered, Tensor]:
    """Points after a Hamiltonian move at a temperature, the density there, and which have moved."""
    start = joint.tempered(points, beta)
    momentum = torch.randn_like(points)
    place, at, speed = points, start, momentum
    for _ in range(leapfrog):
        speed = speed + 0.5 * step * at.gradient
        place = place + step * speed
        at = joint.tempered(place, beta)
        speed = speed + 0.5 * step * at.gradient
    gain = at.log_density - start.log_density - 0.5 * (speed.square() - momentum.square()).sum(1)
    accepted = torch.rand_like(gain).log() < gain.nan_to_num(-math.inf)
    kept = [
        torch.where(accepted.view(-1, *(1,) * (new.dim() - 1)), new, old) for new, old in zip(at, start, strict=True)
    ]
    return torch.where(accepted[:, None], place, points), Tempered(*kept), accepted.to(gain.dtype)
