"""Few-shot regression of sinusoids (Finn et al. 2017): an unseen one after 0, 1 and 10 steps on five points.

    python -m experiments.sinusoid                          # MAML
    python -m experiments.sinusoid --algorithm meta_sgd     # and a learned rate for every weight
    python -m experiments.sinusoid --quick                  # tiny sizes: shows that it runs

The model is an ordinary Pyro program whose network adapts: adapt="model". It has no latent variables, so its
guide is empty and the ELBO is the log likelihood; with a variance of 1/2 and the mean over rows its gradient is
that of the mean squared error. --out gets metrics.json (mean squared error on unseen tasks, with 95% intervals) and
sinusoid.png.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import pyrometa as pm
from benchmarks.files import write_figure, write_json
from pyrometa.tasks import MetaBatch, SinusoidTasks, TaskSampler

SHOTS, BATCH = 5, 25
STEPS = (0, 1, 10)
COLORS = ("#999999", "#0072B2", "#D55E00")


class Regression(nn.Module):
    """A network 1-40-40-1 as the mean of a Normal."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The model."""
        mean = self.net(x)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mean, math.sqrt(0.5)).to_event(1), obs=y)
        return mean


def guide(x: Tensor, y: Tensor | None = None) -> None:
    """Nothing is latent."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    train_tasks = TaskSampler(SinusoidTasks(), shots=SHOTS, queries=10, seed=args.seed)
    unseen = TaskSampler(SinusoidTasks(), shots=SHOTS, queries=100, seed=args.seed + 10_000).sample(args.test_tasks)

    meta = algorithm(args.algorithm)
    trained = pm.Trainer(max_steps=args.iterations, meta_batch=BATCH, seed=None).fit(meta, train_tasks)

    meta.engine = pm.Engine()  # what is run once is not worth recording
    metrics = {"mse": mean_squared_errors(meta, unseen), "seconds": trained.seconds}
    for steps, error in metrics["mse"].items():
        print(f"{steps:>2} steps: mean squared error {error['mean']:.2f} +- {error['half_width']:.2f}")

    write_json(args.out / "metrics.json", {**metrics, "settings": vars(args)})
    write_figure(args.out / "sinusoid.png", draw(meta, unseen))
    return metrics


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithm", choices=["maml", "meta_sgd"], default="maml")
    parser.add_argument("--iterations", type=positive, default=5000, help="meta-steps")
    parser.add_argument("--test-tasks", type=positive, default=600)
    parser.add_argument("--out", type=Path, default=Path("sinusoid"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="200 meta-steps, 50 unseen tasks")
    args = parser.parse_args(argv)
    if args.quick:
        args.iterations, args.test_tasks = 200, 50
    return args


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def algorithm(name: str) -> pm.MetaSVI:
    make = {"maml": pm.maml, "meta_sgd": pm.meta_sgd}[name]
    options = {"adapt": "model", "reduction": "mean", "engine": pm.Engine(record=True, low_rank=False)}
    return make(Regression(), guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(), steps=1, lr=0.01, **options)


def half_log_pi() -> float:
    """What the negative log likelihood of a Normal of variance 1/2 has beyond the squared error."""
    return 0.5 * math.log(math.pi)


def mean_squared_errors(meta: pm.MetaSVI, tasks: MetaBatch) -> dict[str, dict[str, float]]:
    errors = meta.evaluate(*tasks, STEPS) - half_log_pi()
    half_widths = 1.96 * errors.std(1) / math.sqrt(errors.shape[1])
    rows = zip(STEPS, errors.mean(1).tolist(), half_widths.tolist(), strict=True)
    return {str(steps): {"mean": mean, "half_width": half_width} for steps, mean, half_width in rows}


@torch.no_grad()
def draw(meta: pm.MetaSVI, tasks: MetaBatch, columns: int = 3) -> Figure:
    figure = Figure(figsize=(4 * columns, 3.6), layout="constrained")
    for task, axes in enumerate(figure.subplots(1, columns, sharey=True)):
        (x, y), (query_x, query_y) = ([column[task] for column in part] for part in tasks)
        order = query_x[:, 0].argsort()
        axes.plot(query_x[order], query_y[order], color="black", linewidth=1, linestyle=":", label="truth")
        for steps, color in zip(STEPS, COLORS, strict=True):
            mean = meta.adapt((x, y), steps).model(query_x[order])
            axes.plot(query_x[order], mean, color=color, label=f"{steps} step{'s' * (steps != 1)}")
        axes.plot(x, y, "ko", markersize=6, label=f"the {SHOTS} points")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("x")
    figure.axes[0].set_ylabel("y")
    figure.axes[-1].legend(frameon=False, bbox_to_anchor=(1, 0.5), loc="center left")
    figure.suptitle("Unseen sinusoids, from one meta-learned start", x=0.01, ha="left")
    return figure


if __name__ == "__main__":
    main()
