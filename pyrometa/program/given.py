"""What the user gave: a model and a guide, and the loss that they are run under."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pyro.infer.elbo import ELBO
from torch import nn

from pyrometa.program.handlers import MaskSupport
from pyrometa.program.keyword_arguments import for_program
from pyrometa.program.leaves import Leaf
from pyrometa.program.objectives import Objective, function_of
from pyrometa.program.param_recorder import root_module
from pyrometa.program.pickled import Autoguides
from pyrometa.recording.kept_tensors import mend_attributes
from pyrometa.types import Data

Reduction: TypeAlias = Literal["sum", "mean"]


@dataclass(frozen=True, eq=False)
class Given:
    """A model and a guide under a loss, as far as they are known without data.

    Attributes:
        model: a Pyro model.
        guide: a Pyro guide.
        loss: a Pyro ELBO, or a function of ``(model, guide, *args, **kwargs)`` to a scalar tensor; None for
            ``TraceMeanField_ELBO()``, or ``Trace_ELBO()`` where that would forget a Jacobian.
        score: what scores a query set in the loss's place, in the same form; None for the loss.
        reduction: ``"sum"`` as Pyro, or ``"mean"`` to divide by the rows of the data.

    Raises:
        TypeError: for a loss without a differentiable value, or a model or guide that can't be called.
        ValueError: for another reduction.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    loss: ELBO | Objective | None = None
    score: ELBO | Objective | None = None
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        for name, program in (("model", self.model), ("guide", self.guide)):
            if not callable(program):
                raise TypeError(f"{name} must be callable, got {type(program).__name__}")
        if self.reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be 'sum' or 'mean', got {self.reduction!r}")
        for name, objective in (("loss", self.loss), ("score", self.score)):
            if objective is not None:
                function_of(objective, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "autoguides": Autoguides(self.modules())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "autoguides"})

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """No parameter is known before first data."""
        return {}

    @property
    def site_lines(self) -> Mapping[str, str]:
        """Where the model and the guide sample is not known before first data."""
        return {}

    def modules(self) -> list[nn.Module]:
        """Every module that the model or the guide is or has, once."""
        return every_module((self.guide, self.model), ())

    def mend_kept(self) -> None:
        """Replace each tensor of many tasks that a module keeps by the last task's, as the loop would leave it."""
        mend_attributes(self.modules())

    def for_program(self, data: Data, objective: Objective | None = None) -> Data:
        """The data without the keyword arguments that only the loss or the score takes; an objective keeps its own."""
        return for_program(data, (self.loss, self.score), self.model, objective)

    @property
    def reads_support(self) -> bool:
        """Whether the guide has a ``condition`` on the whole support set."""
        return callable(getattr(self.guide, "condition", None))

    def conditioned(self, support: Data) -> Callable[..., Any]:
        """The guide given a task's support set: what its ``condition`` makes of it, or the guide itself."""
        if not self.reads_support:
            return self.guide
        support = self.for_program(support)

        def guide(*args: Any, **kwargs: Any) -> Any:
            with MaskSupport(support.rows) if support.rows else nullcontext():
                return self.guide.condition(*support.args, **support.kwargs)(*args, **kwargs)  # type: ignore[attr-defined]

        guide.__wrapped__ = self.guide  # type: ignore[attr-defined]
        return guide


def every_module(programs: Iterable[Callable[..., Any]], others: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules that some models and guides are or have, and other modules with their parts, each once."""
    found: dict[int, nn.Module] = {}
    for root in (*map(root_module, programs), *others):
        _add_parts(found, root)
    return list(found.values())


def _add_parts(found: dict[int, nn.Module], module: nn.Module | None) -> None:
    """Add a module and its parts in the order of ``module.modules()``, which makes names for them."""
    if module is not None and id(module) not in found:
        found[id(module)] = module
        for part in module.children():
            _add_parts(found, part)
