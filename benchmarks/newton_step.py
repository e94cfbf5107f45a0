"""What a Newton step costs in steps of gradient descent, tasks side by side.

python -m benchmarks.newton_step --json bench/newton_step.json

Each is timed at two numbers of inner steps at meta-test, so that what every evaluation costs besides cancels.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrometa as pm
from benchmarks.measure import interleaved, one_core, ratio, table, write_json
from experiments import theoph

INNER: dict[str, Callable[[], Any]] = {"SGD": partial(pm.SGD, 1e-3), "Newton": pm.Newton}
STEPS = {"SGD": (1, 4), "Newton": (1, 3)}
ENGINES = {
    "vectorised": pm.Engine(vectorize=True, record=False),
    "recorded": pm.Engine(record=True),
    "compiled": pm.Engine(record=True, compile=True),
}
HOURS = (0.25, 0.5, 1.0, 2.0, 3.5, 5.0, 7.0, 9.0, 12.0, 18.0, 24.0)


@dataclass(frozen=True)
class Case:
    """A program with the data of one task."""

    model: Callable[..., None]
    guide: Callable[..., Any]
    data: tuple[Tensor, ...]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Time, print and write."""
    args = parse(argv)
    if args.quick:
        args.tasks, args.particles, args.rounds, args.engines = 2, 2, 1, ["vectorised"]
    result: dict[str, Any] = {"tasks": args.tasks, "particles": args.particles, "runs": []}
    with one_core(), torch.random.fork_rng(devices=[]):
        for name in args.cases:
            for engine in args.engines:
                result["runs"].append({"case": name, "engine": engine, **measured(name, engine, args)})
                write_json(args.json, result)
    print(report(result))
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/newton_step.json"), help="where the figures go")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["recorded", "compiled"])
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--particles", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, times nothing of use")
    return parser.parse_args(argv)


def theophylline() -> Case:
    """The model of `experiments.theoph`, 8 numbers: made-up concentrations of one subject."""
    hours, dose = torch.tensor(HOURS), torch.tensor(4.5)
    mean, _ = theoph.curve(torch.tensor(1.5), torch.tensor(0.08), torch.tensor(0.04), hours, dose)
    return Case(theoph.model, theoph.make_guide(theoph.model), (mean + 0.5 * torch.randn(len(HOURS)), hours, dose))


def regression(size: int) -> Case:
    """Bayesian linear regression on so many features, twice as many numbers."""

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("features", size, dim=-2):
            weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y), dim=-1):
            pyro.sample("y", dist.Normal((x * weight).sum(-2, keepdim=True), 0.5), obs=y)

    x = torch.randn(size, 11)
    return Case(model, AutoNormal(model), (x, torch.randn(size) @ x))


CASES: dict[str, Callable[[], Case]] = {
    "Theoph, 8 numbers": theophylline,
    "regression, 4 numbers": partial(regression, 2),
    "regression, 20 numbers": partial(regression, 10),
}


def measured(name: str, engine: str, args: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of one step of each rule, and how many of SGD one of Newton costs."""
    steps = {}
    for rule, counts in STEPS.items():
        for count in counts:
            torch.manual_seed(0)
            steps[f"{rule} {count}"] = evaluation(CASES[name](), rule, count, engine, args)
    seconds = interleaved(steps, args.rounds)
    each = {rule: per_step(seconds, rule) for rule in STEPS}
    return {"seconds": each, "ratio": ratio(each["Newton"], each["SGD"])}


def evaluation(case: Case, rule: str, steps: int, engine: str, args: argparse.Namespace) -> Callable[[], Tensor]:
    """What is timed: so many steps of all tasks at meta-test."""
    pyro.clear_param_store()
    meta = pm.MetaSVI(
        case.model,
        case.guide,
        pyro.optim.Adam({"lr": 0.01}),
        theoph.elbo(args.particles),
        inner=INNER[rule](),
        steps=steps,
        noise=pm.Noise("sobol", shared=True),
        reduction="mean",
        engine=ENGINES[engine],
    )
    data = tuple(value.expand(args.tasks, *value.shape) for value in case.data)
    return partial(meta.evaluate, data)


def per_step(seconds: dict[str, list[float]], rule: str) -> list[float]:
    """Seconds of one step in each round."""
    few, many = STEPS[rule]
    pairs = zip(seconds[f"{rule} {few}"], seconds[f"{rule} {many}"], strict=True)
    return [(long - short) / (many - few) for short, long in pairs]


def report(result: dict[str, Any]) -> str:
    """A row for each program and engine."""
    rows = []
    for run in result["runs"]:
        each = (f"{1e3 * sorted(run['seconds'][rule])[len(run['seconds'][rule]) // 2]:.2f}" for rule in STEPS)
        rows.append((f"{run['case']}, {run['engine']}", *each, f"{run['ratio']:.1f}"))
    title = f"{result['tasks']} tasks, {result['particles']} particles; CPU ms a step"
    return "\n".join([title, table(("program", *STEPS, "Newton in SGD steps"), rows)])


if __name__ == "__main__":
    main()
