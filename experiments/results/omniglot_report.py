"""What the results on Omniglot report: intervals over tasks and over seeds, versions, and a file that runs add to."""

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

import pyrometa as pm
from benchmarks.files import write_json
from experiments.results.training import finite, half_width


def over_seeds(by_seed: Sequence[Tensor]) -> dict[str, Any]:
    """The mean of figures of the same tasks for several seeds, and half widths of its 95% intervals.

    That over tasks is of the seeds' mean for each task, that over seeds of each seed's mean by Student's t: each takes
    the other as given. What is not finite is None.
    """
    values = torch.stack(list(by_seed)).double()
    seeds, tasks = values.mean(1), values.mean(0)
    return {
        "mean": finite(seeds.mean()),
        "half width over tasks": finite(1.96 * tasks.std() / len(tasks) ** 0.5),
        "half width over seeds": half_width(seeds),
        "seeds": [finite(seed) for seed in seeds],
    }


def settings_of(args: argparse.Namespace, *leave_out: str) -> dict[str, Any]:
    """What determines the figures: not where files are."""
    where = {"root", "download", "json", "keep", *leave_out}
    return {name: value for name, value in vars(args).items() if name not in where}


def updated(path: Path, settings: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """Write the rows of a run beside those that a run of the same settings has left in the file."""
    result = {"settings": dict(settings), "versions": versions(), "rows": dict(rows)}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["settings"] == json.loads(json.dumps(result["settings"])):
            result["rows"] = before["rows"] | result["rows"]
    write_json(path, result)
    return result


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "pyrometa": pm.__version__,
        "processor": platform.machine(),
    }
