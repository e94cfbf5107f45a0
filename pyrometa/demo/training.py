"""The three starts (random, pooled by SVI, meta-learned), and what each makes of a task."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence

import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from pyrometa import SGD, MetaSVI, NonFiniteError, Trainer
from pyrometa.demo.config import DemoConfig
from pyrometa.demo.data import DemoTasks
from pyrometa.models import VAE
from pyrometa.tasks import MetaBatch, TaskSampler

__all__ = ["Progress", "fit_meta", "fit_pooled", "new_meta", "new_vae", "query_losses", "start_at", "tuned_rate"]

Progress = Callable[[range, str], Iterable[int]]
"""Iterates over a range and shows how far, under the label of a stage; ``tqdm`` in the command."""

CHUNK = 25  # tasks evaluated at once


def new_vae(config: DemoConfig) -> VAE:
    """A VAE with a random initialisation; tanh, as second-order gradients want a smooth network."""
    return VAE(hidden=config.hidden, latent=config.latent, activation=torch.tanh)


def fit_pooled(
    vae: VAE, sampler: TaskSampler, steps: int, lr: float, config: DemoConfig, progress: Progress, label: str
) -> None:
    """Train the VAE in place by ordinary SVI on single images of the meta-train tasks."""
    svi = SVI(vae.model, vae.guide, PyroOptim(torch.optim.Adam, {"lr": lr}), TraceMeanField_ELBO())
    with pyro.get_param_store().scope():
        for _ in progress(range(steps), label):
            svi.step(sampler.pooled(config.pooled_batch))


def new_meta(vae: VAE, config: DemoConfig) -> MetaSVI:
    """What meta-trains the VAE in place: second-order MAML through the ELBO, with learned rates by layer."""
    return _meta_svi(vae, SGD(config.rate, learn="layer", outer_lr=config.rate_lr), config, config.extra_lr)


def fit_meta(vae: VAE, tasks: DemoTasks, config: DemoConfig, trainer: Trainer) -> MetaSVI:
    """Meta-train the VAE in place."""
    meta = new_meta(vae, config)
    with pyro.get_param_store().scope():
        trainer.fit(meta, tasks.train, tasks.validation)
    return meta


def start_at(vae: VAE, rate: float, config: DemoConfig) -> MetaSVI:
    """Adaptation from a VAE as it is, by one fixed rate; nothing is meta-learned."""
    return _meta_svi(vae, SGD(rate), config, config.extra_lr)


def _meta_svi(vae: VAE, inner: SGD, config: DemoConfig, lr: float) -> MetaSVI:
    optim = PyroOptim(torch.optim.Adam, {"lr": lr})
    steps = config.inner_steps
    return MetaSVI(vae.model, vae.guide, optim, inner=inner, steps=steps, adapt="both", reduction="mean")


def query_losses(
    meta: MetaSVI, tasks: MetaBatch, steps: Sequence[int], seed: int, progress: Progress, label: str
) -> Tensor:
    """Query loss of each task after several numbers of steps, in nats per image.

    The noise comes from the seed alone, so that every start meets the same.

    Returns:
        Shape ``(len(steps), tasks)``.
    """
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(seed)
        chunks = []
        for i in progress(range(0, len(tasks), CHUNK), label):
            chunk = tasks[i : i + CHUNK]
            chunks.append(meta.evaluate(chunk.support, chunk.query, steps))
        return torch.cat(chunks, dim=1)


def tuned_rate(vae: VAE, tasks: MetaBatch, config: DemoConfig, progress: Progress, label: str) -> float:
    """The inner rate of the lowest mean query loss after K steps, among those that are stable.

    A rate is stable if no task diverges in any of the ``adaptation_steps``, neither with it nor with the next larger
    one: validation and test tasks differ, and the edge of stability with them.

    Raises:
        NonFiniteError: no rate is stable.
    """
    losses: dict[float, float] = {}
    for i in progress(range(len(config.rates)), label):
        curve = _mean_losses(start_at(vae, config.rates[i], config), tasks, config)
        if not curve.isfinite().all():
            losses.pop(config.rates[max(i - 1, 0)], None)
            break  # the larger ones diverge too
        losses[config.rates[i]] = curve[config.adaptation_steps.index(config.inner_steps)].item()
    if not losses:
        raise NonFiniteError(f"{label}: none of the rates is stable: give smaller ones than {config.rates[0]:g}")
    return min(losses, key=lambda rate: losses[rate])


def _mean_losses(meta: MetaSVI, tasks: MetaBatch, config: DemoConfig) -> Tensor:
    """Mean query loss after each of the ``adaptation_steps``; infinite where a task diverges."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)  # of Pyro: here it is one of the outcomes
        try:
            return query_losses(meta, tasks, config.adaptation_steps, config.seed, lambda items, _: items, "").mean(1)
        except NonFiniteError:
            return torch.full((len(config.adaptation_steps),), math.inf)
