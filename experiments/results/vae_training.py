"""Training to a budget of CPU seconds, and trained networks as files.

One run serves several budgets. Its rate stays as it is; at three quarters of each budget a copy goes on alone, and its
rate falls linearly to zero at the budget. So each budget's network is one that was trained for that budget, and a run
costs the longest budget's three quarters and each budget's last quarter.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyro
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.files import write
from experiments.results.vae import Network

RATES = {"mean field": 2e-3, "flow": 2e-3, "semi-amortised": 2e-3, "meta-learned start": 2e-3}
"""Adam's, by kind: for the first two what vae_mnist.py chose on images kept back, for the others the first one's."""

BATCH = 100
FALLING = 0.25
"""The share of a budget over which the rate falls."""

LEARNED_RATE = 20.0
"""The outer rate of what an inner rule learns, in rates of the weights: logarithms of rates want a larger one."""


@dataclass(frozen=True)
class Recipe:
    """All that makes a trained network, but for its budget.

    Attributes:
        data: name of the images.
        kind: as :class:`Network` takes it.
        seed: of the start, of batches, of binarisation and of noise.
        rate: Adam's, until it falls.
        rows: the first so many images are trained on.
        after: CPU seconds of the mean field of this seed, from which it goes on; 0 for a fresh start.
        hidden: width of the layers.
        latent: latents of an image.
        batch: images a step.
    """

    data: str
    kind: str
    seed: int
    rate: float
    rows: int
    after: float = 0.0
    hidden: int = 200
    latent: int = 50
    batch: int = BATCH

    def network(self) -> Network:
        """An untrained one."""
        return Network(self.kind, self.hidden, self.latent).ready()

    def path(self, out: Path, seconds: float) -> Path:
        """Where it is kept."""
        spent = f"{self.after:g}+{seconds:g}s" if self.after else f"{seconds:g}s"
        name = f"{self.data}-{self.kind}-{self.seed}-{self.rate:g}-{self.rows}-{spent}"
        return out / f"{name.replace(' ', '_')}.safetensors"


@dataclass(frozen=True)
class Trained:
    """A network at the end of its budget.

    Attributes:
        network: it.
        steps: how many it took.
        seconds: CPU seconds that they took.
    """

    network: Network
    steps: int
    seconds: float


@dataclass
class Run:
    """A network in training.

    Attributes:
        network: it.
        adam: its optimiser.
        steps: taken so far.
        seconds: CPU seconds that they took.
    """

    network: Network
    adam: torch.optim.Adam
    steps: int = 0
    seconds: float = 0.0
    _batches: list[Tensor] = field(default_factory=list)

    def go(self, images: Tensor, until: float, recipe: Recipe, ends: float | None = None) -> None:
        """Train until so many CPU seconds, at the recipe's rate; or at one that falls to zero until ``ends``."""
        elbo = self.network.elbo()
        with pyro.get_param_store().scope(), pyro.validation_enabled(False):
            while self.seconds < until:
                began = time.process_time()
                falling = 1.0 if ends is None else max(0.0, (ends - self.seconds) / (FALLING * ends))
                for group in self.adam.param_groups:
                    group["lr"] = recipe.rate * group["times"] * falling
                x = self._batch(images, recipe.batch)
                loss = elbo.differentiable_loss(self.network.model, self.network.guide, x) / len(x)
                self.adam.zero_grad()
                loss.backward()
                self.adam.step()
                self.steps += 1
                self.seconds += time.process_time() - began

    def _batch(self, images: Tensor, size: int) -> Tensor:
        """The next rows of an epoch, each pixel white with its grey value's probability, drawn anew."""
        if not self._batches:
            self._batches = list(torch.randperm(len(images)).split(size))
        return images[self._batches.pop()].bernoulli()


def trained(recipe: Recipe, images: Tensor, budgets: Sequence[float], out: Path) -> dict[float, Trained]:
    """Networks of one run at each budget of CPU seconds, from files where they are there."""
    paths = {seconds: recipe.path(out, seconds) for seconds in budgets}
    found = {seconds: loaded(recipe, path) for seconds, path in paths.items() if path.exists()}
    if len(found) == len(budgets):
        return found
    begun = mean_field_of(recipe, images, out) if recipe.after else None
    made = {}
    for seconds, one in run(recipe, images[: recipe.rows], sorted(budgets), begun):
        save(one, recipe, paths[seconds])
        made[seconds] = one
    return made


def mean_field_of(recipe: Recipe, images: Tensor, out: Path) -> Network:
    """The network that a recipe goes on from."""
    before = replace(recipe, kind="mean field", rate=RATES["mean field"], after=0.0)
    (one,) = trained(before, images, [recipe.after], out).values()
    return one.network


def run(
    recipe: Recipe, images: Tensor, budgets: Sequence[float], begun: Network | None = None
) -> Iterator[tuple[float, Trained]]:
    torch.manual_seed(recipe.seed)
    trunk = started(recipe)
    if begun is not None:
        trunk.network.take(begun)
    for seconds in tqdm(budgets, desc=f"{recipe.data}, {recipe.kind}, seed {recipe.seed}, rate {recipe.rate:g}"):
        trunk.go(images, (1 - FALLING) * seconds, recipe)
        branch = copy.deepcopy(trunk)
        branch.go(images, seconds, recipe, ends=seconds)
        yield seconds, Trained(branch.network, branch.steps, branch.seconds)


def started(recipe: Recipe) -> Run:
    network = recipe.network()
    learned = [value for name, value in network.named_parameters() if ".learned." in name]
    weights = [value for name, value in network.named_parameters() if ".learned." not in name]
    groups = [{"params": weights, "times": 1.0}] + [{"params": learned, "times": LEARNED_RATE}] * bool(learned)
    return Run(network, torch.optim.Adam(groups, lr=recipe.rate, fused=True))


def save(one: Trained, recipe: Recipe, path: Path) -> None:
    tensors = {name: value.contiguous() for name, value in one.network.state_dict().items()}
    facts = {**asdict(recipe), "steps": one.steps, "seconds": one.seconds}
    write(path, lambda temporary: save_file(tensors, temporary, {name: str(value) for name, value in facts.items()}))


def loaded(recipe: Recipe, path: Path) -> Trained:
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    differing = [name for name, value in asdict(recipe).items() if facts[name] != str(value)]
    if differing:
        raise ValueError(f"{path} was made with another {differing[0]}: give another --out")
    network = recipe.network()
    network.load_state_dict(load_file(path))
    return Trained(network, int(facts["steps"]), float(facts["seconds"]))
