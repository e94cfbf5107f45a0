"""What adaptation to an unseen character is worth from each start, and how long it takes: for omniglot_generate.py."""

import copy
import math
import warnings
from argparse import Namespace
from dataclasses import asdict
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor
from tqdm.auto import tqdm

import pyrometa as pm
from benchmarks.gains import META, TOLERANCE, Curve, best_for_adam, seconds_of
from benchmarks.training import mean_and_error
from pyrometa.diagnostics import steps_until
from pyrometa.models import VAE
from pyrometa.tasks import MetaBatch

STEPS = 5
LR = 1e-3  # of all training, with a falling rate at its end
AT = (*range(STEPS + 1), 7, 10, 15, 20, 30, 50, 70, 100)  # steps after which tasks are scored
RATES = {"random": (3e-4, 1e-3), "pooled": (3e-5, 1e-4)}  # of Adam, for each start


def meta_svi(vae: VAE, rule: pm.SGD | pm.Adam, args: Namespace) -> pm.MetaSVI:
    """Adaptation by a rule, from the network as it is."""
    optim, engine = pyro.optim.Adam({"lr": LR}), pm.Engine(chunk_size=20)
    return pm.MetaSVI(
        vae.model, vae.guide, optim, inner=rule, steps=STEPS, adapt=args.adapt, reduction="mean", engine=engine
    )


def query_losses(meta: pm.MetaSVI, tasks: MetaBatch, args: Namespace, longest: int | None = None) -> Tensor:
    """Nats an image of each task after ``args.at`` steps, ``(steps, tasks)``; the same noise for every start."""
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        return meta.evaluate(*tasks, [k for k in args.at if longest is None or k <= longest])


def with_each_rate(networks: dict[str, VAE], tasks: MetaBatch, args: Namespace) -> dict[str, Tensor]:
    """Query losses of Adam with each of a start's rates, ``(rates, len(args.at), tasks)``; infinite if it diverges."""
    return {
        name: torch.stack([adam_losses(vae, rate, tasks, args) for rate in tqdm(args.rates[name], desc=name)])
        for name, vae in networks.items()
    }


def adam_losses(vae: VAE, rate: float, tasks: MetaBatch, args: Namespace) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)  # of Pyro: here one of the outcomes
        try:
            return query_losses(meta_svi(vae, pm.Adam(rate), args), tasks, args).nan_to_num(math.inf)
        except pm.NonFiniteError:
            return torch.full((len(args.at), len(tasks)), math.inf)


def chosen(networks: dict[str, VAE], validation: MetaBatch, args: Namespace) -> dict[str, int]:
    """Which rate is best on validation tasks: after any number of steps, and for the pooled start after five, too."""
    means = {name: losses.mean(-1) for name, losses in with_each_rate(networks, validation, args).items()}
    best = {name: int(mean.amin(1).argmin()) for name, mean in means.items()}
    return best | {"pooled in five": int(means["pooled"][:, args.at.index(STEPS)].argmin())}


def compared(
    networks: dict[str, VAE], meta: pm.MetaSVI, rates: dict[str, int], test: MetaBatch, args: Namespace
) -> Any:
    """Curves with the chosen rates, what five meta-learned steps gain, and what SVI needs to converge."""
    runs = with_each_rate(networks, test, args)
    losses = {name: runs[name.split()[0]][index] for name, index in rates.items()}
    losses["meta"] = learned_losses(meta, test, args)
    curves = {name: curve(rows, args) for name, rows in losses.items()}
    above = {name: curve(rows - losses["pooled"][0], args) for name, rows in losses.items()}
    after = args.at.index(STEPS)
    five, best = losses["meta"][after], losses["pooled"][losses["pooled"].mean(1).argmin()]
    return {
        "curves": curves,
        "above the pooled start": above,
        "rates": {name: args.rates[name.split()[0]][index] for name, index in rates.items()},
        "gain over five pooled steps": mean_and_error(losses["pooled in five"][after] - five),
        "gain over any number of pooled steps": mean_and_error(best - five),
        "convergence": convergence(runs, networks["pooled"], meta, losses["meta"].mean(1), test, args),
    }


def learned_losses(meta: pm.MetaSVI, tasks: MetaBatch, args: Namespace) -> Tensor:
    """Query losses from the meta-learned start; of fewer steps, with noise of their own, if many make it diverge."""
    try:
        return query_losses(meta, tasks, args)
    except pm.NonFiniteError:
        return query_losses(meta, tasks, args, longest=2 * STEPS)


def curve(rows: Tensor, args: Namespace) -> dict[str, dict[str, float]]:
    """Means over tasks and their standard errors, by number of steps."""
    return {str(k): mean_and_error(row) for k, row in zip(args.at, rows, strict=False)}


def convergence(
    runs: dict[str, Tensor], pooled: VAE, meta: pm.MetaSVI, learned: Tensor, test: MetaBatch, args: Namespace
) -> dict[str, Any]:
    """How many steps each start needs until within ``TOLERANCE`` of converged SVI, as :func:`benchmarks.gains.compare`.

    Ten drawings over-fit, so converged SVI is the lowest mean query loss at any step, from any start, with any rate.
    """
    means = {name: losses.mean(-1).nan_to_num(posinf=1e6) for name, losses in runs.items()}
    target = min(mean.min().item() for mean in means.values())
    after = args.at.index(STEPS)
    own = Curve(list(args.at[: after + 1]), learned[: after + 1].tolist(), seconds=adapt_seconds(meta, test))
    own.steps = steps_until(own.losses, target, TOLERANCE, at=own.at)
    step_seconds = svi_seconds(pooled, test, args)
    curves = {META: own}
    for name, mean in means.items():
        runs_of = [Curve(list(args.at), row.tolist(), rate) for row, rate in zip(mean, args.rates[name], strict=True)]
        curves[f"{name} start, Adam"] = best_for_adam(runs_of, target, {META: own.losses[-1]}, step_seconds)
    return {"target": target, "tasks": len(test), "step seconds": step_seconds} | {
        "curves": {name: asdict(curve) for name, curve in curves.items()}
    }


def adapt_seconds(meta: pm.MetaSVI, tasks: MetaBatch) -> float:
    """CPU seconds to fit one task by the inner loop."""
    support = tasks[0][0]
    return seconds_of(lambda: meta.adapt(support), times=3)


def svi_seconds(vae: VAE, tasks: MetaBatch, args: Namespace) -> float:
    """CPU seconds of a step of plain SVI on one task."""
    vae, support = copy.deepcopy(vae), tasks[0][0]
    model = vae.model if args.adapt == "both" else poutine.block(vae.model, hide_types=["param"])
    with pyro.get_param_store().scope():
        svi = SVI(model, vae.guide, pyro.optim.Adam({"lr": 1e-4}), TraceMeanField_ELBO())
        return seconds_of(lambda: svi.step(support))
