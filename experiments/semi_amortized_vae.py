"""Semi-amortised variational autoencoders on Omniglot: what refining the encoder's proposal is worth.

    python -m experiments.semi_amortized_vae --root data --download

The encoder of a VAE proposes each image's posterior at once. What that gives away, against a posterior of the same
family that is optimised image by image, is the amortisation gap (Cremer et al., 2018). A semi-amortised VAE (Kim et
al., 2018) refines each proposal by a few steps of gradient descent with momentum, and trains through them.

Compared are VAEs of one architecture, trained on the same images of background alphabets:

- amortised: encoder only;
- amortised, refined: the same one, refined at test time only;
- semi-amortised: refined in training, too, for as many steps;
- amortised, longer: encoder only, with as many seconds of training as the semi-amortised one.

The gaps on unseen alphabets, and the steps and seconds that refinement takes (semi_amortized_steps.py), are in --out:
metrics.json, gaps.png and steps.png.
"""

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from pyro import poutine
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor, nn
from tqdm.auto import tqdm

import pyrometa as pm
from benchmarks import gains_report
from benchmarks.files import write_figure, write_json
from benchmarks.training import mean_and_error
from experiments import omniglot_data as omniglot
from experiments import semi_amortized_steps
from pyrometa.diagnostics import InferenceGaps, elbo, inference_gaps
from pyrometa.guides import AmortizedGuide, SemiAmortizedGuide
from pyrometa.models import VAE

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
COLORS = {"approximation": "#0072B2", "amortisation": "#D55E00"}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    background, evaluation = omniglot.load(args)
    images = background.images.flatten(1)
    chosen = torch.randperm(len(evaluation.images))[: args.test_images]
    unseen = omniglot.binarized(evaluation.images[chosen].flatten(1), args.seed)

    plain = VAE(hidden=args.hidden, latent=args.latent, activation=torch.tanh)
    semi, longer = copy.deepcopy(plain), copy.deepcopy(plain)
    encoder, inner_encoder, longer_encoder = (encoder_of(vae, args) for vae in (plain, semi, longer))
    seconds = {"amortised": fit(plain.model, encoder, images, args, "amortised")}
    rate = tuned_rate(plain, encoder, images, args)
    refined = SemiAmortizedGuide(encoder, args.refinements, refinement(rate))
    refining = SemiAmortizedGuide(inner_encoder, args.refinements, refinement(rate))
    seconds["semi-amortised"] = fit(semi.model, refining, images, args, "semi-amortised")
    steps = round(args.steps * seconds["semi-amortised"] / seconds["amortised"])
    seconds["amortised, longer"] = fit(longer.model, longer_encoder, images, args, "amortised, longer", steps)
    vaes = {
        "amortised": (plain, encoder),
        "amortised, refined": (plain, refined),
        "semi-amortised": (semi, refining),
        "amortised, longer": (longer, longer_encoder),
    }

    result: dict[str, Any] = {"training cpu seconds": seconds, "longer steps": steps, "rate": rate}
    result |= {"settings": vars(args), "gaps": {}}
    for name, (vae, guide) in vaes.items():
        gaps = inference_gaps(vae.model, guide, unseen, steps=args.optimization_steps, num_samples=args.samples)
        result["gaps"][name] = summary(gaps)
        tqdm.write(name + ": " + ", ".join(f"{k} {v['mean']:.2f} ± {v['se']:.2f}" for k, v in summary(gaps).items()))
        write_json(args.out / "metrics.json", result)
    write_figure(args.out / "gaps.png", drawn(result["gaps"]))

    decoder = poutine.block(semi.model, hide_types=["param"])  # it stays as it is
    pooled = encoder_of(semi, args)
    refining = SemiAmortizedGuide(encoder_of(semi, args), args.refinements, refinement(rate))
    seconds["that decoder's encoder"] = fit(decoder, pooled, images, args, "encoder")
    seconds["that decoder's refinement"] = fit(decoder, refining, images, args, "refinement")
    result["steps"] = semi_amortized_steps.compared(decoder, pooled, refining, unseen[: args.refined_images], args)
    write_json(args.out / "metrics.json", result)
    tqdm.write(gains_report.table(result["steps"]))
    title = "Refining the posteriors of unseen images, one decoder"
    write_figure(args.out / "steps.png", gains_report.draw(result["steps"], title))
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = omniglot.parser(__doc__.splitlines()[0], "semi_amortized_vae")
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000, help="of SVI")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--refinements", type=int, default=5, help="steps by which a proposal is refined")
    parser.add_argument("--test-images", type=int, default=100)
    parser.add_argument("--optimisation-steps", type=int, default=600, help="to the optimal posterior of an image")
    parser.add_argument("--samples", type=int, default=300, help="draws an image for each bound")
    parser.add_argument("--refined-images", type=int, default=40, help="of those, for the steps that Adam takes")
    parser.add_argument("--converged-steps", type=int, default=1600, help="of Adam until it has converged")
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(hidden=20, latent=3, steps=20, batch_size=16, refinements=2, test_images=10)
        vars(args).update(optimization_steps=20, samples=20, refined_images=5, converged_steps=40)
    args.at = semi_amortized_steps.AT[:5] if args.quick else semi_amortized_steps.AT
    return args


def encoder_of(vae: VAE, args: argparse.Namespace) -> AmortizedGuide:
    """A hidden layer, and the guide's own heads for the mean-field normal of each image."""
    return AmortizedGuide(vae.model, nn.Sequential(nn.Linear(784, args.hidden), nn.Tanh()))


def refinement(rate: float) -> pm.Momentum:
    return pm.Momentum(rate, momentum=0.5, learn="parameter")  # a rate for each latent's mean and each one's scale


def tuned_rate(vae: VAE, encoder: AmortizedGuide, images: Tensor, args: argparse.Namespace) -> float:
    """The rate that refines the trained encoder's proposals best, on some of the training images."""
    x = images[torch.randint(len(images), (args.test_images,))].bernoulli()
    refined = [SemiAmortizedGuide(encoder, args.refinements, refinement(rate)) for rate in RATES]
    with pyro.get_param_store().scope():
        for guide in refined:
            guide(x)  # makes its learned rates
        elbos = [elbo(vae.model, guide, x, num_samples=5, chunk_size=1) for guide in refined]
    return max(zip(elbos, RATES, strict=True))[1]


def fit(
    model: Callable[..., Any],
    guide: AmortizedGuide | SemiAmortizedGuide,
    images: Tensor,
    args: argparse.Namespace,
    name: str,
    steps: int | None = None,
) -> float:
    """Plain SVI, which differentiates through the refinement; returns CPU seconds."""
    began = time.process_time()
    optim = pyro.optim.Adam(
        lambda name: {"lr": 2e-2 if "log_lr" in name else 1e-3}
    )  # learned rates hardly move at 1e-3
    svi = SVI(model, guide, optim, TraceMeanField_ELBO())
    with pyro.get_param_store().scope(), tqdm(range(steps or args.steps), desc=name) as bar:
        for _ in bar:
            batch = torch.randint(len(images), (args.batch_size,))
            bar.set_postfix(nats=f"{svi.step(images[batch].bernoulli()) / args.batch_size:.1f}")
    return time.process_time() - began


def summary(gaps: InferenceGaps) -> dict[str, dict[str, float]]:
    """Nats an image: means over the images and their standard errors."""
    return {
        "NLL": mean_and_error(-gaps.log_marginal),
        "negative ELBO": mean_and_error(-gaps.amortized),
        "approximation": mean_and_error(gaps.approximation),
        "amortisation": mean_and_error(gaps.amortization),
    }


def drawn(gaps: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """Bars from the importance-weighted NLL up to the negative ELBO, in the two parts of the gap between them."""
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    axes = figure.subplots()
    names = list(gaps)
    left = [gaps[name]["NLL"]["mean"] for name in names]
    axes.scatter(left, range(len(names)), color="#333333", zorder=3, label="NLL (importance-weighted)")
    for part, color in COLORS.items():
        width = [gaps[name][part]["mean"] for name in names]
        axes.barh(range(len(names)), width, left=left, height=0.5, color=color, label=f"{part} gap")
        left = [start + more for start, more in zip(left, width, strict=True)]
    for row, name in enumerate(names):
        text = f"  {gaps[name]['amortisation']['mean']:.2f} of amortisation"
        axes.text(left[row], row, text, va="center", color=COLORS["amortisation"])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    low, high = min(gaps[name]["NLL"]["mean"] for name in names), max(left)
    axes.set_xlim(low - 0.08 * (high - low), high + 0.35 * (high - low))
    axes.set_xlabel("nats an image, unseen alphabets")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    main()
