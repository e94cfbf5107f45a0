"""Few-shot generation on all 659 evaluation characters of Omniglot: what is ten drawings' worth?

    python -m experiments.results.omniglot_generation --root data --download --json omniglot_generation.json

Ten drawings of a character that was never seen are given, and the ten others are to be predicted, in nats a drawing
(binarised at 28x28, lower is better). A VAE is trained on background characters by plain SVI, and then two contestants
of the same widths go on from it:

- pooled: by more SVI on all drawings; it takes five steps of Adam on the ten, encoder and decoder, at the rate that is
  best on kept-back background characters;
- reader: by meta-training a guide that reads the ten (``omniglot_reader``) to predict ten others, at first without
  steps and then through five steps with learned rates.

The pooled VAE goes on for as many gradient evaluations x images as meta-training, or for as many CPU seconds, whichever
is more. What is compared is, for both, an upper bound of each drawing's negative log predictive density given the ten:
for the VAE the negative ELBO under the adapted parameters, for the reader ``predictive_bound``.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor

import pyrometa as pm
from benchmarks.gains import seconds_of
from benchmarks.training import one_thread
from experiments import omniglot_data as omniglot
from experiments.results import omniglot_reader as reader
from experiments.results import training
from experiments.results.omniglot_report import over_seeds, settings_of, updated
from pyrometa.models import VAE
from pyrometa.tasks import Characters, MetaBatch

STEPS, SHOTS, QUERIES = 5, 10, 10
POOLED_BATCH = 128
KEPT_BACK = 0.1  # of the background characters, to choose rates on
START_LR, POOLED_LR, READING_LR, REFINING_LR = 1e-3, 4e-3, 4e-3, 3e-4
"""Where rates begin; the two in the middle are the best of 1e-3, 2e-3 and 4e-3 on what is kept back."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    background, evaluation = (by_character(characters) for characters in omniglot.load(args))
    kept_back = max(1, round(KEPT_BACK * len(background)))
    train, validation = background[:-kept_back], tasks_of(background[-kept_back:], seed=1_000_001)
    test = tasks_of(evaluation, seed=1_000_002)
    done: list[tuple[dict[str, Tensor], dict[str, Any]]] = []
    for seed in args.seeds:
        with one_thread():
            done.append(result_of(seed, train, validation, test, args))
        result = updated(args.json, settings_of(args), summary(done) | {"each seed": [each for _, each in done]})
        print(f"seeds {args.seeds[: len(done)]}\n{table(result['rows'])}", flush=True)
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("data"), help="the directory of torchvision's Omniglot")
    parser.add_argument("--download", action="store_true", help="fetch Omniglot into --root if it is not there")
    parser.add_argument("--quick", action="store_true", help="ten digits for Omniglot and tiny counts: proves nothing")
    parser.add_argument("--json", type=Path, default=Path("omniglot_generation.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--start-steps", type=int, default=2500, help="of SVI, before the two part")
    parser.add_argument("--reading-steps", type=int, default=8000, help="meta-steps without inner steps")
    parser.add_argument("--refining-steps", type=int, default=600, help="meta-steps through five inner steps")
    parser.add_argument("--meta-batch", type=int, default=16)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[3e-5, 1e-4, 3e-4, 1e-3], help="of Adam, to choose from"
    )
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(
            hidden=20, latent=3, context=3, start_steps=10, reading_steps=4, refining_steps=2, meta_batch=2
        )
    return args


def by_character(characters: Characters) -> Tensor:
    """Twenty drawings of each, ``(characters, 20, pixels)``, grey values in [0, 1]."""
    labels = characters.labels
    return torch.stack([characters.images[labels == label][: SHOTS + QUERIES] for label in labels.unique()]).flatten(2)


def tasks_of(drawings: Tensor, seed: int) -> MetaBatch:
    """One task of each character: ten binary drawings to adapt to, and ten others."""
    generator = torch.Generator().manual_seed(seed)
    return task(drawings, torch.arange(len(drawings)), generator)


def task(drawings: Tensor, which: Tensor, generator: torch.Generator | None = None) -> MetaBatch:
    order = torch.rand(len(which), drawings.shape[1], generator=generator).argsort(1)
    binary = drawings[which[:, None], order].bernoulli(generator=generator)
    return MetaBatch(binary[:, :SHOTS], binary[:, SHOTS:])


def result_of(
    seed: int, train: Tensor, validation: MetaBatch, test: MetaBatch, args: argparse.Namespace
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Nats of each test character, ``(steps, characters)``, and the settings and costs behind them."""
    torch.manual_seed(seed)
    images = train.flatten(0, 1)
    pooled = VAE(images.shape[-1], (args.hidden,) * 2, args.latent, activation=torch.tanh)
    start_seconds = fit_vae(pooled, images, args.start_steps, START_LR)
    net = reader.Reader(images.shape[-1], args.hidden, args.context, args.latent)
    reader.begin_at(net, pooled, test.support[0])
    read, meta, seconds = trained_reader(net, train, test, args)
    steps = more_steps(start_seconds / args.start_steps, sum(seconds), args)
    pooled_seconds = fit_vae(pooled, images, steps, POOLED_LR, falling=True)
    rates = {rate: losses(adam(pooled, rate), validation)[STEPS].mean().item() for rate in args.rates}
    best = min(rates, key=lambda rate: rates[rate])
    adapting = adam(pooled, best)
    nats = {"pooled": losses(adapting, test), "reader": read, "reader, refined": losses(meta, test)}
    each = {
        "seed": seed,
        "cpu seconds": {
            "start of both": start_seconds,
            "reading": seconds[0],
            "refining": seconds[1],
            "pooled": pooled_seconds,
        },
        "gradient evaluations x images": {"reader": gradient_images(args), "pooled": steps * POOLED_BATCH},
        "pooled steps": steps,
        "validation nats by Adam's rate": rates,
        "rate": best,
        "learned rates": {n: v.exp().tolist() for n, v in meta.named_parameters() if n.startswith("inner.")},
        "seconds a task": {"reader": seconds_a_task(meta, test), "pooled": seconds_a_task(adapting, test)},
    }
    return nats, each


def trained_reader(
    net: reader.Reader, train: Tensor, test: MetaBatch, args: argparse.Namespace
) -> tuple[Tensor, pm.MetaSVI, tuple[float, float]]:
    """Nats of the test characters before refining; the refined reader; CPU seconds of both parts."""
    engine = pm.Engine(record=not args.quick)
    reading = reader.meta_svi(net, 0, READING_LR, engine)
    first = fit(reading, train, args.reading_steps, args.meta_batch)
    read = losses(reading, test, [0])
    refining = reader.meta_svi(net, STEPS, REFINING_LR, engine)
    return read, refining, (first, fit(refining, train, args.refining_steps, args.meta_batch))


def fit(meta: pm.MetaSVI, train: Tensor, steps: int, meta_batch: int) -> float:
    """Meta-train with rates that fall to zero; returns CPU seconds."""

    def draw(step: int) -> MetaBatch:
        return task(train, torch.randint(len(train), (meta_batch,)))

    return training.fit(meta, draw, draw(0).support, steps, clip_norm=100.0)


def gradient_images(args: argparse.Namespace) -> int:
    """Gradient evaluations x images of meta-training: a second-order inner step counts twice, each set once."""
    reading = args.reading_steps * (SHOTS + QUERIES)
    return args.meta_batch * (reading + args.refining_steps * (2 * STEPS * SHOTS + SHOTS + QUERIES))


def more_steps(seconds_a_step: float, seconds: float, args: argparse.Namespace) -> int:
    """Steps of SVI for as many gradients as meta-training, or for as many CPU seconds, whichever is more."""
    return max(gradient_images(args) // POOLED_BATCH, int(seconds / seconds_a_step))


def fit_vae(vae: VAE, images: Tensor, steps: int, lr: float, *, falling: bool = False) -> float:
    """Plain SVI, in place, with a rate that may fall to a hundredth; returns CPU seconds."""
    began = time.process_time()
    optim = pyro.optim.ClippedAdam({"lr": lr, "lrd": 0.01 ** (falling / steps)})
    with pyro.get_param_store().scope():
        svi = SVI(vae.model, vae.guide, optim, TraceMeanField_ELBO())
        for _ in range(steps):
            svi.step(images[torch.randint(len(images), (POOLED_BATCH,))].bernoulli())
    return time.process_time() - began


def adam(vae: VAE, rate: float) -> pm.MetaSVI:
    """The pooled VAE's adaptation, encoder and decoder."""
    optim, engine = pyro.optim.Adam({"lr": 1e-3}), pm.Engine(chunk_size=20, record=False)
    return pm.MetaSVI(
        vae.model, vae.guide, optim, inner=pm.Adam(rate), steps=STEPS, adapt="both", reduction="mean", engine=engine
    )


def losses(meta: pm.MetaSVI, tasks: MetaBatch, at: Sequence[int] = range(STEPS + 1)) -> Tensor:
    """Nats a drawing after some numbers of steps, ``(len(at), tasks)``; the same seed for all."""
    meta.engine = pm.Engine(chunk_size=50, record=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return meta.evaluate(*tasks, list(at))


def seconds_a_task(meta: pm.MetaSVI, tasks: MetaBatch) -> float:
    return seconds_of(lambda: meta.adapt(tasks[0][0]), times=3)


def summary(seeds: Sequence[tuple[dict[str, Tensor], dict[str, Any]]]) -> dict[str, Any]:
    """Nats after each step, and what the reader gains on the same characters over the pooled VAE's five steps."""
    runs = [nats for nats, _ in seeds]
    pooled = [nats["pooled"][STEPS] for nats in runs]
    contestants = {
        name: {str(k): over_seeds([nats[name][k] for nats in runs]) for k in range(len(runs[0][name]))}
        for name in runs[0]
    }
    gains = {
        name: over_seeds([mine - nats[name][-1] for mine, nats in zip(pooled, runs, strict=True)])
        for name in ("reader", "reader, refined")
    }
    return {"nats": contestants, "gain over five pooled steps": gains}


def table(rows: dict[str, Any]) -> str:
    lines = [
        f"{name}: " + " ".join(f"{point['mean']:.2f}" for point in by_step.values())
        for name, by_step in rows["nats"].items()
    ]
    for name, gain in rows["gain over five pooled steps"].items():
        over = f"± {gain['half width over tasks']:.2f} over characters"
        lines.append(f"gain of {name}: {gain['mean']:.2f} {over}, seeds {gain['seeds']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
