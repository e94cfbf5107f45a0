"""What refinement takes: steps and seconds on unseen images' own variational parameters, from several starts.

Part of semi_amortized_vae.py. One decoder, the semi-amortised one, and for each image its own negative ELBO:

- prior: every image starts at the prior's mean and scale, as a guide with no encoder would;
- encoder: at the proposal of a plain encoder, fitted to that decoder by plain SVI on the training images;
- semi-amortised encoder: at the proposal of an encoder, fitted to it through the refinement for as many steps;
- learned refinement: that encoder and its own few steps.

All but the last go on by plain SVI with Adam, whose rate falls over the number of steps that it is given: each number
is a run of its own. Adam moves each parameter by its own gradient, so each image goes as it would alone.
"""

import copy
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.gains import TOLERANCE, Curve, best_for_adam, seconds_of
from pyrometa.diagnostics import steps_until
from pyrometa.guides import AmortizedGuide, SemiAmortizedGuide

Model = Callable[..., Any]
Values = Mapping[str, Tensor]

AT = (0, 1, 2, 5, 10, 20, 35, 50, 100, 200, 400, 800)  # steps that Adam is given
RATES = (0.01, 0.03, 0.1)  # that it starts at
PARTICLES = 8  # of each of its steps
LEARNED = "learned refinement"


def compared(model: Model, encoder: AmortizedGuide, refining: SemiAmortizedGuide, x: Tensor, args: Namespace) -> Any:
    """Steps and seconds until within ``TOLERANCE`` of converged SVI, in the form of :func:`benchmarks.gains.compare`.

    Converged SVI is the lowest mean loss of all runs, among them a longer one from each start.
    """
    learned = refined(model, refining, x, args)
    proposals = {"encoder": proposed(encoder, x), "semi-amortised encoder": proposed(refining.guide, x)}
    prior = {name: torch.zeros_like(value) for name, value in proposals["encoder"].items()}
    starts = {"prior, Adam": prior} | {f"{name}, Adam": start for name, start in proposals.items()}
    runs = {
        name: [
            Curve(list(args.at), [svi(model, encoder, start, x, rate, steps, args) for steps in args.at], rate)
            for rate in tqdm(RATES, desc=name)
        ]
        for name, start in starts.items()
    }
    ends = [svi(model, encoder, start, x, RATES[1], args.converged_steps, args) for start in starts.values()]
    target = min([*ends, *(loss for some in runs.values() for run in some for loss in run.losses)])
    step_seconds = svi_seconds(model, encoder, {name: value[:1] for name, value in prior.items()}, x[:1])
    levels = {LEARNED: learned.losses[-1]}
    curves = {name: best_for_adam(some, target, levels, step_seconds) for name, some in runs.items()}
    learned.steps = steps_until(learned.losses, target, TOLERANCE, at=learned.at)
    curves[LEARNED] = learned
    return {"target": target, "tasks": len(x), "ends": ends, "step seconds": step_seconds} | {
        "curves": {name: asdict(curve) for name, curve in curves.items()}
    }


def svi(
    model: Model, encoder: AmortizedGuide, start: Values, x: Tensor, rate: float, steps: int, args: Namespace
) -> float:
    """Mean negative ELBO of the images after plain SVI, each on its own parameters."""
    guide = local(encoder, start)
    adam = pyro.optim.ClippedAdam({"lr": rate, "lrd": 0.01 ** (1 / max(1, steps))})
    with pyro.get_param_store().scope():
        inference = SVI(model, guide, adam, elbo(PARTICLES))
        for _ in range(steps):
            inference.step(x)
        return mean_loss(model, guide, x, args)


def local(encoder: AmortizedGuide, start: Values) -> Callable[[Tensor], Any]:
    """A guide with variational parameters of each image, in the family of the encoder's proposals."""
    return lambda x: encoder.sample({name: pyro.param(name, value.clone()) for name, value in start.items()})


def elbo(particles: int) -> TraceMeanField_ELBO:
    return TraceMeanField_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)


@torch.no_grad()
def mean_loss(model: Model, guide: Callable[..., Any], x: Tensor, args: Namespace) -> float:
    """Nats an image, with the same noise every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return elbo(args.samples).loss(model, guide, x) / len(x)


def proposed(encoder: Any, x: Tensor) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in encoder.propose(x).items()}


def refined(model: Model, refining: SemiAmortizedGuide, x: Tensor, args: Namespace) -> Curve:
    """The learned refinement after each of its steps."""
    fewer, losses = copy.copy(refining), []
    for steps in range(refining.steps + 1):
        fewer.steps = steps
        values = proposed(fewer, x)
        losses.append(mean_loss(model, lambda x, values=values: refining.sample(values), x, args))
    return Curve(list(range(refining.steps + 1)), losses, seconds=seconds_of(lambda: proposed(refining, x[:1])))


def svi_seconds(model: Model, encoder: AmortizedGuide, start: Values, x: Tensor) -> float:
    """CPU seconds of a step of plain SVI on one image."""
    with pyro.get_param_store().scope():
        inference = SVI(model, local(encoder, start), pyro.optim.ClippedAdam({"lr": 0.01}), elbo(PARTICLES))
        return seconds_of(lambda: inference.step(x))
