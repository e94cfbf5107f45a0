"""A learned optimiser, meta-trained on the ELBOs of small programs, against tuned Adam on programs it has not seen.

python -m benchmarks.learned_optimizer --json bench/learned_optimizer.json

It learns on Bayesian linear regressions of three features, from a frozen start, and is scored on regressions of
eight, linear and logistic, each task with coefficients of its own. Adam has the best of its rates for each
program and number of steps, chosen on the scored tasks themselves.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrometa as pm
from benchmarks.measure import table, write_json
from benchmarks.training import interval, one_thread, query_losses, shown, train
from pyrometa.tasks import MetaBatch, PriorTasks, TaskSampler

STEPS = (10, 20)
RATES = (0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
CONVERGED_RATE = 0.1  # Adam's, for the level to which all could come


@dataclass(frozen=True)
class Program:
    """A Bayesian regression with a diagonal Normal as its guide.

    Attributes:
        features: number of coefficients, besides an intercept.
        rows: data of a task.
        logistic: whether the responses are binary.
    """

    features: int
    rows: int
    logistic: bool = False

    def model(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The model."""
        weights = pyro.sample("weights", dist.Normal(torch.zeros(self.features), 2.0).to_event(1))
        intercept = pyro.sample("intercept", dist.Normal(0.0, 5.0))
        mean = x @ weights + intercept
        with pyro.plate("rows", len(x)):
            likelihood = dist.Bernoulli(logits=mean) if self.logistic else dist.Normal(mean, 0.5)
            return pyro.sample("y", likelihood, obs=y)

    def sampler(self, seed: int) -> TaskSampler:
        """Datasets of the program; a task's support set is what it is fitted to."""

        def features(rows: int, generator: torch.Generator) -> Tensor:
            return torch.randn(rows, self.features, generator=generator)

        return TaskSampler(PriorTasks(self.model, features, {"y": 1}), shots=self.rows, queries=1, seed=seed)


TRAINED = Program(features=3, rows=20)
SCORED = {
    "linear, d = 3, as trained": TRAINED,
    "linear, d = 8": Program(features=8, rows=40),
    "logistic, d = 8": Program(features=8, rows=40, logistic=True),
}


@dataclass(frozen=True)
class Config:
    """Counts of the benchmark; the defaults are the full one."""

    iterations: int = 200
    batch: int = 16
    lr: float = 0.3
    outer_lr: float = 3e-3
    inner_steps: int = 20
    tasks: int = 100
    seeds: tuple[int, ...] = (0, 1, 2)
    converged_steps: int = 300


QUICK = Config(iterations=2, batch=2, inner_steps=2, tasks=3, seeds=(0,), converged_steps=30)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Learn, score, print and write."""
    args = parse(argv)
    config = QUICK if args.quick else Config()
    with one_thread():
        runs = {str(seed): run(config, seed, RATES[:2] if args.quick else RATES) for seed in config.seeds}
    result = {"config": asdict(config), "rates": RATES, "programs": summary(runs), "seeds": runs}
    write_json(args.json, result)
    print(report(result))
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    path = Path("bench/learned_optimizer.json")
    parser.add_argument("--json", type=Path, default=path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    return parser.parse_args(argv)


def run(config: Config, seed: int, rates: Sequence[float]) -> dict[str, Any]:
    """Losses of one learned optimiser and of Adam, in nats, by program and number of steps a number for each task."""
    pyro.clear_param_store()  # one_thread() puts it back
    sampler = TRAINED.sampler(seed)
    learned = learned_optimizer(TRAINED, config, seed)
    seconds = train(learned, lambda: (sampler.sample(config.batch).support,), config.iterations)
    weights = {name: leaf.detach() for name, leaf in learned.named_parameters() if name.startswith("inner.")}
    losses = {name: scored(program, weights, config, seed, rates) for name, program in SCORED.items()}
    return {"seconds_a_step": seconds, "losses": losses}


def learned_optimizer(program: Program, config: Config, seed: int) -> pm.MetaSVI:
    """With Adam's rate of 0 the start stays where it is: the rule alone learns, at its own outer step size."""
    rule = pm.LearnedOptimizer(config.lr, outer_lr=config.outer_lr, seed=seed)
    torch.manual_seed(seed)
    return pm.MetaSVI(
        program.model, AutoNormal(program.model), pyro.optim.Adam({"lr": 0.0}), inner=rule, steps=config.inner_steps
    )


def scored(
    program: Program, weights: Mapping[str, Tensor], config: Config, seed: int, rates: Sequence[float]
) -> dict[str, Any]:
    """Losses of the learned optimiser and of Adam at each rate, from the same start and on the same noise."""
    pyro.clear_param_store()
    support = program.sampler(10_000 + seed).sample(config.tasks).support
    tasks = MetaBatch(support, support)  # the ELBO of what was fitted, as an optimiser is judged
    moved = learned_optimizer(program, config, seed)
    moved.init(support)
    with torch.no_grad():
        for name, leaf in moved.named_parameters():
            if name in weights:
                leaf.copy_(weights[name])
    adams = {rate: query_losses(adam(program, rate), tasks, STEPS) for rate in rates}
    best = torch.stack([losses.mean(1) for losses in adams.values()]).argmin(0)
    return {
        "learned": _by_steps(query_losses(moved, tasks, STEPS)),
        "adam": _by_steps([list(adams.values())[i][row] for row, i in enumerate(best)]),
        "adam_rates": {str(k): list(adams)[i] for k, i in zip(STEPS, best, strict=True)},
        "converged": query_losses(adam(program, CONVERGED_RATE), tasks, (config.converged_steps,))[0].tolist(),
    }


def adam(program: Program, rate: float) -> pm.MetaSVI:
    """Adam from the same start."""
    return pm.MetaSVI(
        program.model, AutoNormal(program.model), pyro.optim.Adam({"lr": 0.0}), inner=pm.Adam(rate), steps=max(STEPS)
    )


def _by_steps(losses: Iterable[Tensor]) -> dict[str, list[float]]:
    return {str(k): row.tolist() for k, row in zip(STEPS, losses, strict=True)}


def summary(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the tasks of all seeds, and of the difference task by task, with 95% intervals."""
    return {name: {str(k): _compared(runs, name, str(k)) for k in STEPS} for name in SCORED}


def _compared(runs: Mapping[str, Any], name: str, k: str) -> dict[str, Any]:
    found = [run["losses"][name] for run in runs.values()]
    learned, tuned = (torch.cat([torch.tensor(one[who][k]) for one in found]) for who in ("learned", "adam"))
    return {
        "learned": interval(learned),
        "adam": interval(tuned),
        "gain": interval(tuned - learned),
        "gain_by_seed": [
            sum(one["adam"][k]) / len(one["adam"][k]) - sum(one["learned"][k]) / len(one["learned"][k]) for one in found
        ],
        "adam_rates": [one["adam_rates"][k] for one in found],
        "converged": interval(torch.cat([torch.tensor(one["converged"]) for one in found])),
    }


def report(result: Mapping[str, Any]) -> str:
    """The table."""
    rows = [
        (f"{name}, {k} steps", *(shown(one[part], 1) for part in ("adam", "learned", "gain", "converged")))
        for name, counts in result["programs"].items()
        for k, one in counts.items()
    ]
    seeds, tasks = len(result["config"]["seeds"]), result["config"]["tasks"]
    title = f"Loss (negative ELBO, nats) on {tasks} tasks for each of {seeds} seeds, 95% interval"
    return f"{title}\n" + table(("program", "tuned Adam", "learned", "gain, paired", "converged"), rows)


if __name__ == "__main__":
    main()
