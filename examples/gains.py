"""What meta-learning gained, for the examples on real tasks: steps and seconds until SVI has converged.

Many tasks are fitted side by side by plain Pyro SVI, in one plate: Adam moves every parameter by its own gradient
alone, so each task goes as it would by itself. This needs a model that broadcasts, as Pyro's vectorised particles do.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.elbo import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrometa as pm
from pyrometa.diagnostics import steps_until

Row = tuple[Tensor, ...]
Values = Mapping[str, Tensor]

META = "meta-learned start and rates"
TOLERANCE = 0.005  # nats a datum
LEARN = {
    "meta-learned start, one rate": "rate",
    "meta-learned start, rates by parameter": "layer",
    "meta-learned start, rates by parameter and step": "layer_step",
}


@dataclass
class Curve:
    """Mean loss over tasks, nats a datum, after numbers of steps.

    ``steps`` is the first within ``TOLERANCE`` of converged SVI, ``matched`` the first that is as low as each
    meta-learned curve ends; ``seconds`` are CPU seconds of one task, for ``steps`` or for the whole inner loop.
    """

    at: list[int]
    losses: list[float]
    rate: float | None = None
    steps: int | None = None
    seconds: float | None = None
    matched: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Learned:
    """A meta-learned contestant, and the mean loss after each of its inner steps."""

    meta: pm.MetaSVI
    losses: list[float]


@dataclass(frozen=True)
class Problem:
    """A Pyro program and the tasks to fit.

    ``guide`` makes a guide of a model; ``draws`` of the latents, over all tasks, are behind each mean loss.
    """

    model: Callable[..., Any]
    guide: Callable[[Callable[..., Any]], nn.Module]
    elbo: ELBO
    tasks: Sequence[Row]
    draws: int


class MaskObserved(Messenger):
    """Mask observed sites, so that rows which only fill up a task do not count."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"]:
            msg["mask"] = self.mask


def side_by_side(problem: Problem) -> tuple[Callable[[], None], Tensor]:
    """The model of all tasks at once, and the number of rows of each task."""
    counts = torch.tensor([len(task[0]) for task in problem.tasks])
    index = torch.arange(int(counts.max()))
    columns = [
        torch.stack([x[index.clamp(max=len(x) - 1)] for x in column]) for column in zip(*problem.tasks, strict=True)
    ]
    ragged = len(set(counts.tolist())) > 1

    def model() -> None:
        with pyro.plate("tasks", len(counts), dim=-2):
            if ragged:
                with MaskObserved(index < counts[:, None]):
                    problem.model(*columns)
            else:
                problem.model(*columns)

    return model, counts


def svi(problem: Problem, start: Values | None, optim: pyro.optim.PyroOptim, at: Sequence[int]) -> list[float]:
    """Fit every task by plain SVI, from a guide's parameters or from the guide's own start."""
    with pyro.get_param_store().scope():
        model, counts = side_by_side(problem)
        guide = problem.guide(model)
        guide()
        if start is not None:
            set_values(guide, start)
        inference = SVI(model, guide, optim, problem.elbo)
        score = copy(problem.elbo)
        score.num_particles = math.ceil(problem.draws / len(counts))
        losses = []
        for step in range(max(at) + 1):
            if step in at:
                losses.append(mean_loss(score, model, guide, counts))
            inference.step()
    return losses


@torch.no_grad()
def mean_loss(elbo: ELBO, model: Callable[[], None], guide: nn.Module, counts: Tensor) -> float:
    """Mean over tasks of the loss a datum, with the same noise every time."""
    equal = bool((counts == counts[0]).all())
    scale = 1 / counts[0].item() if equal else 1 / counts[:, None]
    with torch.random.fork_rng(), poutine.scale(scale=scale):
        torch.manual_seed(0)
        return elbo.loss(model, guide) / len(counts)


def grid(steps: int) -> list[int]:
    """Every step at first, then fewer and fewer."""
    at = [*range(11), *range(15, 51, 5), *range(60, 201, 10), *range(225, steps + 1, 25)]
    return [step for step in at if step <= steps]


def compare(
    problem: Problem,
    pooled: Values,
    learned: Mapping[str, Learned],
    *,
    rates: Sequence[float],
    steps: int,
    converged: int,
) -> dict[str, Any]:
    """How many steps each start needs until within ``TOLERANCE`` of converged SVI.

    ``learned`` are results of :func:`adapted`. Adam starts from the guide's default and from the pooled guide, with
    every rate; the rate that is there first is taken. Converged SVI is the lowest mean loss of Adam with a falling rate
    from both starts, and of all its other runs.
    """
    at = grid(steps)
    starts = {"default start, Adam": None, "pooled start, Adam": pooled}
    runs = {
        name: [Curve(at, svi(problem, start, pyro.optim.Adam({"lr": rate}), at), rate) for rate in rates]
        for name, start in starts.items()
    }
    falling = {"lr": max(rates), "lrd": 0.01 ** (1 / converged)}
    ends = [svi(problem, start, pyro.optim.ClippedAdam(falling), [converged])[0] for start in starts.values()]
    target = min([*ends, *(loss for some in runs.values() for run in some for loss in run.losses)])
    levels = {name: contestant.losses[-1] for name, contestant in learned.items()}
    step_seconds = svi_seconds(problem)
    curves = {name: best(some, target, levels, step_seconds) for name, some in runs.items()}
    curves |= {name: timed(contestant, problem, target) for name, contestant in learned.items()}
    return {
        "target": target,
        "tasks": len(problem.tasks),
        "curves": {name: asdict(curve) for name, curve in curves.items()},
    }


def adapted(meta: pm.MetaSVI, problem: Problem) -> Learned:
    """The inner loop's losses after each step; tasks of one size go side by side."""
    sizes: dict[int, list[Row]] = {}
    for task in problem.tasks:
        sizes.setdefault(len(task[0]), []).append(task)
    repeats = math.ceil(problem.draws / len(problem.tasks) / problem.elbo.num_particles)
    sums = sum(meta.evaluate(some).sum(1) for some in sizes.values() for _ in range(repeats))
    return Learned(meta, (sums / repeats / len(problem.tasks)).tolist())


def best(runs: Sequence[Curve], target: float, levels: Mapping[str, float], step_seconds: float) -> Curve:
    """The run that is there first, or if none is the one that ends lowest."""
    for run in runs:
        run.steps = steps_until(run.losses, target, TOLERANCE, at=run.at)
        run.matched = {name: steps_until(run.losses, level, 0.0, at=run.at) for name, level in levels.items()}
        run.seconds = None if run.steps is None else run.steps * step_seconds
    there = [run for run in runs if run.steps is not None]
    return min(there, key=lambda run: run.steps or 0) if there else min(runs, key=lambda run: run.losses[-1])


def timed(contestant: Learned, problem: Problem, target: float) -> Curve:
    """A meta-learned curve."""
    meta, losses = contestant.meta, contestant.losses
    steps = steps_until(losses, target, TOLERANCE)
    seconds = adapt_seconds(meta, problem, meta.steps if steps is None else steps)
    return Curve(list(range(len(losses))), losses, steps=steps, seconds=seconds)


def median_task(problem: Problem) -> Row:
    return sorted(problem.tasks, key=lambda task: len(task[0]))[len(problem.tasks) // 2]


def svi_seconds(problem: Problem) -> float:
    """CPU seconds of a step of plain SVI on the task of median size."""
    task = median_task(problem)
    with pyro.get_param_store().scope():
        inference = SVI(problem.model, problem.guide(problem.model), pyro.optim.Adam({"lr": 0.01}), problem.elbo)
        return seconds_of(lambda: inference.step(*task))


def adapt_seconds(meta: pm.MetaSVI, problem: Problem, steps: int) -> float:
    """CPU seconds of ``meta.adapt`` on the task of median size and of a draw, for which an encoder reads the task."""
    task = median_task(problem)
    return seconds_of(lambda: meta.adapt(task, steps)(*task), times=10)


def seconds_of(run: Callable[[], Any], times: int = 20) -> float:
    """CPU seconds of a call, the first of which sets up and is not counted."""
    run()
    began = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - began) / times


def values(guide: nn.Module) -> dict[str, Tensor]:
    """A copy of a guide's parameters, unconstrained."""
    return {name: parameter.detach().clone() for name, parameter in guide.named_parameters()}


@torch.no_grad()
def set_values(guide: nn.Module, start: Values) -> None:
    """Put a guide's parameters back to a copy; a copy of one task's guide also starts all tasks."""
    for name, parameter in guide.named_parameters():
        parameter.copy_(start[name])


def similar_sizes(tasks: Sequence[Row], batch_size: int, seed: int) -> Iterator[list[Row]]:
    """Meta-batches of tasks of similar size: all of one goes through the engine together."""
    sizes: dict[int, list[Row]] = {}
    for task in tasks:
        sizes.setdefault((len(task[0]) - 1).bit_length(), []).append(task)
    groups, generator = list(sizes.values()), random.Random(seed)
    while True:
        group = generator.choices(groups, [len(group) for group in groups])[0]
        yield generator.choices(group, k=batch_size)


def train(meta: pm.MetaSVI, batches: Iterator[Any], steps: int) -> float:
    """Meta-train with an outer rate that falls to zero; returns CPU seconds.

    A meta-step that is not finite updates nothing and is passed over, up to one in a hundred.
    """
    start = time.process_time()
    meta.init(next(batches))
    schedule = CosineAnnealingLR(meta.optimizer, steps)
    passed = 0
    for _ in range(steps):
        try:
            meta.step(next(batches))
        except pm.NonFiniteError:
            passed += 1
            if passed > steps / 100:
                raise
        schedule.step()
    return time.process_time() - start


def learned_starts(
    problem: Problem,
    guide: nn.Module,
    pooled: Values,
    batches: Iterator[Any],
    *,
    rate: float,
    steps: int,
    **options: Any,
) -> tuple[dict[str, Learned], dict[str, float]]:
    """Meta-train the pooled start with each kind of learned rates; CPU seconds too."""
    learned, seconds = {}, {}
    for name, learn in LEARN.items():
        set_values(guide, pooled)
        inner = pm.Momentum(rate, momentum=0.6, learn=learn)
        optim = pyro.optim.ClippedAdam({"lr": 0.02, "clip_norm": 1.0})
        meta = pm.MetaSVI(problem.model, guide, optim, inner=inner, steps=5, **options)
        seconds[name] = train(meta, batches, steps)
        learned[name] = adapted(meta, problem)
    return learned, seconds
