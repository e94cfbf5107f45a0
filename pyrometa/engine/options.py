"""The options of how tasks are run: plain values, without state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Engine:
    """How tasks are run, never what comes out.

    Tasks of one shape are evaluated together by ``torch.func.vmap``, on the unchanged Pyro model and guide. Under
    SGD with one rate a layer, the fast weights of linear layers are held as factors: the tasks share the leaves'
    matrix products, and no task has a weight matrix of its own. On first sight of a shape two tasks are run both
    so and one by one, through Pyro's own ELBO; a program for which the two differ, or that vmap can't batch, is run
    one task at a time from then on.

    An engine is plain options: it can be shared, compared and pickled. Plans and recordings belong to the ``MetaSVI``.

    Args:
        vectorize: ``"auto"`` falls back to one task at a time, with one warning that says why; True raises instead,
            and with ``low_rank=True`` also where factors give other numbers; False runs one task at a time, the
            reference that the rest is tested against.
        low_rank: ``"auto"`` holds the fast weights of linear layers as factors where that pays, True wherever it is
            exact, with one warning where factors give other numbers, False nowhere. ``meta.plan`` says which are held
            so, and why others are not.
        chunk_size: tasks that are held in memory at a time; None for all. The result does not depend on it.
        record: whether the tensor operations of a meta-step, an evaluation or an adaptation are written down, and
            replayed without Python, which is several times faster where the program is small. ``"auto"`` records what
            has run unchanged for a while, where it can, True on first sight of a shape, which takes seconds, False
            never. A recording is replayed only while the program is what it was: its parameters, data and noise may
            change, but a change of a module's mode or attribute, of a closure or a global makes a new one.
        compile: whether a recording is compiled by inductor, which wants a C++ compiler. ``"auto"`` compiles in the
            background what has been replayed some thousand times, on the CPU and where that can be done; True
            records and compiles on first sight, which takes tens of seconds at first, and few where inductor's cache
            on disk has it from an earlier process; False never. Each option means the same whatever the other is.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> Engine(chunk_size=64).chunk_size
        64
    """

    vectorize: bool | Literal["auto"] = "auto"
    low_rank: bool | Literal["auto"] = "auto"
    chunk_size: int | None = None
    record: bool | Literal["auto"] = "auto"
    compile: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        for name, value in self._choices().items():
            if value is not True and value is not False and value != "auto":
                raise ValueError(f"{name} must be True, False or 'auto', got {value!r}")
        if self.chunk_size is not None and (not isinstance(self.chunk_size, int) or self.chunk_size < 1):
            raise ValueError(f"chunk_size must be a positive number of tasks or None, got {self.chunk_size!r}")
        if self.compile is True and self.record is False:
            raise ValueError("compile=True compiles a recording: drop record=False")
        if self.low_rank is True and self.vectorize is False:
            raise ValueError("tasks that are run one by one hold no factors: drop vectorize=False, or low_rank")
        if is_recorded_now(self) and self.vectorize is False:
            raise ValueError("tasks that are run one by one can't be recorded: drop vectorize=False, or record")

    def _choices(self) -> dict[str, bool | Literal["auto"]]:
        names = ("vectorize", "low_rank", "record", "compile")
        return {name: getattr(self, name) for name in names}


def may_be_recorded(options: Engine) -> bool:
    """Whether what is run may be recorded."""
    return options.record is not False and options.vectorize is not False


def is_recorded_now(options: Engine) -> bool:
    """Whether what is run is recorded on first sight."""
    return options.record is True or options.compile is True


def must_be_vectorized(options: Engine) -> bool:
    """Whether a program that can't be run for many tasks at once is refused, rather than run another way."""
    return options.vectorize is True or is_recorded_now(options)
