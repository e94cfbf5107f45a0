"""Options are plain; what is learned by running belongs to the MetaSVI."""

import copy
import dataclasses
import pickle

import meta_cases
from programs import modules

import pyrometa as pm


def recorded(engine):
    case = modules()
    meta = meta_cases.meta_svi(case, inner=pm.SGD(0.02), steps=0, engine=engine)
    meta.evaluate_loss(case.support)
    return meta, case


def test_an_engine_is_its_options():
    engine = pm.Engine(chunk_size=3, record="auto")
    assert vars(engine).keys() == {field.name for field in dataclasses.fields(engine) if field.init}
    assert engine == pickle.loads(pickle.dumps(engine)) == copy.deepcopy(engine)
    assert hash(engine) == hash(pm.Engine(chunk_size=3, record="auto"))


def test_who_shares_an_engine_shares_no_recording():
    engine = pm.Engine(record=True)
    first, case = recorded(engine)
    (before,) = first.recordings()
    second = meta_cases.meta_svi(case, inner=pm.SGD(0.02), steps=0, engine=engine)
    assert second.recordings() == []
    second.evaluate_loss(case.support)
    assert first.recordings() == [before]
    assert len(second.recordings()) == 1


def test_what_is_known_of_an_engine_serves_again():
    meta, case = recorded(pm.Engine(record=True))
    before = meta.recordings()
    for engine in (pm.Engine(), pm.Engine(record=True)):
        meta.engine = engine
        meta.evaluate_loss(case.support)
    assert meta.recordings() == before
