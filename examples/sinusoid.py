"""MAML (Finn et al. 2017): an unseen sinusoid after 0, 1 and 10 gradient steps on five points.

    python examples/sinusoid.py    # about 20 seconds on one core

The model is a network that gives the mean of a Normal. It has no latent variables, so its guide is empty, the ELBO is
the log likelihood, and what adapts is the model: adapt="model". With a variance of 1/2 and reduction="mean" the loss
is the mean squared error and half of log pi. `python -m experiments.sinusoid` draws the figure.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrometa as pm
from pyrometa.tasks import SinusoidTasks, TaskSampler


class Regression(nn.Module):
    """A Pyro model: a network 1-40-40-1."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(self.net(x), math.sqrt(0.5)).to_event(1), obs=y)


def guide(x: Tensor, y: Tensor | None = None) -> None:
    """Nothing is latent."""


def main(meta_steps: int = 5000, test_tasks: int = 600) -> dict[int, float]:
    torch.manual_seed(0)
    train = TaskSampler(SinusoidTasks(), shots=5, queries=10, seed=0)
    support, query = TaskSampler(SinusoidTasks(), shots=5, queries=100, seed=1).sample(test_tasks)

    options = {"adapt": "model", "reduction": "mean", "engine": pm.Engine(record=True)}  # records once, then replays
    meta = pm.maml(Regression(), guide, pyro.optim.Adam({"lr": 1e-3}), steps=1, lr=0.01, **options)
    pm.Trainer(max_steps=meta_steps, meta_batch=25).fit(meta, train)

    errors = meta.evaluate(support, query, steps=(0, 1, 10)).mean(1) - 0.5 * math.log(math.pi)
    print(f"mean squared error on {test_tasks} unseen sinusoids, whose own mean square is {query[1].var():.2f}")
    for steps, error in zip((0, 1, 10), errors.tolist(), strict=True):
        print(f"{steps:>2} steps: {error:.2f}")
    return dict(zip((0, 1, 10), errors.tolist(), strict=True))


if __name__ == "__main__":
    main()
