"""A Newton step by hand: plain Pyro differentiated twice, eigenvalues by NumPy, candidates in a Python loop."""

import numpy as np
import torch
from meta_cases import as_args
from pyro.infer import TraceMeanField_ELBO

MORE = (0, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 3, 10, 100)


def way(hand, values, support, damping):
    """What a task's step takes off each parameter that adapts, at given values and the noise being pinned."""
    slope, hessian = derivatives(hand, values, support)
    eigenvalues, vectors = np.linalg.eigh(hessian)
    sizes = np.abs(eigenvalues)
    steps = [vectors @ ((vectors.T @ slope) / (sizes + (damping + more) * sizes.max())) for more in MORE]
    by_name = [apart(step, {name: values[name] for name in hand.adapted}) for step in steps]
    losses = [hand.at({**values, **moved(values, step)}, support)[0].item() for step in by_name]
    return min(zip(losses, range(len(losses)), by_name, strict=True))[2]


def derivatives(hand, values, support):
    """The gradient ``(size,)`` and the Hessian ``(size, size)`` of the loss, by the leaves that adapt."""
    leaves = dict(hand.surface.named_parameters())
    with hand.holding(leaves, values), torch.enable_grad():
        loss = TraceMeanField_ELBO().differentiable_loss(hand.case.model, hand.case.guide, *as_args(support))
        adapted = [leaves[name] for name in hand.adapted]
        slope = flat(torch.autograd.grad(loss, adapted, create_graph=True), adapted)
        rows = [flat(torch.autograd.grad(s, adapted, retain_graph=True, allow_unused=True), adapted) for s in slope]
        return slope.detach().cpu().numpy(), torch.stack(rows).cpu().numpy()


def flat(grads, like):
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(grads, like, strict=True)])


def apart(row, like):
    parts = torch.tensor(row).split([value.numel() for value in like.values()])
    return {name: part.view_as(value) for (name, value), part in zip(like.items(), parts, strict=True)}


def moved(values, step):
    return {name: values[name] - part for name, part in step.items()}
