"""Amortize's seconds against Adam's: that it runs with tiny sizes, and that normals and levels are read rightly."""

import json
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

from benchmarks.contest import Point, Run
from experiments import amortize_seconds


def test_normals_are_those_behind_the_transforms():
    def guide():
        positive = dist.transforms.ExpTransform()
        pyro.sample("a", dist.TransformedDistribution(dist.Normal(1.0, 2.0), [positive]))
        pyro.sample("b", dist.Normal(torch.tensor([3.0, 4.0]), 0.5).to_event(1))

    program = SimpleNamespace(sites=[SimpleNamespace(name="a"), SimpleNamespace(name="b")])
    found = amortize_seconds.normals([guide], [()], program)
    assert found.loc.tolist() == [[1.0, 3.0, 4.0]]
    assert found.scale.tolist() == [[2.0, 0.5, 0.5]]


def test_the_rate_that_is_there_first_counts():
    def run(note):
        return Run([Point(10, 0.1, None), Point(20, 0.2, None)], alone=0.5, note=note)

    runs, means = [run("slow"), run("fast"), run("never")], [[2.0, 1.0], [1.0, 0.9], [3.0, 3.0]]
    found = amortize_seconds.first(runs, means, level=1.0, starts=2)
    assert found == {"steps": 10, "alone": 10.0, "side by side": 0.2, "rate": "fast"}
    assert amortize_seconds.first(runs, means, level=0.5, starts=2) is None


@pytest.mark.slow
def test_it_runs(tmp_path):
    path = tmp_path / "seconds.json"
    found = amortize_seconds.main(["--quick", "--json", str(path)])
    assert json.loads(path.read_text()) == found
    assert len(found["ours"]["losses"]) == 3
    assert list(found["adam"]) == ["1", "2"]
