"""What the benchmarks of algorithms share: a quiet process, meta-training with its time, and means with intervals."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

import pyrometa as pm
from pyrometa.tasks import MetaBatch


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch has one thread and Pyro's checks of values are off; all global state is put back after."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope(), pyro.validation_enabled(False):
            yield
    finally:
        torch.set_num_threads(threads)


def train(meta: pm.MetaSVI, draw: Callable[[], tuple[Any, ...]], iterations: int) -> float:
    """Meta-train on what is drawn: support and query sets, or support sets alone.

    Returns:
        CPU seconds of an iteration, without the first two, which plan and record.
    """
    warm, marks = min(2, iterations - 1), [time.process_time()]
    trainer = pm.Trainer(
        max_steps=iterations, callbacks=[lambda moment: marks.append(time.process_time())], progress=False, seed=None
    )
    trainer.fit(meta, lambda step: (*draw(), None)[:2])
    return (marks[-1] - marks[warm]) / (iterations - warm)


def query_losses(meta: pm.MetaSVI, tasks: MetaBatch, steps: Sequence[int], seed: int = 0, chunk: int = 100) -> Tensor:
    """Query losses after several numbers of steps, on the seed's noise, by the engine as it comes.

    Returns:
        Shape ``(len(steps), tasks)``; NaN from the number of steps on at which a task of the chunk diverges.
    """
    recording, meta.engine = meta.engine, pm.Engine()
    try:
        torch.manual_seed(seed)
        parts = [tasks[i : i + chunk] for i in range(0, len(tasks), chunk)]
        return torch.cat([_losses(meta, part, list(steps)) for part in parts], dim=1)
    finally:
        meta.engine = recording


def _losses(meta: pm.MetaSVI, tasks: MetaBatch, steps: list[int]) -> Tensor:
    """As far as the inner loop stays finite."""
    for count in range(len(steps), 0, -1):
        try:
            losses = meta.evaluate(*tasks, steps[:count])
        except pm.NonFiniteError:
            continue
        return torch.cat([losses, losses.new_full((len(steps) - count, losses.shape[1]), torch.nan)])
    return torch.full((len(steps), len(tasks)), torch.nan)


def mean_and_error(values: Tensor) -> dict[str, float]:
    """A mean and its standard error."""
    return {"mean": values.mean().item(), "se": (values.std() / len(values) ** 0.5).item()}


def interval(values: Tensor) -> dict[str, Any]:
    """Mean of values and the half width of its 95% interval; None for both where a value is not finite."""
    if not values.isfinite().all():
        return {"mean": None, "half_width": None}
    return {"mean": values.mean().item(), "half_width": 1.96 * values.std().item() / len(values) ** 0.5}


def shown(estimate: dict[str, Any], digits: int = 2) -> str:
    """An estimate as text."""
    if estimate["mean"] is None:
        return "diverges"
    return f"{estimate['mean']:.{digits}f} ± {estimate['half_width']:.{digits}f}"
