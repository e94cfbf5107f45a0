"""Few-shot generation: a variational autoencoder adapts to a character that it has never seen.

    python -m experiments.omniglot_generate --root data --download
    python -m experiments.omniglot_generate --root data --download --task alphabet
    python -m experiments.omniglot_generate --root data --download --adapt guide

Ten drawings of a character (or an alphabet) of Omniglot's evaluation split are there to adapt encoder and decoder to,
or the encoder alone; ten others are scored. Three starts:

- random: a fresh network;
- pooled: the network trained by plain SVI on all background characters at once, for as long as the next;
- meta: a pooled network of fewer steps, meta-trained by MAML with a learned rate for each layer and step.

Random and pooled adapt by Adam, at the rate that does best on validation tasks. What adaptation is worth, and how long
it takes, is in --out: metrics.json, adaptation.png and reconstructions.png.
"""

import argparse
import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm.auto import tqdm

import pyrometa as pm
from benchmarks import gains_report
from benchmarks.files import write_figure, write_json
from experiments import omniglot_data as omniglot
from experiments import omniglot_starts as starts
from experiments.omniglot_data import Drawings
from experiments.omniglot_starts import LR, STEPS
from pyrometa import plots
from pyrometa.models import VAE
from pyrometa.tasks import Characters, DigitTasks, MetaBatch, TaskSampler


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    background, evaluation = omniglot.load(args)
    groups = groups_of(background, args.task)
    last = groups.unique()[-max(1, len(groups.unique()) // 10) :]  # a tenth of them, to choose rules and rates on
    kept_back = torch.isin(groups, last)
    train = sampler(background, args.task, ~kept_back, 3 * args.seed)
    validation = sampler(background, args.task, kept_back, 3 * args.seed + 1).sample(args.validation_tasks)
    everything = torch.ones(len(evaluation.labels), dtype=torch.bool)
    test = sampler(evaluation, args.task, everything, 3 * args.seed + 2).sample(args.test_tasks)

    random = VAE(hidden=args.hidden, latent=args.latent, activation=torch.tanh)
    pooled = copy.deepcopy(random)
    images = background.images[~kept_back].flatten(1)
    seconds = {"start of both": fit_pooled(pooled, images, args.pooled_steps)}
    meta, seconds["meta"], skipped = fit_meta(copy.deepcopy(pooled), train, args)
    # As many images x gradient evaluations for the pooled network, a second-order pass counted twice.
    extra = args.meta_steps * args.meta_batch * (2 * STEPS + 1) * 10 // 128
    seconds["pooled"] = fit_pooled(pooled, images, extra, falling=True)

    networks = {"random": random, "pooled": pooled}
    rates = starts.chosen(networks, validation, args)
    result = starts.compared(networks, meta, rates, test, args)
    result |= {"training cpu seconds": seconds, "meta-steps skipped": skipped}
    result |= {"learned rates": learned_rates(meta), "settings": vars(args)}
    write_json(args.out / "metrics.json", result)
    print(table(result))
    adapting = {"pooled": starts.meta_svi(pooled, pm.Adam(result["rates"]["pooled in five"]), args), "meta": meta}
    draw(args, result, adapting, test)
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = omniglot.parser(__doc__.splitlines()[0], "omniglot_generate")
    parser.add_argument("--task", choices=["character", "alphabet"], default="character", help="what a task is")
    parser.add_argument("--adapt", choices=["guide", "both"], default="both", help="the encoder, or the decoder too")
    parser.add_argument("--hidden", type=int, nargs="+", default=[200, 200], help="widths of the encoder's layers")
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--pooled-steps", type=int, default=12000, help="of SVI, on 128 images each")
    parser.add_argument("--meta-steps", type=int, default=1000)
    parser.add_argument("--meta-batch", type=int, default=16)
    parser.add_argument("--validation-tasks", type=int, default=12)
    parser.add_argument("--test-tasks", type=int, default=60)
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(hidden=[20, 20], latent=3, pooled_steps=20, meta_steps=3, meta_batch=2)
        vars(args).update(validation_tasks=2, test_tasks=4)
    args.at = starts.AT[:7] if args.quick else starts.AT
    args.rates = {name: rates[1:] for name, rates in starts.RATES.items()} if args.quick else starts.RATES
    return args


def groups_of(characters: Characters, task: str) -> Tensor:
    return characters.labels if task == "character" else characters.alphabets


def sampler(characters: Characters, task: str, kept: Tensor, seed: int) -> TaskSampler:
    """Tasks of ten drawings to adapt to and ten to be scored on."""
    index = kept.nonzero().squeeze(1)
    family = DigitTasks(characters.images, groups_of(characters, task), index, angles=(0.0, 0.0))
    return TaskSampler(Drawings(family), shots=10, queries=10, seed=seed)


def fit_pooled(vae: VAE, images: Tensor, steps: int, falling: bool = False) -> float:
    """Train in place on single images by plain SVI, with a rate that may fall; returns CPU seconds."""
    began = time.process_time()
    optim = pyro.optim.ClippedAdam({"lr": LR, "lrd": 0.01 ** (falling / steps)})
    svi = SVI(vae.model, vae.guide, optim, TraceMeanField_ELBO())
    with pyro.get_param_store().scope():
        for _ in tqdm(range(steps), desc="pooled"):
            svi.step(images[torch.randint(len(images), (128,))].bernoulli())
    return time.process_time() - began


def fit_meta(vae: VAE, train: TaskSampler, args: argparse.Namespace) -> tuple[pm.MetaSVI, float, int]:
    """Meta-train in place, with rates that fall to zero; returns CPU seconds and how many meta-steps were skipped."""
    began = time.process_time()
    rates = {"guide.*": 5e-5, "model.*": 5e-4}  # of the encoder and the decoder, where learning begins
    meta = starts.meta_svi(vae, pm.SGD(rates, learn="layer_step", outer_lr=0.02), args)
    meta.init(train.sample(1).support)
    trainer = pm.Trainer(
        max_steps=args.meta_steps,
        meta_batch=args.meta_batch,
        schedule=lambda optimizer: CosineAnnealingLR(optimizer, args.meta_steps),
        on_nonfinite="skip",  # a task's inner loop blew up: nothing was updated, and the next tasks are others
        max_skipped=args.meta_steps,
        seed=None,
    )
    result = trainer.fit(meta, train)
    return meta, time.process_time() - began, result.skipped


def learned_rates(meta: pm.MetaSVI) -> dict[str, list[float]]:
    prefix = "inner.log_lr."
    return {
        name.removeprefix(prefix): v.exp().tolist() for name, v in meta.named_parameters() if name.startswith(prefix)
    }


def table(result: dict[str, Any]) -> str:
    curves = result["curves"]
    lines = ["steps" + "".join(f"{name:>22}" for name in curves)]
    for k in next(iter(curves.values())):
        points = (f"{curve[k]['mean']:.2f} ({curve[k]['se']:.2f})" if k in curve else "" for curve in curves.values())
        lines.append(f"{k:>5}" + "".join(f"{point:>22}" for point in points))
    return "\n".join([*lines, gains_report.table(result["convergence"]), finding(result)])


def finding(result: dict[str, Any]) -> str:
    gain = result["gain over five pooled steps"]
    side = "better" if gain["mean"] > 0 else "worse"
    if abs(gain["mean"]) < 2 * gain["se"]:
        side += " (not significantly)"
    return (
        f"five steps from the meta-learned start are {abs(gain['mean']):.2f} ± {gain['se']:.2f} nats an image\n"
        f"{side} than five from the pooled VAE"
    )


def drawn(args: argparse.Namespace, result: dict[str, Any]) -> Figure:
    """Query loss against steps, task by task above what the pooled VAE has before it adapts."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes, above = figure.subplots(), result["above the pooled start"]
    for name, color in (("pooled", "#0072B2"), ("meta", "#D55E00")):
        steps = [int(k) for k in above[name]]
        mean, error = (torch.tensor([point[part] for point in above[name].values()]) for part in ("mean", "se"))
        axes.fill_between(steps, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
        label = f"{name}, Adam" if name == "pooled" else f"{name}-learned ({mean[0]:+.1f} before its first step)"
        axes.plot(steps, mean, color=color, marker="o", markersize=4, linewidth=2, label=label)
    converged = result["convergence"]["target"] - result["curves"]["pooled"]["0"]["mean"]
    axes.axhline(converged, color="#333333", linewidth=1, linestyle="--", label="converged SVI")
    axes.set_ylim(min(converged, mean.min().item()) - 0.6, 1.5)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(-0.3, args.at[-1] * 1.05)
    axes.set_xticks([k for k in (0, 1, 2, 5, 10, 20, 50, 100) if k <= args.at[-1]])
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.set_xlabel(f"steps on ten drawings of an unseen {args.task}")
    axes.set_ylabel("nats an image, on ten others,\nabove the pooled VAE unadapted")
    best = min(point["mean"] for point in above["random"].values())
    note = f"Bands: standard error of the paired difference over tasks. The random start stays {best:.0f} nats above."
    axes.set_title(f"Unseen {args.task}s: {finding(result)}\n", loc="left", fontsize=11)
    axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=9, color="#555555")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc=(0.24, 0.74))
    return figure


def draw(args: argparse.Namespace, result: dict[str, Any], adapting: dict[str, pm.MetaSVI], test: MetaBatch) -> None:
    write_figure(args.out / "adaptation.png", drawn(args, result))

    shown = test[:4]
    images = torch.as_tensor(shown.query)[:, :5]
    rows = {f"unseen {args.task}": images}
    for name, steps in (("pooled", 0), ("pooled", STEPS), ("meta", 0), ("meta", STEPS)):
        guides = adapting[name].adapt_many(shown.support, steps)
        label = f"{name}, {steps} steps" if steps else f"{name}, before"
        with torch.no_grad():
            rows[label] = torch.stack([guide.reconstruct(x) for guide, x in zip(guides, images, strict=True)])
    gained = (images * (rows["meta, 5 steps"] / rows["meta, before"]).log()) + (
        (1 - images) * ((1 - rows["meta, 5 steps"]) / (1 - rows["meta, before"])).log()
    )
    side = math.isqrt(images.shape[-1])
    figure = plots.reconstructions(
        {label: x.unflatten(-1, (side, side)) for label, x in rows.items()},
        gain=("gain of 5 steps", gained.unflatten(-1, (side, side))),
        columns=[f"task {i + 1}" for i in range(len(shown))],
        title=f"Drawings of unseen {args.task}s and their reconstructions",
    )
    write_figure(args.out / "reconstructions.png", figure)


if __name__ == "__main__":
    main()
