"""Newton and Adam on tasks of more latents, with tiny sizes."""

import json

import pytest
import torch

from benchmarks.inner_rules import ADAM
from benchmarks.normals import Normals
from experiments import local_latents, more_latents


@pytest.mark.parametrize("numbers", [12, pytest.param(more_latents.NETWORK, marks=pytest.mark.slow)])
def test_a_row_for_each_number_of_latents(numbers, tmp_path, capsys):
    path = tmp_path / "metrics.json"
    sizes = ["--numbers", str(numbers), "--tasks", "2", "--particles", "4"]
    more_latents.main(["--quick", *sizes, "--json", str(path)])
    assert list(json.loads(path.read_text())[str(numbers)]["contestants"]) == [ADAM, "Newton, pyrometa"]
    assert f"{numbers} numbers a task" in capsys.readouterr().out


def scored(program, task, **values):
    """The loss of both tasks at the start's scales and no noise, and a task's log density."""
    loc, scale = (x.float() for x in program.start)
    both = program.losses(Normals(loc.expand(2, -1), scale.expand(2, -1)), torch.zeros(1, len(loc)))
    sites = {name: torch.as_tensor(value) for name, value in values.items()}
    joint = more_latents.pyro.condition(program.problem.model, sites)
    trace = more_latents.pyro.poutine.trace(joint).get_trace(*program.problem.tasks[task])
    entropy = scale.log().sum() + len(loc) / 2 * (1 + torch.tensor(2 * torch.pi).log())
    return both[task].item(), -(trace.log_prob_sum() + entropy).item()


def test_tables_side_by_side_are_scored_as_each_by_itself():
    program = more_latents.program(12, tasks=2, particles=4, seed=0)
    assert len(program.start[0]) == 6
    found, expected = scored(program, 1, mean=0.0, slope=0.0, spread=1.0, noise=1.0, levels=torch.zeros(2))
    assert found == pytest.approx(expected, rel=1e-5)


def test_networks_side_by_side_are_scored_as_each_by_itself():
    program = more_latents.network_program(tasks=2, particles=4, seed=0)
    loc = program.start[0].float()
    assert 2 * len(loc) == more_latents.NETWORK
    shapes = {site.name: site.shape for site in program.sites}
    parts = loc.split([shape.numel() for shape in shapes.values()])
    weights = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    found, expected = scored(program, 1, **weights)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_row_for_each_refinement(tmp_path, capsys):
    path = tmp_path / "metrics.json"
    local_latents.main(["--quick", "--json", str(path)])
    found = json.loads(path.read_text())
    assert list(found) == ["trained", "untrained"]
    losses = [loss for *_, loss in found["untrained"]["Newton, 128 particles"]]
    assert max(losses) < found["untrained"]["proposed"]
    assert "untrained encoder: proposes" in capsys.readouterr().out
