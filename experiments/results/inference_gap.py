"""The inference gap of VAEs on MNIST, in its two parts, and what refinement, a learned start and a flow do to it.

    python -m experiments.results.inference_gap --root data --download

Cremer, Li and Duvenaud (2018) lose 1.43 nats of MNIST's to the family (a factorised normal) and 1.34 to amortisation.
Here networks of their sizes (784-200-200-50) have each had the same CPU seconds of training on 60,000 images:

- mean field: an encoder's normal;
- mean field, refined: the same network, whose proposals take five steps at test time;
- semi-amortised: the mean field's network of half the seconds, and then as many with five steps in training, too, at
  rates that are learned with it (Kim et al., 2018);
- meta-learned start: that network's decoder, and then as many seconds with no encoder: one start for all images and
  the rates of five steps from it are learned;
- flow: an encoder's affine inverse autoregressive flow.

Images are test images; for the mean field training images as well, as in the published code.

The log evidence is importance-weighted, by draws of each image's optimal posterior; annealed importance sampling looks
at some images of the mean field again.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.files import write_figure
from benchmarks.training import one_thread
from experiments.results import mnist_report as report
from experiments.results.vae import KINDS, Network
from experiments.results.vae_scores import tuned_refinement
from experiments.results.vae_training import RATES, Recipe, Trained, trained
from pyrometa.diagnostics import InferenceGaps, ais_log_evidence, inference_gaps

PUBLISHED = {"approximation": 1.43, "amortisation": 1.34}
REFINING = ("semi-amortised", "meta-learned start")
"""What goes on from a mean field of half the seconds."""

SEEN = "mean field, training images"
COLORS = {"approximation": "#0072B2", "amortisation": "#D55E00"}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    with one_thread():
        return measured(args)


def measured(args: argparse.Namespace) -> dict[str, Any]:
    began = time.process_time()
    train, test = report.load("mnist", args)
    x = report.binarized(test)[: args.images]
    gaps: dict[str, list[InferenceGaps]] = {}
    results: dict[str, Any] = {"published": PUBLISHED, "networks": [], "annealed": []}
    for seed in args.seeds:
        for kind in args.kinds:
            one = network(kind, seed, train, args)
            results["networks"].append({"kind": kind, "seed": seed, "steps": one.steps, "cpu_seconds": one.seconds})
            for name, guide in guides(one.network, train, args).items():
                seconds = seconds_an_image(guide, x)
                gaps.setdefault(name, []).append(gaps_of(one.network, guide, x, args))
                results["networks"][-1].setdefault("seconds_an_image", {})[name] = seconds
                tqdm.write(f"seed {seed}, {name}: {said(gaps[name][-1])}")
            if kind == "mean field":
                seen = report.binarized(train[: args.images])
                gaps.setdefault(SEEN, []).append(gaps_of(one.network, one.network.guide, seen, args))
                results["annealed"].append(annealed(one.network, x, gaps[kind][-1], seed, args))
            results["gaps"] = {name: summary(some) for name, some in gaps.items()}
            report.write_report(args, time.process_time() - began, results)
    write_figure(args.figure, drawn(results["gaps"]))
    return results


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser(__doc__.splitlines()[0], "inference_gap")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="networks")
    parser.add_argument("--minutes", type=float, default=1.0, help="CPU minutes of training")
    parser.add_argument("--images", type=int, default=100, help="test images")
    parser.add_argument("--optimisation-steps", type=int, default=400, help="to the optimal posterior of an image")
    parser.add_argument("--draws", type=int, default=1000, help="for each bound")
    parser.add_argument("--annealed", type=int, default=4, help="images whose evidence is annealed, too")
    parser.add_argument("--temperatures", type=int, default=100, help="of annealing")
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(hidden=16, latent=4, minutes=0.002, images=5, optimisation_steps=5)
        vars(args).update(draws=20, annealed=1, temperatures=2)
    return args


def network(kind: str, seed: int, train: Tensor, args: argparse.Namespace) -> Trained:
    """One of a kind; where vae_mnist.py has left it in --out, that one."""
    seconds = 60 * args.minutes
    after = seconds / 2 if kind in REFINING else 0.0
    recipe = Recipe("mnist", kind, seed, RATES[kind], len(train), after, args.hidden, args.latent)
    (one,) = trained(recipe, train, [seconds - after], args.out).values()
    return one


def guides(one: Network, train: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """The network's own guide; of the mean field, the same refined at test time too."""
    if one.kind != "mean field":
        return {one.kind: one.guide}
    return {one.kind: one.guide, "mean field, refined": tuned_refinement(one, train[: args.images])}


def seconds_an_image(guide: Any, x: Tensor) -> float:
    """CPU seconds that proposing takes, all images together."""
    with pyro.get_param_store().scope():
        guide.propose(x)
        began = time.process_time()
        guide.propose(x)
    return (time.process_time() - began) / len(x)


def gaps_of(one: Network, guide: Any, x: Tensor, args: argparse.Namespace) -> InferenceGaps:
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        counts = {"steps": args.optimisation_steps, "num_samples": args.draws, "chunk_size": 50}
        return inference_gaps(one.model, guide, x, **counts)


def annealed(one: Network, x: Tensor, gaps: InferenceGaps, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Annealed estimates of some images' log evidence, and how far above the importance-weighted ones they are."""
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        found = [
            ais_log_evidence(one.model, x[i : i + 1], temperatures=args.temperatures) for i in range(args.annealed)
        ]
    above = [one.log_evidence - weighted for one, weighted in zip(found, gaps.log_marginal.tolist(), strict=False)]
    tqdm.write(f"seed {seed}, annealed above importance-weighted: {sum(above) / len(above):.3f}")
    return {"seed": seed, "above": above, "standard_errors": [one.standard_error for one in found]}


def parts(gaps: InferenceGaps) -> dict[str, Tensor]:
    return {
        "NLL": -gaps.log_marginal,
        "negative ELBO": -gaps.amortized,
        "approximation": gaps.approximation,
        "amortisation": gaps.amortization,
        "inference": gaps.inference,
    }


def summary(gaps: Sequence[InferenceGaps]) -> dict[str, Any]:
    each = [parts(one) for one in gaps]
    return {name: report.over_seeds_and_images([one[name] for one in each]) for name in each[0]}


def said(gaps: InferenceGaps) -> str:
    return ", ".join(f"{name} {value.mean():.2f}" for name, value in parts(gaps).items())


def drawn(found: dict[str, Any]) -> Figure:
    """Bars of the two gaps, with the published ones on top."""
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    axes = figure.subplots()
    names = ["Cremer et al., 2018", *found]
    left = torch.zeros(len(names))
    for part, color in COLORS.items():
        width = torch.tensor([PUBLISHED[part], *(found[name][part]["mean"] for name in found)])
        half = torch.tensor([0.0, *(found[name][part]["half_width"] or 0.0 for name in found)])
        axes.barh(range(len(names)), width, 0.5, left, xerr=half, color=color, ecolor="#333333", label=f"{part} gap")
        left = left + width
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("nats an image")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure


if __name__ == "__main__":
    main()
