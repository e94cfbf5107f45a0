"""Is a guide the posterior? Its importance weights know."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrometa.diagnostics.counts import check_count
from pyrometa.diagnostics.guided_model import model_of
from pyrometa.diagnostics.pareto import pareto_smoothed
from pyrometa.diagnostics.weighted_draws import WeightedDraws, weighted_draws

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PSIS", "psis"]

_EXACT = 1e-3
"""Nats that log weights may differ by, as a standard deviation, of a guide that is exact for every purpose."""

_FEWEST_DRAWS = 25
"""So that there is a tail to fit."""

_FALSE_ALARMS = 1e-3
"""How often a site of an exact guide may be called shifted, or of another width."""

_NEAR, _WIDE = 0.1, 1.15
"""What is not worth a word: a mean that many standard deviations off, a width that many times another."""


@dataclass(frozen=True)
class PSIS:
    """Draws of a guide under Pareto smoothed importance weights.

    Attributes:
        k_hat: the shape of the weights' tail; ``-inf`` of an exact guide.
        log_weights: smoothed and normalised, shape ``(draws,)``.
        ess: how many draws of the posterior the weighted draws are worth, at most their number.
        log_evidence: the estimate of ``log p(data)`` by these weights, in nats.
        values: the draws of each latent site, shape ``(draws, *site)``.
        shift: for each site of real numbers, how far the guide's mean is above the corrected one, in corrected standard
            deviations; shape of the site.
        width: for each, the guide's standard deviation over the corrected one; likewise.
        threshold: below it k-hat is good.
        verdict: all this in words.
    """

    k_hat: float
    log_weights: Tensor
    ess: float
    log_evidence: float
    values: Mapping[str, Tensor]
    shift: Mapping[str, Tensor]
    width: Mapping[str, Tensor]
    threshold: float
    verdict: str

    def plot(self) -> Figure:
        """The weights, largest first; the exact posterior's are all 1."""
        from pyrometa.plots import importance_weights

        return importance_weights(self.log_weights, title=self.verdict)

    def resample(self, n: int) -> dict[str, Tensor]:
        """Draws of the corrected posterior: the guide's, drawn anew by their weights with replacement.

        Args:
            n: how many; more than ``ess`` of them tell nothing new.

        Returns:
            for each latent site values of shape ``(n, *site)``, as ``Predictive(posterior_samples=...)`` takes them.

        Raises:
            ValueError: ``n`` below 1.
        """
        check_count("n", n, 1)
        chosen = torch.multinomial(self.log_weights.exp(), n, replacement=True)
        return {name: value[chosen.to(value.device)] for name, value in self.values.items()}


def psis(
    guide: Any,
    *args: Any,
    draws: int = 4000,
    model: Callable[..., Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> PSIS:
    r"""How far a guide is from the posterior, by the importance weights of its draws.

    .. math:: \log w_s = \log p(\text{data}, z_s) - \log q(z_s), \qquad z_s \sim q

    of all latent sites together. Equal weights are the posterior itself: then the verdict is "exact". A guide that is
    too narrow misses what it should weigh most, and its weights have a heavy tail: the larger :math:`\hat k`, the less
    can be trusted, be it corrected or not. One that is too wide has bounded weights and loses draws only.

    ============================================  =====================================================================
    k-hat                                         the corrected posterior
    ============================================  =====================================================================
    at most min(1 - 1 / log10(draws), 0.7)        is reliable
    below 1                                       is biased; so is the guide
    from 1 on                                     is not there: the weights have no mean
    ============================================  =====================================================================

    With many latents even small errors in each add up to a large k-hat: it speaks of the joint posterior.

    Args:
        guide: an adapted guide, or any Pyro guide with ``model=``.
        args: the data, as model and guide take them.
        draws: how many.
        model: the guide's model; ``guide.model`` by default.
        kwargs: keyword arguments of both.

    Raises:
        TypeError: a guide without ``model``, and none given.
        ValueError: ``draws`` below 25; sites of model and guide that do not fit, or that are scaled or subsampled; a
            point estimate; weights that are not finite.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry (2024), Pareto smoothed importance sampling,
        https://www.jmlr.org/papers/v25/19-556.html;
        Yao, Vehtari, Simpson, Gelman (2018), Yes, but did it work? Evaluating variational inference,
        https://arxiv.org/abs/1802.02538.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> def guide(x, width=1.0):
        ...     pyro.sample("mean", dist.Normal(x.sum() / (len(x) + 1), width / (len(x) + 1) ** 0.5))
        >>> x = torch.tensor([0.3, 1.2, 0.9])
        >>> print(psis(guide, x, model=model).verdict)
        exact: all weights are equal
        >>> narrow = psis(lambda x: guide(x, width=0.5), x, model=model)
        >>> narrow.verdict.split(":")[0], narrow.resample(100)["mean"].shape
        ('too narrow', torch.Size([100]))
    """
    model = model_of(guide, model, "psis")
    check_count("draws", draws, _FEWEST_DRAWS)
    drawn = weighted_draws(model, guide, args, dict(kwargs or {}), draws)
    return judged(drawn)


def judged(drawn: WeightedDraws) -> PSIS:
    """What weights of a guide's draws say of it."""
    raw = drawn.log_weights.cpu()
    log_weights, k_hat = pareto_smoothed(raw)
    log_evidence = (raw.max() + (raw - raw.max()).exp().mean().log()).item()
    if raw.std() <= _EXACT + drawn.rounding:
        log_weights, k_hat = torch.full_like(raw, -math.log(len(raw))), -math.inf
    ess = 1 / log_weights.exp().square().sum().item()
    moments = {name: _moments(value, log_weights) for name, value in drawn.values.items() if value.is_floating_point()}
    shift, width = ({name: pair[i] for name, pair in moments.items()} for i in (0, 1))
    threshold = min(1 - 1 / math.log10(len(raw)), 0.7)
    verdict = _verdict(k_hat, threshold, ess, len(raw), _worst(shift, width, ess))
    stuck = [name for name in drawn.values if name in drawn.discrete and _stuck(drawn.values[name])]
    if stuck:
        which = "" if set(stuck) == set(drawn.values) else f" in {', '.join(map(repr, stuck))}"
        verdict = f"{verdict}, and all draws the same{which}: of other values they say nothing"
    return PSIS(k_hat, log_weights, ess, log_evidence, drawn.values, shift, width, threshold, verdict)


def _stuck(values: Tensor) -> bool:
    """Whether some number of a site is the same in all draws."""
    return bool((values == values[0]).all(0).any())


def _moments(values: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """How far the draws' mean is above the weighted one, and how many times as wide they are."""
    weights = log_weights.exp().to(values.device)
    values = values.double()
    mean = torch.tensordot(weights, values, 1)
    deviation = torch.tensordot(weights, (values - mean).square(), 1).sqrt()
    return (values.mean(0) - mean) / deviation, values.std(0) / deviation


def _worst(shift: Mapping[str, Tensor], width: Mapping[str, Tensor], ess: float) -> tuple[str, str] | None:
    """The site that is most off, as a word and a clause; None if none is by more than ``ess`` draws show by chance."""
    tests = 2 * sum(value.numel() for value in shift.values())
    if not tests:
        return None
    sure = -torch.special.ndtri(torch.tensor(_FALSE_ALARMS / (2 * tests))).item()
    least = {"shift": max(_NEAR, sure / math.sqrt(ess)), "width": max(math.log(_WIDE), sure / math.sqrt(2 * ess))}
    found = []
    for kind, of_sites in (("shift", shift), ("width", {name: value.log() for name, value in width.items()})):
        for name, value in of_sites.items():
            off = value.flatten()[value.abs().nan_to_num(0.0).argmax()].item() if value.numel() else 0.0
            if least[kind] < abs(off) < math.inf:
                found.append((abs(off), *_told(kind, name, off)))
    return max(found)[1:] if found else None


def _told(kind: str, name: str, off: float) -> tuple[str, str]:
    if kind == "shift":
        side = "above" if off > 0 else "below"
        return "shifted", f"{name!r} is {abs(off):.1f} standard deviations {side} its corrected mean"
    return "too wide" if off > 0 else "too narrow", f"{name!r} is {math.exp(off):.2g} times as wide as corrected"


def _verdict(k_hat: float, threshold: float, ess: float, draws: int, worst: tuple[str, str] | None) -> str:
    if k_hat == -math.inf:
        return "exact: all weights are equal"
    word, clause = worst or ("close" if k_hat <= threshold else "far", "")
    parts = [clause] if clause else []
    if k_hat <= threshold:
        parts.append(
            f"k-hat {k_hat:.2f} is at most {threshold:.2f}, so resample() corrects it "
            f"({draws:,} draws are worth {ess:,.0f})"
        )
    else:
        parts.append(
            f"k-hat {k_hat:.2f} is above {threshold:.2f}, so neither the guide nor resample() is reliable: "
            "adapt longer, or give a richer guide"
        )
    return f"{word}: {'; '.join(parts)}"
