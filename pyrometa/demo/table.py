"""What the demo says in words, from its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["finding", "table"]


def table(result: Mapping[str, Any]) -> str:
    """The adaptation curves as text, and what they come to."""
    curves = result["curves"]
    lines = [
        f"Query loss of {result['tasks']} unseen tasks, nats per image: mean (standard error)",
        "",
        "steps" + "".join(f"{start:>18}" for start in curves),
    ]
    for steps in next(iter(curves.values())):
        points = (curve[steps] for curve in curves.values())
        lines.append(f"{steps:>5}" + "".join(f"{p['mean']:>11.2f} ({p['se']:.2f})".rjust(18) for p in points))
    return "\n".join([*lines, "", finding(result)])


def finding(result: Mapping[str, Any]) -> str:
    """The comparison after five steps in a sentence, whichever way it came out."""
    difference, reached = result["paired_difference_5"], result["pooled_steps_to_reach_meta_5"]
    last = list(result["curves"]["pooled"])[-1]
    side = "below" if difference["mean"] > 0 else "above"
    reach = f"does not get there in {last} steps" if reached is None else f"gets there after {reached} steps"
    return (
        f"After five steps, the meta-learned start is {abs(difference['mean']):.2f} ± {difference['se']:.2f} "
        f"nats per image {side} the pooled VAE,\nwhich {reach}."
    )
