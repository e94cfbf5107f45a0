"""Meta-learning by hand: inner steps through MetaSVI at steps=0, with no fast weights anywhere."""

import pyro
import torch
from meta_cases import task

import pyrometa as pm


class ByHand:
    """The loss of a meta-batch as a function of what an algorithm learns, the noise being pinned.

    Args:
        meta: the algorithm, initialised; its inner rule is run on gradients that are taken here.
        case: program and tasks.
    """

    def __init__(self, meta, case):
        self.meta, self.case = meta, case
        self.surface = pm.MetaSVI(case.model, case.guide, pyro.optim.Adam({"lr": 1e-2}), steps=0)
        self.surface.init(case.support)
        self.adapted = list(meta.plan(case.support, case.query))

    def at(self, values, support, query=None):
        """Loss and gradients of one task at given values."""
        leaves = dict(self.surface.named_parameters())
        before = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        self._set(leaves, values)
        found = self.surface.loss_and_grads([support], None if query is None else [query])
        self._set(leaves, before)
        return found

    @torch.no_grad()
    def _set(self, leaves, values):
        for name, leaf in leaves.items():
            leaf.copy_(values[name])

    @torch.no_grad()
    def path(self, values, t, frozen=()):
        """The values after each step of a task and the gradients on the way, of which the first may be given."""
        learned = {n.removeprefix("inner."): v for n, v in values.items() if n.startswith("inner.")}
        fast = {name: values[name] for name in self.adapted}
        state, points, taken = self.meta.inner.init(fast), [values], []
        for step in range(self.meta.steps):
            if step < len(frozen):
                grads = frozen[step]
            else:
                grads = self.at(points[-1], task(self.case.support, t))[1]
                grads = {name: grads[name] for name in self.adapted}
            fast, state = self.meta.inner.update(fast, grads, state, learned, step)
            taken.append(grads)
            points.append({**values, **fast})
        return points, taken

    def scores(self, values, frozen):
        """The mean query loss after each step, the first gradients of each task being given."""
        tasks = range(len(frozen))
        paths = [self.path(values, t, frozen[t])[0] for t in tasks]
        return [
            torch.stack(
                [self.at(paths[t][k], task(self.case.support, t), task(self.case.query, t))[0] for t in tasks]
            ).mean()
            for k in range(self.meta.steps + 1)
        ]
