"""Several processes compute what one does: meta-gradients to round-off, training to rounding, errors in all of them."""

import json
import subprocess
import sys
from pathlib import Path

import processes_program
import pytest
import torch

import pyrometa as pm
from pyrometa.types import Data, TaskBatch

PROGRAM = Path(processes_program.__file__)
RAGGED = [{"engine": "engine", "ragged": True}]
ALL = [{"engine": "engine"}, {"engine": "loop", "ragged": True}, {"engine": "recorded", "tasks": 4}, *RAGGED]
ENDS = [
    {"engine": "recorded", "tasks": 1},  # a process without a task
    {"bad": 4},
]
BREAKS = {"breaks": 1}
APART = [{"by": by} for by in ("rows", "tasks", "numbers", "data")]


def results_of(count, folder, cases):
    """What each of ``count`` processes gives."""
    command = [sys.executable, "-W", "ignore", str(PROGRAM), str(folder / f"store{count}")]
    started = [
        subprocess.Popen([*command, str(rank), str(count), json.dumps(cases)], stdout=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    return [json.loads(process.communicate(timeout=240)[0]) for process in started]


def alone_on(cases):
    """What this process gives."""
    torch.set_default_dtype(torch.float64)
    results = [processes_program.run(**case) for case in cases]
    torch.set_default_dtype(torch.float32)
    return json.loads(json.dumps(results))


def assert_close(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)
    else:
        assert one == (pytest.approx(other, rel=1e-12, abs=1e-13) if isinstance(one, float) else other)


def check(alone, together):
    for result in together:
        assert result == together[0]
        assert_close(result, alone)
    assert alone[-1]["error"].startswith("NonFiniteError: task 4, inner step 0")
    assert (alone[-1]["task"], alone[-1]["step"]) == (4, 0)


def test_two_processes_give_what_one_gives_and_fail_together(tmp_path):
    alone = alone_on(RAGGED + ENDS)
    cases = [*RAGGED, *ENDS, BREAKS, *APART]
    *together, broken, rows, tasks, numbers, unread = zip(*results_of(2, tmp_path, cases), strict=True)
    check(alone, list(zip(*together, strict=True)))
    assert broken[0]["error"].startswith("ProcessError: process 1 ended: TypeError: ")
    assert broken[1]["error"].startswith("TypeError: ")
    for refused, what in ((rows, "meta-batches"), (tasks, "meta-batches"), (numbers, "random generators")):
        for own in refused:
            check_refused(own[:2], what)
    check_refused(numbers[0][2:], "random generators")
    cause = "ValueError: support holds NaN or infinite values in task 1: clean them, or mask them in the model"
    assert unread[1][:2] == [{"error": cause}] * 2
    assert unread[0][:2] == [{"error": f"ProcessError: process 1 ended: {cause}"}] * 2
    after = [own[2] for refused in (rows, tasks, unread) for own in refused]
    assert after == [after[0]] * 6  # nothing was drawn
    assert "gives" in after[0]


def check_refused(attempts, what):
    for told in attempts:
        assert told["error"].startswith(f"ProcessError: processes have different {what} (")


@pytest.mark.slow
def test_four_processes_give_what_one_gives(tmp_path):
    alone = alone_on(ALL + ENDS)
    check(alone, results_of(4, tmp_path, ALL + ENDS))


@pytest.mark.parametrize(("total", "count"), [(5, 2), (5, 4), (2, 4), (8, 3), (1, 2), (6, 1)])
def test_each_task_is_in_one_share(total, count):
    index = tuple(range(total))[::-1]
    groups = [batch(index[: total // 2]), batch(index[total // 2 :])]
    shares = [pm.Processes(rank, count).share([g for g in groups if len(g)]) for rank in range(count)]
    sizes = [sum(len(group) for group in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    found = [pair for share in shares for group in share for pair in rows_by_index(group)]
    assert sorted(found) == [(i, float(i)) for i in range(total)]


def batch(index):
    data = Data((torch.tensor([float(i) for i in index]),))
    return TaskBatch(index, data, data, (), ())


def rows_by_index(group):
    return list(zip(group.index, group.support.args[0].tolist(), strict=True))


def test_alone_there_is_no_group():
    assert pm.Processes.of_group() == pm.Processes(0, 1)
