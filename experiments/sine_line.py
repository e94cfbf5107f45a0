"""Sinusoids or lines from five noisy points: are the posterior predictive bands calibrated?

    python -m experiments.sine_line --out sine_line                       # one seed of every method
    python -m experiments.sine_line --methods ABML BMAML --seeds 0 1 2
    python -m experiments.sine_line --quick

Every task is a sinusoid or a line, each as likely, seen at five random points through noise of standard deviation 0.3
(Finn, Xu, Levine 2018). The methods of ``experiments/bayesian.py`` are meta-trained on 25 tasks a step, for numbers of
steps that take about as long, and fitted to 200 unseen tasks. --out/result.json has, of 50 further points of each:
``nll``, the negative log predictive density a point; ``rmse`` of the predictive mean; ``coverage``, the share of points
within the central bands of 50, 80 and 95 percent; ``calibration_error``, the mean difference of coverage and level
over 19 levels. The first row is the exact posterior, by importance sampling from the true prior, which no method
can beat. --out/sine_line.png shows two tasks and the coverage at all levels. Results that are in --out stay there.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrometa as pm
from benchmarks.files import write_figure, write_json
from experiments.bayesian import METHODS, Method, Tensors
from pyrometa.tasks import SineLineTasks, TaskSampler

FAMILY, SHOTS, BATCH = SineLineTasks(), 5, 25
STEPS = {"MAML": 4000, "ABML": 900, "BMAML": 500, "PLATIPUS": 3500, "VERSA": 6000, "Neural Process": 5000}
LEVELS = [round(0.05 * i, 2) for i in range(1, 20)]
SHOWN = (0.5, 0.8, 0.95)
CURVE = torch.linspace(*FAMILY.x, 101)[:, None].expand(2, -1, 1)  # where the two tasks of the figure are drawn
Draws = tuple[Tensor, Tensor, float]  # of the function, (tasks, draws, rows); their weights (tasks, draws); the noise


def main(argv: Sequence[str] | None = None) -> dict[str, list[dict]]:
    args = parse(argv)
    path = args.out / "result.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    test = TaskSampler(FAMILY, shots=SHOTS, queries=50, seed=1_000_000).sample(args.tasks)
    shown = two(test.support)

    def finish(name: str, row: dict, draws: Callable[[Tensors, Tensor], Draws]) -> None:
        row.update(measured(draws(test.support, test.query[0]), test.query[1]), bands=bands(draws(shown, CURVE)))
        results[name] = [*(run for run in results.get(name, []) if run["seed"] != row["seed"]), row]
        report(name, row)
        write_json(path, results)
        ordered = {name: results[name] for name in ("exact posterior", *METHODS) if name in results}
        write_figure(args.out / "sine_line.png", figure_of(ordered, shown), dpi=110)

    finish("exact posterior", {"seed": 0}, lambda support, x: exact(support, x, args.prior_draws))
    for seed in args.seeds:
        for name in args.methods:
            torch.manual_seed(seed)
            pyro.clear_param_store()
            steps = 3 if args.quick else STEPS[name]
            method = METHODS[name](BATCH * steps, pm.Engine(record=not args.quick))
            start = time.process_time()
            train(method, TaskSampler(FAMILY, shots=SHOTS, queries=15, seed=seed), steps)
            row = {"seed": seed, "steps": steps, "seconds": time.process_time() - start}
            finish(name, row, functools.partial(drawn, method))
    return results


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tasks", type=int, default=200, help="unseen tasks")
    parser.add_argument("--prior-draws", type=int, default=200_000, help="functions for the exact posterior")
    parser.add_argument("--out", type=Path, default=Path("sine_line"))
    parser.add_argument("--quick", action="store_true", help="three steps each, to see that it runs")
    args = parser.parse_args(argv)
    if args.quick:
        args.tasks, args.prior_draws = 4, 2000
    return args


def train(method: Method, tasks: TaskSampler, steps: int) -> None:
    method.meta.init(method.arguments(*tasks.sample(BATCH))[0])
    trainer = pm.Trainer(max_steps=steps, schedule=lambda optimizer: CosineAnnealingLR(optimizer, steps), seed=None)
    trainer.fit(method.meta, lambda step: method.arguments(*tasks.sample(BATCH)))


def drawn(method: Method, support: Tensors, x: Tensor) -> Draws:
    functions = method.draws(support, x).detach()
    return functions, torch.full(functions.shape[:2], 1 / functions.shape[1]), method.noise()


def exact(support: Tensors, x: Tensor, count: int) -> Draws:
    """The posterior over the functions of the family, by importance sampling: the 1,000 heaviest draws of each task."""
    generator = torch.Generator().manual_seed(0)

    def uniform(bounds: tuple[float, float]) -> Tensor:
        return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(count, 1, generator=generator)

    amplitude, phase, slope, intercept = map(uniform, (FAMILY.amplitude, FAMILY.phase, FAMILY.slope, FAMILY.intercept))
    is_sine = torch.rand(count, 1, generator=generator) < 0.5

    def functions(x: Tensor, of: Tensor | slice) -> Tensor:
        sines = amplitude[of] * (x + phase[of]).sin()
        return torch.where(is_sine[of], sines, slope[of] * x + intercept[of])

    found, weights = [], []
    for support_x, support_y, rows in zip(*support, x, strict=True):
        misfit = (functions(support_x.T, slice(None)) - support_y.T).square().sum(1)
        log_weight, best = (-misfit / (2 * FAMILY.noise**2)).topk(min(1000, count))
        found.append(functions(rows.T, best))
        weights.append(log_weight.softmax(0))
    return torch.stack(found), torch.stack(weights), FAMILY.noise


def measured(draws: Draws, y: Tensor) -> dict:
    functions, weights, noise = draws
    y = y[..., 0]
    normal = torch.distributions.Normal(functions, noise)
    nll = -(normal.log_prob(y[:, None]) + weights[..., None].log()).logsumexp(1).mean()
    rank = (normal.cdf(y[:, None]) * weights[..., None]).sum(1)  # the predictive distribution function at y
    inside = {level: ((rank - 0.5).abs() < level / 2).float().mean().item() for level in (*LEVELS, *SHOWN)}
    return {
        "nll": nll.item(),
        "rmse": ((functions * weights[..., None]).sum(1) - y).square().mean().sqrt().item(),
        "noise": noise,
        "coverage": {str(level): inside[level] for level in SHOWN},
        "calibration_error": sum(abs(inside[level] - level) for level in LEVELS) / len(LEVELS),
        "curve": [inside[level] for level in LEVELS],
    }


def two(support: Tensors) -> Tensors:
    """Two tasks to look at: the flattest and the steepest of the first few."""
    x, y = (rows[:40, :, 0] for rows in support)
    slope = ((x - x.mean(1, True)) * y).sum(1) / (x - x.mean(1, True)).square().sum(1)
    chosen = torch.stack([slope.abs().argmin(), slope.abs().argmax()])
    return tuple(rows[chosen] for rows in support)


def report(name: str, row: dict) -> None:
    covers = " ".join(f"{level}: {share:.3f}" for level, share in row["coverage"].items())
    head = f"{name}: nll {row['nll']:.3f}, rmse {row['rmse']:.3f}"
    print(f"{head}, coverage {covers}, calibration error {row['calibration_error']:.3f}")


def bands(draws: Draws) -> list:
    """Mean and central 90 percent band of each task, (tasks, 3, rows)."""
    functions, weights, noise = draws
    found = []
    for values, weight in zip(functions, weights, strict=True):
        chosen = values[torch.multinomial(weight, 2000, replacement=True, generator=torch.Generator().manual_seed(0))]
        chosen = chosen + noise * torch.randn(chosen.shape, generator=torch.Generator().manual_seed(1))
        ends = chosen.quantile(torch.tensor([0.05, 0.95]), dim=0)
        found.append(torch.stack([(values * weight[:, None]).sum(0), *ends]).tolist())
    return found


def figure_of(results: dict[str, list[dict]], shown: Tensors) -> Figure:
    figure = Figure(figsize=(1.7 * len(results) + 4.2, 4.4), layout="constrained")
    grid = figure.add_gridspec(2, len(results) + 2)
    for column, (name, runs) in enumerate(results.items()):
        for row in range(2):
            axes = figure.add_subplot(grid[row, column])
            mean, low, high = runs[0]["bands"][row]
            x = CURVE[row, :, 0]
            axes.fill_between(x, low, high, color="tab:blue", alpha=0.25, lw=0)
            axes.plot(x, mean, color="tab:blue", lw=1)
            axes.plot(shown[0][row, :, 0], shown[1][row, :, 0], "k.", ms=5)
            axes.set(ylim=((-8, 8) if row == 0 else (-17, 17)), xticks=[-5, 0, 5])
            if row == 0:
                axes.set_title(name, fontsize=9)
            if column:
                axes.set_yticklabels([])
    axes = figure.add_subplot(grid[:, -2:])
    axes.plot([0, 1], [0, 1], color="0.7", lw=1)
    for name, runs in results.items():
        mean = torch.tensor([run["curve"] for run in runs]).mean(0)
        axes.plot(LEVELS, mean, label=name, lw=1.2, ls="--" if name == "exact posterior" else "-")
    axes.set(xlabel="level of the central band", ylabel="share of points within", title="coverage on unseen tasks")
    axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
