"""What the demo says in words, from its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyrometa.demo.comparison import Estimate
from pyrometa.demo.trust import verdict

__all__ = ["finding", "table"]


def table(result: Mapping[str, Any]) -> str:
    """The adaptation curves as text, what they come to, and whether to trust what adaptation ends with."""
    curves = result["curves"]
    lines = [
        f"Query loss of {result['tasks']} unseen tasks, nats per image: mean (standard error)",
        "",
        "steps" + "".join(f"{start:>18}" for start in curves),
    ]
    for steps in curves["pooled"]:
        points = (curve.get(steps) for curve in curves.values())
        lines.append(f"{steps:>5}" + "".join(f"{_point(point):>18}" for point in points))
    return "\n".join([*lines, "", finding(result), "", verdict(result["trust"]["meta"])])


def _point(point: Estimate | None) -> str:
    return f"{point['mean']:.2f} ({point['se']:.2f})" if point else "-"


def finding(result: Mapping[str, Any]) -> str:
    """The comparison after K steps in a sentence, whichever way it came out."""
    difference, reached = result["paired_difference"], result["pooled_steps_to_reach_meta"]
    steps, last = result["settings"]["inner_steps"], list(result["curves"]["pooled"])[-1]
    side = "below" if difference["mean"] > 0 else "above"
    reach = f"is not there in {last} steps" if reached is None else f"is there in {reached}"
    return (
        f"After {steps} steps, the meta-learned start is {abs(difference['mean']):.1f} ± {difference['se']:.1f} "
        f"nats per image {side} the pooled VAE,\nwhich {reach}."
    )
