"""Whether the posteriors of images, after adaptation, can be trusted: what their importance weights say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import pyro
import torch
from torch import Tensor

from pyrometa import MetaSVI
from pyrometa.demo.training import Progress
from pyrometa.diagnostics import PSIS, psis
from pyrometa.tasks import MetaBatch

__all__ = ["trusted", "verdict"]

DRAWS = 1000
SURE, MOSTLY = 0.95, 0.5  # shares of good k-hats


def trusted(meta: MetaSVI, tasks: MetaBatch, count: int, seed: int, progress: Progress, label: str) -> dict[str, Any]:
    """Diagnose the posterior of one unseen image of each of the first tasks, after adaptation.

    Returns:
        the ``k_hat`` of each, the ``threshold`` up to which one is good, and how many verdicts begin with which
        ``words``.
    """
    support, query = (cast("Tensor", data)[:count] for data in tasks)
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(seed)
        guides = meta.adapt_many(support)
        found = [psis(guides[i], query[i, :1], draws=DRAWS) for i in progress(range(len(guides)), label)]
    return _summary(found)


def _summary(found: list[PSIS]) -> dict[str, Any]:
    words = Counter(one.verdict.split(":")[0] for one in found)
    return {
        "k_hat": [one.k_hat for one in found],
        "threshold": found[0].threshold,
        "words": dict(words.most_common()),
    }


def verdict(told: Mapping[str, Any]) -> str:
    """The diagnosis in a sentence, whichever way it came out."""
    good, count = sum(k_hat <= told["threshold"] for k_hat in told["k_hat"]), len(told["k_hat"])
    words = ", ".join(f"{number} {word}" for word, number in told["words"].items())
    trust = "yes" if good >= SURE * count else "mostly" if good > MOSTLY * count else "mostly not" if good else "no"
    return (
        f"Can the adapted posteriors be trusted? {trust.capitalize()}: in {good} of {count} unseen images importance "
        f"weights correct them\n(k-hat at most {told['threshold']:.2f}); as they are, {words}."
    )
