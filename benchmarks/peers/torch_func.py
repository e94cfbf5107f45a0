"""torch.func: dense fast weights, ``vmap`` over tasks, the ELBO summed from Pyro's traces."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.overrides import TorchFunctionMode

from benchmarks.peers import NOISE
from benchmarks.workloads import Data, FixedNoise, Workload, local_params, named

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
        """On fixed noise."""
        with FixedNoise(NOISE):
            grads, loss = self._gradients()
        return loss.item(), grads

    def _gradients(self) -> tuple[Params, Tensor]:
        phi, theta = (
            {name: p.detach() for name, p in module.named_parameters()}
            for module in (self._problem.guide, self._problem.model)
        )
        with local_params():
            (by_phi, by_theta), loss = self._grads_and_loss(phi, theta)
        guide, model = (
            {named("guide", n): g for n, g in by_phi.items()},
            {named("model", n): g for n, g in by_theta.items()},
        )
        return {**guide, **model}, loss

    def _meta_loss(self, phi: Params, theta: Params) -> Tensor:
        tasks = vmap(self._task_loss, (None, None, 0, 0), randomness="different")
        return tasks(phi, theta, self._problem.support, self._problem.query).mean()

    def _task_loss(self, phi: Params, theta: Params, support: Data, query: Data) -> Tensor:
        for _ in range(self._workload.steps):
            grads = grad(self._elbo_loss)(phi, theta, support)
            phi = {name: p - self._workload.inner_lr * grads[name] for name, p in phi.items()}
        return self._elbo_loss(phi, theta, query)

    def _elbo_loss(self, phi: Params, theta: Params, data: Data) -> Tensor:
        guide, model = _with(self._problem.guide, phi), _with(self._problem.model, theta)
        with OutOfPlace():
            guide_trace = poutine.trace(guide).get_trace(*data)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*data)
            negative_elbo = _sampled if self._workload.kind == "B" else _mean_field
            return negative_elbo(guide_trace, model_trace) / self._workload.rows


def _mean_field(guide: poutine.Trace, model: poutine.Trace) -> Tensor:
    observed = model.nodes["x"]
    kl = kl_divergence(guide.nodes["z"]["fn"], model.nodes["z"]["fn"]).sum()
    return kl - observed["fn"].log_prob(observed["value"]).sum()


def _sampled(guide: poutine.Trace, model: poutine.Trace) -> Tensor:
    """As Pyro's mean-field ELBO does at the sites of an AutoNormal, which are Deltas that have no KL."""
    return guide.log_prob_sum() - model.log_prob_sum()


def _with(module: nn.Module, params: Params) -> Callable[..., None]:
    return lambda *data: functional_call(module, params, data)


def build(workload: Workload) -> MetaStep:
    """The contestant."""
    return MetaStep(workload)
