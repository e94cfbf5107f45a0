"""Bayesian few-shot regression: held-out log likelihood and calibration after adaptation.

python -m benchmarks.bayesian_sinusoid --json bench/bayesian_sinusoid.json

The sinusoids of benchmarks.sinusoid seen through noise of standard deviation 0.3, which the likelihood knows. All
weights of the network 1-40-40-1 are latent. Meta-learned are the guide's start, the prior and a rate for every
parameter (amortised Bayesian meta-learning, Ravi and Beatson 2019), once with a diagonal Normal as the guide
(AutoNormal), once with a point (AutoDelta). Beside them SVI of each task from scratch, by Adam, under a standard Normal
prior.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

import pyrometa as pm
from benchmarks.measure import table, write_json
from benchmarks.programs import BayesianRegression, expected_nll
from benchmarks.training import interval, one_thread, shown, train
from pyrometa.tasks import MetaBatch, SinusoidTasks, TaskSampler

NOISE = 0.3
LEVELS = (0.5, 0.9)
GUIDES = {"AutoNormal": lambda net: net.guide(), "AutoDelta": lambda net: AutoDelta(net, init_loc_fn=net.start)}


@dataclass(frozen=True)
class Config:
    """Counts of the benchmark; the defaults are the full one."""

    iterations: int = 1000
    batch: int = 25
    shots: int = 5
    queries: int = 10
    inner_steps: int = 5
    lr: float = 5e-4
    steps: tuple[int, ...] = (0, 1, 5, 10)
    adam_lr: float = 0.02
    adam_steps: int = 300
    test_tasks: int = 100
    scratch_tasks: int = 20
    draws: int = 200
    width: int = 40
    seeds: tuple[int, ...] = (0, 1, 2)
    record: bool = True


QUICK = Config(
    iterations=3,
    batch=2,
    inner_steps=2,
    steps=(0, 2),
    adam_steps=3,
    test_tasks=3,
    scratch_tasks=2,
    width=8,
    seeds=(0,),
    record=False,
)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, score, print and write."""
    args = parse(argv)
    config = QUICK if args.quick else Config(iterations=args.iterations, seeds=tuple(args.seeds))
    runs: dict[str, dict[str, Any]] = {}
    result: dict[str, Any] = {"config": asdict(config)}
    with one_thread():
        for seed in config.seeds:
            runs[str(seed)] = run(config, seed)
            write_json(args.json, {**result, "rows": pooled(runs), "seeds": by_seed(runs)})
    result |= {"rows": pooled(runs), "seeds": by_seed(runs)}
    print(report(result))
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    path = Path("bench/bayesian_sinusoid.json")
    parser.add_argument("--json", type=Path, default=path, help="where the figures go")
    parser.add_argument("--iterations", type=int, default=Config.iterations, help="meta-steps")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(Config.seeds))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    return parser.parse_args(argv)


def run(config: Config, seed: int) -> dict[str, Any]:
    """For each way of fitting, the figures of each unseen task."""
    tasks = SinusoidTasks(noise=NOISE)
    unseen = TaskSampler(tasks, shots=config.shots, queries=100, seed=10_000 + seed).sample(config.test_tasks)
    rows = {}
    for name in GUIDES:
        pyro.clear_param_store()  # one_thread() puts it back
        torch.manual_seed(seed)
        meta = meta_learned(config, name)
        sampler = TaskSampler(tasks, shots=config.shots, queries=config.queries, seed=seed)
        train(meta, lambda s=sampler: s.sample(config.batch), config.iterations)
        meta.engine = pm.Engine()
        for steps in config.steps:
            rows[f"{name}, meta-learned, {steps} steps"] = scored(meta, unseen, steps, config)
    pyro.clear_param_store()
    torch.manual_seed(seed)
    scratch = from_scratch(config)
    few = unseen[: config.scratch_tasks]
    rows[f"AutoNormal, Adam from scratch, {config.adam_steps} steps"] = scored(scratch, few, config.adam_steps, config)
    return rows


def meta_learned(config: Config, guide: str) -> pm.MetaSVI:
    """The start, the prior and the rates learn, for the query's expected log likelihood after K steps."""
    net = BayesianRegression(config.width, NOISE)
    return pm.meta_sgd(
        net,
        GUIDES[guide](net),
        pyro.optim.Adam({"lr": 1e-3}, {"clip_norm": 10.0}),
        TraceMeanField_ELBO() if guide == "AutoNormal" else None,
        config.inner_steps,
        lr=config.lr,
        reduction="mean",
        score=expected_nll,
        engine=pm.Engine(record=config.record, low_rank=False),
    )


def from_scratch(config: Config) -> pm.MetaSVI:
    """Plain SVI of each task; nothing is learned."""
    net = BayesianRegression(config.width, NOISE, prior_scale=1.0)
    guide = net.guide()
    with torch.no_grad():
        net.prior_loc.zero_()
    return pm.MetaSVI(net, guide, pyro.optim.Adam({"lr": 0.0}), inner=pm.Adam(config.adam_lr), steps=config.adam_steps)


def scored(meta: pm.MetaSVI, tasks: MetaBatch, steps: int, config: Config) -> dict[str, Tensor]:
    """Log likelihood of a query point and coverage of the central predictive intervals, each of shape ``(tasks,)``."""
    torch.manual_seed(0)
    guides = meta.adapt_many(tasks.support, steps)
    found = [one(meta.model, guide, x, y, config.draws) for guide, x, y in zip(guides, *tasks.query, strict=True)]
    return {key: torch.tensor([figures[key] for figures in found]) for key in found[0]}


@torch.no_grad()
def one(net: BayesianRegression, guide: Callable[..., Any], x: Tensor, y: Tensor, draws: int) -> dict[str, float]:
    """Figures of one task, by draws of the weights."""
    with pyro.plate("draws", draws, dim=-2):  # left of the rows
        weights = guide(x)["weights"].flatten(0, -2)
    mean = net.mean(weights, x)
    log_prob = torch.distributions.Normal(mean, NOISE).log_prob(y).logsumexp(0) - torch.tensor(float(draws)).log()
    drawn = mean + NOISE * torch.randn_like(mean)
    figures = {"log_likelihood": log_prob.mean().item(), "mse": (mean.mean(0) - y).square().mean().item()}
    for level in LEVELS:
        low, high = drawn.quantile(torch.tensor([0.5 - level / 2, 0.5 + level / 2]), dim=0)
        figures[f"coverage_{level:g}"] = ((low <= y) & (y <= high)).float().mean().item()
    return figures


def pooled(runs: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> dict[str, Any]:
    """Means over the tasks of all seeds, with 95% intervals."""
    first = next(iter(runs.values()))
    return {
        name: {key: interval(torch.cat([run[name][key] for run in runs.values()])) for key in figures}
        for name, figures in first.items()
    }


def by_seed(runs: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> dict[str, Any]:
    """The same for each seed."""
    return {seed: pooled({seed: run}) for seed, run in runs.items()}


def report(result: Mapping[str, Any]) -> str:
    """The table."""
    rows = [(name, *(shown(one) for one in figures.values())) for name, figures in result["rows"].items()]
    head = ("fit", "log likelihood", "squared error", *(f"in the {level:.0%} interval" for level in LEVELS))
    title = f"A query point of an unseen task, over {len(result['seeds'])} seeds, 95% interval"
    return f"{title}\n" + table(head, rows)


if __name__ == "__main__":
    main()
