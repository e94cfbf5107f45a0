"""Refining the local latents of a VAE: Newton's steps image by image against Adam's, with an encoder and without.

    python -m experiments.local_latents           # a minute on one core, on scikit-learn's digits
    python -m experiments.local_latents --quick   # tiny sizes: shows that it runs

Each image has ten latents, a mean and a scale each: twenty numbers, a block of its own. One decoder, trained
beforehand, serves all. Losses are scored on draws that no refinement has seen; --json gets the figures.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from sklearn.datasets import load_digits
from torch import Tensor, nn

import pyrometa as pm
from benchmarks.measure import table, write_json
from pyrometa.guides import AmortizedGuide, SemiAmortizedGuide

LATENT, CLOSE = 10, (0.05, 0.005, 0.001)
NEWTON, ADAM = [1, 2, 3, 4, 5, 6, 8, 10], [1, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300]
RATES = (0.02, 0.05, 0.1)


class Digits(nn.Module):
    """A decoder of 8 x 8 binary pixels."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(LATENT, hidden), nn.Tanh(), nn.Linear(hidden, 64))

    def model(self, x: Tensor) -> None:
        """Images given their latents."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    images = (torch.as_tensor(load_digits().images).flatten(1) > 8).float()
    images = images[torch.randperm(len(images))]
    seen, unseen = images[args.images :], images[: args.images]
    vae = Digits(args.hidden)
    trained, fresh = (AmortizedGuide(vae.model, encoder(args.hidden)) for _ in range(2))
    result: dict[str, Any] = {}
    with pyro.get_param_store().scope():
        train(vae.model, trained, seen, args.steps)
        fresh(unseen)
        for start, guide in (("trained", trained), ("untrained", fresh)):
            result[start] = compared(vae.model, guide, unseen, args)
            print(report(start, result[start]), end="\n\n", flush=True)
            write_json(args.json, result)
    return result


def encoder(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, hidden), nn.Tanh())


def train(model: Callable[[Tensor], None], guide: AmortizedGuide, images: Tensor, steps: int) -> None:
    """Plain SVI of decoder and encoder."""
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 3e-3}), TraceMeanField_ELBO())
    for _ in range(steps):
        svi.step(images[torch.randint(len(images), (64,))])


def compared(
    model: Callable[[Tensor], None], guide: AmortizedGuide, images: Tensor, args: argparse.Namespace
) -> dict[str, Any]:
    """Losses and CPU seconds of all images after numbers of steps, by rule; the first is no refinement."""
    rules: dict[str, tuple[pm.inner.Rule, int, list[int]]] = {
        "Newton, 32 particles": (pm.Newton(), 32, NEWTON),
        "Newton, 128 particles": (pm.Newton(), 128, NEWTON),
        **{f"Adam {rate}, {n} particles": (pm.Adam(rate), n, ADAM) for rate in RATES for n in (1, 8)},
    }
    result: dict[str, Any] = {"proposed": scored(model, guide, guide.propose(images), images, args.draws)}
    for name, (rule, particles, at) in rules.items():
        curve = []
        for steps in at[:2] if args.quick else at:
            refining = SemiAmortizedGuide(guide, steps, rule, loss=elbo(particles))
            proposal, seconds = refined(refining, images, args.seed)
            curve.append((steps, seconds, scored(model, guide, proposal, images, args.draws)))
        result[name] = curve
    result["converged"] = min(loss for curve in result.values() if isinstance(curve, list) for *_, loss in curve)
    return result


@torch.no_grad()
def refined(guide: SemiAmortizedGuide, images: Tensor, seed: int) -> tuple[dict[str, Tensor], float]:
    """The refined proposal, and CPU seconds, without those of first data."""
    guide.propose(images)
    torch.manual_seed(seed)
    began = time.process_time()
    return guide.propose(images), time.process_time() - began


@torch.no_grad()
def scored(
    model: Callable[[Tensor], None], guide: AmortizedGuide, proposal: dict[str, Tensor], images: Tensor, draws: int
) -> float:
    """Nats an image, on the same draws for all."""
    torch.manual_seed(2**20)
    return elbo(draws).loss(model, lambda _: guide.sample(proposal), images) / len(images)


def elbo(particles: int) -> TraceMeanField_ELBO:
    return TraceMeanField_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)


def report(start: str, result: dict[str, Any]) -> str:
    target = result["converged"]
    head = ("rule", *(f"within {close}: steps, CPU s" for close in CLOSE), "ends above (steps)")
    rows = []
    for name, curve in result.items():
        if isinstance(curve, list):
            there = [next((f"{k}, {s:.3f}" for k, s, loss in curve if loss <= target + c), "-") for c in CLOSE]
            rows.append((name, *there, f"{curve[-1][2] - target:.4f} ({curve[-1][0]})"))
    title = f"{start} encoder: proposes {result['proposed']:.4f}, converged {target:.4f} nats an image"
    return f"{title}\n{table(head, rows)}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("local_latents/metrics.json"), help="where the figures go")
    parser.add_argument("--images", type=int, default=32, help="unseen ones, refined side by side")
    parser.add_argument("--hidden", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3000, help="of training")
    parser.add_argument("--draws", type=int, default=1000, help="behind each loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(images=3, hidden=8, steps=20, draws=50)
    return args


if __name__ == "__main__":
    main()
