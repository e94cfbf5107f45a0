"""What importance weights say of each image: bounds, effective draws and the shape of the tail."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from experiments.results import mnist_report as report
from experiments.results.vae import Network, refined
from pyrometa.diagnostics import pareto_smoothed
from pyrometa.diagnostics.iwae import log_weights_of
from pyrometa.guides import SemiAmortizedGuide

IMAGES, DRAWS = 100, 50
"""How many are weighed at once."""

REFINEMENT_RATES = (3e-4, 1e-3, 3e-3)


class Weighed(NamedTuple):
    """Of each image, in nats; all of shape ``(N,)``, in double precision.

    Attributes:
        elbo: mean log weight.
        log_marginal: log mean weight.
        ess: effective draws, by the Pareto smoothed weights.
        k_hat: shape of the weights' tail.
    """

    elbo: Tensor
    log_marginal: Tensor
    ess: Tensor
    k_hat: Tensor


Proposal = Mapping[str, Tensor]


def proposed(guide: Any, x: Tensor) -> dict[str, Tensor]:
    """What a guide proposes, and has refined, for each image."""
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        return {name: value.detach() for name, value in guide.propose(x).items()}


def tuned_refinement(network: Network, images: Tensor) -> SemiAmortizedGuide:
    """Five steps from a trained encoder's proposals, at the rate that serves some grey training images best."""
    x = report.binarized(images)
    tried = [refined(network.guide, rate) for rate in REFINEMENT_RATES]
    bounds = [log_weights(network, proposed(guide, x), x, 20).mean().item() for guide in tried]
    return tried[max(range(len(tried)), key=bounds.__getitem__)]


def log_weights(network: Network, proposal: Proposal, x: Tensor, draws: int) -> Tensor:
    """``log p(x, z) - log q(z)``, shape ``(draws, N)``, in double precision, a few images at a time."""
    parts = []
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        for start in range(0, len(x), IMAGES):
            some = {name: value[start : start + IMAGES] for name, value in proposal.items()}
            data = (x[start : start + IMAGES],)
            chunks = log_weights_of(network.model, sampling(network, some), data, {}, draws, DRAWS)
            parts.append(torch.cat([chunk.double() for chunk in chunks]))
    return torch.cat(parts, 1)


def sampling(network: Network, proposal: Proposal) -> Callable[..., Any]:
    return lambda *_: network.guide.sample(proposal)


def log_marginal(logs: Tensor) -> Tensor:
    """The log of the mean weight of each image."""
    return logs.logsumexp(0) - math.log(len(logs))


def weighed(logs: Tensor) -> Weighed:
    """Summaries of log weights, ``(draws, N)``."""
    smoothed = [pareto_smoothed(column) for column in logs.T]
    ess = torch.stack([1 / (2 * values).exp().sum() for values, _ in smoothed])
    k_hat = torch.tensor([k for _, k in smoothed], dtype=torch.double)
    return Weighed(logs.mean(0), log_marginal(logs), ess, k_hat)


class TestNLL(NamedTuple):
    """The test images' negative log likelihood by importance weighting, in nats an image.

    Attributes:
        nll: mean over all of them: few draws for all, less what many draws gain on the first ones.
        error: its standard error, from the first ones.
        negative_elbo: mean over all.
        few: negative log likelihoods with few draws, shape ``(N,)``.
        gain: what many draws gain on the first ones, shape ``(first,)``.
    """

    nll: float
    error: float
    negative_elbo: float
    few: Tensor
    gain: Tensor


def test_nll(network: Network, x: Tensor, few: int, draws: int, first: int) -> TestNLL:
    """Estimate the mean over all images of what ``draws`` weights say, at the price of ``first`` images."""
    proposal = proposed(network.guide, x)
    logs = log_weights(network, proposal, x, few)
    part = {name: value[:first] for name, value in proposal.items()}
    many = log_marginal(log_weights(network, part, x[:first], draws))
    nll = -log_marginal(logs)
    gain = nll[:first] + many
    error = (gain.std() / len(gain) ** 0.5).item()
    return TestNLL((nll.mean() - gain.mean()).item(), error, -logs.mean().item(), nll, gain)
