"""Few-shot classification of Omniglot's characters, 5 ways, on the official split: four heads on one network.

    python -m experiments.results.omniglot_classification --root data --download --json omniglot_classification.json

Each seed trains the four-layer network once, with prototypes, on tasks of 60 background characters (each rotation by a
quarter turn is a character of its own) that have one drawing of each, and five in every third task. Its features are
then the same for the rows of heads: each other head of ``omniglot_heads`` is meta-trained on them, on background
characters and for each number of shots. Rows of their own are the network trained further, with prototypes, and MAML
end to end, which begins with the network and adapts all its layers. All rows and seeds are tested on the same tasks of
five evaluation characters, or with ``--kept-back`` of background characters that are kept back, to choose settings by.

The JSON has the settings, versions, and for each row, number of shots and seed accuracy, NLL, ECE, Brier score and the
CPU seconds of training. A run adds its rows to those that a run of the same settings left in the file.
"""

import argparse
import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import pyrometa as pm
from benchmarks.training import one_thread
from experiments import omniglot_data as omniglot
from experiments.results import omniglot_heads as heads
from experiments.results import training
from experiments.results.omniglot_heads import Features, Ready, class_logits
from experiments.results.omniglot_report import over_seeds, settings_of, updated
from pyrometa.diagnostics import brier_score, expected_calibration_error
from pyrometa.tasks import Characters, FewShotTasks, MetaBatch, TaskSampler

WAYS, SHOTS, QUERIES = 5, (1, 5), 15
KEPT_BACK = 164
"""Background characters that settings are chosen on."""
ENGINE = pm.Engine(chunk_size=50, record=False)
"""How tasks are tested."""
FURTHER_LR = 2e-3
STATISTICS = 8
"""Tasks whose query images give the statistics that every image is normalised by after the first training."""

Beginning = Literal["features", "features, trained further", "network"]


@dataclass(frozen=True)
class Row:
    """A head, what its meta-training begins with, and the options that say of how many meta-steps and tasks it is."""

    make: Callable[..., pm.MetaSVI]
    begins_with: Beginning = "features"
    steps: str | None = "meta_steps"
    batch: str = "meta_batch"


FURTHER = "prototypes, network trained further"
ROWS = {
    "prototypes": Row(heads.prototypes, steps=None),
    FURTHER: Row(heads.prototypes, "features, trained further", steps=None),
    "prototypes, five steps": Row(functools.partial(heads.prototypes, steps=heads.STEPS)),
    "VERSA": Row(heads.versa),
    "MAML": Row(heads.maml),
    "ABML": Row(heads.abml),
    "MAML, end to end": Row(heads.maml_of_all_layers, "network", "all_steps", "all_batch"),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    background, evaluation = omniglot.load(args)
    if args.kept_back:
        background, evaluation = split(background, KEPT_BACK)
    begin = functools.cache(functools.partial(begun_by, background, evaluation, args))
    with one_thread():
        for name in args.rows:
            begun = [begin(ROWS[name].begins_with, seed) for seed in args.seeds]
            row = {str(shots): row_of(ROWS[name], shots, begun, args) for shots in SHOTS}
            result = updated(args.json, settings_of(args, "rows"), {name: row})
            print(line_of(name, row), flush=True)
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("data"), help="the directory of torchvision's Omniglot")
    parser.add_argument("--download", action="store_true", help="fetch Omniglot into --root if it is not there")
    parser.add_argument("--quick", action="store_true", help="ten digits for Omniglot and tiny counts: proves nothing")
    parser.add_argument("--json", type=Path, default=Path("omniglot_classification.json"))
    parser.add_argument(
        "--keep", type=Path, help="a folder to keep each seed's trained features in, and take them from"
    )
    parser.add_argument(
        "--kept-back", action="store_true", help=f"test on {KEPT_BACK} background characters that are kept back"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--training-ways", type=int, default=60)
    parser.add_argument("--training-steps", type=int, default=800, help="of the network, one task each")
    parser.add_argument("--further-steps", type=int, default=300, help="of the network, for the row of that name")
    parser.add_argument("--meta-steps", type=int, default=500, help="of each other head")
    parser.add_argument("--meta-batch", type=int, default=8, help="of each other head")
    parser.add_argument("--all-steps", type=int, default=60, help="of meta-training end to end")
    parser.add_argument("--all-batch", type=int, default=4, help="of meta-training end to end")
    parser.add_argument("--draws", type=int, default=20, help="from the posterior, to classify by")
    parser.add_argument("--test-tasks", type=int, default=600)
    args = parser.parse_args(argv)
    if args.kept_back and args.keep:
        args.keep /= "kept_back"
    if args.quick:
        vars(args).update(channels=8, training_ways=5, training_steps=4, further_steps=2, meta_steps=2, meta_batch=2)
        vars(args).update(all_steps=2, all_batch=2, draws=3, test_tasks=4)
    return args


def split(characters: Characters, last: int) -> tuple[Characters, Characters]:
    """All characters but the last ones, and these."""
    is_last = characters.labels > characters.labels.max() - last
    seen, kept_back = (Characters(*(part[rows] for part in characters)) for rows in (~is_last, is_last))
    return seen, kept_back


@dataclass(frozen=True)
class Begun:
    """What a row begins with: a network and tasks of images, or tasks of the features that a network gives."""

    seed: int
    background: FewShotTasks
    evaluation: FewShotTasks
    network: Features | Ready
    log_closeness: Tensor
    seconds: float

    def tests(self, shots: int, count: int) -> MetaBatch:
        """Of the same drawings for all rows and seeds."""
        return self.evaluation.sampler(shots=shots, queries=QUERIES, seed=1_000_000 + shots).sample(count)


def begun_by(
    background: Characters, evaluation: Characters, args: argparse.Namespace, beginning: Beginning, seed: int
) -> Begun:
    trained = network_of(beginning, background, seed, args)
    features = Features(args.channels, fixed=True)
    features.load_state_dict(trained["features"])
    if beginning == "network":
        seen = FewShotTasks(background.images[:, None], background.labels, ways=WAYS, quarter_turns=True)
        unseen = FewShotTasks(evaluation.images[:, None], evaluation.labels, ways=WAYS)
        return Begun(seed, seen, unseen, features, trained["log_closeness"], trained["seconds"])
    seen, unseen = (
        FewShotTasks(embedded(features, some.images), some.labels, ways=WAYS) for some in (background, evaluation)
    )
    return Begun(seed, seen, unseen, Ready(features.size), trained["log_closeness"], trained["seconds"])


def network_of(beginning: Beginning, background: Characters, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """What the network has learned, and the CPU seconds of that."""
    first = kept_or_made(args.keep, f"features_{seed}.pt", lambda: network_trained(None, background, seed, args))
    if beginning != "features, trained further":
        return first
    further = functools.partial(network_trained, first, background, seed, args)
    return kept_or_made(args.keep, f"features_{seed}_further.pt", further)


def kept_or_made(folder: Path | None, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if folder is None:
        return make()
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(make(), folder / name)
    return dict(torch.load(folder / name, weights_only=True))


@torch.no_grad()
def embedded(features: Features, images: Tensor) -> Tensor:
    return torch.cat([features(some[:, None]) for some in images.split(1000)])


def network_trained(
    before: Mapping[str, Any] | None, background: Characters, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    """What training with prototypes has learned, and its CPU seconds: from the start, or by further steps."""
    torch.manual_seed(seed)
    features = Features(args.channels, fixed=False)
    steps, lr = (args.training_steps, heads.LR) if before is None else (args.further_steps, FURTHER_LR)
    meta = heads.prototypes(features, args.training_ways, lr=lr)
    if before:
        features.load_state_dict(before["features"])
        meta.model.log_closeness.data.copy_(before["log_closeness"])
    own_seed = 10 * seed + (1 if before is None else 5)
    one, five = (sampler(background, args.training_ways, *counts, own_seed) for counts in ((1, 4), (5, 2)))
    seconds = fit(meta, lambda step: (five if step % 3 == 2 else one).sample(1), steps)
    features.fix(one.sample(STATISTICS).query[0].flatten(0, 1))
    return {
        "features": features.state_dict(),
        "log_closeness": meta.model.log_closeness.detach(),
        "seconds": seconds + (before["seconds"] if before else 0.0),
    }


def sampler(background: Characters, ways: int, shots: int, queries: int, seed: int) -> TaskSampler:
    seen = FewShotTasks(background.images[:, None], background.labels, ways=ways, quarter_turns=True)
    return seen.sampler(shots=shots, queries=queries, seed=seed)


def fit(meta: pm.MetaSVI, draw: Callable[[int], MetaBatch], steps: int) -> float:
    """Meta-train with rates that fall to zero; returns CPU seconds."""
    return training.fit(meta, draw, draw(0).support, steps, clip_norm=10.0)


def row_of(row: Row, shots: int, begun: Sequence[Begun], args: argparse.Namespace) -> dict[str, Any]:
    """A row's scores for each seed, and over the seeds."""
    scores = [scored(row, shots, each, args) for each in begun]
    by_task = {part: over_seeds([score.pop(part) for score in scores]) for part in ("accuracy", "nll")}
    others = {part: [score[part] for score in scores] for part in scores[0]}
    return by_task | {part: {"mean": sum(values) / len(values), "seeds": values} for part, values in others.items()}


def scored(row: Row, shots: int, begun: Begun, args: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and NLL of each test task, the calibration of all predictions together, and what training took."""
    torch.manual_seed(100 * begun.seed + shots)
    by_shots = {"shots": shots} if row.begins_with == "network" else {}
    meta, seconds = row.make(copy.deepcopy(begun.network), WAYS, **by_shots), 0.0
    tests = begun.tests(shots, args.test_tasks)
    if isinstance(meta.model, heads.Prototypes):
        meta.model.log_closeness.data.copy_(begun.log_closeness)
    if row.steps:
        steps, batch = getattr(args, row.steps), getattr(args, row.batch)
        seen = begun.background.sampler(shots=shots, queries=5, seed=10 * begun.seed + 2)
        meta.engine = pm.Engine(record=not args.quick)
        seconds = fit(meta, lambda step: seen.sample(batch), steps)
        meta.engine = ENGINE
    log_p, y = posterior_predictive(meta, tests, args.draws), tests.query[1]
    p = log_p.exp()
    everything = (p.flatten(0, 1), y.flatten())
    return {
        "accuracy": (p.argmax(-1) == y).double().mean(1),
        "nll": -log_p.gather(-1, y[..., None]).mean((1, 2)),
        "ece": expected_calibration_error(*everything),
        "brier": brier_score(*everything),
        "cpu seconds": begun.seconds + seconds,
    }


@torch.no_grad()
def posterior_predictive(meta: pm.MetaSVI, tasks: MetaBatch, draws: int) -> Tensor:
    """Log probabilities of the classes, ``(tasks, images, ways)``: of the mean over draws from each adapted guide."""
    guides = meta.adapt_many(tasks.support)
    logits = [class_logits(guide.model, guide, x, y, draws) for guide, x, y in zip(guides, *tasks.query, strict=True)]
    return torch.stack([task.log_softmax(-1).logsumexp(0) - math.log(draws) for task in logits])


def line_of(name: str, row: Mapping[str, Any]) -> str:
    """A row of the table."""
    return f"{name}: " + "; ".join(f"{shots} shot: {figures_of(part)}" for shots, part in row.items())


def figures_of(part: Mapping[str, Any]) -> str:
    accuracy, nll = part["accuracy"], part["nll"]["mean"]
    seeds = ", ".join(f"{100 * seed:.2f}" for seed in accuracy["seeds"])
    figures = [
        f"{100 * accuracy['mean']:.2f}% ± {100 * accuracy['half width over tasks']:.2f} ({seeds})",
        f"NLL {math.inf if nll is None else nll:.3f}",
        f"ECE {part['ece']['mean']:.3f}",
        f"{part['cpu seconds']['mean']:.0f} s",
    ]
    return ", ".join(figures)


if __name__ == "__main__":
    main()
