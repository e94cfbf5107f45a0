"""Few-shot classification of Omniglot's characters that knows when it does not know.

    python -m experiments.omniglot_classify --root data --download
    python -m experiments.omniglot_classify --root data --download --shots 5

A task is five characters that were never seen, with one or five drawings of each; another fifteen of each are to be
classified. Two learners share network, tasks, inner steps and number of meta-steps:

- MAML: the last two layers take five gradient steps;
- Bayesian: the same two layers have a mean-field normal posterior, which takes five gradient steps on the ELBO. Its
  start, the prior and the rates are meta-learned (amortised Bayesian meta-learning, Ravi and Beatson, 2019). The outer
  loop minimises the negative log likelihood of the query set under the posterior predictive.

The layers before those are shared by all tasks and learned by the outer loop alone. In --out: metrics.json and
reliability.png.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro import poutine
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import Tensor, nn

import pyrometa as pm
from benchmarks.files import write_figure, write_json
from benchmarks.training import mean_and_error
from experiments import omniglot_data as omniglot
from pyrometa.diagnostics import Reliability, brier_score, expected_calibration_error, reliability
from pyrometa.tasks import FewShotTasks, MetaBatch

Program = Callable[..., Any]

WAYS, STEPS = 5, 5
LAYERS = {"hidden_weight": 2, "hidden_bias": 1, "head_weight": 2, "head_bias": 1}  # what adapts, and its dimensions


class Net(nn.Module):
    """Three convolutions of stride 2, shared by all tasks, and the two layers that a task adapts."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        sizes = [1, channels, channels, channels]
        convolutions = [nn.Conv2d(*pair, kernel_size=3, stride=2, padding=1) for pair in pairwise(sizes)]
        parts = [part for layer in convolutions for part in (layer, nn.ReLU())]
        self.features = nn.Sequential(*parts, nn.Flatten(), nn.Linear(channels * 16, width), nn.ReLU())
        hidden, head = nn.Linear(width, width), nn.Linear(width, WAYS)
        start = (hidden.weight, hidden.bias, head.weight, head.bias)
        self.start = {name: value.detach() for name, value in zip(LAYERS, start, strict=True)}

    def logits(self, features: Tensor, layers: dict[str, Tensor]) -> Tensor:
        """The classes' logits, ``(images, ways)``."""
        h = torch.relu(features @ layers["hidden_weight"].mT + layers["hidden_bias"])
        return h @ layers["head_weight"].mT + layers["head_bias"]


class Deterministic(Net):
    """The layers are parameters, and they adapt."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width)
        self.layers = nn.ParameterDict(self.start)

    def model(self, x: Tensor, y: Tensor) -> None:
        """Labels ``y`` of images ``x``, with no latent variables."""
        pyro.module("net", self)
        logits = self.logits(self.features(x), dict(self.layers))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def guide(self, x: Tensor, y: Tensor) -> None:
        """Nothing to infer."""


class Bayesian(Net):
    """The layers are latent; their prior is learned, and the posterior adapts."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width)
        self.loc = nn.ParameterDict({name: value.clone() for name, value in self.start.items()})
        self.log_scale = nn.ParameterDict({n: torch.zeros_like(v) for n, v in self.start.items()})

    def model(self, x: Tensor, y: Tensor) -> None:
        """Layers from their prior, then labels ``y`` of images ``x``."""
        pyro.module("net", self)
        layers = {
            name: pyro.sample(name, dist.Normal(self.loc[name], self.log_scale[name].exp()).to_event(dim))
            for name, dim in LAYERS.items()
        }
        logits = self.logits(self.features(x), layers)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def deterministic(channels: int, width: int, **options: Any) -> pm.MetaSVI:
    net = Deterministic(channels, width)
    options |= {"adapt": "model.layers.*", "lr": 0.1}
    return pm.lslr(net.model, net.guide, steps=STEPS, **options)


def bayesian(channels: int, width: int, **options: Any) -> pm.MetaSVI:
    net = Bayesian(channels, width)
    guide = AutoNormal(net.model, init_loc_fn=init_to_value(values=net.start), init_scale=0.02)
    options |= {"adapt": "guide", "lr": {"*.locs.*": 0.1, "*.scales.*": 0.1}}
    return pm.lslr(net.model, guide, steps=STEPS, **options)


def predictive_nll(
    model: Callable[..., Any], guide: Callable[..., Any], x: Tensor, y: Tensor, draws: int = 4
) -> Tensor:
    """What the outer loop minimises: each label's negative log likelihood under the mean of the draws, summed."""
    log_p = torch.stack([class_logits(model, guide, x, y) for _ in range(draws)]).log_softmax(-1)
    log_p = log_p.logsumexp(0) - math.log(draws)
    return -log_p.gather(-1, y[:, None]).sum()


def class_logits(model: Program, guide: Program, x: Tensor, y: Tensor) -> Tensor:
    """Logits of the classes for one draw from the guide, ``(images, ways)``; they do not depend on ``y``."""
    drawn = poutine.trace(guide).get_trace(x, y)
    return poutine.trace(poutine.replay(model, trace=drawn)).get_trace(x, y).nodes["y"]["fn"].logits


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    background, evaluation = omniglot.load(args)
    seen = FewShotTasks(background.images[:, None], background.labels, ways=WAYS, quarter_turns=not args.quick)
    unseen = FewShotTasks(evaluation.images[:, None], evaluation.labels, ways=WAYS)
    tests = unseen.sampler(shots=args.shots, queries=15, seed=args.seed + 1).sample(args.test_tasks)

    learners: dict[str, dict[str, Any]] = {}
    diagrams: dict[str, Reliability] = {}
    for name, make, draws in (("MAML", deterministic, 1), ("Bayesian", bayesian, args.draws)):
        torch.manual_seed(args.seed)
        optim = pyro.optim.Adam({"lr": 1e-3})
        score = predictive_nll if make is bayesian else None
        engine = pm.Engine(chunk_size=25, record=not args.quick)
        options = {"reduction": "mean", "score": score, "engine": engine}
        meta = make(args.channels, args.width, optim=optim, outer_lr=1e-2, **options)
        sampler = seen.sampler(shots=args.shots, queries=5, seed=args.seed)  # the same tasks for both
        began = time.process_time()
        pm.Trainer(max_steps=args.meta_steps, meta_batch=args.meta_batch, seed=None).fit(meta, sampler)
        seconds = time.process_time() - began
        p = posterior_predictive(meta, tests, draws)
        learners[name] = {**metrics(p, tests), "cpu_seconds": seconds}
        diagrams[name] = reliability(p.flatten(0, 1), labels_of(tests).flatten(), bins=10)
        print(name + ": " + summary(learners[name]))
        write_json(args.out / "metrics.json", {"learners": learners, "settings": vars(args)})
    write_figure(args.out / "reliability.png", drawn(diagrams, learners, args.shots))
    return learners


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = omniglot.parser(__doc__.splitlines()[0], "omniglot_classify")
    parser.add_argument("--shots", type=int, choices=[1, 5], default=1, help="drawings of each character")
    parser.add_argument("--meta-steps", type=int, default=3000)
    parser.add_argument("--meta-batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--draws", type=int, default=20, help="from the posterior, to classify by")
    parser.add_argument("--test-tasks", type=int, default=300)
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(meta_steps=3, meta_batch=2, channels=4, width=8, draws=3, test_tasks=4)
    return args


@torch.no_grad()
def posterior_predictive(meta: pm.MetaSVI, tasks: MetaBatch, draws: int) -> Tensor:
    """Probabilities of the classes, ``(tasks, images, ways)``: the mean over draws from each adapted guide."""
    probabilities = []
    for guide, x, y in zip(meta.adapt_many(tasks.support), *tasks.query, strict=True):
        logits = torch.stack([class_logits(guide.model, guide, x, y) for _ in range(draws)])
        probabilities.append(logits.softmax(-1).mean(0))
    return torch.stack(probabilities)


def metrics(p: Tensor, tasks: MetaBatch) -> dict[str, Any]:
    """Accuracy and nats with their standard errors over tasks, and how calibrated all predictions are together."""
    y = labels_of(tasks)
    everything = (p.flatten(0, 1), y.flatten())
    return {
        "accuracy": mean_and_error((p.argmax(-1) == y).float().mean(1)),
        "nll": mean_and_error(-p.gather(-1, y[..., None]).log().mean((1, 2))),
        "ece": expected_calibration_error(*everything),
        "brier": brier_score(*everything),
    }


def labels_of(tasks: MetaBatch) -> Tensor:
    return tasks.query[1]


def summary(learner: dict[str, Any]) -> str:
    text = "accuracy {accuracy[mean]:.1%} ± {accuracy[se]:.1%}, NLL {nll[mean]:.3f} ± {nll[se]:.3f}, "
    return (text + "ECE {ece:.3f}, Brier {brier:.3f}, {cpu_seconds:.0f} s").format(**learner)


def drawn(diagrams: dict[str, Reliability], learners: dict[str, dict[str, Any]], shots: int) -> Figure:
    """Accuracy against confidence; areas of the points show how many predictions they stand for."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    for axes, (name, diagram) in zip(figure.subplots(1, 2, sharey=True), diagrams.items(), strict=True):
        held = diagram.share > 0
        confidence, accuracy, share = (part[held].numpy() for part in diagram)
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
        axes.plot(confidence, accuracy, color="#0072B2", linewidth=1.2)
        axes.scatter(confidence, accuracy, s=12 + 400 * share, color="#0072B2", alpha=0.7, linewidth=0)
        scores = learners[name]
        title = (
            f"{name}: {scores['accuracy']['mean']:.1%} right, {scores['nll']['mean']:.3f} nats, ECE {scores['ece']:.3f}"
        )
        axes.set_title(title, fontsize=11, loc="left")
        axes.set_xlabel("confidence (area: share of predictions)")
        axes.set_xlim(0.15, 1.02)
        axes.set_ylim(0, 1.04)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("accuracy")
    figure.suptitle(f"5-way {shots}-shot on unseen characters: are they right as often as they say?", x=0.01, ha="left")
    return figure


if __name__ == "__main__":
    main()
