"""Fair timing: one pinned core, CPU seconds, interleaved rounds, ratios within one run."""

import ctypes
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import pyro
import torch

from benchmarks.files import write

T = TypeVar("T")
Seconds = dict[str, list[float]]
_LEAST = 0.25  # seconds
PACKAGES = ("torch", "pyro-ppl", "learn2learn", "jax", "numpyro", "numpy")


@contextmanager
def one_core() -> Iterator[None]:
    """Within it the process has one core and one thread, and Pyro's checks of values are off for everyone."""
    threads, pinnable = torch.get_num_threads(), hasattr(os, "sched_setaffinity")
    cores = os.sched_getaffinity(0) if pinnable else set()
    if pinnable:
        os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    try:
        with pyro.validation_enabled(False):
            yield
    finally:
        torch.set_num_threads(threads)
        if pinnable:
            os.sched_setaffinity(0, cores)


def interleaved(steps: Mapping[str, Callable[[], object]], rounds: int) -> Seconds:
    """CPU seconds of each step in each round, after one step that is not timed.

    Args:
        steps: what to time, by name. In a round each runs once, in order, so a change of the machine's pace meets
            all of them.
        rounds: number of rounds.

    Returns:
        ``rounds`` figures for each name.
    """
    for step in steps.values():
        step()
    seconds: Seconds = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(cpu_seconds(step))
    return seconds


@dataclass
class Timed:
    """What a worker measures.

    Attributes:
        first: CPU seconds of the first step, in which contestants record, compile, plan and make Adam's state.
        recordings: what pyrometa's engine recorded in it.
        seconds: CPU seconds of the later steps.
    """

    first: float
    recordings: list[str]
    seconds: list[float] = field(default_factory=list)


def interleaved_processes(builders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timed]:
    """As :func:`interleaved`, with a process of its own for each, on one core in turns.

    In one process the memory that one contestant leaves with the allocator spares another its page faults.

    Args:
        builders: functions that can be pickled and return a contestant, whose ``step`` is timed, by name.
        rounds: number of rounds.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    timed: dict[str, Timed] = {}
    workers = []
    for name, build in builders.items():
        pipes[name], end = spawn.Pipe()
        workers.append(spawn.Process(target=_serve, args=(build, end), daemon=True))
        workers[-1].start()
        end.close()
        timed[name] = pipes[name].recv()
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send("step")
            timed[name].seconds.append(pipe.recv())
    for pipe, worker in zip(pipes.values(), workers, strict=True):
        pipe.close()
        worker.join()
    return timed


def _serve(build: Callable[[], Any], pipe: Connection) -> None:
    """A worker: one step for each message, until the other end is closed."""
    with one_core(), suppress(EOFError):
        contestant = build()
        pipe.send(first_step(contestant))
        while pipe.recv():
            pipe.send(cpu_seconds(contestant.step))


def first_step(contestant: Any) -> Timed:
    """Do a contestant's first step."""
    first = cpu_seconds(contestant.step)
    return Timed(first, recordings_of(contestant))


def recordings_of(contestant: Any) -> list[str]:
    """What pyrometa's engine has recorded; nothing for the others."""
    return contestant.recordings() if hasattr(contestant, "recordings") else []


def in_own_process(function: Callable[..., T], *args: Any) -> T:
    """What a function returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def cpu_seconds(step: Callable[[], object]) -> float:
    """CPU seconds of a step; of a short one the mean of several in a row, as in training, on caches of its own."""
    gc.collect()  # what others left is not for this one to clear
    seconds = _mean_of(step, 1)
    return seconds if seconds > _LEAST else _mean_of(step, max(1, round(_LEAST / max(seconds, 1e-4))))


def _mean_of(step: Callable[[], object], count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - began) / count


def resident() -> float:
    """Resident MiB, after what is free has been given back (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return status("VmRSS")


def peak_resident(step: Callable[[], object]) -> float:
    """The largest resident MiB while a step runs (Linux)."""
    resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets VmHWM to what is resident now
    step()
    return status("VmHWM")


def status(field: str) -> float:
    """A figure of this process that the kernel keeps, in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def ratio(seconds: Sequence[float], base: Sequence[float]) -> float:
    """How many times longer than the base: the median over rounds of the ratio within the round."""
    return statistics.median(one / other for one, other in zip(seconds, base, strict=True))


def context() -> dict[str, Any]:
    """The machine and the versions that figures belong to."""
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    machine = {"platform": platform.platform(), "processor": _processor(), "cores": os.cpu_count(), "load": load}
    return {"machine": machine, "versions": versions}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result with its machine and versions."""
    text = json.dumps({**context(), **result}, indent=2) + "\n"
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    ruled = (head, ["-" * width for width in widths], *rows)
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in ruled
    )
