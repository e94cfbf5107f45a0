"""Training for a long time on tasks of ever other sizes, adaptation in between: does memory grow?

Each engine has a process of its own, and all run side by side. When every plan is made, the clock starts. A run has
thirty periods, a line each: minutes, where it takes thirty of them. After the fifth, resident memory may grow by under
1%, and so may the tensors that Python holds; none may be on a graph, and each loss has to be finite. Else the run ends
with the reason and exit code 1.

python -m benchmarks.soak --minutes 30 --engines default recorded
"""

import argparse
import gc
import math
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from typing import Any, TypeAlias

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrometa as pm
from benchmarks.measure import status
from pyrometa.models import VAE

Made: TypeAlias = Callable[[int], tuple[Tensor, ...]]
Program: TypeAlias = tuple[pm.MetaSVI, Made]
PERIODS, SETTLED = 30, 5
MOST_GROWTH = 0.01
ENGINES = {"default": pm.Engine(), "auto": pm.Engine(record="auto"), "recorded": pm.Engine(record=True)}


@dataclass(frozen=True)
class Period:
    """What one stretch of a run shows at its end.

    Attributes:
        seconds: since the run began.
        steps: meta-steps since then.
        mib: resident, the median over the period.
        tensors: that Python holds.
        on_graphs: those of them that a graph has made.
        loss: the last one.
    """

    seconds: float
    steps: int
    mib: float
    tensors: int
    on_graphs: int
    loss: float

    def __str__(self) -> str:
        return (
            f"{self.seconds:6.0f} s {self.steps:7} steps {self.mib:8.1f} MiB {self.tensors:6} tensors "
            f"{self.on_graphs} on graphs, loss {self.loss:.3f}"
        )


@dataclass(frozen=True)
class Shapes:
    """Sizes of tasks and of meta-batches that a run draws from.

    Attributes:
        rows: ranges of a task's rows, of which a meta-batch has one.
        tasks: numbers of tasks.
        of_one: rows of tasks that all have one size.
        first: rows of the tasks of a first meta-batch, which are padded to every size that later ones are.
    """

    rows: Sequence[tuple[int, int]]
    tasks: Sequence[int]
    of_one: Sequence[int]
    first: Sequence[int]


MANY = Shapes(((3, 9), (5, 40), (17, 24)), range(2, 17), range(3, 13), (3, 4, 5, 8, 9, 16, 17, 32, 33, 40))
# a recording serves one number of tasks that are padded to one number of rows, and eight are kept
FEW = Shapes(((5, 8),), (6,), (7,), (5, 6, 7, 8, 5, 6))
SHAPES = {"default": MANY, "auto": FEW, "recorded": FEW}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the engines side by side; exit with the reason where one does not hold."""
    args = parse(argv)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(args.engines), mp_context=spawn) as pool:
        runs = {name: pool.submit(soak, name, args.minutes, args.seed) for name in args.engines}
        reasons = {name: reason for name, run in runs.items() if (reason := run.result())}
    if reasons:
        sys.exit("\n".join(f"{name}: {reason}" for name, reason in reasons.items()))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["default", "recorded"])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def soak(engine: str, minutes: float, seed: int) -> str | None:
    """Run one engine, a line a period; the reason why it does not hold, or None."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    pyro.set_rng_seed(seed)
    programs = regression(ENGINES[engine]), autoencoder(ENGINES[engine])
    warm(programs, SHAPES[engine])
    work = working(programs, SHAPES[engine], random.Random(seed))
    settled: Period | None = None
    steps, began = 0, time.monotonic()
    for period in range(1, PERIODS + 1):
        mib, ends = [], began + period * 60 * minutes / PERIODS
        while not mib or time.monotonic() < ends:
            try:
                loss = next(work)
            except ArithmeticError as error:
                return str(error)
            steps += 1
            mib.append(status("VmRSS"))
        now = Period(time.monotonic() - began, steps, statistics.median(mib), *live_tensors(), loss)
        print(f"{engine:8} {now}", flush=True)
        settled = now if period == SETTLED else settled
        if reason := refused(now, settled):
            return reason
    return None


def live_tensors() -> tuple[int, int]:
    """How many tensors there are, and how many of them were computed on a graph that is kept."""
    gc.collect()
    tensors = [value for value in gc.get_objects() if issubclass(type(value), Tensor)]
    return len(tensors), sum(tensor.grad_fn is not None for tensor in tensors)


def refused(now: Period, settled: Period | None) -> str | None:
    """What is wrong, if something is."""
    if now.on_graphs:
        return f"{now.on_graphs} tensors keep the graph that made them after {now.steps} steps"
    if not math.isfinite(now.loss):
        return f"the loss is {now.loss} after {now.steps} steps"
    if settled is None:
        return None
    if (growth := now.mib / settled.mib - 1) >= MOST_GROWTH:
        return f"resident memory grew by {growth:.2%}, from {settled.mib:.1f} to {now.mib:.1f} MiB"
    if now.tensors > settled.tensors * (1 + MOST_GROWTH):
        return f"{now.tensors} tensors are kept, and {settled.tensors} were"
    return None


def warm(programs: Sequence[Program], shapes: Shapes) -> None:
    """Do everything once, at every size."""
    for meta, made in programs:
        tasks = [made(rows) for rows in shapes.first]
        meta.step(tasks, tasks)
        meta.evaluate(tasks, tasks)
        meta.adapt_many(tasks)
        for rows in shapes.of_one:
            meta.adapt(made(rows))
            meta.sample_many([made(rows) for _ in shapes.first], draws=8)


def working(programs: Sequence[Program], shapes: Shapes, chosen: random.Random) -> Iterator[float]:
    """Meta-steps of programs in turns, and what is done at meta-test between them."""
    for meta, made in cycle(programs):
        yield meta.step(*ragged(made, shapes, chosen))
        if chosen.random() < 0.5:
            at_meta_test(meta, made, shapes, chosen)


def at_meta_test(meta: pm.MetaSVI, made: Made, shapes: Shapes, chosen: random.Random) -> None:
    """One of the four things to do with new tasks."""
    kind, rows = chosen.choice(("adapt", "adapt_many", "evaluate", "sample_many")), chosen.choice(shapes.of_one)
    if kind == "adapt":
        task = made(rows)
        guide = meta.adapt(task)
        pyro.infer.Predictive(guide.model, guide=guide, num_samples=3)(*task)
    elif kind == "adapt_many":
        meta.adapt_many(ragged(made, shapes, chosen)[0])
    elif kind == "evaluate":
        meta.evaluate(*ragged(made, shapes, chosen))
    else:
        meta.sample_many([made(rows) for _ in range(chosen.choice(shapes.tasks))], draws=8)


def ragged(made: Made, shapes: Shapes, chosen: random.Random) -> tuple[list[Any], list[Any]]:
    """Support and query sets of some tasks, never all of one size, which would not be padded."""
    least, most = chosen.choice(shapes.rows)
    sizes = [least, most, *(chosen.randint(least, most) for _ in range(chosen.choice(shapes.tasks) - 2))]
    return [made(rows) for rows in sizes], [made(rows) for rows in sizes]


def regression(engine: pm.Engine) -> Program:
    """Four coefficients and a scale, and what makes a task of so many rows."""

    def model(x: Tensor, y: Tensor) -> None:
        slopes = pyro.sample("slopes", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.3))
        with pyro.plate("rows", y.shape[-1]):
            pyro.sample("y", dist.Normal(x @ slopes, scale), obs=y)

    def made(rows: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(rows, 4)
        return x, x @ torch.randn(4) + torch.randn(rows)

    optim, inner = pyro.optim.Adam({"lr": 1e-3}), pm.SGD(1e-2, learn="layer")
    guide = AutoNormal(model)
    return pm.MetaSVI(model, guide, optim, inner=inner, steps=3, reduction="mean", engine=engine), made


def autoencoder(engine: pm.Engine) -> Program:
    """A small VAE, encoder and decoder adapted, and what makes a task of so many images."""
    vae = VAE(16, hidden=24, latent=2)

    def made(rows: int) -> tuple[Tensor]:
        return (torch.bernoulli(torch.rand(16).expand(rows, 16)),)

    optim, inner = pyro.optim.Adam({"lr": 1e-3}), pm.SGD(1e-3)
    return pm.MetaSVI(vae.model, vae.guide, optim, inner=inner, steps=3, adapt="both", engine=engine), made


if __name__ == "__main__":
    main()
