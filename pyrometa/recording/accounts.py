"""How often what was run, how, and how long that took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pyrometa.recording.fingerprint import Fingerprint
from pyrometa.types.latest import Latest

_KEPT = 512
"""Of how many functions it is known how often they were run."""

Stage: TypeAlias = Literal["as it is", "recorded", "compiled"]


class Counts:
    """How often functions were run in an unchanged state, by labels that are the same in every process.

    A count depends on what was run only, and so may what depends on it: no clock, no cache.
    """

    def __init__(self) -> None:
        self._runs: Latest[str, int] = Latest(_KEPT)
        self._states: Latest[str, Fingerprint] = Latest(_KEPT)

    def count(self, label: str, state: Fingerprint) -> int:
        """Count a run of a function with this label in this state; how many there were since the state changed.

        A change that no other process could tell of starts anew as well, but is seen between two runs here only.
        """
        key = f"{label}-{state.label}"
        last = self._states.get(label, state)
        changed = last is not state and last.label == state.label and last != state
        self._states[label] = state
        self._runs[key] = 1 if changed else self._runs.get(key, 0) + 1
        return self._runs[key]

    def next(self, label: str, state: Fingerprint) -> int:
        """What :meth:`count` will say of a run in a state that has not changed since the last one."""
        return self._runs.get(f"{label}-{state.label}", 0) + 1

    def state_dict(self) -> dict[str, int]:
        """The counts, by label."""
        return dict(self._runs)

    def load_state_dict(self, counts: Mapping[str, int]) -> None:
        """Go on from other counts."""
        self._runs.clear()
        for label, runs in counts.items():
            self._runs[label] = runs


@dataclass
class Account:
    """What there is to say of the runs of one function.

    Attributes:
        title: what the function does.
        runs: how often it was run so, by how.
        seconds: how long that took, without the first run at each stage.
        stage: how it was run last.
        recording: seconds that it took to record.
        compiling: seconds that were waited for the compiled form.
        why: why it is run so and no quicker.
        graphs: of a recording on a GPU, how many of its graphs are launched as a whole, and why others are not.
    """

    title: str
    runs: dict[Stage, int] = field(default_factory=dict)
    seconds: dict[Stage, float] = field(default_factory=dict)
    stage: Stage = "as it is"
    recording: float = 0.0
    compiling: float = 0.0
    why: str = ""
    graphs: str = ""

    def add(self, stage: Stage, seconds: float) -> None:
        """A run; the first at a stage warms up, and its time does not count."""
        self.stage, before = stage, self.runs.get(stage, 0)
        self.runs[stage] = before + 1
        if before:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def each(self, stage: Stage) -> float | None:
        """Seconds of a run at a stage, the mean; None where no time counts."""
        return self.seconds[stage] / (self.runs[stage] - 1) if stage in self.seconds else None

    @property
    def gained(self) -> float:
        """Seconds that were gained so far by not running it as it is, less what that cost."""
        before = self.each("as it is")
        if before is None:
            return -self.recording - self.compiling
        faster = sum(runs * (before - (self.each(stage) or before)) for stage, runs in self.runs.items())
        return faster - self.recording - self.compiling
