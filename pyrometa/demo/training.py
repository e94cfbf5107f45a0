"""The two starts (pooled by SVI, meta-learned), and what each makes of a task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrometa as pm
from pyrometa import MetaSVI, NonFiniteError, Trainer
from pyrometa.demo.config import DECODER, Candidate, DemoConfig
from pyrometa.demo.data import DemoTasks
from pyrometa.models import VAE
from pyrometa.tasks import MetaBatch, TaskSampler

__all__ = ["Progress", "best_candidates", "fit_meta", "fit_pooled", "new_meta", "new_vae", "query_losses", "start_at"]

Progress = Callable[[range, str], Iterable[int]]
"""Iterates over a range and shows how far, under the label of a stage; ``tqdm`` in the command."""

CHUNK = 25  # tasks evaluated at once
LOWEST = 100  # the part of its first rate that a falling rate ends at is one in this


def new_vae(config: DemoConfig) -> VAE:
    """A VAE with a random initialisation; tanh, as second-order gradients want a smooth network."""
    return VAE(hidden=config.hidden, latent=config.latent, activation=torch.tanh)


def fit_pooled(
    vae: VAE, sampler: TaskSampler, steps: int, lr: float, config: DemoConfig, progress: Progress, label: str
) -> None:
    """Train the VAE in place by ordinary SVI on single images of the meta-train tasks, at a falling rate."""
    optim = PyroLRScheduler(
        CosineAnnealingLR,
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": lr}, "T_max": steps, "eta_min": lr / LOWEST},
    )
    svi = SVI(vae.model, vae.guide, optim, TraceMeanField_ELBO())
    with pyro.get_param_store().scope():
        for _ in progress(range(steps), label):
            svi.step(sampler.pooled(config.pooled_batch))
            optim.step()


def new_meta(vae: VAE, config: DemoConfig) -> MetaSVI:
    """What meta-trains the VAE in place: second-order MAML through the ELBO, with learned rates by layer and step."""
    inner = pm.SGD(config.rate, learn="layer_step", outer_lr=config.rate_lr)
    return _meta_svi(vae, inner, DECODER, config)


def fit_meta(vae: VAE, tasks: DemoTasks, config: DemoConfig, trainer: Trainer) -> MetaSVI:
    """Meta-train the VAE in place."""
    meta = new_meta(vae, config)
    with pyro.get_param_store().scope():
        trainer.fit(meta, tasks.train, tasks.validation)
    return meta


def start_at(vae: VAE, candidate: Candidate, config: DemoConfig) -> MetaSVI:
    """Adaptation from a VAE as it is, by one fixed rate; nothing is meta-learned."""
    rule, adapt, rate = candidate
    return _meta_svi(vae, getattr(pm, rule)(rate), adapt, config)


def _meta_svi(vae: VAE, inner: Any, adapt: str, config: DemoConfig) -> MetaSVI:
    optim = PyroOptim(torch.optim.Adam, {"lr": config.extra_lr})
    steps = config.inner_steps
    return MetaSVI(vae.model, vae.guide, optim, inner=inner, steps=steps, adapt=adapt, reduction="mean")


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


def best_candidates(
    vae: VAE, candidates: Sequence[Candidate], tasks: MetaBatch, config: DemoConfig, progress: Progress, label: str
) -> dict[int, Candidate]:
    """For each of the ``adaptation_steps``, the way to adapt that has the lowest mean query loss after it.

    A candidate with which a task diverges in any of them is left out.

    Raises:
        NonFiniteError: there is no other.
    """
    stable: dict[Candidate, Tensor] = {}
    for i in progress(range(len(candidates)), label):
        losses = _mean_losses(start_at(vae, candidates[i], config), tasks, config)
        if losses is not None:
            stable[candidates[i]] = losses
    if not stable:
        raise NonFiniteError(f"{label}: none of the candidates is stable: give smaller rates")
    at = range(len(config.adaptation_steps))
    return {config.adaptation_steps[k]: min(stable, key=lambda way: stable[way][k].item()) for k in at}


def _mean_losses(meta: MetaSVI, tasks: MetaBatch, config: DemoConfig) -> Tensor | None:
    """Mean query loss after each of the ``adaptation_steps``; None where a task diverges."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)  # of Pyro: here it is one of the outcomes
        try:
            losses = query_losses(meta, tasks, config.adaptation_steps, config.seed, lambda items, _: items, "").mean(1)
        except NonFiniteError:
            return None
    return losses if losses.isfinite().all() else None
