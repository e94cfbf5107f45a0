"""What a program shows on first data, and that it is fixed from then on."""

from dataclasses import FrozenInstanceError

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyrometa.program import Given
from pyrometa.program.discovery import discover, look_again
from pyrometa.types import Data

DATA = Data((torch.linspace(-1.0, 1.0, 5),))


def model(x):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, scale), obs=x)


def test_first_data_say_which_loss_it_is():
    given = Given(model, AutoNormal(model))
    found = discover(given, DATA).found
    assert given.loss is None
    assert type(found.elbo) is Trace_ELBO
    assert found.score is found.elbo
    score = TraceMeanField_ELBO()
    with pytest.warns(UserWarning, match="forgets the Jacobian"):
        found = discover(Given(model, AutoNormal(model), score=score), DATA).found
    assert (type(found.elbo), found.score) == (Trace_ELBO, score)


def test_nothing_is_known_of_what_was_given():
    given = Given(model, AutoNormal(model))
    program = discover(given, DATA)
    assert list(program.leaves) == ["guide.locs.scale", "guide.scales.scale"]
    assert not given.leaves


def test_a_program_is_fixed():
    program = discover(Given(model, AutoNormal(model)), DATA)
    for thing, name in ((program, "found"), (program, "leaves"), (program.found, "elbo"), (program.given, "loss")):
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setattr(thing, name, None)


class Switched(nn.Module):
    """Draws its site by a score function in training, and is of another leaf else."""

    def __init__(self):
        super().__init__()
        self.logit, self.loc = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x):
        if self.training:
            return pyro.sample("z", dist.Poisson(self.logit.exp()))
        return pyro.sample("z", dist.Normal(self.loc, 1.0))


def test_a_look_in_another_mode_is_remembered_by_mode():
    guide = Switched()

    def counted(x):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0, validate_args=False))

    program = discover(Given(counted, guide, Trace_ELBO()), DATA)
    assert program.guide_draws.score_function == {"z": {"guide.logit"}}
    program.guarded.let_pass(program.modes())
    guide.eval()
    assert not program.guarded.enter(program.modes())
    look_again(program, DATA)
    assert not program.guide_draws.score_function
    program.guarded.let_pass(program.modes())
    guide.train()
    assert program.guarded.enter(program.modes())
    assert program.guide_draws.sampled


class Turning(Switched):
    """Changes its own mode as it runs."""

    def forward(self, x):
        self.turned = not getattr(self, "turned", False)
        return pyro.sample("z", dist.Normal(self.loc, 1.0))


def test_a_mode_that_was_seen_holds_until_the_program_has_run():
    def counted(x):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    guide = Turning()
    program = discover(Given(counted, guide, Trace_ELBO()), DATA)
    began = program.begin()
    assert program.modes_now() is began
    assert began == program.modes()
    program.loss({}, DATA)
    assert program.modes_now() == program.modes() != began
    guide.extra = nn.Dropout()
    assert guide.extra in program.modules()
    assert program.begin() != began
