"""A row for each inner rule, and a small task to run them on: what the suites of the rules share."""

import torch
from torch import nn

import pyrometa as pm

SHAPES = {"net.weight": (2, 3), "net.bias": (2,), "scale": ()}


def vectors_only(param):
    """A transform of the user's own: through a network for a vector, none for a matrix."""
    size = len(param)
    return nn.Sequential(nn.Linear(size, size), nn.Tanh()) if param.dim() == 1 else None


RULES = {
    "sgd": pm.SGD(0.1),
    "sgd-parameter": pm.SGD(0.1, learn="parameter"),
    "momentum": pm.Momentum(0.1),
    "momentum-nesterov": pm.Momentum({"net.*": 0.1, "*": 0.05}, momentum=0.5, nesterov=True),
    "momentum-layer": pm.Momentum(0.1, learn="layer"),
    "adam": pm.Adam(0.1),
    "adam-betas": pm.Adam({"net.*": 0.1, "*": 0.05}, betas=(0.5, 0.8), eps=1e-3),
    "adam-rate": pm.Adam(0.1, learn="rate"),
    "adam-layer-step": pm.Adam(0.1, learn="layer_step"),
    "adam-parameter": pm.Adam(0.1, learn="parameter"),
    "proximal": pm.ProximalSGD(0.1, strength=0.7),
    "meta-curvature": pm.Preconditioned("meta_curvature", lr=0.1),
    "kronecker": pm.Preconditioned("kronecker", lr=0.1),
    "own-transform": pm.Preconditioned(vectors_only, 0.1),
    "learned": pm.LearnedOptimizer(0.1, hidden=3),
    "learned-one-decay": pm.LearnedOptimizer({"net.*": 0.1, "*": 0.05}, hidden=2, decays=(0.7,), seed=3),
}


def start(dtype=torch.float64):
    return {name: torch.randn(shape, dtype=dtype) for name, shape in SHAPES.items()}


def task(dtype=torch.float64):
    return torch.randn(5, 3, dtype=dtype), torch.randn(5, 2, dtype=dtype)


def loss(params, data):
    """Nonlinear, with curvature in and between all parameters."""
    x, y = data
    mean = torch.tanh(x @ params["net.weight"].T + params["net.bias"]) * params["scale"].exp()
    return (y - mean).square().sum() + 0.1 * sum(p.square().sum() for p in params.values())


def gradients(params, data):
    leaves = {n: p if p.requires_grad else p.detach().requires_grad_() for n, p in params.items()}
    found = torch.autograd.grad(loss(leaves, data), list(leaves.values()), create_graph=True)
    return dict(zip(leaves, found, strict=True))


def adapted(rule, params, learned, data, steps):
    """The fast weights after so many steps, on their graph."""
    state = rule.init(params)
    for step in range(steps):
        params, state = rule.update(params, gradients(params, data), state, learned, step)
    return params


def learned(rule, params, steps, shake=0.2):
    """What the rule learns, away from its start, where some derivatives are zero."""
    return {n: v.detach() + shake * torch.randn_like(v) for n, v in rule.learned(params, steps).items()}
