"""Neural processes on draws of Gaussian processes: log density a target beside that of the exact posterior.

    python -m experiments.results.neural_processes --seeds 0 1 2 --json results/neural_processes.json
    python -m experiments.results.neural_processes --quick

The tasks are those of the papers on attentive and transformer neural processes (``gp_draws``). Two networks
(``neural_process_networks``), one whose guide pools the context by its mean and one with attention, are meta-trained on
draws with an RBF kernel and tested on draws with an RBF, a Matern 5/2 and a periodic kernel; the one with attention for
longer, too. Then each learns to take five inner steps on the task's latent, from what its guide has read, and beside
that a copy of it is trained on without steps, by as many gradient evaluations.

The file has, for each row and kernel, the mean log density a target with 95% intervals over tasks and over seeds, and
what the steps add task by task; and that of the exact posterior with the true kernel, of each target alone and of all
together. Beside it is a figure with a draw of each kernel.
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch

import pyrometa as pm
from benchmarks.files import write_figure, write_json
from benchmarks.training import one_thread
from experiments.results import neural_process_report as report
from experiments.results import training
from experiments.results.gp_draws import KERNELS, Draws, draw
from experiments.results.neural_process_networks import AttentiveProcess, MeanProcess
from pyrometa.scores import PredictiveLoss
from pyrometa.tasks import MetaBatch

Process = MeanProcess | AttentiveProcess
ROWS: dict[str, Callable[[], Process]] = {
    "mean pooling": MeanProcess,
    "attention": AttentiveProcess,
    "attention for longer": AttentiveProcess,
}
RATES = {"mean pooling": 3e-3, "attention": 2e-3, "attention for longer": 2e-3}
STEPS, BATCH, POINTS = 5, 16, 50
REFINING_RATE, FURTHER_RATE = 1e-4, 5e-4  # at the start of the meta-training that follows
SIZES = (3, 9, 15, 21, 27, 33, 39, 46)  # context points of a training batch; the rest of its points are targets
LATENT = "guide.amortized.heads.z.bias"  # added to what the guide has read


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    found: dict[str, list[report.Losses]] = {}
    seconds: dict[str, list[float]] = {}
    shown: dict[str, Any] = {}
    with one_thread():
        test = {name: test_draws(name, args.test_sizes, args.tasks_a_size) for name in KERNELS}
        for seed in args.seeds:
            for name, make in ROWS.items():
                torch.manual_seed(seed)
                process = make()
                for row, spent, losses in rows_of(name, process, seed, args, test):
                    found.setdefault(row, []).append(losses)
                    seconds.setdefault(row, []).append(spent)
                    print(f"seed {seed}: {report.line(row, losses)}; {spent:.0f} CPU seconds", flush=True)
                    if row == name:
                        shown.setdefault(name, report.bands(process))
            result = report.summary(test, found, seconds, settings(args))
            write_json(args.json, result)
        print(report.table(result))
        write_figure(args.json.with_suffix(".png"), report.figure(shown))
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path, default=Path("results/neural_processes.json"))
    parser.add_argument("--mean-steps", type=int, default=3_000, help="meta-steps with mean pooling")
    parser.add_argument("--attention-steps", type=int, default=2_500, help="meta-steps with attention")
    parser.add_argument("--longer-steps", type=int, default=7_500, help="meta-steps with attention for longer")
    parser.add_argument("--refining-steps", type=int, default=200, help="meta-steps through the inner steps")
    parser.add_argument("--tasks-a-size", type=int, default=48, help="test tasks of each of 44 sizes and each kernel")
    parser.add_argument("--quick", action="store_true", help="a trial of seconds, which proves nothing")
    args = parser.parse_args(argv)
    args.test_sizes = range(3, 47)
    if args.quick:
        few = {"mean_steps": 3, "attention_steps": 3, "longer_steps": 3, "refining_steps": 1}
        vars(args).update(few, tasks_a_size=2, test_sizes=(5,))
    return args


def settings(args: argparse.Namespace) -> dict[str, Any]:
    names = ("seeds", "mean_steps", "attention_steps", "longer_steps", "refining_steps", "tasks_a_size")
    return {name: getattr(args, name) for name in names}


def test_draws(kernel: str, sizes: Sequence[int], tasks: int) -> list[Draws]:
    """Tasks of each number of context points, with a number of targets at random; the same sizes for each kernel."""
    generator = torch.Generator().manual_seed(1_000_000)
    counts = [int(torch.randint(3, POINTS - size, (), generator=generator)) for size in sizes]
    return [draw(KERNELS[kernel], generator, tasks, *size) for size in zip(sizes, counts, strict=True)]


def rows_of(
    name: str, process: Process, seed: int, args: argparse.Namespace, test: dict[str, list[Draws]]
) -> Iterator[tuple[str, float, report.Losses]]:
    """Meta-train without inner steps, then on without and with them; CPU seconds of each, and the losses."""
    many = {
        "mean pooling": args.mean_steps,
        "attention": args.attention_steps,
        "attention for longer": args.longer_steps,
    }[name]
    reader = meta_svi(process, 0, RATES[name], record=not args.quick)
    seconds = fit(reader, training_batches(seed, SIZES), many)
    yield name, seconds, losses_of(reader, test, (0,))[0]

    control = meta_svi(copy.deepcopy(process), 0, FURTHER_RATE, record=not args.quick)
    as_many = (STEPS + 1) * args.refining_steps  # each inner step evaluates a gradient, and the outer one another
    seconds = fit(control, training_batches(seed + 1_000, SIZES), as_many)
    yield f"{name}, trained on", seconds, losses_of(control, test, (0,))[0]

    refiner = meta_svi(process, STEPS, REFINING_RATE, record=not args.quick)
    seconds = fit(refiner, training_batches(seed + 1_000, SIZES[1::3]), args.refining_steps)
    before, after = losses_of(refiner, test, (0, STEPS))
    yield f"{name}, refined, no steps", seconds, before
    yield f"{name}, refined, {STEPS} steps", seconds, after


def meta_svi(process: Process, steps: int, rate: float, record: bool) -> pm.MetaSVI:
    return pm.MetaSVI(
        process.model,
        process.guide,
        pyro.optim.Adam({"lr": rate, "fused": True}),
        inner=pm.SGD(0.03, learn="parameter", outer_lr=0.03),
        steps=steps,
        meta_gradient=pm.Unrolled(first_order=True),
        adapt=LATENT,
        reduction="mean",
        score=PredictiveLoss(1),
        engine=pm.Engine(record=record),
    )


def training_batches(seed: int, sizes: Sequence[int]) -> Iterator[MetaBatch]:
    """Draws with an RBF kernel; the tasks of a batch have one size."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        size = sizes[int(torch.randint(len(sizes), (), generator=generator))]
        yield tasks_of(draw(KERNELS["RBF"], generator, BATCH, size, POINTS - size))


def tasks_of(draws: Draws) -> MetaBatch:
    """The context given the context, and the targets given the context."""
    return MetaBatch((*draws.context, *draws.context), (*draws.target, *draws.context))


def fit(meta: pm.MetaSVI, batches: Iterator[MetaBatch], steps: int) -> float:
    """Meta-train with a rate that falls to zero; returns CPU seconds."""
    return training.fit(meta, batches, next(batches).support, steps, clip_norm=5.0)


def losses_of(meta: pm.MetaSVI, test: dict[str, list[Draws]], at: Sequence[int]) -> list[report.Losses]:
    """Of each kernel, after numbers of inner steps: ``(sizes, tasks)``."""
    meta.engine = pm.Engine(record=False)
    found = {name: [meta.evaluate(*tasks_of(draws), at) for draws in many] for name, many in test.items()}
    return [{name: torch.stack([losses[i] for losses in many]) for name, many in found.items()} for i in range(len(at))]


if __name__ == "__main__":
    main()
