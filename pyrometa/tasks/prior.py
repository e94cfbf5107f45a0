"""Tasks drawn from the prior of a Pyro model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrometa.tasks.meta_batch import ModelTensors

__all__ = ["PriorTasks"]


@dataclass(frozen=True, eq=False)
class PriorTasks:
    """Datasets from the user's own Pyro model: each task draws the latents anew, and its rows share them.

    A task is one run of the model with its observed sites drawn instead of given
    (:func:`pyro.poutine.uncondition`), so any model that SVI can fit is a family of tasks, unmodified.
    Support and query are rows of the same run: they share the global latents.

    Args:
        model: a Pyro model.
        arguments: ``arguments(rows, generator)`` gives the model's positional arguments for one task (a tensor or a
            tuple): its covariates, and a placeholder of the right shape wherever the model insists on the data.
        observed: which argument each observed site fills, as ``{site: position}``. What was drawn at the site
            replaces the argument there, or is appended where the arguments end.

    Raises:
        TypeError: if the model or ``arguments`` is not callable, or a position not an integer.
        ValueError: if ``observed`` is empty or fills an argument twice.

    Example:
        Mixtures of two Gaussians, each task with its own means and weights; the model takes the data alone.

        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyrometa.tasks import PriorTasks, TaskSampler
        >>> def model(data):
        ...     weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        ...     means = pyro.sample("means", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        ...     with pyro.plate("data", len(data)):
        ...         k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        ...         pyro.sample("x", dist.Normal(means[k], 1.0), obs=data)
        >>> mixtures = PriorTasks(model, lambda rows, generator: torch.zeros(rows), observed={"x": 0})
        >>> support, query = TaskSampler(mixtures, shots=20, queries=30, seed=0).sample(8)
        >>> support.shape, query.shape
        (torch.Size([8, 20]), torch.Size([8, 30]))

        A regression of ``model(x, y=None)``: ``x`` is drawn by the caller, ``y`` by the model.

        >>> def regression(x, y=None):
        ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("rows", len(x)):
        ...         pyro.sample("y", dist.Normal(slope * x, 0.1), obs=y)
        >>> lines = PriorTasks(
        ...     regression, lambda rows, generator: torch.rand(rows, generator=generator), observed={"y": 1}
        ... )
        >>> (x, y), query = TaskSampler(lines, shots=5, queries=5, seed=0).sample(8)
        >>> x.shape, y.shape
        (torch.Size([8, 5]), torch.Size([8, 5]))
    """

    model: Callable[..., Any]
    arguments: Callable[[int, torch.Generator], ModelTensors]
    observed: Mapping[str, int]

    def __post_init__(self) -> None:
        for name in ("model", "arguments"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable, got {type(getattr(self, name)).__name__}")
        if not isinstance(self.observed, Mapping) or not all(type(at) is int for at in self.observed.values()):
            raise TypeError(f"observed must map sites to argument positions, like {{'y': 1}}, got {self.observed!r}")
        positions = list(self.observed.values())
        if not positions or len(set(positions)) != len(positions) or min(positions) < 0:
            raise ValueError(f"observed must name a site for each of one or more arguments, got {dict(self.observed)}")

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> ModelTensors:
        """Run the model once a task.

        Args:
            tasks: how many tasks.
            rows: how many rows of each, as handed to ``arguments``.
            generator: the only source of randomness: the model runs under a seed that it gives, and the global
                generator is put back.

        Returns:
            the model's arguments with the observed ones drawn, each of shape ``(tasks, rows, ...)``.

        Raises:
            TypeError: if an argument is not a tensor.
            ValueError: if the model has no such site, or an argument or a drawn value has not ``rows`` rows.
        """
        return self.draw_with_latents(tasks, rows, generator)[0]

    def draw_with_latents(
        self, tasks: int, rows: int, generator: torch.Generator
    ) -> tuple[ModelTensors, dict[str, Tensor]]:
        """:meth:`draw`, and what it was drawn from.

        Returns:
            the same, and for each latent site its values, shape ``(tasks, *site)``.
        """
        drawn, latents = zip(*(self._one(rows, generator) for _ in range(tasks)), strict=True)
        columns = tuple(torch.stack(column) for column in zip(*drawn, strict=True))
        values = {name: torch.stack([task[name] for task in latents]) for name in latents[0]}
        return columns if len(columns) > 1 else columns[0], values

    def _one(self, rows: int, generator: torch.Generator) -> tuple[list[Tensor], dict[str, Tensor]]:
        given = self.arguments(rows, generator)
        args = list(given) if isinstance(given, tuple) else [given]
        sites = self._run(args, generator)
        for name, position in sorted(self.observed.items(), key=lambda item: item[1]):
            if name not in sites:
                raise ValueError(f"the model has no sample site {name!r}: it has {', '.join(map(repr, sites))}")
            if position > len(args):
                raise ValueError(f"site {name!r} is to fill argument {position}, but argument {len(args)} is not given")
            args[position : position + 1] = [sites[name]]
        for position, arg in enumerate(args):
            _check_rows(position, arg, rows)
        return args, {name: value for name, value in sites.items() if name not in self.observed}

    def _run(self, args: list[Any], generator: torch.Generator) -> dict[str, Any]:
        """The value at each sample site of one run of the model."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        with torch.random.fork_rng(devices=[]), torch.no_grad(), poutine.block():
            torch.default_generator.manual_seed(seed)
            trace = poutine.trace(poutine.uncondition(self.model)).get_trace(*args)
        return {name: site["value"] for name, site in trace.nodes.items() if site["type"] == "sample"}


def _check_rows(position: int, arg: Any, rows: int) -> None:
    if not isinstance(arg, Tensor):
        raise TypeError(f"argument {position} of a drawn task must be a tensor, got {type(arg).__name__}")
    if arg.ndim == 0 or len(arg) != rows:
        raise ValueError(
            f"argument {position} of a drawn task has shape {tuple(arg.shape)}: it needs {rows} rows as its leading "
            "dimension, one for each that `arguments` was asked for"
        )
