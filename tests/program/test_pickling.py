"""MetaSVI and adapted guides go into a pickle at any time, and come out of it the same."""

import copy
import io
import pickle
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import portable_programs
import pyro
import pytest
import torch
from meta_cases import assert_equal, meta_svi, store, values
from portable_programs import Adapting, adapted, away, drawn, stepped, values_of
from torch.utils.data import DataLoader

import pyrometa as pm

FIRST_ORDER = {"meta_gradient": pm.Unrolled(first_order=True), "inner": pm.SGD(0.005, learn="layer")}


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.fixture(params=portable_programs.PORTABLE, ids=lambda p: p.__name__)
def case(request, module_local_params):
    return request.param()


def made(case, **options):
    optim = pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.9})
    loss = pyro.infer.Trace_ELBO() if case.guide is portable_programs.discrete_guide else None
    return meta_svi(case, **{"optim": optim, "loss": loss, **FIRST_ORDER, **options})


EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("copied", [saved, copy.deepcopy])
def test_saved_and_copied(copied):
    case = portable_programs.learned_prior()
    check_meta(case, copied)
    check_guide(case, copied)


@pytest.mark.thinned(2)
def test_a_copy_goes_on_as_the_original_does(case):
    check_meta(case, pickled)


def check_meta(case, copied):
    meta, x = made(case), case.support
    meta.step(x)
    copy_, held = copied(meta), store()
    assert_equal(adapted(copy_, x[0]), adapted(meta, x[0]), **EXACT)
    before = values(meta)
    once, twice = stepped(copy_, x), stepped(copy_, x)
    assert_equal(values(meta), before, **EXACT)
    assert all(store()[name] is leaf for name, leaf in held.items())
    assert_equal(stepped(meta, x), once, **EXACT)
    assert_equal(stepped(meta, x), twice, **EXACT)


@pytest.mark.thinned(2, shift=1)
def test_before_training(case):
    meta = made(case)
    copy_ = pickled(meta)
    with pyro.get_param_store().scope():
        expected = stepped(copy_, case.support)
    assert_equal(stepped(meta, case.support), expected, **EXACT)


@pytest.mark.thinned(2)
def test_a_used_guide(case):
    check_guide(case, pickled)


def check_guide(case, copied):
    x = case.support[0]
    guide = made(case).adapt(x)
    drawn(guide, x)
    assert_equal(values_of(copied(guide)), values_of(guide), **EXACT)
    assert_equal(drawn(copied(guide), x), drawn(guide, x), **EXACT)


def test_an_autoguide_keeps_its_model_and_its_parts(module_local_params):
    case = portable_programs.parts()
    meta = made(case)
    meta.step(case.support)
    model, masters = case.guide.model, [part.master() for part in case.guide]
    copy_ = pickled(meta)
    assert case.guide.model is model
    assert [part.master() for part in case.guide] == masters == [case.guide, case.guide]
    assert [part.master() for part in copy_.guide] == [copy_.guide, copy_.guide]
    assert callable(copy_.guide.model)


def test_the_store_of_another_process_gets_the_values_of_names_that_are_free_in_it(module_local_params):
    case = portable_programs.bare()
    meta = made(case)
    meta.step(case.support)
    given = pickle.dumps(meta)
    expected = {name: value.detach() for name, value in pyro.get_param_store().items()}
    pyro.clear_param_store()
    taken = pyro.param("scale", torch.tensor(9.0))
    copy_ = pickle.loads(given)
    found = dict(pyro.get_param_store().items())
    assert found.keys() == expected.keys() == {"noise", "mean", "scale"}
    assert found["scale"] is taken
    assert_equal({n: found[n].detach() for n in ("noise", "mean")}, {n: expected[n] for n in ("noise", "mean")})
    assert store()["mean"] is dict(copy_.named_parameters())["guide.mean"]


def test_what_the_engine_knows_stays_behind():
    case = portable_programs.bare()
    engine = pm.Engine(record=True, chunk_size=3)
    meta = made(case, engine=engine, steps=1)
    meta.step(case.support)
    assert meta.recordings()
    for copy_ in (pickled(meta), copy.deepcopy(meta)):
        assert copy_.engine == engine
        assert not copy_.recordings()


def test_the_second_order_guard_still_knows_its_sites():
    case = portable_programs.discrete()
    meta = made(case)
    meta.init(case.support)
    copy_ = pickled(meta)
    copy_.meta_gradient = pm.Unrolled()
    with pytest.raises(pm.UnsupportedProgramError, match="guide site 'rate' is not reparameterised"):
        copy_.step(case.support)


def test_a_factory_of_optimisers_may_be_a_lambda():
    case = portable_programs.bare()
    meta = made(case, optim=lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9))
    meta.step(case.support)
    copy_ = pickled(pickled(meta))
    assert_equal(stepped(copy_, case.support), stepped(meta, case.support), **EXACT)


def test_modules_that_a_function_has_from_elsewhere_are_refused(module_local_params):
    case = portable_programs.global_module()
    meta = made(case)
    meta.step(case.support)
    with pytest.raises(pickle.PicklingError, match=r"'guide.encoder.weight', 'guide.encoder.bias'.*nn.Module"):
        pickle.dumps(meta)
    with pytest.raises(pickle.PicklingError, match=r"guide.encoder.weight"):
        pickle.dumps(meta.adapt(case.support[0]))


def test_in_other_processes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of multi-threaded forks
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            for make in (portable_programs.bare, portable_programs.learned_prior, portable_programs.conditioned):
                case = make()
                x, meta = case.support, made(case)
                meta.step(x)
                guide = meta.adapt(x[0])
                before = values(meta)
                (found, after), names = pool.submit(away, meta, guide, x).result()
                assert_equal(values(meta), before, **EXACT)
                here = {**adapted(meta, x[0]), **drawn(guide, x[0])}
                assert found == {name: value.tolist() for name, value in here.items()}
                assert set(names) >= set(store())
                items = DataLoader(Adapting(meta, guide, x), batch_size=None, num_workers=1)
                for item, expected in zip(items, Adapting(meta, guide, x), strict=True):
                    assert_equal(item, expected, **EXACT)
                assert after == {name: value.tolist() for name, value in stepped(meta, x).items()}
