"""A family of Gaussian mixtures: each task is a dataset with clusters of its own, found in five steps.

    python -m experiments.mixtures            # a few minutes on one core; the figure needs matplotlib
    python -m experiments.mixtures --quick    # tiny sizes: shows that it runs

The tasks are drawn from the model's own prior. Which cluster a datum belongs to is a discrete latent, summed out by
TraceEnum_ELBO. One contestant meta-learns a start and its rates, another an encoder of a dataset's rows. --out gets
metrics.json and mixtures.png.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

import pyrometa as pm
from benchmarks.gains import META, adapted, compare
from benchmarks.gains_report import draw, table, write
from benchmarks.plain_svi import Problem, Row, values
from experiments.meta_training import train
from experiments.set_encoders import ENCODED, fit_encoder, mlp, simulated
from pyrometa.guides import SetEncoderGuide
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


class Clusters(nn.Module):
    """Pooling of rows to clusters: a network guesses each row's cluster, rounds of EM sharpen the guess.

    The features are the clusters' log weights, means and log scales, and a network of them.
    """

    def __init__(self, hidden: int, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds
        self.guess, self.correct = mlp(3, hidden, hidden, CLUSTERS), mlp(3 * CLUSTERS, hidden, hidden, hidden)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Features of rows ``(N, 1)``, all of which count."""
        center, width = rows.mean(-2, keepdim=True), rows.std(-2, keepdim=True)
        context = torch.cat([center / 3, width.log()], -1).expand(*rows.shape[:-1], 2)
        logits = self.guess(torch.cat([(rows - center) / width, context], -1))
        for _ in range(self.rounds):
            shares = logits.softmax(-1)
            count = shares.sum(-2, keepdim=True) + 1  # one row more, at zero and of the prior's variance
            mean = (shares * rows).sum(-2, keepdim=True) / count
            variance = ((shares * (rows - mean).square()).sum(-2, keepdim=True) + 0.4) / count
            logits = count.log() - (variance.log() + (rows - mean).square() / variance) / 2
        features = torch.cat([count.log() - 3, mean, variance.log() / 2], -1).squeeze(-2)
        return torch.cat([self.correct(features), features], -1)


def elbo(particles: int) -> TraceEnum_ELBO:
    return TraceEnum_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=2)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    family = PriorTasks(model, lambda rows, generator: torch.zeros(rows), observed={"x": 0})
    sampler = TaskSampler(family, shots=ROWS, queries=1, seed=args.seed)
    test = [(x,) for x in sampler.sample(args.tasks).support]

    guide = make_guide(model)
    engine = pm.Engine(record=not args.quick)  # one shape, a small program: replayed without Python
    options: dict[str, Any] = {"loss": elbo(args.particles), "reduction": "mean", "engine": engine}
    batches = draws(sampler.sample(args.train_tasks).support, args.batch_size, args.seed)
    pooling = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), steps=0, **options)
    train(pooling, batches, args.meta_steps // 2)
    pooled = values(guide)

    inner = pm.SGD(0.1, learn="layer_step", outer_lr=0.03)
    meta = pm.MetaSVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.01}), inner=inner, steps=5, **options)
    seconds = {META: train(meta, batches, args.meta_steps)}

    encoded, seconds[ENCODED] = fit_encoder(
        model,
        SetEncoderGuide(model, lambda x: x[:, None], pooling=Clusters(args.hidden, rounds=3)),
        elbo,
        made_up(args.batch_size),
        steps=args.encoder_steps,
        particles=(4, args.particles),
        rate=0.03,
        record=not args.quick,
    )

    problem = Problem(model, make_guide, elbo(args.particles), test, args.draws)
    result = compare(
        problem,
        pooled,
        {META: adapted(meta, problem), ENCODED: adapted(encoded, problem)},
        rates=(0.03, 0.1, 0.3),
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


def made_up(batch_size: int) -> Iterator[Row]:
    """New datasets at every meta-step."""
    while True:
        yield simulated(model, "x", (torch.zeros(batch_size, ROWS),))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("mixtures"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args(argv)
    sizes = {"tasks": 100, "train_tasks": 500, "particles": 16, "batch_size": 32, "meta_steps": 1000}
    sizes |= {"hidden": 64, "encoder_steps": (6000, 200)}
    sizes |= {"svi_steps": 1000, "converged_steps": 1500}
    sizes |= {"draws": 20_000}
    if args.quick:
        sizes = {"draws": 40, "tasks": 3, "train_tasks": 4, "particles": 2, "batch_size": 2, "meta_steps": 4}
        sizes |= {"hidden": 4, "encoder_steps": (2, 2)}
        sizes |= {"svi_steps": 10, "converged_steps": 20}
    vars(args).update(sizes)
    return args


if __name__ == "__main__":
    main()
