"""Newton and Adam on tasks of more latents, with tiny sizes."""

import json

import pytest
import torch

from benchmarks import inner_rules
from benchmarks.normals import Normals
from experiments import more_latents


def test_a_row_for_each_number_of_latents(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # put back after
    monkeypatch.setattr(inner_rules, "in_own_process", lambda function, *args: function(*args))
    path = tmp_path / "metrics.json"
    only = [inner_rules.ADAM, "Newton by hand"]
    more_latents.main(["--quick", "--numbers", "12", "--only", *only, "--json", str(path)])
    assert list(json.loads(path.read_text())["12"]["contestants"]) == only
    assert "12 numbers a task" in capsys.readouterr().out


def test_tables_side_by_side_are_scored_as_each_by_itself():
    program = more_latents.program(12, tasks=2, particles=4, seed=0)
    loc, scale = (x.float() for x in program.start)
    assert len(loc) == 6
    both = program.losses(Normals(loc.expand(2, -1), scale.expand(2, -1)), torch.zeros(1, 6))
    y = program.problem.tasks[1][1]
    values = {"mean": 0.0, "slope": 0.0, "spread": 1.0, "noise": 1.0, "levels": torch.zeros(2)}
    sites = {name: torch.as_tensor(value) for name, value in values.items()}
    joint = more_latents.pyro.condition(more_latents.model, sites)
    trace = more_latents.pyro.poutine.trace(joint).get_trace(torch.zeros(16), y)
    entropy = scale.log().sum() + 3 * (1 + torch.tensor(2 * torch.pi).log())
    assert both[1].item() == pytest.approx(-(trace.log_prob_sum() + entropy).item(), rel=1e-5)
