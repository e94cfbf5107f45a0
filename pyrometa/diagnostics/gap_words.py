"""A gap report in words and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

GapReport = Any
"""A :class:`~pyrometa.diagnostics.GapReport`, which makes its verdict here."""

__all__ = ["table", "verdict"]

_NOTICEABLE = 0.05
"""Nats a task that are worth a word."""

_SURELY = 3.0
"""Standard errors."""


def verdict(report: GapReport) -> str:
    """Where most is lost, and what else is to be said, in one sentence."""
    return "; ".join([_where(report), *filter(None, (_shape(report), _query(report), _doubts(report)))])


def _where(report: GapReport) -> str:
    lost = report.inference[:, -1].mean().item()
    parts = {
        "approximation": report.approximation.mean().item(),
        "amortisation": report.amortization[:, -1].mean().item(),
    }
    tasks = len(report.log_evidence)
    error = (report.evidence_error.square() + report.elbo_error[:, -1].square()).sum().sqrt().item() / tasks
    if lost <= _NOTICEABLE + _SURELY * error and max(parts.values()) <= _NOTICEABLE + _SURELY * error:
        return f"none: {max(lost, 0.0):.2f} nats a task are lost, with a standard error of {error:.2f}"
    word = max(parts, key=lambda name: parts[name])
    steps = report.elbo.shape[1] - 1
    how = {
        "approximation": "lost to the guide's family",
        "amortisation": f"lost by stopping after {steps} step{'' if steps == 1 else 's'}",
    }
    return f"{word}: {parts[word]:.2g} of {lost:.2g} nats a task are {how[word]}"


def _shape(report: GapReport) -> str:
    """How the posterior of most tasks differs, if it does."""
    words = Counter(posterior.verdict.split(":")[0] for posterior in report.posteriors)
    for word in ("exact", "close", "far"):
        words.pop(word, None)
    if not words:
        return ""
    word, count = words.most_common(1)[0]
    return f"the posterior is {word} in {count} of {len(report.posteriors)} tasks"


def _query(report: GapReport) -> str:
    """Whether the query set is worse off at the end than before."""
    if report.query is None:
        return ""
    best = int(report.query.mean(0).argmax())
    lost = report.query[:, best] - report.query[:, -1]
    if len(lost) < 2:
        return ""
    surely = _SURELY * (1 + 4.8 / (len(lost) - 1))  # of so few tasks the standard error is itself in doubt
    if lost.mean() <= max(_NOTICEABLE, surely * lost.std().item() / len(lost) ** 0.5):
        return ""
    return f"over-fitting: the query set is best off after {best} steps, and loses {lost.mean():.2g} nats from there"


def _doubts(report: GapReport) -> str:
    tasks = len(report.log_evidence)
    doubts = []
    if unsure := tasks - int(report.reliable.sum()):
        doubts.append(f"the log evidence is not reliable in {unsure} of {tasks} tasks")
    if running := tasks - int(report.converged.sum()):
        doubts.append(f"the best guide was still moving in {running} of {tasks} tasks")
    return "; ".join(doubts)


def table(report: GapReport) -> str:
    """A line a task, and the mean."""
    head = [
        "task",
        "log p(x)",
        "s.e.",
        "by",
        "k-hat",
        "best ELBO",
        "ELBO",
        "inference",
        "approximation",
        "amortisation",
    ]
    last = report.elbo[:, -1]
    numbers = [report.optimal, last, report.inference[:, -1], report.approximation, report.amortization[:, -1]]
    lines = [
        [
            str(i),
            f"{report.log_evidence[i]:.2f}",
            f"{report.evidence_error[i]:.2f}",
            report.evidence_by[i],
            f"{report.k_hat[i]:.2f}",
            *_shown(column[i] for column in numbers),
        ]
        for i in range(len(last))
    ]
    mean = ["mean", f"{report.log_evidence.mean():.2f}", "", "", "", *_shown(column.mean() for column in numbers)]
    return _aligned([head, *lines, mean])


def _shown(values: Iterable[Tensor]) -> list[str]:
    return [f"{round(value.item(), 2) + 0.0:.2f}" for value in values]  # no minus before 0.00


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
