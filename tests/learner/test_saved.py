"""``meta.save`` and ``meta.load``: a run that goes on ends with the bits of one that was not interrupted."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import resumed
import torch
from meta_cases import meta_svi, store
from programs import modules
from pyro.nn import PyroModule
from same_bits import same

import pyrometa as pm
from pyrometa import saving

CASES = Path(resumed.__file__).parent


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """For each run what it ends with when nothing stops it, and when another process goes on with it."""
    folder = tmp_path_factory.mktemp("runs")
    whole = {name: resumed.interrupt(folder, name) for name in resumed.RUNS}
    paths = os.pathsep.join([str(CASES), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "error", resumed.__file__, str(folder)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return {name: (end, saving.read(folder / f"{name} end.safetensors", kind="end")) for name, end in whole.items()}


@pytest.mark.parametrize("name", resumed.RUNS)
def test_another_process_ends_with_the_same_bits(name, ends):
    whole, gone_on = ends[name]
    assert len(set(whole["losses"])) == resumed.HALF
    assert same(whole, gone_on)


def saved(tmp_path, meta, steps=2):
    resumed.steps(meta, steps)
    meta.save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_after_first_data_it_is_taken_over_at_once(tmp_path):
    meta = resumed.meta_svi(inner=pm.SGD(0.01, learn="layer"))
    path = saved(tmp_path, meta)
    state = meta.state_dict()
    leaves = dict(meta.named_parameters())
    resumed.steps(meta, 2)
    assert not same(meta.state_dict(), state)
    assert meta.load(path) is None
    assert same(meta.state_dict(), state)
    assert all(leaf is leaves[name] for name, leaf in meta.named_parameters())


def test_what_first_data_set_is_taken_over_at_once(tmp_path):
    meta = resumed.meta_svi(guide=resumed.FirstData)
    path = saved(tmp_path, meta)
    center = meta.guide.center
    before = center.clone()
    center.zero_()
    meta.load(path)
    assert meta.guide.center is center
    assert torch.equal(center, before)
    assert meta.state_dict()["constants"].keys() == {"guide.frozen", "guide.center", "guide.ready"}


def test_before_first_data_it_waits(tmp_path):
    meta = resumed.meta_svi()
    path = saved(tmp_path, meta)
    fresh = resumed.meta_svi()
    fresh.load(path)
    os.remove(path)
    with pytest.raises(pm.NotInitializedError):
        fresh.named_parameters()
    fresh = pickle.loads(pickle.dumps(fresh))
    fresh.init(resumed.data()[0])
    assert same(fresh.state_dict(), meta.state_dict())


def test_before_first_data_there_is_nothing_to_save(tmp_path):
    with pytest.raises(pm.NotInitializedError):
        resumed.meta_svi().save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def other_program():
    """Its encoder is wider and has no ``hidden.bias``, but a parameter more; its rates are learned."""
    case = modules()
    encoder = case.guide
    encoder.hidden = PyroModule[torch.nn.Linear](2, 5, bias=False).double()
    encoder.loc = PyroModule[torch.nn.Linear](5, 1).double()
    encoder.more = torch.nn.Linear(1, 1).double()
    return meta_svi(case, inner=pm.SGD(0.01, learn="rate"))


DIFFERENT = (
    r"a\.safetensors does not suit this MetaSVI: the state is of another program: "
    r"it lacks guide\.more\.weight, guide\.more\.bias, inner\.log_lr; "
    r"it has guide\.hidden\.bias, which this program has not; "
    r"guide\.hidden\.weight has shape \(5, 2\) here and \(3, 2\) there; "
    r"guide\.loc\.weight has shape \(1, 5\) here and \(1, 3\) there$"
)


def test_another_programs_is_refused_by_all_names_and_shapes(tmp_path):
    path = saved(tmp_path, resumed.meta_svi())
    meta = other_program()
    meta.init(resumed.data()[0])
    before = meta.state_dict()
    with pytest.raises(pm.CheckpointError, match=DIFFERENT) as caught:
        meta.load(path)
    assert "\n" not in str(caught.value)
    assert same(meta.state_dict(), before)


def test_before_first_data_another_programs_is_refused_by_first_data(tmp_path):
    path = saved(tmp_path, resumed.meta_svi())
    pyro.clear_param_store()
    meta = other_program()
    before = meta.guide.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    meta.load(path)
    for _ in range(2):
        with pytest.raises(pm.CheckpointError, match=DIFFERENT):
            meta.step(*resumed.data())
    assert same(dict(meta.guide.state_dict()), before)
    assert store() == {}
    right = other_program()
    resumed.steps(right, 1)
    right.save(path)
    meta.load(path)
    meta.init(resumed.data()[0])
    assert same(meta.state_dict(), right.state_dict())


def test_another_optimisers_is_refused(tmp_path):
    path = saved(tmp_path, resumed.meta_svi())
    meta = resumed.meta_svi(optim=lambda groups: torch.optim.SGD(groups, lr=1e-3, momentum=0.9))
    meta.init(resumed.data()[0])
    before = meta.state_dict()
    with pytest.raises(pm.CheckpointError, match=r"does not suit this MetaSVI: the optimiser state is not of a SGD: "):
        meta.load(path)
    assert same(meta.state_dict(), before)


def positive_scale(constraint=dist.constraints.positive, dtype=torch.float32, optim=None):
    """A program of a mean and of a scale that has a constraint."""

    def model(x):
        loc = pyro.sample("loc", dist.Normal(x.new_tensor(0.0), 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(0.5, dtype=dtype), constraint=constraint)
        pyro.sample("loc", dist.Normal(pyro.param("mean", torch.tensor(0.0, dtype=dtype)), scale))

    pyro.clear_param_store()
    meta = pm.MetaSVI(model, guide, optim or pyro.optim.Adam({"lr": 0.1}), inner=pm.SGD(0.01), steps=1)
    meta.step(torch.randn(4, 5, dtype=dtype))
    return meta


OTHERS = {
    "the dtype of its leaves": (
        {"dtype": torch.float64},
        r"guide\.scale, guide\.mean are float64 here and float32 there, so make the program in float32, say after "
        r"torch\.set_default_dtype\(torch\.float32\)$",
    ),
    "the optimiser's class": (
        {"optim": pyro.optim.AdamW({"lr": 0.1})},
        "the optimiser state is not of a AdamW: it is of Adam, so give optim= that class$",
    ),
    "a constraint's kind": (
        {"constraint": dist.constraints.softplus_positive},
        r"guide\.scale has SoftplusPositive\(lower_bound=0\.0\) here and GreaterThan\(lower_bound=0\.0\) there: give",
    ),
    "a constraint's bound": (
        {"constraint": dist.constraints.greater_than(torch.tensor(0.25))},
        r"guide\.scale has GreaterThan\(lower_bound=0\.25\) here and GreaterThan\(lower_bound=0\.0\) there: give each",
    ),
    "no constraint": (
        {"constraint": dist.constraints.real},
        r"of other constraints: guide\.scale has none here and GreaterThan\(lower_bound=0\.0\) there: give each",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_would_mean_other_numbers_is_refused_by_name(what, tmp_path):
    options, message = OTHERS[what]
    positive_scale().save(tmp_path / "a.safetensors")
    meta = positive_scale(**options)
    before = meta.state_dict()
    with pytest.raises(pm.CheckpointError, match=message):
        meta.load(tmp_path / "a.safetensors")
    assert same(meta.state_dict(), before)


def test_a_constraint_of_more_event_dimensions_is_no_other(tmp_path):
    positive_scale().save(tmp_path / "a.safetensors")
    meta = positive_scale(constraint=dist.constraints.independent(dist.constraints.positive, 0))
    meta.load(tmp_path / "a.safetensors")
    assert meta.state_dict()["constraints"] == {"guide.scale": "GreaterThan(lower_bound=0.0)"}


def test_a_file_that_tells_neither_class_nor_constraints_is_taken(tmp_path):
    meta = positive_scale()
    state = meta.state_dict()
    del state["constraints"], state["optimizer"]["class"]
    saving.write(tmp_path / "a.safetensors", state, kind="meta")
    told = meta.state_dict()
    meta.step(torch.randn(4, 5))
    meta.load(tmp_path / "a.safetensors")
    assert same(meta.state_dict(), told)


@pytest.mark.filterwarnings("ignore:.*requires_grad=False:UserWarning")  # of pyro.module, as under plain SVI
def test_one_frozen_before_first_data_is_not_learned_there(tmp_path):
    path = saved(tmp_path, resumed.meta_svi())
    meta = resumed.meta_svi()
    meta.guide.loc.bias.requires_grad_(False)
    meta.init(resumed.data()[0])
    with pytest.raises(pm.CheckpointError, match=r"of another program: guide\.loc\.bias is learned there only$"):
        meta.load(path)


def test_a_damaged_one_is_refused_at_once(tmp_path):
    path = saved(tmp_path, resumed.meta_svi())
    path.write_bytes(path.read_bytes()[:-3])
    meta = resumed.meta_svi()
    with pytest.raises(pm.CheckpointError, match=r"is truncated: .*: no whole one is beside it"):
        meta.load(path)
    meta.init(resumed.data()[0])


def test_another_kind_is_refused(tmp_path):
    saving.write(tmp_path / "a.safetensors", {}, kind="run")
    with pytest.raises(pm.CheckpointError, match=r"of kind 'run': give one of kind 'meta'$"):
        resumed.meta_svi().load(tmp_path / "a.safetensors")


def test_an_error_in_the_midst_puts_buffers_back(tmp_path, monkeypatch):
    meta = resumed.meta_svi(guide=resumed.FirstData)
    path = saved(tmp_path, meta)
    resumed.steps(meta, 1)
    meta.guide.center.zero_()
    meta.guide.ready.fill_(False)
    before, copy_, written, interrupts = meta.state_dict(), torch.Tensor.copy_, [], [KeyboardInterrupt]

    def interrupt(tensor, other):
        if tensor is meta.guide.ready and interrupts:
            raise interrupts.pop()
        written.append(tensor)
        return copy_(tensor, other)

    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "copy_", interrupt)
        with pytest.raises(KeyboardInterrupt):
            meta.load(path)
    assert any(tensor is meta.guide.center for tensor in written)
    assert same(meta.state_dict(), before)


@pytest.mark.filterwarnings("ignore:.*requires_grad=False:UserWarning")  # of pyro.module, as under plain SVI
def test_constants_of_modules_that_a_function_registers():
    module = resumed.FirstData()

    def guide(x):
        pyro.module("net", module)
        return module(x)

    meta = pm.MetaSVI(modules().model, guide, pyro.optim.Adam({"lr": 1e-2}), inner=pm.SGD(0.01), steps=1)
    meta.init(resumed.data()[0])
    assert meta.state_dict()["constants"].keys() == {"module0.frozen", "module0.center", "module0.ready"}


def test_what_is_recomputed_is_not_saved():
    meta = resumed.meta_svi(guide=resumed.FirstData)
    meta.guide.register_buffer("cache", torch.zeros(2), persistent=False)
    meta.init(resumed.data()[0])
    assert "guide.cache" not in meta.state_dict()["constants"]


def test_a_state_of_before_there_were_constants_is_taken():
    meta = resumed.meta_svi(guide=resumed.FirstData)
    resumed.steps(meta, 1)
    state = meta.state_dict()
    del state["constants"]
    resumed.steps(meta, 1)
    meta.load_state_dict(state)
    assert same({**meta.state_dict(), "constants": 0}, {**state, "constants": 0})


def test_amortize_is_loaded_with_what_it_standardises_by(tmp_path):
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", x.shape[-1], dim=-1):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def amortized(seed):
        torch.manual_seed(seed)
        return pm.Amortize(model, torch.zeros(4), rows=(2, 8), features=8, rounds=1, particles=2)

    first, second, task = amortized(1), amortized(2), torch.randn(5)
    first.meta.init(task[None])
    first.meta.save(tmp_path / "a.safetensors")
    second.meta.load(tmp_path / "a.safetensors")
    proposals = []
    for one in (first, second):
        torch.manual_seed(3)
        proposals.append(one.adapt(task, 0)(task)["mean"])
    assert torch.equal(*proposals)
