"""Every fallback and refusal names the line of the program that it is about, and the cure."""

import functools
import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions import constraints
from torch.utils.checkpoint import checkpoint

import pyrometa as pm
from pyrometa.explain.source_lines import lines_of_definition

LINES = Path(__file__).read_text().splitlines()


def line(mark):
    """This file and the line that ends in a comment, as a pattern."""
    number = next(i for i, text in enumerate(LINES, 1) if text.endswith(f"# {mark}"))
    return rf"{re.escape(__file__)}:{number}\b"


def model(x):  # model
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))  # latent
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def reads(read):
    """A guide that reads the data by a function."""

    def guide(x):
        loc = read(pyro.param("loc", torch.tensor(0.1)), x)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(loc * x, 1.0))

    return guide


def asserts(loc, x):
    assert (x < 100).all()  # asserts
    return loc


def branches(loc, x):
    return loc if x.sum() > 0 else 2 * loc  # branches


def takes_an_item(loc, x):
    return loc * x.mean().item()  # item


def goes_to_numpy(loc, x):
    return loc * float(x.numpy().mean())  # numpy


def writes_in_place(loc, x):
    mask = torch.zeros(len(x), dtype=torch.bool)
    mask |= x > 0  # in place
    return loc * (1 + mask)


def writes_an_element(loc, x):
    mask = torch.zeros(len(x))
    mask[0] = x[0]  # element
    return loc * (1 + mask)


def selects(loc, x):
    return loc * x[x > 0].sum()  # selects


def counts_unique(loc, x):
    return loc * torch.unique(x).sum()  # unique


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def applies_a_function(loc, x):
    return Twice.apply(loc)  # function


def takes_a_gradient(loc, x):
    held = x.detach().clone().requires_grad_()  # gradient
    (slope,) = torch.autograd.grad(held.square().sum(), held)
    return loc * slope.sum()


def compares(loc, x):
    return 2 * loc if torch.allclose(x, x) else loc  # compares


def selects_by_mask(loc, x):
    return loc * torch.masked_select(x, x > 0).sum()  # masked


READS = [
    (asserts, "asserts", "an assert reads a tensor's value.*torch.where, or check outside"),
    (branches, "branches", r"an if.*torch\.where"),
    (takes_an_item, "item", r"\.item\(\).*leave it a tensor"),
    (goes_to_numpy, "numpy", r"\.numpy\(\).*leave it a tensor"),
    (writes_in_place, "in place", "write out of place"),
    (writes_an_element, "element", "write out of place"),
    (selects, "selects", "multiply by a mask"),
    (counts_unique, "unique", "_unique2.*use torch.where"),
    (applies_a_function, "function", "generate_vmap_rule = True"),
    (compares, "compares", r"torch\.allclose reads a tensor's value.*leave it a tensor"),
    (selects_by_mask, "masked", "multiply by a mask"),
    (takes_a_gradient, "gradient", r"use torch\.func\.grad"),
]


def meta_svi(guide, model=model, **options):
    options = {"inner": pm.SGD(1e-3), "steps": 1, "loss": Trace_ELBO(), **options}
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), **options)


@pytest.mark.parametrize(("read", "mark", "cure"), READS, ids=[read.__name__ for read, _, _ in READS])
def test_a_fallback_names_the_line_and_the_cure(read, mark, cure):
    x = torch.linspace(-1, 2, 12).view(3, 4)
    with pytest.warns(pm.LoopWarning, match=f"one by one.*{cure}.*{line(mark)}") as caught:
        meta_svi(reads(read)).step(x)  # step
    assert "file an issue" not in str(caught[0].message)
    assert re.fullmatch(line("step"), f"{caught[0].filename}:{caught[0].lineno}")
    pyro.clear_param_store()
    with pytest.raises(pm.UnsupportedProgramError, match=f"can't be vectorised.*{cure}.*{line(mark)}") as refused:
        meta_svi(reads(read), engine=pm.Engine(vectorize=True)).step(x)
    assert str(refused.value).count(__file__) == 1


def fails_in_the_log_prob(x):
    loc = pyro.param("loc", torch.tensor(0.1))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", Branching(loc * x, 1.0))  # site


class Branching(dist.Normal):
    def log_prob(self, value):
        if value.sum() > 1e6:  # log_prob
            return 0 * value
        return super().log_prob(value)


def test_a_fallback_at_a_site_names_the_line_that_failed():
    with pytest.warns(pm.LoopWarning, match=rf"site 'z' \(Branching\): vmap can't batch.*{line('log_prob')}"):
        meta_svi(fails_in_the_log_prob).step(torch.ones(3, 4))


def test_a_fallback_without_a_line_names_the_definitions():
    calls = []

    def guide(x):  # guide
        calls.append(x)
        loc = pyro.param("loc", torch.tensor(0.1)) * len(calls)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(loc * x, 1.0))

    with pytest.warns(pm.LoopWarning, match=f"differs.*{line('model')}, {line('guide')}"):
        meta_svi(guide).step(torch.ones(3, 4))


def means_of_rows(x):  # means
    loc = pyro.param("loc", torch.tensor(0.1))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(loc * x.mean(), 1.0))


def test_tasks_that_are_run_size_by_size_name_the_program():
    tasks = [torch.linspace(0, 1, n) for n in (3, 4, 3, 4)]
    with pytest.warns(pm.LoopWarning, match=rf"size by size.*{line('means')}"):
        meta_svi(means_of_rows).step(tasks)


def test_an_elbo_that_is_not_known_names_the_program():
    class OwnELBO(Trace_ELBO):
        def _get_trace(self, *args):
            return super()._get_trace(*args)

    with pytest.warns(pm.LoopWarning, match=f"OwnELBO.*{line('model')}"):
        meta_svi(reads(lambda loc, x: loc), loss=OwnELBO()).step(torch.ones(3, 4))


def is_refused(guide, pattern, cause, **options):
    with pytest.raises((pm.UnsupportedProgramError, pm.ReachError), match=f"{cause}(?s:.*){pattern}") as refused:
        meta_svi(guide, **options).step(torch.rand(3, 4) + 0.1)
    assert str(refused.value).count(__file__) == pattern.count(re.escape(__file__))


def score_function(x):
    rate = pyro.param("rate", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        pyro.sample("n", dist.Poisson(rate * x.exp()))  # Poisson


def counts(x):
    with pyro.plate("rows", len(x)):
        n = pyro.sample("n", dist.Poisson(torch.ones(len(x))))
        pyro.sample("x", dist.Normal(n, 1.0), obs=x)


def test_a_draw_without_a_second_derivative_is_refused_at_its_line():
    is_refused(score_function, line("Poisson"), "guide site 'n' is not reparameterised", model=counts)


class WrongTwice(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.exp()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output.detach())

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].detach()


def wrong_twice(x):
    loc = pyro.param("loc", torch.tensor(0.1))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(WrongTwice.apply(loc) * x, 1.0))  # wrong twice


def test_a_wrong_second_derivative_is_refused_at_its_site():
    is_refused(wrong_twice, line("wrong twice"), "guide site 'z'(?s:.*)WrongTwice")


def checkpointed(loc, x):
    return checkpoint(lambda value: torch.tanh(value), loc, use_reentrant=False)  # checkpointed


def test_what_runs_again_is_refused_at_its_line():
    is_refused(reads(checkpointed), line("checkpointed"), "torch.utils.checkpoint")


class Normalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x):  # forward
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.norm(x[:, None])[:, 0], 1.0))


def test_a_module_that_moves_its_buffers_is_refused_at_its_definition():
    is_refused(Normalized(), f"defined at {line('model')}, {line('forward')}", "BatchNorm1d")


def misses_a_site(x):
    pyro.sample("y", dist.Normal(pyro.param("loc", torch.tensor(0.1)), 1.0))


def samples_another(x):
    reads(lambda loc, x: loc)(x)
    pyro.sample("y", dist.Normal(0.0, 1.0))  # another


@pytest.mark.parametrize(
    ("guide", "mark", "cure"),
    [(misses_a_site, "latent", "no site for 'z'"), (samples_another, "another", "samples 'y'")],
)
def test_sites_that_do_not_match_are_named_with_their_line(guide, mark, cure):
    with pytest.raises(ValueError, match=f"{cure}(?s:.*){line(mark)}"):
        meta_svi(guide).step(torch.ones(3, 4))


KEPT = torch.tensor(0.3, requires_grad=True)


def reads_behind(x):  # behind
    pyro.param("loc", KEPT)
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(KEPT * x, 1.0))


def test_a_parameter_that_is_read_behind_our_back_names_the_program():
    is_refused(
        reads_behind, f"defined at {line('model')}, {line('behind')}", "somewhere that fast weights do not reach"
    )


def test_what_can_not_be_recorded_is_refused_at_its_line():
    engine = pm.Engine(record=True)

    def reads_the_shape(loc, x):
        kept = torch.arange(4).sum()
        return loc if kept > 3 else 2 * loc  # recorded

    is_refused(reads(reads_the_shape), line("recorded"), "can't be recorded: .*an if", engine=engine)


def test_definitions_are_found_beneath_what_wraps_them():
    scaled = poutine.scale(functools.partial(model), scale=2.0)
    for program in (scaled, functools.partial(scaled)):
        assert re.fullmatch(line("model"), lines_of_definition([program]))
    assert re.fullmatch(line("forward"), lines_of_definition([Normalized()]))
    assert re.fullmatch(line("forward"), lines_of_definition([Normalized().forward]))
