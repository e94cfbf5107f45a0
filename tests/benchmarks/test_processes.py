"""The benchmark of processes: its model finds what made the figures, and its workers run."""

import json

import pytest

from benchmarks import processes


def test_the_model_is_what_made_the_figures(monkeypatch, tmp_path, capsys):
    def launched(count, tasks, args):
        seconds = 0.03 + 0.004 * -(-tasks // count) + (0.002 if count == 2 else 0.0)
        return {"step": seconds, "sum": 0.002 if count == 2 else 0.0, "parameters": 1000}

    monkeypatch.setattr(processes, "launched", launched)
    path = tmp_path / "processes.json"
    found = processes.main(["--rounds", "2", "--json", str(path)])
    assert [found[name] for name in ("besides", "task", "sum")] == pytest.approx([0.03, 0.004, 0.002])
    assert processes.modelled(found, 64, 4) == pytest.approx(0.03 + 0.004 * 16 + 1.5 * 0.002)
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["64", "2"])
    assert row == ["64", "2", "160", "160", f"{286 / (2 * 160):.2f}"]
    assert json.loads(path.read_text())["steps"]["64 2"] == pytest.approx(0.16)


@pytest.mark.slow
def test_workers_say_what_they_see(tmp_path):
    path = tmp_path / "processes.json"
    found = processes.main(["--quick", "--rounds", "1", "--steps", "2", "--tasks", "2", "3", "--json", str(path)])
    assert set(found["steps"]) == {"2 1", "2 2", "3 1", "3 2"}
    assert min(found["steps"].values()) > 0
    assert found["sum"] > 0
