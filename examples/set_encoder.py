"""A guide that reads the data: the posterior of a new dataset in no gradient step, or in five.

    python examples/set_encoder.py    # under a minute on one core

The model is a line through readings of which some are far off. Its guide reads a dataset and proposes a posterior, and
learns to from datasets that the model's own prior makes up. Then five steps from the proposal are meta-trained: they
move the biases of the guide's heads, which are added to what it proposes, so only the task's own posterior moves.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import pyrometa as pm
from pyrometa.guides import AttentionPooling, SetEncoderGuide
from pyrometa.tasks import PriorTasks, TaskSampler


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    offset, slope = (pyro.sample(name, dist.Normal(0.0, 2.0)) for name in ("offset", "slope"))
    scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.5))
    with pyro.plate("readings", len(x)):
        return pyro.sample("y", dist.StudentT(2.0, offset + slope * x, scale), obs=y)


class Rows(nn.Sequential):
    """Features of each reading; outliers do not stand out too far."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(torch.stack([x, y.clamp(-10, 10) / 3], -1))


def main(meta_steps: int = 1500, refining: int = 200, svi_steps: int = 200, datasets: int = 3000) -> list[Tensor]:
    torch.manual_seed(0)
    family = PriorTasks(model, lambda rows, generator: 2 * torch.rand(rows, generator=generator) - 1, observed={"y": 1})
    known = torch.stack(TaskSampler(family, shots=20, queries=1, seed=0).sample(datasets).support, 1)  # x and y
    unseen = TaskSampler(family, shots=20, queries=1, seed=1).sample(100).support
    guide = SetEncoderGuide(model, Rows(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64)), pooling=AttentionPooling(64))
    loss = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    options = {"reduction": "mean", "engine": pm.Engine(record=True)}  # records once, then replays
    optim, slow = pyro.optim.Adam({"lr": 2e-3}), pyro.optim.Adam({"lr": 1e-5})
    proposing = pm.MetaSVI(model, guide, optim, loss, steps=0, **options)
    options |= {"inner": pm.SGD(0.05, learn="parameter", outer_lr=0.03), "adapt": "guide.amortized.heads.*.bias"}
    meta = pm.MetaSVI(model, guide, slow, loss, steps=5, **options)
    for learner, steps in ((proposing, meta_steps), (meta, refining)):
        trainer = pm.Trainer(max_steps=steps, seed=None)  # draws on, under the seed above
        trainer.fit(learner, lambda step: (known[torch.randint(datasets, (32,))].unbind(1), None))
    plain = pm.MetaSVI(model, AutoNormal(model), slow, loss, inner=pm.Adam(0.05), steps=svi_steps, reduction="mean")
    losses = [plain.evaluate(unseen, steps=(0, 5, svi_steps)).mean(1), meta.evaluate(unseen, steps=(0, 1, 5)).mean(1)]
    print("negative ELBO in nats a reading, mean of 100 unseen datasets")
    print("plain SVI           {:.2f}, {:.2f}, {:.2f} after 0, 5, {} steps".format(*losses[0], svi_steps))
    print("a guide that reads  {:.2f}, {:.2f}, {:.2f} after 0, 1, 5 steps".format(*losses[1]))
    return losses


if __name__ == "__main__":
    main()
