"""How the experiments on tables meta-train: batches of ragged tasks, a falling rate, and each kind of learned rates."""

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyro
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrometa as pm
from benchmarks.gains import Learned, adapted
from benchmarks.plain_svi import Problem, Row, Values, set_values

LEARN = {
    "meta-learned start, one rate": "rate",
    "meta-learned start, rates by parameter": "layer",
    "meta-learned start, rates by parameter and step": "layer_step",
}


def similar_sizes(tasks: Sequence[Row], batch_size: int, seed: int) -> Iterator[list[Row]]:
    """Meta-batches of tasks of similar size: all of one goes through the engine together."""
    sizes: dict[int, list[Row]] = {}
    for task in tasks:
        sizes.setdefault((len(task[0]) - 1).bit_length(), []).append(task)
    groups, generator = list(sizes.values()), random.Random(seed)
    while True:
        group = generator.choices(groups, [len(group) for group in groups])[0]
        yield generator.choices(group, k=batch_size)


def train(meta: pm.MetaSVI, batches: Iterator[Any], steps: int) -> float:
    """Meta-train with an outer rate that falls to zero; returns CPU seconds.

    A meta-step that is not finite updates nothing and is passed over, up to one in a hundred.
    """
    start = time.process_time()
    meta.init(next(batches))
    trainer = pm.Trainer(
        max_steps=steps,
        schedule=lambda optimizer: CosineAnnealingLR(optimizer, steps),
        on_nonfinite="skip",
        max_skipped=steps // 100,
        progress=False,
        seed=None,
    )
    trainer.fit(meta, lambda step: (next(batches), None))
    return time.process_time() - start


def learned_starts(
    problem: Problem,
    guide: nn.Module,
    pooled: Values,
    batches: Iterator[Any],
    *,
    rate: float,
    steps: int,
    **options: Any,
) -> tuple[dict[str, Learned], dict[str, float]]:
    """Meta-train the pooled start with each kind of learned rates; CPU seconds too."""
    learned, seconds = {}, {}
    for name, learn in LEARN.items():
        set_values(guide, pooled)
        inner = pm.Momentum(rate, momentum=0.6, learn=learn)
        optim = pyro.optim.ClippedAdam({"lr": 0.02, "clip_norm": 1.0})
        meta = pm.MetaSVI(problem.model, guide, optim, inner=inner, steps=5, **options)
        seconds[name] = train(meta, batches, steps)
        learned[name] = adapted(meta, problem)
    return learned, seconds
