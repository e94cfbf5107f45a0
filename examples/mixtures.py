"""A family of Gaussian mixtures: each task is a dataset with clusters of its own, found in five steps.

    python examples/mixtures.py            # a few minutes on one core; the figure needs matplotlib
    python examples/mixtures.py --quick    # tiny sizes: shows that it runs

The tasks are drawn from the model's own prior. Which cluster a datum belongs to is a discrete latent, summed out by
TraceEnum_ELBO. --out gets metrics.json and mixtures.png.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from gains import META, Problem, adapted, compare, draw, table, train, values, write
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.ops.indexing import Vindex
from torch import Tensor

import pyrometa as pm
from pyrometa.tasks import PriorTasks, TaskSampler

CLUSTERS, ROWS = 2, 50


def model(x: Tensor) -> None:
    """One dataset; ``...`` lets it broadcast over particles and tasks."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((CLUSTERS,), 5.0)))
    means = pyro.sample("means", dist.Normal(0.0, 3.0).expand([CLUSTERS]).to_event(1))
    scales = pyro.sample("scales", dist.LogNormal(-0.5, 0.3).expand([CLUSTERS]).to_event(1))
    with pyro.plate("rows", x.shape[-1], dim=-1):
        cluster = pyro.sample("cluster", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(Vindex(means)[..., cluster], Vindex(scales)[..., cluster]), obs=x)


def make_guide(model: Callable[..., Any]) -> AutoNormal:
    return AutoNormal(poutine.block(model, hide=["cluster"]))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    family = PriorTasks(model, lambda rows, generator: torch.zeros(rows), observed={"x": 0})
    sampler = TaskSampler(family, shots=ROWS, queries=1, seed=args.seed)
    test = [(x,) for x in sampler.sample(args.tasks).support]
    elbo = TraceEnum_ELBO(num_particles=args.particles, vectorize_particles=True, max_plate_nesting=2)

    guide = make_guide(model)
    engine = pm.Engine(record=not args.quick)  # one shape, a small program: replayed without Python
    options: dict[str, Any] = {"loss": elbo, "reduction": "mean", "engine": engine}
    batches = draws(sampler.sample(args.train_tasks).support, args.batch_size, args.seed)
    pooling = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), steps=0, **options)
    train(pooling, batches, args.meta_steps // 2)
    pooled = values(guide)

    inner = pm.SGD(0.1, learn="layer_step", outer_lr=0.03)
    meta = pm.MetaSVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.01}), inner=inner, steps=5, **options)
    seconds = train(meta, batches, args.meta_steps)

    problem = Problem(model, make_guide, elbo, test, args.draws)
    result = compare(
        problem,
        pooled,
        {META: adapted(meta, problem)},
        rates=(0.1, 0.3),
        steps=args.svi_steps,
        converged=args.converged_steps,
    )
    result = {**result, "meta_training_seconds": seconds, "seed": args.seed}
    print(table(result))
    write(args.out, "mixtures", result, draw(result, f"Mixtures of {CLUSTERS} Gaussians: {args.tasks} unseen datasets"))
    return result


def draws(data: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield data[torch.randint(len(data), (batch_size,), generator=generator)]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("mixtures"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args(argv)
    sizes = {"tasks": 100, "train_tasks": 500, "particles": 16, "batch_size": 32, "meta_steps": 1000}
    sizes |= {"svi_steps": 700, "converged_steps": 1500}
    sizes |= {"draws": 20_000}
    if args.quick:
        sizes = {"draws": 40, "tasks": 3, "train_tasks": 4, "particles": 2, "batch_size": 2, "meta_steps": 4}
        sizes |= {"svi_steps": 10, "converged_steps": 20}
    vars(args).update(sizes)
    return args


if __name__ == "__main__":
    main()
