"""What the demo says in words, from its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyrometa.demo.comparison import Estimate
from pyrometa.demo.trust import verdict

__all__ = ["finding", "headline", "table"]

WAYS = {"pooled": "that adapts its decoder", "picked": "that adapts its last bias alone, picked by hand"}


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
    """The comparison after K steps, a line for each way of the pooled VAE, whichever way it came out."""
    steps, last = result["settings"]["inner_steps"], list(result["curves"]["pooled"])[-1]
    lines = [_gain(result["gain"][name], way, last) for name, way in WAYS.items()]
    return f"After {steps} steps, the meta-learned start is\n" + ",\n".join(lines) + "."


def headline(result: Mapping[str, Any]) -> str:
    """The same in one line: what the meta-learned start gains over either way."""
    steps, (usual, picked) = result["settings"]["inner_steps"], (result["gain"][name] for name in WAYS)
    return (
        f"{steps} meta-learned steps gain {usual['mean']:.1f} ± {usual['se']:.1f} nats over a pooled VAE, "
        f"{picked['mean']:.1f} ± {picked['se']:.1f} over its bias picked by hand"
    )


def _gain(gain: Mapping[str, Any], way: str, last: str) -> str:
    side = "below" if gain["mean"] > 0 else "above"
    reached = gain["steps_to_reach"]
    reach = f"not there in {last} steps" if reached is None else f"there in {reached}"
    return f"{abs(gain['mean']):.1f} ± {gain['se']:.1f} nats per image {side} the pooled VAE {way} ({reach})"
