"""What ``pyrometa evaluate`` says of the posteriors that adaptation ends with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

import pyrometa as pm
from pyrometa.diagnostics import PSIS, psis
from pyrometa.diagnostics.task_arguments import tasks_of
from pyrometa.train.pairs import Pair
from pyrometa.train.seeded import seeded

TASKS = 20
"""Tasks whose posteriors are looked at: half a second each, where programs can't be run side by side."""

_DRAWS = 1000


def trust(meta: pm.MetaSVI, batches: Iterable[Pair], seed: int) -> str:
    """One line on the first tasks' importance weights, or why there are none."""
    with seeded(seed):
        try:
            found = [psis(guide, *task, draws=_DRAWS) for guide, task in islice(_adapted(meta, batches), TASKS)]
        except (TypeError, ValueError, NotImplementedError) as error:
            return f"importance weights: none, as {error}"
    return f"importance weights of {len(found)} tasks' posteriors: {_summary(found)}"


def _adapted(meta: pm.MetaSVI, batches: Iterable[Pair]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Each task's guide, and the arguments that it takes."""
    for support, _ in batches:
        tasks = tasks_of(support)[:TASKS]
        yield from zip(meta.adapt_many([task if len(task) > 1 else task[0] for task in tasks]), tasks, strict=True)


def _summary(found: list[PSIS]) -> str:
    words = Counter(one.verdict.split(":")[0] for one in found)
    k_hat = torch.tensor([one.k_hat for one in found])
    good = sum(one.k_hat <= one.threshold for one in found)
    told = ", ".join(f"{count} {word}" for word, count in words.most_common())
    return f"{told}; k-hat is good (at most {found[0].threshold:.2f}) in {good}, its median {k_hat.median().item():.2f}"
