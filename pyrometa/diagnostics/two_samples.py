"""Are two sets of draws from one distribution? A classifier tries to tell them apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrometa.diagnostics.rank_calibration import FALSE_ALARMS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["C2ST", "c2st"]

_FOLDS = 5

_PATIENCE = 30
"""Epochs without gain on held-out draws after which training ends; with 10 it sometimes ends where it began."""

Draws = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class C2ST:
    """How well draws can be told apart.

    Attributes:
        accuracy: of a classifier on draws that it was not trained on; a half if nothing tells them apart.
        p_value: of accuracy that high, if they are of one distribution.
        verdict: "alike" or "different", and in which number their means or widths differ most.
        told: the probability that a draw is of the second set, by a classifier that was not trained on it, of the draws
            of the first set and then of as many of the second; shape ``(2, draws)``.
    """

    accuracy: float
    p_value: float
    verdict: str
    told: Tensor = field(compare=False, repr=False)

    def plot(self) -> Figure:
        """What the classifier makes of the draws of either set."""
        from pyrometa.plots import told_apart

        return told_apart(*self.told, title=self.verdict)


def c2st(first: Draws, second: Draws, *, seed: int = 0) -> C2ST:
    r"""Classifier two-sample test, such as of an adapted posterior against draws by MCMC.

    .. math::
        \text{accuracy} =
        \frac{1}{2} P(c(\theta) = 1 \mid \theta \sim p_1) + \frac{1}{2} P(c(\theta) = 2 \mid \theta \sim p_2)

    of a network of two hidden layers, with ten units a number, that is trained on four fifths of the standardised draws
    and tested on the rest, five times over. Draws must be independent: thin those of a chain.

    Args:
        first: draws, a tensor of shape ``(draws, ...)`` or one for each site, as ``Predictive`` returns.
        second: likewise, of the same sites; of the more numerous as many are used as of the other.
        seed: of the folds and the network; torch's generators are not used.

    Raises:
        ImportError: scikit-learn is not installed: ``pip install 'pyrometa[diagnostics]'``.
        ValueError: fewer than 50 draws, other sites or shapes, or a draw that is not finite.

    References:
        Lopez-Paz, Oquab (2017), Revisiting classifier two-sample tests, https://arxiv.org/abs/1610.06545;
        Lueckmann et al. (2021), Benchmarking simulation-based inference, https://arxiv.org/abs/2101.04653.

    Example:
        >>> import torch
        >>> torch.manual_seed(0)
        <torch...Generator object at 0x...>
        >>> c2st(torch.randn(500, 2), torch.randn(500, 2)).verdict.split(":")[0]
        'alike'
        >>> print(c2st(torch.randn(500, 2), 2 * torch.randn(500, 2)).verdict.split(";")[0])
        different: accuracy 0.74
    """
    names, columns = zip(*(_columns(draws) for draws in (first, second)), strict=True)
    if names[0] != names[1]:
        raise ValueError(
            f"the two have other sites: {', '.join(names[0])} and {', '.join(names[1])}; give draws of the same ones"
        )
    for which, values in zip(("first", "second"), columns, strict=True):
        if len(values) < 50 or not values.isfinite().all():
            raise ValueError(f"{which} must hold at least 50 draws, all finite, got {len(values)}")
    generator = torch.Generator().manual_seed(seed)
    count = min(map(len, columns))
    one, other = (values[torch.randperm(len(values), generator=generator, device="cpu")[:count]] for values in columns)
    told, tested = _told(one, other, seed), 2 * count
    accuracy = ((told > 0.5) == torch.tensor([[False], [True]])).double().mean().item()
    p_value = 0.5 * math.erfc((accuracy - 0.5) * 2 * math.sqrt(tested) / math.sqrt(2))
    word = "different" if p_value < FALSE_ALARMS else "alike"
    verdict = f"{word}: accuracy {accuracy:.2f}"
    if word == "different":
        verdict = f"{verdict}; {_most(names[0], *columns)}"
    return C2ST(accuracy, p_value, verdict, told)


def _columns(draws: Draws) -> tuple[list[str], Tensor]:
    """A name for each number of a draw, and draws of shape ``(draws, numbers)``, in double precision."""
    named = draws if isinstance(draws, Mapping) else {"": draws}
    names, columns = [], []
    for name, value in sorted(named.items()):
        flat = value.detach().reshape(len(value), -1).double().cpu()
        names += [f"{name}[{i}]" for i in range(flat.shape[1])] if flat.shape[1] > 1 or not name else [name]
        columns.append(flat)
    return names, torch.cat(columns, 1)


def _told(first: Tensor, second: Tensor, seed: int) -> Tensor:
    """The probability of each draw to be of the second set, by a classifier of other draws, shape ``(2, draws)``."""
    try:
        networks, selection = (import_module(f"sklearn.{name}") for name in ("neural_network", "model_selection"))
    except ImportError as error:
        raise ImportError("c2st needs scikit-learn: pip install 'pyrometa[diagnostics]'") from error
    mean, unit = first.mean(0), first.std(0).clamp(min=torch.finfo(torch.double).tiny)
    values = ((torch.cat([first, second]) - mean) / unit).numpy()
    labels = [0] * len(first) + [1] * len(second)
    units = 10 * first.shape[1]
    network = networks.MLPClassifier(
        (units, units),
        learning_rate_init=0.01,
        early_stopping=True,
        n_iter_no_change=_PATIENCE,
        max_iter=1000,
        random_state=seed,
    )
    folds = selection.StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    told: Any = selection.cross_val_predict(network, values, labels, cv=folds, method="predict_proba")
    return torch.as_tensor(told[:, 1]).view(2, -1)


def _most(names: list[str], first: Tensor, second: Tensor) -> str:
    """In which number they differ most, and how."""
    unit = second.std(0)
    shift, width = (first.mean(0) - second.mean(0)) / unit, (first.std(0) / unit).log()
    off = torch.stack([shift, width])
    kind, place = divmod(int(off.abs().argmax()), len(names))
    if kind == 0:
        return f"{names[place]} of the first is {shift[place]:+.2f} standard deviations from the second's"
    return f"{names[place]} of the first is {width[place].exp():.2f} times as wide as the second's"
