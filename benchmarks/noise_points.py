"""What other points and gradients save: variances of inner gradients and meta-gradients at equal numbers of draws.

python -m benchmarks.noise_points --json bench/noise_points.json

On each program a start is fitted to all tasks. There the gradient of the loss, and the meta-gradient through three
inner steps, are drawn many times under each kind of noise. Variances are summed over parameters, and a kind's figure is
how many times smaller they are than those of random noise.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

import pyrometa as pm
from benchmarks.measure import table, write_json
from benchmarks.noise_programs import PROGRAMS, Program
from benchmarks.training import one_thread

RANDOM = "random"
NOISES = {
    RANDOM: pm.Noise(),
    "antithetic": pm.Noise("antithetic"),
    "sobol": pm.Noise("sobol"),
    "sobol, shared": pm.Noise("sobol", shared=True),
    "landing": pm.Noise(),
    "landing, sobol": pm.Noise("sobol"),
}
ELBOS = {"landing": pm.StickingTheLanding_ELBO, "landing, sobol": pm.StickingTheLanding_ELBO}
PARTS = {
    "means": lambda name: "loc" in name,
    "scales": lambda name: "scale" in name,
}
STEPS, FIT, SEED = 3, 300, 0


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    args = parse(argv)
    if args.quick:
        args.tasks, args.repeats, args.particles = 2, 4, args.particles[:1]
    options = {"tasks": args.tasks, "repeats": args.repeats, "steps": STEPS}
    result: dict[str, Any] = {**options, "programs": {}}
    with one_thread():
        for name in args.programs:
            torch.manual_seed(SEED)
            pyro.clear_param_store()
            program = PROGRAMS[name](args.tasks)
            fit(program, 4 if args.quick else FIT)
            result["programs"][name] = {p: measured(program, p, args.repeats) for p in args.particles}
            write_json(args.json, result)
    print(report(result))
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/noise_points.json"), help="where the figures go")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--particles", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=200, help="draws of each gradient")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    return parser.parse_args(argv)


def meta_svi(program: Program, particles: int, kind: str, steps: int) -> pm.MetaSVI:
    elbo = ELBOS.get(kind, Trace_ELBO)
    loss = elbo(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    optim = pyro.optim.Adam({"lr": 0.02})
    options: dict[str, Any] = {"inner": pm.SGD(program.rate), "steps": steps, "reduction": "mean"}
    return pm.MetaSVI(program.model, program.guide, optim, loss, noise=NOISES[kind], **options)


def fit(program: Program, steps: int) -> None:
    meta = meta_svi(program, 8, RANDOM, steps=0)
    for _ in range(steps):
        meta.step(program.tasks)


def measured(program: Program, particles: int, repeats: int) -> dict[str, dict[str, float]]:
    """For each kind of noise the variances of the gradients of means and scales, and of the meta-gradient of both."""
    found = {}
    for kind in NOISES:
        inner = variances(meta_svi(program, particles, kind, steps=0), program.tasks, repeats)
        outer = variances(meta_svi(program, particles, kind, steps=STEPS), program.tasks, repeats)
        found[kind] = {part: summed(inner, belongs) for part, belongs in PARTS.items()}
        found[kind]["meta-gradient"] = summed(outer, lambda name: any(test(name) for test in PARTS.values()))
    return found


def variances(meta: pm.MetaSVI, tasks: Any, repeats: int) -> dict[str, Tensor]:
    torch.manual_seed(SEED + 1)
    grads = [meta.loss_and_grads(tasks)[1] for _ in range(repeats)]
    return {name: torch.stack([grad[name] for grad in grads]).double().var(0) for name in grads[0]}


def summed(variances: dict[str, Tensor], belongs: Callable[[str], bool]) -> float:
    return sum(variance.sum().item() for name, variance in variances.items() if belongs(name))


def report(result: dict[str, Any]) -> str:
    """The table: for each kind of noise inner gradients, where its steps see other draws, and meta-gradients."""
    kinds = [kind for kind in NOISES if kind != RANDOM]
    columns = [(kind, part) for kind in kinds for part in (*PARTS, "meta-gradient")]
    columns = [(kind, part) for kind, part in columns if part == "meta-gradient" or not NOISES[kind].shared]
    rows = [
        (name, str(particles), *(f"{found[RANDOM][part] / found[kind][part]:.2g}" for kind, part in columns))
        for name, by_particles in result["programs"].items()
        for particles, found in by_particles.items()
    ]
    title = f"How many times less variance than random noise has, {result['repeats']} draws of each gradient"
    return f"{title}\n" + table(("program", "P", *(f"{kind}: {part}" for kind, part in columns)), rows)


if __name__ == "__main__":
    main()
