"""Normals are scored as Pyro's ELBO scores them, and the contest of inner rules tells who is there when."""

import json

import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from ragged_lines import ELBO, line, lines

from benchmarks import inner_rules, kept_back, plain_svi, real_programs
from benchmarks.contest import Point, Run
from benchmarks.inner_rules_report import compared, curve, report
from benchmarks.normals import Normals, Program
from benchmarks.peers import newton_by_hand


def program_of(*sizes):
    problem = plain_svi.Problem(line, AutoNormal, ELBO, lines(*sizes), 16_000)
    return Program("lines", problem, line, (0.1,), 20, 40)


def start_of(program):
    return Normals(*(x.expand(len(program.problem.tasks), -1) for x in program.start))


@pytest.mark.parametrize("make", [lambda: program_of(2, 7, 4), lambda: real_programs.datasets(0, count=3)])
def test_a_score_is_the_mean_loss_of_plain_svi(make):
    program = make()
    (expected,) = plain_svi.svi(program.problem, None, pyro.optim.Adam({"lr": 0.1}), [0])
    assert program.score(start_of(program), 4096).mean().item() == pytest.approx(expected, rel=0.01)


def test_a_mean_field_is_scored_as_the_normal_that_it_is():
    program = program_of(3, 5)
    field = start_of(program)
    normal = Normals(field.loc, field.tril)
    assert torch.allclose(program.score(normal, 64), program.score(field, 64))
    assert torch.allclose(normal.deviations, field.scale)


def test_newton_by_hand_finds_the_mean_field_of_a_regression():
    program = program_of(4, 9)
    (*_, last) = newton_by_hand.run(program, [0, 8], draws=64).points
    phi = torch.cat([last.normals.loc, last.normals.scale.log()], -1).requires_grad_()
    loc, log_scale = phi.chunk(2, -1)
    points = newton_by_hand.sobol(64, loc.shape[-1], seed=7)
    (slope,) = torch.autograd.grad(program.losses(Normals(loc, log_scale.exp()), points).sum(), phi)
    assert slope.abs().max() < 1e-6


def test_tables_kept_back_say_how_far_each_step_is_from_the_last():
    found = kept_back.above(program_of(4, 9), [0, 1, 5, 6], draws=256)
    assert found["above"][0] > found["above"][1] > found["above"][2] > -1e-6
    assert found["above"][2:] == pytest.approx([0, 0], abs=1e-5)
    assert (found["tasks"], found["far"][0], found["far"][2:]) == (2, 2, [0, 0])
    assert "2 tasks" in kept_back.report("lines", found)


def test_the_mirror_image_puts_the_smaller_mean_first():
    loc, deviations = torch.tensor([[0.3, 2.0, -1.0, 0.1, 0.2]]), torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    turned = real_programs.by_means(loc, deviations)
    assert turned[0].tolist() == torch.tensor([[-0.3, -1.0, 2.0, 0.2, 0.1]]).tolist()
    assert turned[1].tolist() == [[1.0, 3.0, 2.0, 5.0, 4.0]]
    assert real_programs.by_means(*turned)[0].equal(turned[0])


def test_a_contestant_is_held_against_the_lowest_of_svi():
    program = program_of(4, 9)
    start, far = start_of(program), Normals(start_of(program).loc + 1, start_of(program).scale)
    slow = Run([Point(0, 0.0, far), Point(100, 0.5, start)], alone=0.01)
    quick = Run([Point(1, 0.002, start)])
    runs = {"SVI": [slow], "other": [quick]}
    scored = {name: [curve(program, run, 64) for run in some] for name, some in runs.items()}
    result = compared(program, runs, scored, start)
    assert result["target"] == result["contestants"]["SVI"]["losses"][1]
    assert result["adam"]["0.005"] == {"steps": 100, "alone": 1.0, "side by side": 0.5}
    assert result["contestants"]["other"]["there"] == {"0.005": 0, "0.001": 0}
    assert result["contestants"]["other"]["against NUTS"] == {"error": 0.0, "largest": 0.0, "ratio": 1.0}
    assert " 500 " in report("lines", {**result, "absent": {}})  # a second of Adam in two milliseconds


def test_the_contest_writes_and_prints_what_takes_part(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # put back after
    monkeypatch.setattr(inner_rules, "in_own_process", lambda function, *args: function(*args))
    path = tmp_path / "inner_rules.json"
    only = ["--only", inner_rules.ADAM, "Newton by hand"]
    inner_rules.main(["--quick", "--truth", "0", "--programs", "radon", *only, "--json", str(path)])
    found = json.loads(path.read_text())["radon"]
    assert list(found["contestants"]) == only[1:]
    assert found["contestants"]["Newton by hand"]["at"] == [0, 1, 2, 3, 4]
    assert "Newton by hand (mean field)" in capsys.readouterr().out
