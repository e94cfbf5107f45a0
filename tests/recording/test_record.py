"""A function of tensors, recorded and replayed without a task or a program."""

from dataclasses import dataclass, field

import pytest
import torch

import pyrometa as pm
from pyrometa import generators
from pyrometa.recording import compiled
from pyrometa.recording.fingerprint import Fingerprint
from pyrometa.recording.held import _NODE
from pyrometa.recording.record import Recording, record
from pyrometa.recording.recordings import Recordings

pytestmark = pytest.mark.gpu

FLOAT64 = {"dtype": torch.float64}


def test_a_replay_gives_the_function_of_other_tensors():
    def function(tensors):
        x, y = tensors
        return {"product": x @ y, "rest": [x.exp().sum(0), (y + 0.0).neg().neg()]}

    def given():
        return [torch.randn(3, 3, **FLOAT64) for _ in range(2)]

    made = record(function, given(), {}, compiled=False)
    tensors = given()
    torch.testing.assert_close(made.replay(tensors), function(tensors))
    assert made.counts[0] < made.counts[1]


def test_a_parameter_is_read_as_an_input_only():
    weight = torch.ones(3)
    alias, parameters = weight.detach(), {"weight": weight}
    made = record(lambda tensors: tensors[0] * 2, [weight], parameters, compiled=False)
    assert made.replay([weight + 1]).tolist() == [4.0, 4.0, 4.0]
    with pytest.raises(pm.UnsupportedProgramError, match="shares memory with 'weight'"):
        record(lambda tensors: tensors[0] * alias, [weight], parameters, compiled=False)


@dataclass
class Scaled:
    """Its tensor times a number that Python holds."""

    factor: dict
    tensor: torch.Tensor = field(default_factory=lambda: torch.randn(4, **FLOAT64))
    parameters: dict = field(default_factory=dict)
    key: str = "scaled"
    label: str = "scaled"
    title: str = "scaled"

    def state(self, known):
        return known if known and known.holds({"factor": self.factor}, []) else Fingerprint({"factor": self.factor}, [])

    def tensors(self):
        return [self.tensor]

    def run(self):
        return self.on(self.tensors())

    def on(self, tensors):
        return tensors[0] * self.factor["value"]

    def in_parts(self, parts, *, compiled):
        return None

    def told(self, error):
        return str(error)


def test_a_recording_serves_while_its_state_is_what_it_was():
    factor, recordings = {"value": 2.0}, Recordings(eager=True, compiled=False)
    first = recordings.recording(Scaled(factor))
    assert recordings.recording(Scaled(factor)) is first
    factor["value"] = 3.0
    other = recordings.recording(Scaled(factor))
    assert other is not first
    torch.testing.assert_close(other.replay([torch.ones(4, **FLOAT64)]), torch.full((4,), 3.0, **FLOAT64))
    assert list(recordings.kept.values()) == [first, other]


def test_what_says_something_else_replayed_is_refused():
    class Other(Scaled):
        def run(self):
            return self.tensor

    with pytest.raises(pm.UnsupportedProgramError, match="replayed it gives other numbers"):
        Recordings(eager=True, compiled=False).recording(Other({"value": 2.0}))
    assert Recordings(eager=False, compiled=False).recording(Other({"value": 2.0})) is None


@dataclass
class Noisy(Scaled):
    """It draws its own numbers."""

    def on(self, tensors):
        return tensors[0] + torch.randn_like(tensors[0])


@pytest.mark.parametrize(("toy", "replays"), [(Scaled, 1), (Noisy, 2)])
def test_what_was_just_checked_is_replayed_again_only_for_other_numbers(toy, replays, monkeypatch):
    replay, calls = Recording.of, []
    monkeypatch.setattr(Recording, "of", lambda made, function: calls.append(0) or replay(made, function))
    given, recordings = toy({"value": 2.0}), Recordings(eager=True, compiled=False)
    before = generators.states()
    made = recordings.recording(given)
    assert not generators.moved_since(before)
    found = recordings.replayed(made, given)
    assert (len(calls), generators.moved_since(before)) == (replays, toy is Noisy)
    assert (toy is Noisy) or found.equal(given.run())
    other = toy({"value": 2.0})
    recordings.recording(given)
    assert not recordings.replayed(made, other).equal(found)
    assert len(calls) == replays + 1


def test_what_is_compiled_is_run_on_tensors_that_lie_as_at_first(monkeypatch):
    calls = []

    def as_it_is(graph, inputs, **options):
        def run(*given):
            assert [x.stride() for x in given] == [x.stride() for x in inputs]
            calls.append(given)
            return graph(*given)

        return run

    monkeypatch.setattr(compiled, "standalone_compile", as_it_is)
    table = torch.arange(3.0, **FLOAT64)
    given = [torch.ones(1, 3, **FLOAT64).expand(2, 3)]  # a copy of it lies otherwise
    made = record(lambda tensors: (tensors[0] * table).exp(), given, {}, compiled=True)
    for x in (given[0], torch.randn(2, 3, **FLOAT64)):
        torch.testing.assert_close(made.replay([x]), (x * table).exp())
        assert len(calls) == 1
    assert made.bytes == made.counts[0] * _NODE + table.nbytes
