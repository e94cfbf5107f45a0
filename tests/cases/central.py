"""Central differences of a loss along a direction of its leaves."""

import torch


def central_slope(loss, leaves, direction, step=1e-6):
    """The slope of ``loss()``, a float, along tensors by the names of the leaves, which end where they were."""
    slope = 0.0
    for sign in (1, -1):
        _move(leaves, direction, sign * step)
        slope += sign * loss() / (2 * step)
        _move(leaves, direction, -sign * step)
    return slope


def along(grads, direction):
    """The slope that gradients say."""
    return sum((grads[name] * way).sum().item() for name, way in direction.items())


@torch.no_grad()
def _move(leaves, direction, step):
    for name, way in direction.items():
        leaves[name].add_(step * way)
