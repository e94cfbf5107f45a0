"""A Neural Statistician on Omniglot: a guide that reads some drawings of a character it has never seen.

    python -m experiments.statistician --root data --download

Every character is a set of drawings with a latent context of its own (Edwards and Storkey, 2017): the context says
which character it is, a latent of each drawing how it is drawn. The guide reads a whole set, q(c | S), and then each
drawing, q(z | x, c). An unseen character takes no gradient step. Then the same network is meta-trained to predict
other drawings of the character, through five steps on its context's posterior. Compared with a VAE that knows of no
sets.

Unseen drawings in nats, given 1 to 10 others of the same character, and new drawings of it are in --out:
metrics.json and drawings.png.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro import poutine
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm.auto import tqdm

import pyrometa as pm
from benchmarks.files import write_figure, write_json
from benchmarks.training import mean_and_error
from experiments import omniglot_data as omniglot
from experiments.omniglot_data import Drawings
from pyrometa.guides import AmortizedGuide, ComposedGuide, SetEncoderGuide
from pyrometa.models import VAE
from pyrometa.tasks import Characters, DigitTasks, MetaBatch, TaskSampler

SIZES = (1, 2, 5, 10)  # drawings that are read
STEPS = 5
Program = Callable[..., Any]


class Statistician(nn.Module):
    """p(c) p(z | c) p(x | z, c), and its guide q(c | S) q(z | x, c)."""

    def __init__(self, pixels: int, hidden: int, context: int, latent: int) -> None:
        super().__init__()
        self.context, self.latent = context, latent
        self.prior = nn.Sequential(nn.Linear(context, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent + context, hidden), nn.Tanh(), nn.Linear(hidden, pixels))
        self.guide = ComposedGuide(
            context=SetEncoderGuide(self.model, network(pixels, hidden), pooling=mean_and_size, sites=["c"]),
            drawings=AmortizedGuide(self.model, DrawingEncoder(pixels, hidden, context), sites=["z"], given=["c"]),
        )

    def model(self, x: Tensor) -> None:
        """A set of drawings ``x``, ``(drawings, pixels)``."""
        prior, decoder = pyro.module("prior", self.prior), pyro.module("decoder", self.decoder)
        c = pyro.sample("c", dist.Normal(x.new_zeros(self.context), 1.0).to_event(1))
        loc, log_scale = prior(c).chunk(2, -1)
        with pyro.plate("drawings", len(x)):
            z = pyro.sample("z", dist.Normal(loc.expand(len(x), -1), log_scale.exp()).to_event(1))
            logits = decoder(beside(z, c))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    @torch.no_grad()
    def more_like(self, support: Tensor, drawings: int) -> Tensor:
        """Pixel probabilities of new drawings of the character, ``(drawings, pixels)``."""
        c = self.guide.context(support)["c"]
        loc, log_scale = self.prior(c).chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn(drawings, self.latent)
        return self.decoder(beside(z, c)).sigmoid()


class DrawingEncoder(nn.Module):
    """Features of each drawing, given the context."""

    def __init__(self, pixels: int, hidden: int, context: int) -> None:
        super().__init__()
        self.network = network(pixels + context, hidden)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Shapes ``(drawings, pixels)`` and ``(context,)`` to ``(drawings, features)``."""
        return self.network(beside(x, c))


def network(inputs: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())


def beside(rows: Tensor, c: Tensor) -> Tensor:
    return torch.cat([rows, c.expand(*rows.shape[:-1], -1)], -1)


def mean_and_size(rows: Tensor, mask: Tensor) -> Tensor:
    """The mean of the rows' features, and how many rows there are."""
    return torch.cat([rows.mean(-2), rows.new_full((1,), math.log(rows.shape[-2]))], -1)


def unseen_drawings(model: Program, guide: Program, x: Tensor) -> Tensor:
    """Negative ELBO of drawings given a context: what the support set has said of it is not counted again."""
    q = poutine.trace(guide).get_trace(x)
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
    for trace in (p, q):
        trace.compute_log_prob()
    return q.nodes["z"]["log_prob"].sum() - (p.nodes["z"]["log_prob"] + p.nodes["x"]["log_prob"]).sum()


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    background, evaluation = omniglot.load(args)
    train = sampler(background, 2 * args.seed)
    test = sampler(evaluation, 2 * args.seed + 1).sample(args.test_tasks)
    pixels = test.support.shape[-1]

    vae = VAE(pixels, hidden=(args.hidden, args.hidden), latent=args.latent, activation=torch.tanh)
    net = Statistician(pixels, args.hidden, args.context, args.latent)
    engine = pm.Engine(record=not args.quick)
    reader, refiner = meta_svi(net, 0, engine), meta_svi(net, STEPS, engine, score=unseen_drawings)

    seconds = {"VAE": fit_vae(vae, train, args)}
    seconds["statistician"] = fit(reader, ((x, None) for x, _ in sets(train, args)), args.meta_steps)
    losses = {"VAE": nats_of_vae(vae, test), "statistician": nats(refiner, test, [0])}
    shown = test.support[:8, :5], torch.stack([net.more_like(x[:5], 5) for x in test.support[:8]])
    seconds["refined"] = fit(refiner, sets(train, args), args.refining_steps)
    losses["refined"] = nats(refiner, test, range(STEPS + 1))

    result = {**summary(losses), "training cpu seconds": seconds, "settings": vars(args)}
    print(table(result))
    write_json(args.out / "metrics.json", result)
    write_figure(args.out / "drawings.png", drawn(result, *shown))
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = omniglot.parser(__doc__.splitlines()[0], "statistician")
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--context", type=int, default=20)
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--meta-steps", type=int, default=12_000)
    parser.add_argument("--meta-batch", type=int, default=16)
    parser.add_argument("--refining-steps", type=int, default=600, help="meta-steps of the second training")
    parser.add_argument("--test-tasks", type=int, default=200)
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(hidden=20, context=3, latent=3, meta_steps=6, meta_batch=2, refining_steps=2, test_tasks=8)
    return args


def sampler(characters: Characters, seed: int) -> TaskSampler:
    """Binary drawings of characters: as many to read as the largest size, and ten others."""
    family = DigitTasks(characters.images, characters.labels, torch.arange(len(characters.labels)), (0.0, 0.0))
    return TaskSampler(Drawings(family), shots=max(SIZES), queries=10, seed=seed)


def sets(train: TaskSampler, args: argparse.Namespace) -> Iterator[MetaBatch]:
    """Drawings to read and ten others of the same characters; all sets of a batch have one size."""
    while True:
        task = train.sample(args.meta_batch)
        yield MetaBatch(task.support[:, : SIZES[int(torch.randint(len(SIZES), ()))]], task.query)


def fit_vae(vae: VAE, train: TaskSampler, args: argparse.Namespace) -> float:
    """Plain SVI on as many drawings as the statistician sees, with a falling rate; returns CPU seconds."""
    began = time.process_time()
    optim = pyro.optim.ClippedAdam({"lr": 1e-3, "lrd": 0.01 ** (1 / args.meta_steps)})
    svi = SVI(vae.model, vae.guide, optim, TraceMeanField_ELBO())
    with pyro.get_param_store().scope():
        for x, _ in tqdm(islice(sets(train, args), args.meta_steps), desc="VAE", total=args.meta_steps):
            svi.step(x.flatten(0, 1))
    return time.process_time() - began


def meta_svi(net: Statistician, steps: int, engine: pm.Engine, score: Program | None = None) -> pm.MetaSVI:
    """Reads a set, and may take some steps on the posterior of its context: on the bias that it is read off by."""
    return pm.MetaSVI(
        net.model,
        net.guide,
        pyro.optim.Adam({"lr": 3e-4 if steps else 1e-3}),
        inner=pm.SGD(0.01, learn="layer_step", outer_lr=0.03),
        steps=steps,
        adapt="guide.context.amortized.heads.c.bias",
        reduction="mean",
        score=score,
        engine=engine,
    )


def fit(meta: pm.MetaSVI, batches: Iterator[tuple[Tensor, Tensor | None]], steps: int) -> float:
    """Meta-train with a falling rate; returns CPU seconds."""
    began = time.process_time()
    meta.init(next(batches)[0])
    trainer = pm.Trainer(max_steps=steps, schedule=lambda optimizer: CosineAnnealingLR(optimizer, steps), seed=None)
    trainer.fit(meta, batches)
    return time.process_time() - began


def nats(meta: pm.MetaSVI, test: MetaBatch, at: Sequence[int]) -> Tensor:
    """Of unseen drawings, given sets of each size, after some steps: ``(sizes, len(at), tasks)``."""
    return torch.stack([meta.evaluate(test.support[:, :size], test.query, at) for size in SIZES])


def nats_of_vae(vae: VAE, test: MetaBatch) -> Tensor:
    """Of the same drawings one by one, ``(tasks,)``."""
    with torch.no_grad(), pyro.get_param_store().scope():
        losses = [TraceMeanField_ELBO().loss(vae.model, vae.guide, x) / len(x) for x in test.query]
    return torch.tensor(losses)


def summary(losses: dict[str, Tensor]) -> dict[str, Any]:
    """Nats an image with their standard errors over tasks, and gains over the VAE task by task."""
    vae, read, refined = losses.values()
    return {
        "VAE": mean_and_error(vae),
        "statistician": {size: mean_and_error(row[0]) for size, row in zip(SIZES, read, strict=True)},
        "refined": {
            size: {step: mean_and_error(row) for step, row in enumerate(rows)}
            for size, rows in zip(SIZES, refined, strict=True)
        },
        "gain over the VAE": {size: mean_and_error(vae - row[0]) for size, row in zip(SIZES, read, strict=True)},
        "gain of the steps": {
            size: mean_and_error(rows[0] - rows[-1]) for size, rows in zip(SIZES, refined, strict=True)
        },
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"VAE: {result['VAE']['mean']:.2f} nats an image",
        "drawings read: statistician; gain over the VAE; refined",
    ]
    for size in SIZES:
        gain, steps = result["gain over the VAE"][size], result["refined"][size]
        path = " ".join(f"{point['mean']:.2f}" for point in steps.values())
        lines.append(
            f"{size:>3}: {result['statistician'][size]['mean']:.2f}; {gain['mean']:.2f} ± {gain['se']:.2f}; {path}"
        )
    return "\n".join([*lines, f"training CPU seconds: {result['training cpu seconds']}"])


def drawn(result: dict[str, Any], read: Tensor, new: Tensor) -> Figure:
    """Nats against drawings that were read; and for some characters what was read and what is drawn then."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    curves, pictures = figure.subplots(1, 2, width_ratios=(1, 1.25))
    read_nats = [result["statistician"][size] for size in SIZES]
    curves.axhline(result["VAE"]["mean"], color="#777777", lw=2)
    curves.annotate("VAE", (1, result["VAE"]["mean"]), xytext=(0, 4), textcoords="offset points", color="#777777")
    lines = {
        "trained on sets": read_nats,
        "then to predict": [result["refined"][size][0] for size in SIZES],
        f"and {STEPS} steps": [result["refined"][size][STEPS] for size in SIZES],
    }
    for (label, points), color in zip(lines.items(), ("#0072B2", "#D55E00", "#009E73"), strict=True):
        curves.plot(SIZES, [p["mean"] for p in points], color=color, marker="o", lw=2, label=label)
    curves.legend(frameon=False)
    curves.set_xscale("log")
    curves.set_xticks(SIZES, SIZES)
    curves.minorticks_off()
    curves.set_xlabel("drawings of the character that were read")
    curves.set_ylabel("nats an unseen drawing (negative ELBO)")
    curves.set_title("A Neural Statistician on unseen characters", loc="left", fontsize=11)
    curves.spines[["top", "right"]].set_visible(False)

    side = math.isqrt(read.shape[-1])
    rows = torch.cat([read, torch.ones_like(read[:, :1]) * 0.0, new], dim=1).unflatten(-1, (side, side))
    canvas = rows.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    pictures.imshow(canvas.numpy(), cmap="gray_r", vmin=0, vmax=1)
    pictures.set_title(
        f"{read.shape[1]} drawings read {'':14} {new.shape[1]} new ones (pixel probabilities)", fontsize=11
    )
    pictures.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
