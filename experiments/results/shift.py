"""Images unlike those a VAE was trained on: nats, calibration and k-hat, and whether the diagnostics saw the shift.

    python -m experiments.results.shift --root data --download

A VAE (784-200-200-50, mean field) is trained on MNIST and tested on MNIST, on its digits turned by 30 and by 90
degrees, on noisy ones (a fifth of the pixels by a fair coin) and on Fashion-MNIST; another is trained on Fashion-MNIST
and tested on both. Each is looked at as the encoder proposes, and after five steps of refinement on each image.

Calibration is of pixels: a grey image is binarised twice, the posterior is given one, and predicts the other.

Each diagnostic, image by image, is then a detector of shifted images among those of the training set's kind: the area
under the ROC curve is the probability that it is larger for a shifted image. 0.5 is chance.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate
from tqdm.auto import tqdm

from benchmarks.files import write_figure
from benchmarks.training import one_thread
from experiments.results import mnist_report as report
from experiments.results.vae import Network
from experiments.results.vae_scores import Proposal, log_weights, proposed, sampling, tuned_refinement, weighed
from experiments.results.vae_training import RATES, Recipe, trained
from pyrometa.diagnostics import expected_calibration_error, inference_gaps

FLIPPED = 0.2
SECOND = 1
"""The seed of the second binarisation."""

SECOND_NATS = "nats of a second binarisation"
REFINED = " after five steps"

AT_HOME = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
DETECTORS = ("negative ELBO", "NLL", "k-hat", "few effective draws", "amortisation gap", "gain of five steps")
COLORS = ("#999999", "#333333", "#0072B2", "#56B4E9", "#D55E00", "#E69F00")


class Measured(NamedTuple):
    """Figures by name, of some images.

    Attributes:
        each: one an image, shape ``(N,)``.
        errors: expected calibration errors of all their pixels.
    """

    each: dict[str, Tensor]
    errors: dict[str, float]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    with one_thread():
        return measured(args)


def measured(args: argparse.Namespace) -> dict[str, Any]:
    began = time.process_time()
    data = {name: report.load(name, args) for name in AT_HOME}
    tests = {name: test[: args.images] for name, (_, test) in data.items()}
    found: dict[str, dict[str, list[Measured]]] = {}
    results: dict[str, Any] = {}
    for seed in args.seeds:
        for name, (train, _) in data.items():
            recipe = Recipe(name, "mean field", seed, RATES["mean field"], len(train), 0.0, args.hidden, args.latent)
            (one,) = trained(recipe, train, [60 * args.minutes], args.out).values()
            refining = tuned_refinement(one.network, train[: args.images])
            for shift, images in shifted(name, tests).items():
                torch.manual_seed(seed)
                here = of_images(one.network, refining, images, args)
                found.setdefault(name, {}).setdefault(shift, []).append(here)
                tqdm.write(f"seed {seed}, {name} on {shift}: {said(here)}")
        results["figures"] = {name: figures(some) for name, some in found.items()}
        results["areas"] = {name: areas(some, AT_HOME[name]) for name, some in found.items()}
        report.write_report(args, time.process_time() - began, results)
    write_figure(args.figure, drawn(results["areas"]))
    return results


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser(__doc__.splitlines()[0], "shift")
    parser.add_argument("--minutes", type=float, default=0.5, help="CPU minutes of training")
    parser.add_argument("--images", type=int, default=200, help="test images of each kind")
    parser.add_argument("--draws", type=int, default=1000, help="importance weights an image")
    parser.add_argument("--optimisation-steps", type=int, default=300, help="to the optimal posterior of an image")
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(hidden=16, latent=4, minutes=0.002, images=5, draws=50, optimisation_steps=5)
    return args


def shifted(name: str, tests: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Grey test images by what was done to them, those of the training set's kind first."""
    home = tests[name]
    others = {AT_HOME[other]: images for other, images in tests.items() if other != name}
    if name != "mnist":
        return {AT_HOME[name]: home, **others}
    noisy = (1 - FLIPPED) * home + FLIPPED / 2
    return {
        AT_HOME[name]: home,
        "turned 30°": turned(home, 30),
        "turned 90°": turned(home, 90),
        "noisy": noisy,
        **others,
    }


def turned(images: Tensor, degrees: float) -> Tensor:
    square = images.view(-1, 1, 28, 28)
    return rotate(square, degrees, InterpolationMode.BILINEAR).flatten(1).clamp(0, 1)


def of_images(network: Network, refining: Any, images: Tensor, args: argparse.Namespace) -> Measured:
    """All that is measured of each image, before and after refinement."""
    x, again = report.binarized(images), report.binarized(images, SECOND)
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        counts = {"steps": args.optimisation_steps, "num_samples": args.draws // 5, "chunk_size": 16}
        gaps = inference_gaps(network.model, network.guide, x, **counts)
    found: dict[str, Tensor] = {"amortisation gap": gaps.amortization.double()}
    errors = {}
    for when, guide in (("", network.guide), (REFINED, refining)):
        proposal = proposed(guide, x)
        found |= {name + when: value for name, value in judged(network, proposal, x, args).items()}
        predicted = pixels(network, proposal, x, args.draws // 10)
        found[SECOND_NATS + when] = -(predicted * again + (1 - predicted) * (1 - again)).log().sum(1).double()
        errors["calibration error" + when] = calibration_error(predicted, again)
    found["gain of five steps"] = found["negative ELBO"] - found["negative ELBO" + REFINED]
    return Measured(found, errors)


def judged(network: Network, proposal: Proposal, x: Tensor, args: argparse.Namespace) -> dict[str, Tensor]:
    by_weights = weighed(log_weights(network, proposal, x, args.draws))
    return {
        "negative ELBO": -by_weights.elbo,
        "NLL": -by_weights.log_marginal,
        "k-hat": by_weights.k_hat,
        "few effective draws": -by_weights.ess,
    }


@torch.no_grad()
def pixels(network: Network, proposal: Proposal, x: Tensor, draws: int) -> Tensor:
    """The predicted probability that a pixel of another binarisation is white, shape ``(N, 784)``."""
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        guide = sampling(network, proposal)
        means = [network.decoder(guide(x)["z"]).mean for _ in range(draws)]
    return torch.stack(means).mean(0).clamp(1e-6, 1 - 1e-6)


def calibration_error(predicted: Tensor, again: Tensor) -> float:
    """The expected calibration error of all pixels of all images."""
    probabilities = torch.stack([1 - predicted, predicted], -1).flatten(0, 1)
    return expected_calibration_error(probabilities, again.long().flatten())


def said(here: Measured) -> str:
    means = {name: value.median() if name.startswith("k-hat") else value.mean() for name, value in here.each.items()}
    return ", ".join(f"{name} {value:.3f}" for name, value in (means | here.errors).items())


def figures(found: dict[str, list[Measured]]) -> dict[str, Any]:
    """Means over images and seeds, by test set; of k-hat the median over images, and how often it is above 0.7."""
    return {shift: of_seeds(seeds) for shift, seeds in found.items()}


def of_seeds(seeds: list[Measured]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in seeds[0].each:
        values = [one.each[name] for one in seeds]
        if name.startswith("k-hat"):
            result[f"median {name}"] = report.over_seeds([value.median().item() for value in values])
            result[f"share of {name} above 0.7"] = report.over_seeds_and_images([value > 0.7 for value in values])
        else:
            result[name] = report.over_seeds_and_images(values)
    return result | {name: report.over_seeds([one.errors[name] for one in seeds]) for name in seeds[0].errors}


def areas(found: dict[str, list[Measured]], home: str) -> dict[str, Any]:
    """The area under the ROC curve of each detector, by shift, over seeds."""
    return {
        shift: {
            name: report.over_seeds([area(a.each[name], b.each[name]) for a, b in zip(found[home], seeds, strict=True)])
            for name in (*DETECTORS, "k-hat" + REFINED)
        }
        for shift, seeds in found.items()
        if shift != home
    }


def area(home: Tensor, away: Tensor) -> float:
    """How often a value from away is above one from home; ties count half."""
    above = (away[:, None] > home).double() + 0.5 * (away[:, None] == home).double()
    return above.mean().item()


def drawn(found: dict[str, Any]) -> Figure:
    rows = [(f"{AT_HOME[name]} → {shift}", one) for name, some in found.items() for shift, one in some.items()]
    figure = Figure(figsize=(7.6, 0.9 + 0.75 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for i, (name, color) in enumerate(zip(DETECTORS, COLORS, strict=True)):
        y = [row + (i - 2.5) * 0.12 for row in range(len(rows))]
        means = [one[name]["mean"] for _, one in rows]
        half = [one[name]["half_width"] or 0.0 for _, one in rows]
        axes.errorbar(means, y, xerr=half, fmt="o", markersize=4, color=color, label=name)
    axes.axvline(0.5, color="#333333", linewidth=1, linestyle="--")
    axes.set_xlim(-0.02, 1.02)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("area under the ROC curve (0.5 is chance)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
