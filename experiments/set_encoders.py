"""The other meta-learned contestant of the real tasks: an encoder that reads a task's rows and proposes its posterior.

The posterior is the same mean field as AutoNormal's. The encoder is meta-trained with no inner steps at first, then
with a few that move the biases of its heads alone: a head's bias is added to what it proposes, so these steps are SVI
on the task's own variational parameters, from the proposal.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

import pyrometa as pm
from benchmarks.plain_svi import Row
from experiments.meta_training import train
from pyrometa.guides import SetEncoderGuide

ENCODED = "meta-learned encoder and rates"
HEADS = "guide.amortized.heads.*.bias"


class Summary(nn.Module):
    """Pooling: a network of the rows' mean and of how many there are."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.network = mlp(features + 1, hidden, hidden, hidden)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Features of the rows where the mask is true."""
        count = mask.sum(-1, keepdim=True).to(rows)
        mean = torch.where(mask[..., None], rows, 0.0).sum(-2) / count
        return self.network(torch.cat([mean, count.log()], -1))


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers = [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.SiLU())]
    return nn.Sequential(*layers[:-1])


def regression_encoder(model: Callable[..., Any], hidden: int) -> SetEncoderGuide:
    """For ``model(y, x)`` with a known noise: a network of the number of rows and of the sufficient statistics."""

    def statistics(y: Tensor, x: Tensor) -> Tensor:
        return torch.stack([y, x, y * x, x * x], -1)

    return SetEncoderGuide(model, statistics, pooling=Summary(4, hidden))


def fit_encoder(
    model: Callable[..., Any],
    guide: SetEncoderGuide,
    elbo: Callable[[int], ELBO],
    batches: Iterator[Row],
    *,
    steps: tuple[int, int],
    particles: tuple[int, int],
    rate: float,
    record: bool = False,
) -> tuple[pm.MetaSVI, float]:
    """Meta-train the encoder alone, then with five inner steps from its proposal; CPU seconds too.

    The second part is for the rates: the encoder hardly moves there. ``steps`` and ``particles`` are those of the two
    parts, ``rate`` is where the inner rates start.
    """
    options: dict[str, Any] = {"reduction": "mean", "engine": pm.Engine(record=record)}
    optim = pyro.optim.ClippedAdam({"lr": 3e-3, "clip_norm": 10.0})
    proposing = pm.MetaSVI(model, guide, optim, elbo(particles[0]), steps=0, **options)
    seconds = train(proposing, batches, steps[0])
    optim = pyro.optim.ClippedAdam({"lr": 2e-5, "clip_norm": 10.0})
    inner = pm.SGD(rate, learn="parameter", outer_lr=0.03)
    refining = pm.MetaSVI(model, guide, optim, elbo(particles[1]), inner=inner, steps=5, adapt=HEADS, **options)
    return refining, seconds + train(refining, batches, steps[1])


def subsets(tasks: Sequence[Row], batch_size: int) -> Iterator[Row]:
    """Meta-batches of one size, that of a task drawn at random: as many rows of other tasks, drawn at random."""
    sizes = torch.tensor([len(task[0]) for task in tasks])
    while True:
        rows = int(sizes[torch.randint(len(sizes), ())])
        enough = (sizes >= rows).nonzero().squeeze(1)
        chosen = [tasks[i] for i in enough[torch.randint(len(enough), (batch_size,))]]
        yield stacked([resampled(task, torch.randperm(len(task[0]))[:rows]) for task in chosen])


def simulated(model: Callable[..., Any], site: str, columns: Row) -> Row:
    """Tasks side by side, drawn from the model's prior: what it draws at a site replaces the first column."""
    with torch.no_grad(), poutine.block(), pyro.plate("tasks", len(columns[0]), dim=-2):
        trace = poutine.trace(poutine.uncondition(model)).get_trace(*columns)
    return (trace.nodes[site]["value"], *columns[1:])


def some_size(smallest: int, largest: int) -> int:
    """A number of rows, uniform in its logarithm."""
    low, high = math.log(smallest), math.log(largest)
    return round(math.exp(low + (high - low) * torch.rand(()).item()))


def resampled(task: Row, index: Tensor) -> Row:
    return tuple(column[index] for column in task)


def stacked(tasks: Sequence[Row]) -> Row:
    return tuple(torch.stack(column) for column in zip(*tasks, strict=True))
