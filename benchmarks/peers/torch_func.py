"""torch.func: dense fast weights, ``vmap`` over tasks, the ELBO summed from Pyro's traces."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.overrides import TorchFunctionMode

from benchmarks.workloads import Workload, ZeroNoise

Params = dict[str, Tensor]


class OutOfPlace(TorchFunctionMode):
    """Normal draws as new tensors, which ``vmap`` can batch; torch.distributions draws in place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace ``normal_``."""
        if func is torch.Tensor.normal_:
            return torch.randn(args[0].shape, dtype=args[0].dtype)
        return func(*args, **(kwargs or {}))


class MetaStep:
    """One function of all parameters, differentiated."""

    def __init__(self, workload: Workload) -> None:
        self._workload, self._problem = workload, workload.build()
        self._leaves = self._problem.parameters()
        self._optim = torch.optim.Adam(self._leaves.values(), workload.outer_lr)
        self._grads_and_loss = grad_and_value(self._meta_loss, argnums=(0, 1))

    def step(self) -> None:
        """One meta-step."""
        grads, _ = self._gradients()
        for name, leaf in self._leaves.items():
            leaf.grad = grads[name]
        self._optim.step()

    def loss_and_grads(self) -> tuple[float, dict[str, Tensor]]:
        """On zero noise."""
        with ZeroNoise():
            grads, loss = self._gradients()
        return loss.item(), grads

    def _gradients(self) -> tuple[Params, Tensor]:
        phi, theta = (
            {name: p.detach() for name, p in module.named_parameters()}
            for module in (self._problem.guide, self._problem.model)
        )
        (by_phi, by_theta), loss = self._grads_and_loss(phi, theta)
        guide, model = ({f"guide.{n}": g for n, g in by_phi.items()}, {f"model.{n}": g for n, g in by_theta.items()})
        return {**guide, **model}, loss

    def _meta_loss(self, phi: Params, theta: Params) -> Tensor:
        tasks = vmap(self._task_loss, (None, None, 0, 0), randomness="different")
        return tasks(phi, theta, self._problem.support, self._problem.query).mean()

    def _task_loss(self, phi: Params, theta: Params, support: Tensor, query: Tensor) -> Tensor:
        for _ in range(self._workload.steps):
            grads = grad(self._elbo_loss)(phi, theta, support)
            phi = {name: p - self._workload.inner_lr * grads[name] for name, p in phi.items()}
        return self._elbo_loss(phi, theta, query)

    def _elbo_loss(self, phi: Params, theta: Params, x: Tensor) -> Tensor:
        guide, model = _with(self._problem.guide, phi), _with(self._problem.model, theta)
        with OutOfPlace():
            guide_trace = poutine.trace(guide).get_trace(x)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
            kl = kl_divergence(guide_trace.nodes["z"]["fn"], model_trace.nodes["z"]["fn"]).sum()
            log_prob = model_trace.nodes["x"]["fn"].log_prob(x).sum()
        return (kl - log_prob) / self._workload.rows


def _with(module: nn.Module, params: Params) -> Callable[[Tensor], None]:
    return lambda x: functional_call(module, params, (x,))


def build(workload: Workload) -> MetaStep:
    """The contestant."""
    return MetaStep(workload)
