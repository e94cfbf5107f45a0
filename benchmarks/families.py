"""Three families of tasks, each with the program that is fitted to them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrometa as pm
from benchmarks.programs import HALF_LOG_PI, GroupRegression, Regression, expected_nll, no_latents
from benchmarks.recipes import Setting
from pyrometa.models import VAE
from pyrometa.tasks import DigitTasks, MetaBatch, PriorTasks, SinusoidTasks, TaskSampler, digit_tasks, load_images


@dataclass(frozen=True)
class Family:
    """Tasks, and what to fit to them.

    Attributes:
        unit: what a query loss is in.
        setting: makes a program, always at the same start for the same seed of the global generator.
        train: makes a sampler of meta-batches from a seed.
        test: unseen tasks.
        iterations: meta-steps of every algorithm.
        batch: tasks of a meta-step.
        offset: what a query loss is beyond what is reported.
        without: algorithms that are too large for it.
        record: False runs everything by the engine as it comes.
    """

    unit: str
    setting: Callable[[], Setting]
    train: Callable[[int], TaskSampler]
    test: MetaBatch
    iterations: int
    batch: int
    offset: float = 0.0
    record: bool = True
    without: tuple[str, ...] = ()

    def quick(self) -> "Family":
        """The same with counts for the plumbing."""
        return replace(self, iterations=2, batch=2, test=self.test[:3], record=False)


def sinusoid() -> Family:
    """Five points of a sinusoid; all weights of a small network adapt."""

    def setting() -> Setting:
        options = {"reduction": "mean", "engine": pm.Engine(record=True, low_rank=False)}
        return Setting(Regression(), no_latents, Trace_ELBO(), "model", "model.net.4.*", lr=0.01, options=options)

    def train(seed: int) -> TaskSampler:
        return TaskSampler(SinusoidTasks(), shots=5, queries=10, seed=seed)

    test = TaskSampler(SinusoidTasks(), shots=5, queries=100, seed=10_000).sample(300)
    return Family("mean squared error", setting, train, test, iterations=300, batch=25, offset=HALF_LOG_PI)


def digits(pooled_steps: int = 2000) -> Family:
    """Ten images of a digit at an angle; encoder and decoder of a VAE that saw single digits before adapt."""
    data = load_images("digits")
    splits = digit_tasks(torch.cat([data.train_x, data.test_x]), torch.cat([data.train_y, data.test_y]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = new_vae()
        fit_pooled(start, TaskSampler(BinaryDigits(splits.train), shots=10, queries=10, seed=0), pooled_steps)

    def setting() -> Setting:
        vae = new_vae()
        vae.load_state_dict(start.state_dict())
        head, options = "guide.encoder.loc.*", {"reduction": "mean"}
        return Setting(
            vae.model,
            vae.guide,
            TraceMeanField_ELBO(),
            "both",
            head,
            2e-4,
            outer_lr=3e-4,
            rule_lr=0.05,
            options=options,
        )

    def train(seed: int) -> TaskSampler:
        return TaskSampler(BinaryDigits(splits.train), shots=10, queries=10, seed=seed)

    test = TaskSampler(BinaryDigits(splits.test), shots=10, queries=10, seed=3).sample(100)
    return Family("nats an image", setting, train, test[:50], iterations=40, batch=8, without=("learned optimiser",))


@dataclass(frozen=True)
class BinaryDigits:
    """Digits whose pixels are white with the grey value's probability."""

    family: DigitTasks

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> Tensor:
        """Draw tasks and binary images of each, ``(tasks, rows, pixels)``."""
        return torch.bernoulli(self.family.draw(tasks, rows, generator), generator=generator)


def new_vae() -> VAE:
    """A small VAE at a random start; tanh, as second-order gradients want a smooth network."""
    return VAE(hidden=100, latent=10, activation=torch.tanh)


def fit_pooled(vae: VAE, sampler: TaskSampler, steps: int) -> None:
    """Train the VAE in place by ordinary SVI on single images."""
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    with pyro.get_param_store().scope():
        for _ in range(steps):
            svi.step(sampler.pooled(128))


def groups(features: int = 4, noise: float = 0.5) -> Family:
    """Linear regressions of one population: the population learns in the outer loop, a group's posterior adapts."""
    true_loc = torch.linspace(-2.0, 2.0, features)
    true_scale = torch.linspace(0.1, 1.5, features)

    def truth(x: Tensor, y: Tensor | None = None) -> None:
        weights = pyro.sample("weights", pyro.distributions.Normal(true_loc, true_scale).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", pyro.distributions.Normal(x @ weights, noise), obs=y)

    def covariates(rows: int, generator: torch.Generator) -> Tensor:
        return torch.randn(rows, features, generator=generator)

    def train(seed: int) -> TaskSampler:
        return TaskSampler(PriorTasks(truth, covariates, {"y": 1}), shots=5, queries=15, seed=seed)

    def setting() -> Setting:
        pyro.clear_param_store()
        model = GroupRegression(features, noise)
        options: dict[str, Any] = {"reduction": "mean", "score": expected_nll}
        options["engine"] = pm.Engine(record=True, low_rank=False)
        return Setting(
            model, AutoNormal(model), TraceMeanField_ELBO(), "guide", "guide.locs.*", 0.1, 1e-2, 2e-2, options
        )

    return Family("nats a row", setting, train, train(10_000).sample(300), iterations=400, batch=16)


FAMILIES: dict[str, Callable[[], Family]] = {"sinusoid": sinusoid, "digits": digits, "groups": groups}
