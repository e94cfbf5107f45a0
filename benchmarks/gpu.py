"""On a GPU: meta-steps and adaptations in wall-clock seconds against NumPyro under jit on the same card.

Each measurement has a process of its own, those that compile come last. None begins after ``--limit`` seconds, and what
was left out is said. Without a GPU ``--quick --device cpu`` shows that it runs.

python -m benchmarks.gpu --json bench/gpu.json
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import pyrometa as pm
from benchmarks.measure import in_own_process, recordings_of, table, write_json
from benchmarks.meta_step import check
from benchmarks.peers import NOISE, OURS, Unavailable, pyrometa_svi
from benchmarks.peers.adapting import Together
from benchmarks.workloads import FixedNoise, Workload, workload

NUMPYRO = "NumPyro, jit(vmap)"
CHUNK = 10_000
_ENGINES: dict[str, dict[str, Any]] = {
    OURS: {"record": True},
    "pyrometa, not recorded": {"record": False},
    "pyrometa, compiled": {"compile": True},
}
CONTESTANTS = (OURS, NUMPYRO, "pyrometa, not recorded", "pyrometa, compiled")


@dataclass(frozen=True)
class Point:
    """What is measured.

    Attributes:
        what: ``"meta-step"`` or ``"adapt"``.
        work: of which the tasks are those of a meta-batch, or all that are adapted.
    """

    what: str
    work: Workload

    def __str__(self) -> str:
        return f"{self.what}, {self.work.kind}, {self.work.tasks} tasks"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Check, time, print and write."""
    args = parse(argv)
    began = time.monotonic()
    result: dict[str, Any] = {"device": args.device, "points": [], "left_out": []}
    for name, point in itertools.product(CONTESTANTS, points(args.device, quick=args.quick)):
        if time.monotonic() - began > args.limit:
            result["left_out"].append(f"{name}: {point}")
        else:
            result["points"].append(in_own_process(measured, name, point, args.rounds))
        write_json(args.json, result)
    print(report(result))
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/gpu.json"), help="where the figures go")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--limit", type=float, default=360.0, help="seconds after which no measurement begins")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, times nothing of use")
    return parser.parse_args(argv)


def points(device: str, *, quick: bool) -> list[Point]:
    """Meta-steps of A and B, and adaptations of B."""
    steps = [("A", 64), ("B", 25), ("A", 1024)]
    some = [*(Point("meta-step", workload(*of)) for of in steps), Point("adapt", workload("B", 100_000))]
    works = ((point, point.work.quick() if quick else point.work) for point in some)
    return [replace(point, work=replace(work, device=device)) for point, work in works]


def measured(name: str, point: Point, rounds: int) -> dict[str, Any]:
    """Wall-clock seconds of a contestant: the first call, which records or compiles, and the later ones."""
    told = {"contestant": name, "what": str(point)}
    run = {"meta-step": _meta_step, "adapt": _adapt}[point.what]
    try:
        error, call, contestant = run(name, point.work)
    except Unavailable as reason:
        return {**told, "absent": str(reason)}
    first = seconds(call, point.work.device)
    later = [seconds(call, point.work.device) for _ in range(rounds)]
    median = statistics.median(later)
    return {
        **told,
        "relative_error": error,
        "first": first,
        "seconds": later,
        "median": median,
        "recordings": recordings_of(contestant),
    }


def seconds(call: Callable[[], object], device: str) -> float:
    """Wall-clock seconds of a call, all that it left to the device included."""
    _wait(device)
    began = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _meta_step(name: str, work: Workload) -> tuple[float, Callable[[], object], Any]:
    build = _numpyro("numpyro_jit", work.device) if name == NUMPYRO else partial(pyrometa_svi.build, **_ENGINES[name])
    small = replace(work, dtype=torch.float64, tasks=min(work.tasks, 25))
    here = build(small).loss_and_grads()
    there = pyrometa_svi.build(replace(small, device="cpu"), vectorize=False).loss_and_grads()
    contestant = build(work)
    return check(name, *(_results(of) for of in (here, there))), contestant.step, contestant


def _adapt(name: str, work: Workload) -> tuple[float, Callable[[], object], Any]:
    small = replace(work, dtype=torch.float64, tasks=3)
    expected = _each(Together(replace(small, device="cpu"), pm.Engine(vectorize=False)), small.tasks)
    if name == NUMPYRO:
        build = partial(_numpyro("numpyro_adapt", work.device), chunk=CHUNK)
        found = build(small).each(small.tasks)
    else:
        build = partial(Together, engine=pm.Engine(chunk_size=CHUNK, **_ENGINES[name]))
        found = _each(build(small), small.tasks)
    error = max(check(name, *pair) for pair in zip(found, expected, strict=True))
    contestant = build(work)
    return error, partial(contestant.adapt, work.tasks), contestant


def _numpyro(module: str, device: str) -> Callable[..., Any]:
    """Builds the contestant, if JAX is there and on a device of the same kind.

    Raises:
        Unavailable: with the reason why not.
    """
    try:
        import jax

        from benchmarks.peers import numpyro_adapt, numpyro_jit
    except ModuleNotFoundError as error:
        raise Unavailable("not installed") from error
    here, wanted = jax.default_backend(), "cpu" if device == "cpu" else "gpu"
    if here != wanted:
        raise Unavailable(f"JAX runs on {here}")
    return {"numpyro_jit": numpyro_jit.build, "numpyro_adapt": numpyro_adapt.build}[module]


def _results(of: tuple[float, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    loss, grads = of
    return {"loss": torch.tensor(loss, dtype=torch.float64), **{name: grad.cpu() for name, grad in grads.items()}}


def _each(contestant: Together, tasks: int) -> list[dict[str, torch.Tensor]]:
    with FixedNoise(NOISE):
        guides = contestant.adapt(tasks)
    return [{name: value.cpu() for name, value in contestant.parameters(guide).items()} for guide in guides]


def report(result: Mapping[str, Any]) -> str:
    """The table, and what is not in it."""
    rows = []
    for point in sorted(result["points"], key=lambda point: point["what"]):
        if "absent" in point:
            rows.append((point["what"], point["contestant"], point["absent"], "", ""))
        else:
            figures = (f"{1e3 * point['median']:.2f}", f"{point['first']:.1f}", f"{point['relative_error']:.0e}")
            rows.append((point["what"], point["contestant"], *figures))
    head = ("what", "contestant", "ms", "first call (s)", "error in float64")
    return "\n".join([table(head, rows), *(f"left out: {what}" for what in result["left_out"])])


if __name__ == "__main__":
    main()
