"""Files in, a file out: the same numbers however the rows are cut up, and wherever a run was interrupted."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adapter_program import made_local, made_meta, made_table, task

import pyrometa as pm
from pyrometa.adapter import adapt_files

SIZES = [3, 5, 3, 4, 6, 3, 3, 5]


def adapter(**options):
    return pm.Adapter(made_meta(), "user", (["x0", "x1"], "y"), **{"draws": 16, "batch_size": 2, **options})


def write(folder, table, cuts, row_group_size=4):
    """The table over several files."""
    for i, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(table)], strict=True)):
        pq.write_table(table.slice(start, end - start), folder / f"{i}.parquet", row_group_size=row_group_size)
    return str(folder / "[0-9].parquet")


def expected(table):
    return adapter(batch_size=100)(table).drop_columns(["error"])


def assert_same(found, wanted):
    assert found.column_names == wanted.column_names
    assert found["user"].to_pylist() == wanted["user"].to_pylist()
    for name in wanted.column_names[1:]:
        np.testing.assert_allclose(found[name].to_numpy(), wanted[name].to_numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("cuts", "row_group_size"), [([], 100), ([7, 15], 4), ([8, 9, 10], 1)])
def test_groups_may_span_files_and_row_groups(tmp_path, cuts, row_group_size):
    table = made_table(SIZES)
    done = []
    result = adapt_files(
        adapter(),
        write(tmp_path, table, cuts, row_group_size),
        tmp_path / "out.parquet",
        report=lambda now, rows: done.append((now.groups, now.rows, rows)),
    )
    assert (result.groups, result.rejected, result.rejected_out) == (8, 0, None)
    assert_same(pq.read_table(result.out), expected(table))
    assert done[-1] == (8, 32, 32)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".parquet"] * (len(cuts) + 2)


def test_bad_groups_are_written_apart(tmp_path):
    table = made_table(SIZES).to_pandas()
    table.loc[table.user == 2, "y"] = np.nan
    table.loc[table.user == 7, "x0"] = np.inf
    result = adapt_files(adapter(), write(tmp_path, pa.Table.from_pandas(table), [9]), tmp_path / "out.parquet")
    assert (result.groups, result.rejected) == (6, 2)
    rejected = pq.read_table(tmp_path / "out.rejected.parquet")
    assert rejected.column_names == ["user", "rows", "error"]
    assert rejected["user"].to_pylist() == [2, 7]
    assert rejected["error"][0].as_py() == "3 values are no finite number in column 'y', the first in its row 0: None"
    assert pq.read_table(result.out)["user"].to_pylist() == [0, 1, 3, 4, 5, 6]


def test_a_first_part_of_bad_groups_alone(tmp_path):
    table = made_table(SIZES).to_pandas()
    table.loc[table.user < 3, "y"] = np.nan
    data = write(tmp_path, pa.Table.from_pandas(table), [])
    result = adapt_files(adapter(batch_size=1), data, tmp_path / "out.parquet")
    assert pq.read_table(result.out)["user"].to_pylist() == [3, 4, 5, 6, 7]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, after):
    table = made_table(SIZES)
    data, out, seen = write(tmp_path, table, [7]), tmp_path / "out.parquet", []

    def report(now, rows):
        seen.append(now.groups)
        if len(seen) == after:
            raise Stopped

    with pytest.raises(Stopped):
        adapt_files(adapter(), data, out, report=report)
    assert not out.exists()
    stopped_at = seen[-1]
    result = adapt_files(adapter(batch_size=3), data, out, report=report)
    assert seen[after] > stopped_at
    assert result.groups == 8
    assert_same(pq.read_table(out), expected(table))


def test_parts_of_another_run_are_refused(tmp_path):
    data, out = write(tmp_path, made_table(SIZES), []), tmp_path / "out.parquet"

    def stop(now, rows):
        raise Stopped

    with pytest.raises(Stopped):
        adapt_files(adapter(), data, out, report=stop)
    with pytest.raises(
        ValueError, match=r"out\.parquet\.parts holds parts of a run that was interrupted, of other data"
    ):
        adapt_files(adapter(seed=1), data, out)
    other = adapter()
    other.meta.step(tuple(x[None] for x in task(made_table([4]), 0)))
    with pytest.raises(ValueError, match="or other parameters: remove the folder, or give another out"):
        adapt_files(other, data, out)


def test_rows_that_are_not_sorted_are_refused_with_their_place(tmp_path):
    table = made_table(SIZES)
    data = write(tmp_path, table.take([*range(11, 32), *range(11)]), [8])
    message = r"row 13 of .*1\.parquet has 'user' 0 after 7: sort the data by 'user', over all files in the order of"
    with pytest.raises(ValueError, match=message):
        adapt_files(adapter(), data, tmp_path / "out.parquet")


def test_files_that_differ_are_refused(tmp_path):
    table = made_table(SIZES)
    data = write(tmp_path, table, [7])
    whole = table.slice(7).set_column(1, "x0", pa.array([1] * (len(table) - 7)))
    pq.write_table(whole, tmp_path / "1.parquet")
    with pytest.raises(
        ValueError, match=r"column 'x0' is double in .*0\.parquet and int64 in .*1\.parquet: write both"
    ):
        adapt_files(adapter(), data, tmp_path / "out.parquet")


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_no_group_comes_twice_around_rows_without_one(tmp_path, monkeypatch, nothing):
    monkeypatch.setattr("pyrometa.adapter.whole_groups.ROWS", 4)
    table = made_table([3, 3, 4])
    kind = pa.int64() if nothing is None else pa.float64()
    users = pa.array([1] * 3 + [nothing] * 3 + [1] * 4, kind, from_pandas=False)
    pq.write_table(table.set_column(0, "user", users), tmp_path / "0.parquet")
    with pytest.raises(ValueError, match=r"row 6 of .*0\.parquet has 'user' 1(\.0)? after None: sort the data"):
        adapt_files(adapter(batch_size=1), tmp_path / "0.parquet", tmp_path / "out.parquet")


@pytest.mark.parametrize("users", [[None, None, 0, 1], [0, 1, None, None]])
def test_rows_without_a_group_are_sorted_first_or_last(tmp_path, monkeypatch, users):
    monkeypatch.setattr("pyrometa.adapter.whole_groups.ROWS", 2)
    table = made_table([3, 3, 3, 3])
    users = pa.array([users[i] for i in table["user"].to_pylist()], pa.int64())
    data = write(tmp_path, table.set_column(0, "user", users), [5])
    result = adapt_files(adapter(batch_size=1), data, tmp_path / "out.parquet")
    assert (result.groups, result.rejected) == (2, 1)
    assert pq.read_table(tmp_path / "out.rejected.parquet")["rows"].to_pylist() == [6]


def test_out_is_none_of_the_data(tmp_path):
    data = write(tmp_path, made_table(SIZES), [])
    with pytest.raises(ValueError, match="which is among the data: give another file"):
        adapt_files(adapter(), data, tmp_path / "0.parquet")


def test_what_is_no_file_or_has_no_row_is_refused_at_once(tmp_path):
    table = made_table(SIZES)
    data = write(tmp_path, table, [])
    with pytest.raises(ValueError, match="which is a folder: give a file"):
        adapt_files(adapter(), data, tmp_path)
    with pytest.raises(ValueError, match=r"there is no row in "):
        adapt_files(adapter(), write(tmp_path, table.slice(0, 0), []), tmp_path / "out.parquet")
    (tmp_path / "0.parquet").write_bytes(b"?" * 100)
    with pytest.raises(ValueError, match=r"0\.parquet is no Parquet file"):
        adapt_files(adapter(), data, tmp_path / "out.parquet")


def stopped(one, data, out, after=1):
    seen = []

    def report(now, rows):
        seen.append(now)
        if len(seen) == after:
            raise Stopped

    with pytest.raises(Stopped):
        adapt_files(one, data, out, report=report)


@pytest.mark.parametrize("change", [{"steps": 4}, {"inner": pm.SGD(0.02)}, {"frozen": 2.0}])
def test_parts_by_another_rule_or_constant_are_refused(tmp_path, change):
    data, out = write(tmp_path, made_table(SIZES), []), tmp_path / "out.parquet"
    one = adapter()
    one.meta.init(tuple(x[None] for x in task(made_table([4]), 0)))
    leaf = next(iter(dict(one.meta.named_parameters()).values())).requires_grad_(False)
    stopped(one, data, out)
    if "frozen" in change:
        leaf.fill_(change["frozen"])
    else:
        vars(one.meta).update(change)
    with pytest.raises(ValueError, match="holds parts of a run that was interrupted, of other data, another adapter"):
        adapt_files(one, data, out)


def test_killed_while_it_removes_its_parts_it_keeps_the_results(tmp_path, monkeypatch):
    table = made_table(SIZES)
    data, out = write(tmp_path, table, [7]), tmp_path / "out.parquet"

    def killed(folder, ignore_errors=False):
        if not ignore_errors:
            min(folder.glob("part-*")).unlink()
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr("pyrometa.adapter.parts.shutil.rmtree", killed)
        with pytest.raises(Stopped):
            adapt_files(adapter(), data, out)
    assert_same(pq.read_table(out), expected(table))
    adapt_files(adapter(), data, out)
    assert_same(pq.read_table(out), expected(table))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_changes_meanwhile_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrometa.adapter.whole_groups.ROWS", 4)
    data, out = write(tmp_path, made_table(SIZES), [7]), tmp_path / "out.parquet"
    with pytest.raises(ValueError, match=r"1\.parquet has changed while it was adapted: begin anew, without the"):
        adapt_files(adapter(), data, out, report=lambda now, rows: (tmp_path / "1.parquet").touch())
    assert not out.exists()


def test_a_part_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrometa.adapter.whole_groups.ROWS", 4)
    data, out = write(tmp_path, made_table(SIZES), []), tmp_path / "out.parquet"
    stopped(adapter(), data, out, after=2)
    min(tmp_path.glob("*.parts/part-*")).unlink()
    with pytest.raises(ValueError, match=r"hold \d groups, and 8 were adapted: two runs wrote there"):
        adapt_files(adapter(), data, out)
    assert not out.exists()


def test_a_site_of_another_shape_in_another_part_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrometa.adapter.whole_groups.ROWS", 3)
    data = write(tmp_path, made_table([3, 3, 3, 4]), [])
    one = pm.Adapter(made_local(), "user", "y", ("mean",), batch_size=1)
    with pytest.raises(ValueError, match="site 'z' has another shape for groups of another size"):
        adapt_files(one, data, tmp_path / "out.parquet")


KILLED = """
import sys, time
sys.path[:0] = {path!r}
from test_streaming import adapter, adapt_files
adapt_files(adapter(batch_size=1), {data!r}, {out!r}, report=lambda now, rows: time.sleep(0.1))
"""


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on(tmp_path):
    table = made_table(SIZES * 3)
    data, out = write(tmp_path, table, [20]), tmp_path / "out.parquet"
    code = KILLED.format(path=[str(Path(__file__).parent)], data=data, out=str(out))
    parts = Path(f"{out}.parts")
    kills = 0
    while not out.exists():
        process = subprocess.Popen([sys.executable, "-c", code])
        seen = len(list(parts.glob("part-*")))
        while process.poll() is None and len(list(parts.glob("part-*"))) < seen + 3:
            time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    assert_same(pq.read_table(out), expected(table))
