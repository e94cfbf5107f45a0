"""What a table says of a posterior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal, get_args

import torch
from torch import Tensor

Output = Literal["mean", "sd", "quantiles"]


def check_outputs(outputs: Sequence[str], quantiles: Sequence[float]) -> None:
    """Refuse outputs that nobody knows.

    Raises:
        ValueError: naming it.
    """
    known = get_args(Output)
    if isinstance(outputs, str) or not outputs or any(name not in known for name in outputs):
        raise ValueError(
            f"outputs must be some of {', '.join(map(repr, known))}, as in ('mean', 'sd'), got {outputs!r}"
        )
    if not quantiles or not all(0 < level < 1 for level in quantiles):
        raise ValueError(f"quantiles must be levels between 0 and 1, as in (0.05, 0.5, 0.95), got {quantiles!r}")


def columns_of(site: str, draws: Tensor, outputs: Sequence[str], quantiles: Sequence[float]) -> dict[str, Tensor]:
    """Columns of a site, each of shape ``(tasks,)``.

    Args:
        site: its name.
        draws: shape ``(tasks, draws, *site)``.
        outputs: what is computed.
        quantiles: at which levels.

    Returns:
        By names such as ``slope_mean``, ``slope_sd`` and ``slope_q5``, or ``slope[0]_mean`` of a site with a shape.
    """
    draws = draws if draws.is_floating_point() else draws.to(torch.get_default_dtype())
    found: dict[str, Tensor] = {}
    for label, values in _computed(draws, outputs, quantiles):
        flat = values.flatten(1).unbind(1) if values.dim() > 1 else [values]
        for place, column in zip(_places(draws.shape[2:]), flat, strict=True):
            found[f"{site}{place}_{label}"] = column
    return found


def _computed(draws: Tensor, outputs: Sequence[str], quantiles: Sequence[float]) -> Iterator[tuple[str, Tensor]]:
    for output in outputs:
        if output == "mean":
            yield "mean", draws.mean(1)
        elif output == "sd":
            yield "sd", draws.std(1)
        else:
            ordered = draws.sort(1).values
            for level in quantiles:
                yield f"q{100 * level:g}", _quantile(ordered, level)


def _quantile(ordered: Tensor, level: float) -> Tensor:
    """Between two draws by a straight line; ``torch.quantile`` refuses more than 16 million numbers."""
    at = level * (ordered.shape[1] - 1)
    below = int(at)
    above = min(below + 1, ordered.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], at - below)


def _places(shape: torch.Size) -> list[str]:
    return [f"[{','.join(map(str, index))}]" if index else "" for index in product(*map(range, shape))]
