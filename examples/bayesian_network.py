"""A Bayesian network: five noisy points of an unseen sinusoid, five steps, and a band that holds what it claims.

    python examples/bayesian_network.py    # under a minute on one core

The last layer is latent, AutoNormal its posterior, which five gradient steps fit to five points. Its start, a rate for
each number, the prior, the noise and the layers below are meta-learned (amortised Bayesian meta-learning, Ravi 2019).
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Predictive, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import pyrometa as pm
from pyrometa.tasks import SinusoidTasks, TaskSampler


class Network(nn.Module):
    """A Pyro model: features that all tasks share, and a last layer of each task."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.loc, self.log_scale = nn.Parameter(torch.zeros(width)), nn.Parameter(-torch.ones(width))
        self.log_noise = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        head = pyro.sample("head", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))
        mean, noise = (self.features(x) * head).sum(-1), self.log_noise.exp()
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(mean, noise), obs=None if y is None else y[:, 0])


def main(meta_steps: int = 1500, test_tasks: int = 50, draws: int = 100) -> dict[int, tuple[float, float]]:
    torch.manual_seed(0)
    train = TaskSampler(SinusoidTasks(noise=0.3), shots=5, queries=15, seed=0)
    support, (x, y) = TaskSampler(SinusoidTasks(noise=0.3), shots=5, queries=50, seed=1).sample(test_tasks)
    model, optim = Network(), pyro.optim.ClippedAdam({"lr": 1e-2, "clip_norm": 5.0, "lrd": 0.03 ** (1 / meta_steps)})
    loss = TraceMeanField_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    score = pm.PredictiveLoss(20, vectorize_particles=True, max_plate_nesting=1)
    options = {"reduction": "mean", "score": score, "engine": pm.Engine(record=True)}  # records once, then replays
    meta = pm.meta_sgd(model, AutoNormal(model), optim, loss, steps=5, lr=0.003, outer_lr=0.01, **options)
    pm.Trainer(max_steps=meta_steps, meta_batch=25, seed=None).fit(meta, train)  # draws on, under the seed above
    found = {}
    print(f"{test_tasks} unseen sinusoids, whose noise alone makes an error of 0.30")
    for steps in (0, 5):
        guides = meta.adapt_many(support, steps)
        drawn = torch.stack([Predictive(g.model, guide=g, num_samples=draws)(x[i])["y"] for i, g in enumerate(guides)])
        low, high = drawn.quantile(torch.tensor([0.05, 0.95]), dim=1)
        inside = (low <= y[..., 0]) & (y[..., 0] <= high)
        found[steps] = (drawn.mean(1) - y[..., 0]).square().mean().sqrt().item(), inside.float().mean().item()
        print("{} steps: root mean squared error {:.2f}, {:.0%} of points in the 90% band".format(steps, *found[steps]))
    return found


if __name__ == "__main__":
    main()
