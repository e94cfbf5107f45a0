"""What an engine has to say of how it ran what it was asked to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyrometa.recording.accounts import Account, Stage

_STAGES: tuple[Stage, ...] = ("as it is", "recorded", "compiled")


@dataclass(frozen=True)
class Ran:
    """How one function was run, on tasks of one shape.

    Attributes:
        title: what it does.
        stage: how it runs now.
        runs: how often it ran as it is, recorded and compiled.
        milliseconds: of such a run, the mean; None where there was none after the first.
        recording: seconds that recording took.
        compiling: seconds that the run waited for compiled code, which another process made meanwhile.
        gained: seconds that all this has gained so far, less what it cost; an estimate, of the means above.
        why: why it is not run in a quicker way; empty where only the number of runs decides.
        graphs: of a recording on a GPU, how many of its parts are CUDA graphs, and why others are not; else empty.
    """

    title: str
    stage: Stage
    runs: tuple[int, int, int]
    milliseconds: tuple[float | None, float | None, float | None]
    recording: float
    compiling: float
    gained: float
    why: str
    graphs: str

    def __str__(self) -> str:
        parts = zip(_STAGES, self.runs, self.milliseconds, strict=True)
        ran = [f"{runs:,} {stage}{_each(each)}" for stage, runs, each in parts if runs]
        lines = [f"{self.title}: {self.stage}", f"  runs: {', '.join(ran)}"]
        if self.recording:
            compiling = f", compiled in {self.compiling:.1f} s" if self.compiling else ""
            lines.append(f"  recorded in {self.recording:.1f} s{compiling}; gained so far: {self.gained:.1f} s")
        if self.graphs:
            lines.append(f"  CUDA graphs: {self.graphs}")
        if self.why:
            lines.append(f"  not quicker: {self.why}")
        return "\n".join(lines)


@dataclass(frozen=True)
class EngineReport:
    """What runs how; its text says so in a few lines.

    Attributes:
        ran: one entry for each function and shape of tasks.
    """

    ran: tuple[Ran, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.ran)) or "nothing was run that could be recorded"


def report(accounts: Iterable[Account]) -> EngineReport:
    """The report of some accounts."""
    return EngineReport(tuple(map(_ran, accounts)))


def _ran(account: Account) -> Ran:
    as_it_is, recorded, compiled = ((account.runs.get(stage, 0), account.each(stage)) for stage in _STAGES)
    runs, each = zip(as_it_is, recorded, compiled, strict=True)
    times = tuple(None if seconds is None else 1e3 * seconds for seconds in each)
    costs = (account.recording, account.compiling, account.gained)
    return Ran(account.title, account.stage, runs, times, *costs, account.why, account.graphs)  # type: ignore[arg-type]


def _each(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f" ({milliseconds:.1f} ms each)"
