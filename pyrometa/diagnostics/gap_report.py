"""Where a meta-learned posterior loses its nats, task by task and step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrometa import generators
from pyrometa.diagnostics.best_guides import best_guides
from pyrometa.diagnostics.counts import check_count
from pyrometa.diagnostics.evidence import Source, check_source
from pyrometa.diagnostics.gap_words import table, verdict
from pyrometa.diagnostics.guided_model import check_meta
from pyrometa.diagnostics.importance import PSIS
from pyrometa.diagnostics.store import store_left_as_it_is
from pyrometa.diagnostics.task_arguments import tasks_of
from pyrometa.diagnostics.task_gaps import Bounds, TaskGaps, Use

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GapReport", "gap_report"]

_ACTIVE = 0.01
"""The variance of posterior means that Burda et al. call active."""


@dataclass(frozen=True)
class GapReport:
    """Bounds of tasks' log evidence, the gaps between them, and what becomes of the latents; in nats a task.

    Attributes:
        elbo: of the guide after each of ``0..K`` inner steps on the support set, shape ``(tasks, K + 1)``.
        elbo_error: its standard error, likewise.
        optimal: ELBO of the best of the guide's family, shape ``(tasks,)``.
        log_evidence: of the support set, likewise.
        evidence_error: its standard error; 0 where it is exact.
        evidence_by: for each task "given", "exact", "importance" or "annealed".
        k_hat: of the best guide's importance weights, shape ``(tasks,)``; ``-inf`` where it is the posterior.
        reliable: whether to go by the log evidence, likewise.
        converged: whether the search for the best guide ended by itself, likewise.
        query: what the guide after each step is worth for the query set, shape ``(tasks, K + 1)``; None without one.
        kl: of each latent site's elements from the prior, by the K-step guide, shape ``(tasks, *site)`` without rows.
        active: whether an element's posterior mean varies over tasks, or rows, by more than 0.01, shape of the site.
        posteriors: what importance weights say of each task's K-step guide.
        verdict: all this in words.
    """

    elbo: Tensor
    elbo_error: Tensor
    optimal: Tensor
    log_evidence: Tensor
    evidence_error: Tensor
    evidence_by: tuple[str, ...]
    k_hat: Tensor
    reliable: Tensor
    converged: Tensor
    query: Tensor | None
    kl: Mapping[str, Tensor]
    active: Mapping[str, Tensor]
    posteriors: tuple[PSIS, ...]
    verdict: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", verdict(self))

    @property
    def inference(self) -> Tensor:
        """All that is lost after each step, shape ``(tasks, K + 1)``: the sum of the two below."""
        return self.log_evidence[:, None] - self.elbo

    @property
    def approximation(self) -> Tensor:
        """Lost to the guide's family, shape ``(tasks,)``."""
        return self.log_evidence - self.optimal

    @property
    def amortization(self) -> Tensor:
        """Lost by stopping after each step, shape ``(tasks, K + 1)``."""
        return self.optimal[:, None] - self.elbo

    @property
    def active_units(self) -> int:
        """How many elements of latent sites are active."""
        return int(sum(active.sum().item() for active in self.active.values()))

    def table(self) -> str:
        """A line a task, as plain text."""
        return table(self)

    def plot(self) -> Figure:
        """The gaps over inner steps, the query set beside them, and the divergence of each latent dimension."""
        from pyrometa.plots import gap_curves

        return gap_curves(self.approximation, self.inference, self.query, self.kl, title=self.verdict)


def gap_report(
    meta: Any,
    support: Any,
    query: Any = None,
    *,
    steps: int | None = None,
    draws: int = 1000,
    evidence: Source = None,
    search: int = 2000,
    seed: int = 0,
    kwargs: Mapping[str, Any] | None = None,
) -> GapReport:
    r"""Split what adapted posteriors lose into the part of the guide's family and the part of the steps not taken.

    .. math::
        \log p(x) - \text{ELBO}(q_k) =
        \underbrace{\log p(x) - \text{ELBO}(q^*)}_{\text{approximation}} +
        \underbrace{\text{ELBO}(q^*) - \text{ELBO}(q_k)}_{\text{amortisation}}, \qquad
        q^* = \arg\max_{q} \text{ELBO}(q)

    for each task with support set x, :math:`q_k` the guide after k inner steps. The maximum is over the parameters that
    adapt. It is sought from :math:`q_K` by Adam in rounds of 50 steps; where a round gains less than 0.001 nats, or
    twice the standard error of its gain, the rate of 0.1 is divided by 4, until it is below 0.001. Tasks of one shape
    go side by side. Where the model adapts too it is that of K steps throughout, but for the query set.

    The log evidence is what ``evidence`` says. If nothing, it is summed exactly where all latent sites are discrete;
    else it is from draws of :math:`q^*` by Pareto smoothed importance sampling; and where their k-hat is too large for
    that, by :func:`~pyrometa.diagnostics.ais_log_evidence`.

    Of a query set y the curve shows what :math:`q_k` is worth for data that it did not see. Latents z that a task has
    one of have paid their divergence from the prior on the support set, and don't again; rows with latents u of their
    own pay theirs:

    .. math:: \mathbb{E}_{q_k(z \mid x)} \mathbb{E}_{q_k(u \mid y, z)} [\log p(y, u \mid z) - \log q_k(u \mid y, z)]

    It is a bound on :math:`\log \mathbb{E}_{q_k} p(y \mid z)`. A curve that turns down is over-fitting. A latent site
    counts as the rows' own if it is in all plates of an observed site.

    Divergences by element are left out of sites that are drawn jointly with others or over vectors, as by
    ``AutoMultivariateNormal``; they are in closed form where torch knows it, else by 64 draws, and means over rows.

    Args:
        meta: a :class:`~pyrometa.MetaSVI`.
        support: a meta-batch of support sets, as ``meta.adapt_many`` takes it.
        query: of query sets; None leaves them out.
        steps: K; those of ``meta`` by default.
        draws: of each guide; at least 25.
        evidence: a function of a task's data to ``log p(x)``, "importance" or "annealed".
        search: Adam's steps at most.
        seed: of all draws; the global generators stay where they are.
        kwargs: keyword arguments that all tasks share.

    Raises:
        ValueError: counts out of range; as many query as support sets are not given; no parameter of the guide adapts;
            what :func:`~pyrometa.diagnostics.psis` refuses.

    References:
        Cremer, Li, Duvenaud (2018), Inference suboptimality in variational autoencoders,
        https://arxiv.org/abs/1801.03558;
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519.

    Example:
        >>> import pyro, pyro.distributions as dist, pyrometa as pm, torch
        >>> from pyro.infer.autoguide import AutoNormal
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> meta = pm.MetaSVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), inner=pm.SGD(0.01), steps=5)
        >>> report = gap_report(meta, 2 + torch.randn(2, 10))
        >>> report.verdict.split(":")[0], report.inference.shape, report.approximation.abs().max() < 0.1
        ('amortisation', torch.Size([2, 6]), tensor(True))
    """
    check_meta(meta)
    for name, value, least in (("draws", draws, 25), ("search", search, 0)):
        check_count(name, value, least)
    check_source(evidence)
    given = dict(kwargs or {})
    supports, queries = tasks_of(support), None if query is None else tasks_of(query)
    if queries is not None and len(queries) != len(supports):
        raise ValueError(f"support has {len(supports)} tasks and query has {len(queries)}: give as many of both")
    with generators.forked():
        generators.seed(seed)
        paths = meta.adapt_along(support, steps=steps, kwargs=kwargs)
        with store_left_as_it_is():
            found = best_guides([path[-1] for path in paths], supports, given, search)
            tasks = [TaskGaps(path, args, given, draws, seed) for path, args in zip(paths, supports, strict=True)]
            bounds = [task.bounds(best, evidence) for task, best in zip(tasks, found, strict=True)]
            worth = None if queries is None else [task.on(args) for task, args in zip(tasks, queries, strict=True)]
            uses = [task.use(of.posterior.values) for task, of in zip(tasks, bounds, strict=True)]
    return _report(bounds, [best.converged for best in found], worth, uses)


def _report(
    bounds: Sequence[Bounds], converged: Sequence[bool], query: Sequence[Tensor] | None, uses: Sequence[Use]
) -> GapReport:
    evidence = [of_task.evidence for of_task in bounds]
    return GapReport(
        elbo=torch.stack([of_task.elbo for of_task in bounds]),
        elbo_error=torch.stack([of_task.error for of_task in bounds]),
        optimal=_column([of_task.optimal for of_task in bounds]),
        log_evidence=_column([of_task.log_evidence for of_task in evidence]),
        evidence_error=_column([of_task.standard_error for of_task in evidence]),
        evidence_by=tuple(of_task.by for of_task in evidence),
        k_hat=_column([of_task.k_hat for of_task in evidence]),
        reliable=torch.tensor([of_task.reliable for of_task in evidence]),
        converged=torch.tensor(converged),
        query=None if query is None else torch.stack(list(query)),
        kl={name: torch.stack([use.kl[name] for use in uses]).cpu() for name in uses[0].kl},
        active={name: _active(torch.cat([use.means[name] for use in uses])) for name in uses[0].means},
        posteriors=tuple(of_task.posterior for of_task in bounds),
    )


def _column(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.double)


def _active(means: Tensor) -> Tensor:
    """Of means of shape ``(tasks or rows, *unit)``; none is of a single one."""
    varies = len(means) > 1
    return (means.var(0) > _ACTIVE).cpu() if varies else torch.zeros(means.shape[1:], dtype=torch.bool)
