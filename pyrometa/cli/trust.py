"""What ``pyrometa evaluate`` says and draws of the posteriors that adaptation ends with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

import pyrometa as pm
from pyrometa.diagnostics import PSIS, gap_report, psis
from pyrometa.diagnostics.task_arguments import tasks_of
from pyrometa.plots import tails
from pyrometa.train.pairs import Pair
from pyrometa.train.seeded import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = 20
"""Tasks whose importance weights are looked at: half a second each, where programs can't be run side by side."""

_DRAWS = 1000
_REFUSALS = (TypeError, ValueError, NotImplementedError)

Args = tuple[Any, ...]


class Trust(NamedTuple):
    """What was found, in words and as a figure, or why there is nothing."""

    told: str
    figure: Figure | None = None


def weights(meta: pm.MetaSVI, batches: Iterable[Pair], seed: int) -> Trust:
    """The importance weights of the first tasks' posteriors."""
    with seeded(seed):
        try:
            found = [psis(guide, *task, draws=_DRAWS) for guide, task in islice(_adapted(meta, batches), TASKS)]
        except _REFUSALS as error:
            return Trust(f"importance weights: none, as {error}")
    told = f"importance weights of {len(found)} tasks' posteriors: {_summary(found)}"
    k_hat, ess = (torch.tensor([getattr(one, name) for one in found]) for name in ("k_hat", "ess"))
    return Trust(told, tails(k_hat, ess, draws=_DRAWS, threshold=found[0].threshold, title=told))


def gaps(meta: pm.MetaSVI, batches: Sequence[Pair], seed: int, tasks: int) -> Trust:
    """Where the posteriors of the first tasks lose their nats: about two seconds a small task."""
    support, query = (_first(batches, side, tasks) for side in (0, 1))
    try:
        report = gap_report(meta, support, query, draws=_DRAWS, seed=seed)
    except _REFUSALS as error:
        return Trust(f"gaps: none, as {error}")
    counted = "1 task" if len(support) == 1 else f"{len(support)} tasks"
    return Trust(f"gaps of {counted}: {report.verdict}\n{report.table()}", report.plot())


def _adapted(meta: pm.MetaSVI, batches: Iterable[Pair]) -> Iterator[tuple[Any, Args]]:
    """Each task's guide, and the arguments that it takes."""
    for support, _ in batches:
        tasks = tasks_of(support)[:TASKS]
        yield from zip(meta.adapt_many(_as_given(tasks)), tasks, strict=True)


def _first(batches: Sequence[Pair], side: int, count: int) -> list[Any]:
    tasks = (task for pair in batches for task in tasks_of(pair[side]))
    return _as_given(islice(tasks, count))


def _as_given(tasks: Iterable[Args]) -> list[Any]:
    return [task if len(task) > 1 else task[0] for task in tasks]


def _summary(found: list[PSIS]) -> str:
    words = Counter(one.verdict.split(":")[0] for one in found)
    k_hat = torch.tensor([one.k_hat for one in found])
    good = sum(one.k_hat <= one.threshold for one in found)
    told = ", ".join(f"{count} {word}" for word, count in words.most_common())
    return f"{told}; k-hat is good (at most {found[0].threshold:.2f}) in {good}, its median {k_hat.median().item():.2f}"
