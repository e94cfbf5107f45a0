"""Is the posterior of this very task calibrated? A classifier that has met many others knows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pyrometa import generators
from pyrometa.diagnostics.counts import check_count
from pyrometa.diagnostics.rank_calibration import FALSE_ALARMS
from pyrometa.diagnostics.simulated import simulated
from pyrometa.diagnostics.weighted_draws import weighted_draws

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LC2ST", "lc2st"]

_HELD_OUT = 500
"""Draws of the task's posterior that the statistic is a mean over."""

_FEW = 10
"""Values of a discrete site that are looked at one by one; more have a width."""


@dataclass(frozen=True)
class LC2ST:
    """How well truths and draws can be told apart where one task's data are.

    Attributes:
        statistic: the classifier's mean squared distance from a half, over draws of the task's posterior.
        null: likewise, of classifiers between sets that can't be told apart, shape ``(nulls,)``.
        p_value: the share of those that are as large, the statistic counted among them.
        verdict: "calibrated", "over-confident", "under-confident" or "shifted" here, with the number that is most so. A
            discrete site of few values is shifted, towards a value or away from it.
    """

    statistic: float
    null: Tensor
    p_value: float
    verdict: str

    def plot(self) -> Figure:
        """The statistic among those of sets that can't be told apart."""
        from pyrometa.plots import null_histogram

        return null_histogram(self.statistic, self.null, title=self.verdict)


def lc2st(
    meta: Any,
    prior_tasks: Any,
    *data: Any,
    rows: int = 20,
    tasks: int = 400,
    draws: int = 100,
    nulls: int = 200,
    steps: int | None = None,
    seed: int = 0,
) -> LC2ST:
    r"""Local classifier two-sample test: :func:`sbc` for the posterior of one task.

    .. math::
        T(x) = \mathbb{E}_{\theta \sim q(\theta \mid x)} \left[ \left( d(\theta, x) - \tfrac12 \right)^2 \right],
        \qquad d(\theta, x) \approx \frac{p(\theta \mid x)}{p(\theta \mid x) + q(\theta \mid x)}

    with d a classifier between truths and draws of the posteriors of ``tasks`` tasks from the prior. It reads a task's
    data as what q makes of them, the mean m and standard deviation s of each number, and is a logistic regression on

    .. math:: (z,\; z z^\top,\; z \otimes r,\; z^2 \otimes r,\; r,\; r r^\top), \qquad
        z = (\theta - m) / s, \quad r = (m, \log s)

    which is the form of the truth where both are normal, with a shift that is linear in r. Under the null hypothesis a
    task's truth and its draw may be swapped; ``nulls`` classifiers of labels swapped by lot say how large T is then.
    With one number, posteriors that were exact, half or twice as wide, or shifted by one standard deviation were called
    so in 20, 20, 20 and 19 of 20 trials.

    It knows of data that are like the prior's alone: ask :func:`~pyrometa.diagnostics.psis` about others. And where a
    guide is wrong for most data, it may be taken for wrong where it is right: a guide with a mean of 0.7 times the
    exact one was called so in 2 of 10 trials on data with a mean of zero.

    Args:
        meta: a :class:`~pyrometa.MetaSVI`.
        prior_tasks: where tasks and their truths come from: :class:`~pyrometa.tasks.PriorTasks`.
        data: the support set of the task in question, as the model takes it.
        rows: of each task from the prior: as many as ``data`` has, so that they are alike.
        tasks: how many tasks; at least 20.
        draws: of each posterior; at least 10.
        nulls: how many classifiers of swapped labels; at least 100.
        steps: adaptation steps; those of ``meta`` by default.
        seed: of tasks, noise, draws and swaps; the global generators stay where they are.

    Raises:
        ImportError: scikit-learn is not installed: ``pip install 'pyrometa[diagnostics]'``.
        TypeError: ``prior_tasks`` that do not tell the truth, a count that is no whole number.
        ValueError: counts out of range, ``data`` missing; what :func:`~pyrometa.diagnostics.psis` refuses.

    References:
        Linhart, Gramfort, Rodrigues (2023), L-C2ST: local diagnostics for posterior approximations in simulation-based
        inference, https://arxiv.org/abs/2306.03580.

    Example:
        >>> import pyro, pyro.distributions as dist, pyrometa as pm, torch
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> def guide(x):  # right where the data are positive, half as wide where they are negative
        ...     width = pyro.param("scale", torch.tensor(1.0)) * torch.where(x.mean() > 0, 1.0, 0.5)
        ...     pyro.sample("mean", dist.Normal(x.sum() / (len(x) + 1), width / (len(x) + 1) ** 0.5))
        >>> meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), steps=0)
        >>> prior_tasks = pm.tasks.PriorTasks(model, lambda rows, _: torch.zeros(rows), observed={"x": 0})
        >>> lc2st(meta, prior_tasks, torch.full((20,), -1.0)).verdict
        "over-confident here: 'mean', the truth is farther out than the draws (p-value 0.005)"
    """
    draws, nulls = check_count("draws", draws, 10), check_count("nulls", nulls, 1)
    if nulls < 100:
        raise ValueError(f"nulls must be at least 100, got {nulls}: a p-value is a multiple of 1 / (nulls + 1)")
    if not data:
        raise ValueError("no data: give the task's support set, as the model takes it")
    classifier = _classifier()
    found = simulated(meta, prior_tasks, tasks=tasks, rows=rows, draws=draws, steps=steps, seed=seed)
    names, truths, drawn = found.columns()
    with generators.forked():
        generators.seed(seed + 1)
        here, discrete = _here(meta, data, list(found.truths), draws, steps)
        swaps = torch.rand(nulls, len(truths), device="cpu") < 0.5
    known = _Summary.of(drawn[:, 1:])
    unit = known.unit()
    of_truth, of_draw = (known.features(values.unsqueeze(1), unit)[:, 0] for values in (truths, drawn[:, 0]))
    summary = _Summary.of(here[:, :draws])
    held = here[:, draws:]
    points = summary.features(held, unit)[0]
    told = _told(classifier, of_truth, of_draw, points)
    by_lot = torch.stack([_told(classifier, *_swapped(of_truth, of_draw, swap), points) for swap in swaps])
    statistic, null = _statistic(told), _statistic(by_lot)
    p_value = (1 + (null >= statistic).sum().item()) / (1 + nulls)
    ways = _ways(names, held[0], summary.scaled(held)[0], discrete)
    return LC2ST(statistic.item(), null, p_value, _verdict(ways, told, by_lot, p_value))


class _Summary(NamedTuple):
    """What a task's draws say of its data: mean and standard deviation of each number, ``(tasks, 1, numbers)``."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, draws: Tensor) -> _Summary:
        deviation = draws.std(1, keepdim=True)
        return cls(draws.mean(1, keepdim=True), torch.where(deviation > 0, deviation, 1.0))

    def read(self) -> Tensor:
        return torch.cat([self.mean, self.deviation.log()], -1)

    def unit(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over tasks of what is read."""
        read = self.read()
        deviation = read.std(0, keepdim=True)
        return read.mean(0, keepdim=True), torch.where(deviation > 1e-6, deviation, 1.0)

    def scaled(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.deviation

    def features(self, values: Tensor, unit: tuple[Tensor, Tensor]) -> Tensor:
        """Of values of shape ``(tasks, values, numbers)``."""
        z = self.scaled(values)
        read = ((self.read() - unit[0]) / unit[1]).expand(*z.shape[:2], -1)
        local = torch.cat([z, z.square()], -1).unsqueeze(-1) * read.unsqueeze(-2)
        return torch.cat([z, _products(z), local.flatten(-2), read, _products(read)], -1)


def _products(values: Tensor) -> Tensor:
    """Of each two numbers in the last dimension, once."""
    first, second = torch.triu_indices(values.shape[-1], values.shape[-1])
    return values[..., first] * values[..., second]


def _here(
    meta: Any, data: tuple[Any, ...], names: list[str], draws: int, steps: int | None
) -> tuple[Tensor, list[bool]]:
    """Draws of the task's posterior, ``(1, draws, numbers)``, the last held out, and which numbers are discrete."""
    guide = meta.adapt(data, steps=steps)
    drawn = weighted_draws(guide.model, guide, data, {}, draws + _HELD_OUT)
    columns = {name: drawn.values[name].reshape(draws + _HELD_OUT, -1).double().cpu() for name in names}
    discrete = [name in drawn.discrete for name in names for _ in range(columns[name].shape[1])]
    return torch.cat(list(columns.values()), 1).unsqueeze(0), discrete


def _classifier() -> Any:
    try:
        linear, pipeline, preprocessing = (
            import_module(f"sklearn.{name}") for name in ("linear_model", "pipeline", "preprocessing")
        )
    except ImportError as error:
        raise ImportError("lc2st needs scikit-learn: pip install 'pyrometa[diagnostics]'") from error
    return pipeline.make_pipeline(preprocessing.StandardScaler(), linear.LogisticRegression(max_iter=1000))


def _told(classifier: Any, of_truth: Tensor, of_draw: Tensor, points: Tensor) -> Tensor:
    """The probability of each point to be a truth, by a classifier of truths and draws."""
    features = torch.cat([of_truth, of_draw]).cpu().numpy()
    classifier.fit(features, [1] * len(of_truth) + [0] * len(of_draw))
    return torch.as_tensor(classifier.predict_proba(points.numpy())[:, 1])


def _swapped(of_truth: Tensor, of_draw: Tensor, swap: Tensor) -> tuple[Tensor, Tensor]:
    chosen = swap.to(of_truth.device).unsqueeze(1)
    return torch.where(chosen, of_draw, of_truth), torch.where(chosen, of_truth, of_draw)


def _statistic(told: Tensor) -> Tensor:
    return (told - 0.5).square().mean(-1)


class _Way(NamedTuple):
    """A way in which truths may differ from draws.

    Attributes:
        off: how far they do, as far as probabilities of draws to be truths tell, ``(..., draws)`` to ``(...)``.
        above: what to say where that is above 0.
        below: what to say else.
    """

    off: Callable[[Tensor], Tensor]
    above: str
    below: str


def _ways(names: list[str], values: Tensor, z: Tensor, discrete: list[bool]) -> list[_Way]:
    """Of all numbers: the place and the width, and the share of each value where they are few."""
    ways = []
    for name, value, scaled, choice in zip(names, values.T, z.T, discrete, strict=True):
        is_few = choice and len(value.unique()) <= _FEW
        ways += _shares(name, value) if is_few else _moments(name, scaled)
    return ways


def _shares(name: str, value: Tensor) -> list[_Way]:
    def share(chosen: Tensor, told: Tensor) -> Tensor:
        return ((told - 0.5) * chosen).mean(-1)

    words = {one: f"shifted here: {name!r}, the truth is {one:g}" for one in value.unique().tolist()}
    return [
        _Way(
            functools.partial(share, value == one),
            f"{word} more often than the draws",
            f"{word} less often than the draws",
        )
        for one, word in words.items()
    ]


def _moments(name: str, z: Tensor) -> list[_Way]:
    def up(told: Tensor) -> Tensor:
        return told @ z / told.sum(-1) - z.mean()

    def wider(told: Tensor) -> Tensor:
        mean, square = (told @ power / told.sum(-1) for power in (z, z.square()))
        return ((square - mean.square()).sqrt() / z.std()).log()

    where, how = f"shifted here: {name!r}, the truth is", f"-confident here: {name!r}, the truth is farther"
    return [
        _Way(up, f"{where} above the draws", f"{where} below the draws"),
        _Way(wider, f"over{how} out than the draws", f"under{how} in than the draws"),
    ]


def _verdict(ways: list[_Way], told: Tensor, by_lot: Tensor, p_value: float) -> str:
    """In words, of what is most off in units of what is off by lot."""
    with_p = f"(p-value {p_value:.2g})"
    if p_value > FALSE_ALARMS:
        return f"calibrated here: as far as a classifier tells {with_p}"
    off = torch.stack([way.off(told) / way.off(by_lot).std() for way in ways]).nan_to_num(0.0)
    most = int(off.abs().argmax())
    return f"{ways[most].above if off[most] > 0 else ways[most].below} {with_p}"
