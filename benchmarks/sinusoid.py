"""Few-shot regression of sinusoids (Finn et al. 2017): every algorithm after 0, 1, 5 and 10 steps on unseen tasks.

python -m benchmarks.sinusoid --json bench/sinusoid.json

Amplitude 0.1 to 5, phase 0 to pi, inputs in [-5, 5], five support points, network 1-40-40-1, inner rate 0.01, 25 tasks
a meta-step, Adam 1e-3 in the outer loop. Published, after one step: MAML 1.13 +- 0.18, Meta-SGD 0.90 +- 0.16 mean
squared error (Li et al. 2017).
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

import pyrometa as pm
from benchmarks.measure import table, write_json
from benchmarks.programs import HALF_LOG_PI, Regression, no_latents
from benchmarks.recipes import ALGORITHMS, Setting
from benchmarks.training import interval, one_thread, query_losses, shown, train
from pyrometa.tasks import SinusoidTasks, TaskSampler

STEPS = (0, 1, 5, 10)
PUBLISHED = {"MAML": "1.13 ± 0.18", "Meta-SGD": "0.90 ± 0.16"}


class Budget(NamedTuple):
    """Inner steps in training, and the share of the meta-iterations that the slow ones are given."""

    steps: int = 1
    share: float = 1.0


BUDGETS = {
    "MAML": Budget(),
    "Meta-SGD": Budget(),
    "LSLR": Budget(),
    "Meta-Curvature": Budget(),
    "ANIL": Budget(),
    "Reptile": Budget(steps=10, share=0.5),
    "iMAML": Budget(steps=8, share=0.4),
    "learned optimiser": Budget(share=0.2),
}


@dataclass(frozen=True)
class Config:
    """Counts of the benchmark; the defaults are the full one."""

    iterations: int = 5000
    batch: int = 25
    shots: int = 5
    queries: int = 10
    test_tasks: int = 1000
    test_queries: int = 100
    width: int = 40
    seeds: tuple[int, ...] = (0, 1, 2)
    record: bool = True


QUICK = Config(iterations=10, batch=4, test_tasks=5, test_queries=10, width=8, seeds=(0,), record=False)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, score, print and write, an algorithm after the other."""
    args = parse(argv)
    config = QUICK if args.quick else Config(seeds=tuple(args.seeds))
    result: dict[str, Any] = {"config": asdict(config), "rows": {}}
    with one_thread():
        for name in args.algorithms:
            result["rows"][name] = row(name, config)
            write_json(args.json, result)
            print(name, *(f"{k}: {shown(e)}" for k, e in result["rows"][name]["mse"].items()), sep="  ", flush=True)
    print(report(result))
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/sinusoid.json"), help="where the figures go")
    parser.add_argument("--algorithms", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(Config.seeds))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    return parser.parse_args(argv)


def row(name: str, config: Config) -> dict[str, Any]:
    """An algorithm, trained once a seed and scored on that seed's unseen tasks."""
    runs = [run(name, config, seed) for seed in config.seeds]
    losses = torch.cat([losses for losses, _ in runs], dim=1)
    return {
        "inner_steps": BUDGETS[name].steps,
        "iterations": _iterations(name, config),
        "mse": {str(k): interval(one) for k, one in zip(STEPS, losses, strict=True)},
        "seeds": {
            str(seed): {str(k): interval(one) for k, one in zip(STEPS, losses, strict=True)}
            for seed, (losses, _) in zip(config.seeds, runs, strict=True)
        },
        "milliseconds": [1e3 * seconds for _, seconds in runs],
    }


def run(name: str, config: Config, seed: int) -> tuple[Tensor, float]:
    """Mean squared errors of one training, shape ``(len(STEPS), tasks)``, and CPU seconds of a meta-step."""
    torch.manual_seed(seed)
    setting = Setting(
        Regression(config.width),
        no_latents,
        Trace_ELBO(),
        adapt="model",
        head="model.net.4.*",
        lr=0.01,
        options={"reduction": "mean", "engine": pm.Engine(record=config.record, low_rank=False)},
    )
    meta = ALGORITHMS[name](setting, BUDGETS[name].steps)
    tasks = SinusoidTasks()
    sampler = TaskSampler(tasks, shots=config.shots, queries=config.queries, seed=seed)
    seconds = train(meta, lambda: sampler.sample(config.batch), _iterations(name, config))
    unseen = TaskSampler(tasks, shots=config.shots, queries=config.test_queries, seed=10_000 + seed)
    return query_losses(meta, unseen.sample(config.test_tasks), STEPS) - HALF_LOG_PI, seconds


def _iterations(name: str, config: Config) -> int:
    return max(2, round(config.iterations * BUDGETS[name].share))


def report(result: Mapping[str, Any]) -> str:
    """The table."""
    config, rows = result["config"], []
    for name, row in result["rows"].items():
        errors = [shown(estimate) for estimate in row["mse"].values()]
        milliseconds = sum(row["milliseconds"]) / len(row["milliseconds"])
        counts = (str(row["inner_steps"]), str(row["iterations"]), f"{milliseconds:.1f}")
        rows.append((name, *errors, PUBLISHED.get(name, ""), *counts))
    seeds, tasks = len(config["seeds"]), config["test_tasks"]
    title = f"Mean squared error on {tasks} unseen tasks for each of {seeds} seeds, 95% interval"
    head = ("algorithm", *(f"{k} steps" for k in STEPS), "published, 1 step", "K", "meta-steps", "ms a step")
    return f"{title}\n" + table(head, rows)


if __name__ == "__main__":
    main()
