"""A VAE on MNIST: importance-weighted nats against CPU minutes, mean field against a flow.

    python -m experiments.results.vae_mnist --root data --download

The network is that of Burda, Grosse and Salakhutdinov (2016): two layers of 200 tanh units each way, 50 latents. They
report 86.76 nats after 3,280 epochs (k = 1, one stochastic layer). Here it is what minutes of one core give. Training
images are binarised anew each time they are seen, test images once. Adam's rate is chosen for each guide at the
smallest budget, on the last 5,000 training images; then all 60,000 are trained on. How budgets share a run is in
vae_training.py. --json gets the figures, --figure the plot, --out the networks, which the other commands reuse.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.files import write_figure
from benchmarks.training import one_thread
from experiments.results import mnist_report as report
from experiments.results.vae_scores import test_nll
from experiments.results.vae_training import BATCH, Recipe, Trained, trained
from pyrometa.diagnostics import elbo

KINDS = ("mean field", "flow")
RATES = (1e-3, 2e-3, 4e-3)
TUNED_BY = 1000
"""The seed of the runs that rates are chosen by."""

PUBLISHED = 86.76
COLORS = {"mean field": "#0072B2", "flow": "#D55E00"}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    with one_thread():
        return measured(args)


def measured(args: argparse.Namespace) -> dict[str, Any]:
    began = time.process_time()
    train, test = report.load("mnist", args)
    test = report.binarized(test)
    results: dict[str, Any] = {"published": {"nll": PUBLISHED, "epochs": 3280}, "rates": {}, "runs": [], "summary": {}}
    for kind in args.kinds:
        results["rates"][kind] = tuned(kind, train, args)
    for seed in args.seeds:
        for kind in args.kinds:
            rate = results["rates"][kind]["chosen"]
            recipe = Recipe("mnist", kind, seed, rate, len(train), 0.0, args.hidden, args.latent)
            for seconds, one in trained(recipe, train, budgets(args), args.out).items():
                results["runs"].append({"kind": kind, "seed": seed, "minutes": seconds / 60} | scored(one, test, args))
                tqdm.write(f"{kind}, seed {seed}, {seconds / 60:g} min: NLL {results['runs'][-1]['nll']:.2f}")
            results["summary"] = summary(results["runs"], len(train))
            report.write_report(args, time.process_time() - began, results)
    write_figure(args.figure, drawn(results["summary"]))
    return results


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser(__doc__.splitlines()[0], "vae_mnist")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="guides")
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 1.0], help="CPU minutes of training")
    parser.add_argument("--kept-back", type=int, default=5000, help="training images by which rates are chosen")
    parser.add_argument("--few", type=int, default=50, help="draws for each test image")
    parser.add_argument("--draws", type=int, default=5000, help="draws for the first test images")
    parser.add_argument("--first", type=int, default=100, help="how many test images get as many")
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(hidden=16, latent=4, minutes=[0.001, 0.002], kept_back=100, few=5, draws=50, first=20)
    return args


def budgets(args: argparse.Namespace) -> list[float]:
    return [60 * minutes for minutes in sorted(args.minutes)]


def tuned(kind: str, images: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """The rate whose ELBO on images kept back is best, at the smallest budget."""
    seen, judged = images[: -args.kept_back], report.binarized(images[-args.kept_back :])
    elbos = {}
    for rate in RATES[:2] if args.quick else RATES:
        recipe = Recipe("mnist", kind, TUNED_BY, rate, len(seen), 0.0, args.hidden, args.latent)
        (one,) = trained(recipe, seen, budgets(args)[:1], args.out).values()
        elbos[rate] = elbo(one.network.model, one.network.guide, judged, num_samples=5, chunk_size=1)
        tqdm.write(f"{kind}, rate {rate:g}: {-elbos[rate]:.2f} nats on images kept back")
    return {"chosen": max(elbos, key=lambda rate: elbos[rate]), "negative ELBO": {r: -v for r, v in elbos.items()}}


def scored(one: Trained, test: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    found = test_nll(one.network, test, args.few, args.draws, args.first)
    images = (found.few.std() / len(found.few) ** 0.5).item()
    return {"nll": found.nll, "nll_error": found.error, "image_error": images, "negative_elbo": found.negative_elbo} | {
        "steps": one.steps,
        "cpu_seconds": one.seconds,
    }


def summary(runs: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    """Over seeds, by kind and budget."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        for minutes in sorted({one["minutes"] for one in runs}):
            some = [one for one in runs if (one["kind"], one["minutes"]) == (kind, minutes)]
            if some:
                figures = {name: report.over_seeds([one[name] for one in some]) for name in ("nll", "negative_elbo")}
                figures["epochs"] = report.over_seeds([one["steps"] * BATCH / rows for one in some])
                found.setdefault(kind, {})[f"{minutes:g}"] = figures
    return found


def drawn(found: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for kind, points in found.items():
        minutes = [float(name) for name in points]
        nll = [point["nll"]["mean"] for point in points.values()]
        bound = [point["negative_elbo"]["mean"] for point in points.values()]
        half = [point["nll"]["half_width"] or 0.0 for point in points.values()]
        axes.errorbar(minutes, nll, half, color=COLORS[kind], marker="o", capsize=3, label=f"{kind}, NLL")
        axes.plot(minutes, bound, color=COLORS[kind], marker=".", linestyle=":", label=f"{kind}, negative ELBO")
    axes.axhline(PUBLISHED, color="#333333", linestyle="--", linewidth=1, label="published NLL, 3,280 epochs")
    axes.set_xscale("log", base=2)
    axes.set_xticks(minutes, [f"{value:g}" for value in minutes])
    axes.set_xlabel("CPU minutes of one core")
    axes.set_ylabel("nats a test image")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
