"""Meta-learning by hand: inner steps through MetaSVI at steps=0, with no fast weights anywhere."""

from contextlib import contextmanager

import newton_by_hand
import pyro
import torch
from meta_cases import task

import pyrometa as pm
from pyrometa.inner import LossRule


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
        with self.holding(dict(self.surface.named_parameters()), values):
            return self.surface.loss_and_grads([support], None if query is None else [query])

    @contextmanager
    def holding(self, leaves, values):
        """The leaves at given values for a while."""
        before = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        self._set(leaves, values)
        yield
        self._set(leaves, before)

    @torch.no_grad()
    def _set(self, leaves, values):
        for name, leaf in leaves.items():
            leaf.copy_(values[name])

    @torch.no_grad()
    def path(self, values, t, frozen=()):
        """The values after each step of a task, and what the rule took on the way, of which the first may be given.

        That is the gradients, and of a rule that takes more from the loss, the steps themselves.
        """
        learned = {n.removeprefix("inner."): v for n, v in values.items() if n.startswith("inner.")}
        fast = {name: values[name] for name in self.adapted}
        rule, points, taken = self.meta._state.known().rules.of(self.meta.inner), [values], []
        by_loss = isinstance(rule, LossRule)
        state = None if by_loss else rule.init(fast)
        for step in range(self.meta.steps):
            support = task(self.case.support, t)
            if step < len(frozen):
                found = frozen[step]
            elif by_loss:
                found = newton_by_hand.way(self, points[-1], support, _damping(rule, learned, step))
            else:
                grads = self.at(points[-1], support)[1]
                found = {name: grads[name] for name in self.adapted}
            if by_loss:
                fast = newton_by_hand.moved(points[-1], found)
            else:
                fast, state = rule.update(fast, found, state, learned, step)
            taken.append(found)
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


def _damping(rule, learned, step):
    return learned["log_damping"][step].exp().item() if learned else rule.damping
