"""Few-shot generation: a variational autoencoder adapts to a character that it has never seen.

    python examples/omniglot_generate.py --root data --download
    python examples/omniglot_generate.py --root data --download --task alphabet

Ten drawings of a character (or an alphabet) of Omniglot's evaluation split are there to adapt encoder and decoder to;
ten others are scored. Three starts:

- random: a fresh network;
- pooled: the network trained by plain SVI on all background characters at once;
- meta: the pooled network, meta-trained for a few hundred steps of MAML with a learned rate for each layer.

Random and pooled adapt by gradient descent or Adam, whichever and at whatever rate does best on validation tasks.
What adaptation is worth, and how long it takes, is in --out: metrics.json, adaptation.png and reconstructions.png.
"""

import argparse
import copy
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import omniglot_data as omniglot
import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor
from tqdm.auto import tqdm

import pyrometa as pm
from pyrometa import plots
from pyrometa.models import VAE
from pyrometa.tasks import Characters, DigitTasks, Task, TaskSampler

STEPS = 5
AT = (0, 1, 2, 5, 10, 20, 50)  # steps after which the unseen tasks are scored
RULES = [*map(pm.SGD, (2e-4, 5e-4, 1e-3, 2e-3, 5e-3)), *map(pm.Adam, (1e-4, 3e-4, 1e-3, 3e-3))]
CHUNK = 20  # tasks that are held in memory at once


@dataclass(frozen=True)
class Drawings:
    """Drawings of one character or alphabet, each pixel ink with its grey value's probability."""

    family: DigitTasks

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> Tensor:
        """Draw tasks and binary drawings of each, ``(tasks, rows, pixels)``."""
        return torch.bernoulli(self.family.draw(tasks, rows, generator), generator=generator)


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
    training = {"pooled": fit_pooled(pooled, images, args.pooled_steps, lr=1e-3)}
    meta, training["meta"] = fit_meta(copy.deepcopy(pooled), train, args)
    # As many images x gradient evaluations for the pooled network, a second-order pass counted twice.
    extra = args.meta_steps * args.meta_batch * (2 * STEPS + 1) * 10 // 128
    training["pooled, extra"] = fit_pooled(pooled, images, extra, lr=3e-4)

    losses = {name: validated(vae, validation, args) for name, vae in (("random", random), ("pooled", pooled))}
    rules = {
        "random": args.rules[losses["random"].amin(1).argmin()],
        "pooled": args.rules[losses["pooled"].amin(1).argmin()],  # best after any number of steps
        "pooled in five": args.rules[losses["pooled"][:, args.at.index(STEPS)].argmin()],
    }
    starts = {name: start_at(random if name == "random" else pooled, rule) for name, rule in rules.items()}
    starts["meta"] = meta
    result = compared(starts, test, args) | {"rules": rules, "training cpu seconds": training}
    result |= {"learned rates": learned_rates(meta), "settings": vars(args), "tasks": len(test)}
    omniglot.write_json(args.out / "metrics.json", result)
    print(table(result))
    draw(args, result, starts, test)
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = omniglot.parser(__doc__.splitlines()[0], "omniglot_generate")
    parser.add_argument("--task", choices=["character", "alphabet"], default="character", help="what a task is")
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--pooled-steps", type=int, default=6000, help="of SVI, on 128 images each")
    parser.add_argument("--meta-steps", type=int, default=400)
    parser.add_argument("--meta-batch", type=int, default=16)
    parser.add_argument("--validation-tasks", type=int, default=12)
    parser.add_argument("--test-tasks", type=int, default=60)
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(hidden=20, latent=3, pooled_steps=20, meta_steps=3, meta_batch=2)
        vars(args).update(validation_tasks=2, test_tasks=4)
    args.at = AT[:4] if args.quick else AT
    args.rules = RULES[1::4] if args.quick else RULES
    return args


def groups_of(characters: Characters, task: str) -> Tensor:
    return characters.labels if task == "character" else characters.alphabets


def sampler(characters: Characters, task: str, kept: Tensor, seed: int) -> TaskSampler:
    """Tasks of ten drawings to adapt to and ten to be scored on."""
    index = kept.nonzero().squeeze(1)
    family = DigitTasks(characters.images, groups_of(characters, task), index, angles=(0.0, 0.0))
    return TaskSampler(Drawings(family), shots=10, queries=10, seed=seed)


def fit_pooled(vae: VAE, images: Tensor, steps: int, lr: float) -> float:
    """Train in place on single images by plain SVI; returns CPU seconds."""
    began = time.process_time()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": lr}), TraceMeanField_ELBO())
    with pyro.get_param_store().scope():
        for _ in tqdm(range(steps), desc="pooled"):
            svi.step(images[torch.randint(len(images), (128,))].bernoulli())
    return time.process_time() - began


def fit_meta(vae: VAE, train: TaskSampler, args: argparse.Namespace) -> tuple[pm.MetaSVI, float]:
    """Meta-train in place; returns CPU seconds too."""
    began = time.process_time()
    inner = pm.SGD(2e-4, learn="layer", outer_lr=0.05)
    meta = meta_svi(vae, inner)
    with tqdm(range(args.meta_steps), desc="meta") as bar:
        for _ in bar:
            bar.set_postfix(nats=f"{meta.step(*train.sample(args.meta_batch)):.1f}")
    return meta, time.process_time() - began


def start_at(vae: VAE, rule: pm.SGD | pm.Adam) -> pm.MetaSVI:
    """Adaptation from a network as it is; nothing is meta-learned."""
    return meta_svi(vae, rule)


def meta_svi(vae: VAE, inner: pm.SGD | pm.Adam) -> pm.MetaSVI:
    optim = pyro.optim.Adam({"lr": 3e-4})
    engine = pm.Engine(chunk_size=CHUNK)
    return pm.MetaSVI(
        vae.model, vae.guide, optim, inner=inner, steps=STEPS, adapt="both", reduction="mean", engine=engine
    )


def query_losses(meta: pm.MetaSVI, tasks: Task, args: argparse.Namespace) -> Tensor:
    """Nats an image of each task, ``(len(args.at), tasks)``; the same noise for every start."""
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        return meta.evaluate(*tasks, args.at)


def validated(vae: VAE, tasks: Task, args: argparse.Namespace) -> Tensor:
    """Mean query loss with each of the rules, ``(rules, len(args.at))``; infinite where one diverges."""
    losses = torch.full((len(args.rules), len(args.at)), math.inf)
    for i, rule in enumerate(tqdm(args.rules, desc="rates")):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)  # of Pyro: here one of the outcomes
            try:
                mean = query_losses(start_at(vae, rule), tasks, args).mean(1)
            except pm.NonFiniteError:
                continue
        losses[i] = mean.nan_to_num(math.inf)
    return losses


def compared(starts: dict[str, pm.MetaSVI], tasks: Task, args: argparse.Namespace) -> dict[str, Any]:
    """Curves, what the meta-learned start gains in five steps, and what the others need to be as good."""
    losses = {name: query_losses(meta, tasks, args) for name, meta in starts.items()}
    curves = {
        name: {str(k): omniglot.mean_and_error(row) for k, row in zip(args.at, rows, strict=True)}
        for name, rows in losses.items()
    }
    after = args.at.index(STEPS)
    five = losses["meta"][after]
    best = losses["pooled"][losses["pooled"].mean(1).argmin()]
    reached = {
        name: next((int(k) for k, point in curve.items() if point["mean"] <= five.mean()), None)
        for name, curve in curves.items()
    }
    seconds = {name: seconds_to_adapt(starts[name], tasks, reached[name] or args.at[-1]) for name in starts}
    return {
        "curves": curves,
        "gain over five pooled steps": omniglot.mean_and_error(losses["pooled in five"][after] - five),
        "gain over any number of pooled steps": omniglot.mean_and_error(best - five),
        "steps to get there": reached,
        "cpu seconds a task": seconds,
    }


def seconds_to_adapt(meta: pm.MetaSVI, tasks: Task, steps: int) -> float:
    """CPU seconds to fit one task by so many steps."""
    supports = [tasks[i][0] for i in range(4)]
    meta.adapt(supports[0], 1)  # the first call sets up
    began = time.process_time()
    for support in supports[1:]:
        meta.adapt(support, steps)
    return (time.process_time() - began) / 3


def learned_rates(meta: pm.MetaSVI) -> dict[str, float]:
    prefix = "inner.log_lr."
    return {name.removeprefix(prefix): v.exp().item() for name, v in meta.named_parameters() if name.startswith(prefix)}


def table(result: dict[str, Any]) -> str:
    curves = result["curves"]
    lines = ["steps" + "".join(f"{name:>22}" for name in curves)]
    for k in next(iter(curves.values())):
        points = (f"{curve[k]['mean']:.2f} ({curve[k]['se']:.2f})" for curve in curves.values())
        lines.append(f"{k:>5}" + "".join(f"{point:>22}" for point in points))
    lines += [f"steps to get there: {result['steps to get there']}", f"seconds: {result['cpu seconds a task']}"]
    return "\n".join([*lines, finding(result)])


def finding(result: dict[str, Any]) -> str:
    gain = result["gain over five pooled steps"]
    side = "better" if gain["mean"] > 0 else "worse"
    if abs(gain["mean"]) < 2 * gain["se"]:
        side += " (not significantly)"
    return (
        f"five steps from the meta-learned start are {abs(gain['mean']):.2f} ± {gain['se']:.2f} nats an image\n"
        f"{side} than five from the pooled VAE"
    )


def draw(args: argparse.Namespace, result: dict[str, Any], starts: dict[str, pm.MetaSVI], test: Task) -> None:
    curves = {name: result["curves"][name] for name in ("random", "pooled", "meta")}
    title = f"Ten drawings of an unseen {args.task}:\n{finding(result)}"
    omniglot.write_figure(args.out / "adaptation.png", plots.adaptation_curves(curves, title=title, tasks=len(test)))

    shown = test[:4]
    images = torch.as_tensor(shown.query)[:, :5]
    rows = {f"unseen {args.task}": images}
    for label, name, steps in (
        ("pooled, before", "pooled in five", 0),
        ("pooled, 5 steps", "pooled in five", STEPS),
        ("meta, before", "meta", 0),
        ("meta, 5 steps", "meta", STEPS),
    ):
        guides = starts[name].adapt_many(shown.support, steps)
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
    omniglot.write_figure(args.out / "reconstructions.png", figure)


if __name__ == "__main__":
    main()
