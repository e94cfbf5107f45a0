"""A meta-step that is a replay like the last one: what it gives and notices, and how often it waits for a device."""

from unittest import mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import pyrometa as pm
from pyrometa.inner.finite import sums

pytestmark = pytest.mark.gpu


class Program(nn.Module):
    """A regression whose prior has a switch, a number, a buffer and an array that may change."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.beta = 1.0
        self.register_buffer("scale", torch.ones(()))

    def model(self, x, y=None):
        width = (2.0 if self.training else 3.0) * self.beta * self.scale
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), width))
            pyro.sample("y", dist.Normal(z, 1.0), obs=x.sum(-1))

    def guide(self, x, y=None):
        pyro.module("layer", self.layer)
        loc, log_scale = self.layer(x).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.tanh().exp()))


def started(*, again=True):
    """A MetaSVI that has taken two steps, and its program."""
    torch.manual_seed(0)
    program = Program().eval()
    given = {"inner": pm.SGD(0.01), "steps": 1, "engine": pm.Engine(record=True)}
    meta = pm.MetaSVI(program.model, program.guide, pyro.optim.SGD({"lr": 0.01}), **given)
    if not again:
        meta._again = lambda *_: None
    for _ in range(2):
        meta.step(*tasks())
    return meta, program


def tasks(seed=1, count=3):
    made = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, 4, 2, generator=made).to(torch.get_default_device()) for _ in range(2))


def assert_equal_steps(meta, other, *given):
    found = []
    for one in (meta, other):
        torch.manual_seed(9)
        found.append((one.step(*given), torch.rand(())))
    assert found[0] == found[1]


class Reads(TorchDispatchMode):
    """Counts what makes Python wait for a tensor's value."""

    names = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "_to_copy")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.names
        return func(*args, **(kwargs or {}))


def test_a_step_reads_once():
    (meta, _), lists, as_list = started(), [], torch.Tensor.tolist
    with Reads() as reads, mock.patch.object(torch.Tensor, "tolist", lambda x: lists.append(x) or as_list(x)):
        meta.step(*tasks(2))
    assert reads.count + len(lists) == 1


def freeze(program):
    program.layer.bias.requires_grad_(False)


def train(program):
    program.layer.bias.requires_grad_(True)
    program.train()


def anneal(program):
    program.beta = 0.5


def rescale(program):
    program.scale.mul_(2.0)


def behind_torch(program):
    program.scale.data = torch.full((), 3.0)


def test_what_changes_is_noticed():
    (meta, program), (other, same) = started(), started(again=False)
    for change in (freeze, train, anneal, rescale, behind_torch):
        assert_equal_steps(meta, other, *tasks(2))
        assert_equal_steps(meta, other, *tasks(3))
        change(program)
        change(same)
    assert_equal_steps(meta, other, *tasks(3))
    assert all(map(torch.equal, program.parameters(), same.parameters()))


def test_other_tasks_rules_and_meta_gradients():
    (meta, program), (other, same) = started(), started(again=False)
    asked = {
        "inner": pm.SGD(0.02),
        "steps": 2,
        "meta_gradient": pm.Unrolled(first_order=True),
        "noise": pm.Noise(shared=True),
    }
    for name, value in asked.items():
        assert_equal_steps(meta, other, *tasks(2))
        assert_equal_steps(meta, other, *tasks(3))
        for one in (meta, other):
            setattr(one, name, value)
    for given in (tasks(4), tasks(4, count=2), tasks(5, count=2), tasks(5, count=2)[:1]):
        assert_equal_steps(meta, other, *given)
    assert all(map(torch.equal, program.parameters(), same.parameters()))


def test_the_same_is_not_decided_twice():
    meta, _ = started()
    with mock.patch.object(meta, "_problem", side_effect=AssertionError):
        for seed in range(3):
            meta.step(*tasks(seed))
        loss, grads = meta.loss_and_grads(*tasks(4))
    assert loss.shape == ()
    assert list(grads) == [name for name, _ in meta.named_parameters()]
    assert meta.engine_report().ran[0].runs == (0, 6, 0)


@pytest.mark.parametrize("of", ["support", "query"])
def test_bad_data_leave_all_as_it_was(of):
    meta, program = started()
    before, generator = [p.clone() for p in program.parameters()], torch.get_rng_state()
    runs = meta.checkpoint()["runs"]
    given = dict(zip(("support", "query"), tasks(2), strict=True))
    given[of] = given[of].clone().index_fill_(0, torch.tensor([1]), torch.nan)
    with pytest.raises(ValueError, match=f"{of} holds NaN or infinite values in task 1"):
        meta.step(**given)
    assert torch.equal(torch.get_rng_state(), generator)
    assert meta.checkpoint()["runs"] == runs
    assert all(map(torch.equal, before, program.parameters()))


def test_the_loss_of_complex_data_is_a_real_number():
    def model(x):
        program.model(torch.view_as_real(x))

    def guide(x):
        program.guide(torch.view_as_real(x))

    program = Program()
    meta = pm.MetaSVI(model, guide, pyro.optim.SGD({"lr": 0.01}), steps=1, engine=pm.Engine(record=True))
    losses = [meta.step(*map(torch.view_as_complex, tasks(seed))) for seed in range(3)]
    assert list(map(type, losses)) == [float] * 3
    support, query = map(torch.view_as_complex, tasks(4))
    query[2] = complex(0.0, torch.nan)
    with pytest.raises(ValueError, match="query holds NaN or infinite values in task 2"):
        meta.step(support, query)


def test_a_task_that_diverges_is_named():
    meta, program = started()
    before = [p.clone() for p in program.parameters()]
    support, query = tasks(2)
    support[1] *= 1e30
    with pytest.raises(pm.NonFiniteError, match="task 1, inner step 0"):
        meta.step(support, query)
    assert all(map(torch.equal, before, program.parameters()))
    assert meta.step(*tasks(3)) == pytest.approx(started_elsewhere())


def started_elsewhere():
    """The loss of the same step of another MetaSVI that has met no bad task."""
    meta, _ = started()
    meta.loss_and_grads(*tasks(2))  # draws as much
    return meta.step(*tasks(3))


def test_no_inference_mode():
    meta, _ = started()
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        meta.step(*tasks(2))


class OwnRule:
    """A rule of a user's own, whose rate is no field of a dataclass."""

    outer_lr, cure = None, "lower the rate"

    def __init__(self):
        self.lr = 0.01

    def learned(self, params, steps):
        return {}

    def init(self, params):
        return None

    def update(self, params, grads, state, learned, step):
        return {name: params[name] - self.lr * grads[name] for name in params}, None


def with_rule(rule, record):
    torch.manual_seed(0)
    program = Program()
    engine = pm.Engine(record=record)
    return pm.MetaSVI(program.model, program.guide, pyro.optim.SGD({"lr": 0.01}), inner=rule, steps=1, engine=engine)


@pytest.mark.parametrize("change", ["rule", "pyro.settings"])
def test_a_changed_rule_or_setting_is_noticed(change):
    """What a recording was made with, and the program does not name."""
    found = []
    for record in (True, False):
        rule = OwnRule()
        meta = with_rule(rule, record)
        for _ in range(3):
            meta.step(*tasks())
        torch.manual_seed(3)
        if change == "rule":
            rule.lr = 0.3
            found.append(meta.step(*tasks()))
        else:
            with pyro.settings.context(cholesky_relative_jitter=1e4):
                meta.step(*tasks())
                found.append(len(meta.recordings()))
    if change == "rule":
        assert found[0] == pytest.approx(found[1], rel=1e-5)
    else:
        assert found[0] == 2


def test_a_mapping_of_rates_is_the_rules_own():
    rates = {"*": 0.01}
    rule = pm.SGD(rates)
    params = {"guide.loc": torch.ones(2)}
    before = rule.update(params, params, rule.init(params), {}, step=0)[0]
    rates["*"] = 0.5
    assert torch.equal(rule.update(params, params, rule.init(params), {}, step=0)[0]["guide.loc"], before["guide.loc"])


def test_sums_of_half_precision_do_not_overflow():
    assert sums([torch.full((1000,), 200.0, dtype=torch.float16)])[0].item() == 200_000
