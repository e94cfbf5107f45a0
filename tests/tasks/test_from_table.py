"""Tasks from files and frames are those of group_tasks on the same rows, bit for bit."""

import hashlib
import inspect
import os
import pickle
import subprocess
import sys
from itertools import islice

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from pyrometa.tasks import GroupSampler, from_frame, from_parquet, group_tasks, parquet

SPEC = {"group": "user", "columns": (["x0", "x1"], "y")}


def table(order="sorted", rows=120):
    """Ragged groups; sorted, in blocks that come again, or shuffled."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, 15, rows)
    user = {"sorted": np.sort(user), "blocks": np.arange(rows) // 7 % 11, "shuffled": user}[order]
    columns = {"user": [f"u{i:02}" for i in user], "x0": rng.normal(size=rows), "x1": rng.integers(0, 9, rows)}
    return pa.table({**columns, "y": rng.random(rows) < 0.5, "note": ["text"] * rows})


def by_hand(data, **options):
    """What group_tasks makes of the same columns."""
    columns = {name: torch.tensor(data.column(name).to_pylist()) for name in ("x0", "x1", "y")}
    x = torch.stack([columns["x0"].float(), columns["x1"].float()], dim=1)
    return group_tasks((x, columns["y"]), data.column("user").to_pylist(), **options)


def bits(tasks):
    return [[column.tolist() for column in rows] for rows in tasks]


def assert_same(splits, expected):
    for tasks, reference in zip(splits, expected, strict=True):
        assert tasks.names == reference.names
        assert tasks.sizes == reference.sizes
        assert bits(tasks.rows) == bits(reference.rows)
        assert [[column.dtype for column in rows] for rows in tasks.rows] == [
            [torch.float32, torch.bool] for _ in reference.rows
        ]
        for side, wanted in zip(tasks.split(0.3, seed=2), reference.split(0.3, seed=2), strict=True):
            assert bits(side) == bits(wanted)


@pytest.mark.parametrize("order", ["sorted", "blocks", "shuffled"])
@pytest.mark.parametrize(("files", "row_group"), [(1, 200), (1, 13), (3, 11)])
def test_files_give_the_tasks_of_the_table(tmp_path, order, files, row_group):
    data = table(order)
    for i, start in enumerate(range(0, 120, 120 // files)):
        pq.write_table(data.slice(start, 120 // files), tmp_path / f"{i}.parquet", row_group_size=row_group)
    options = {"minimum": 3, "fractions": (0.6, 0.2, 0.2), "seed": 4}
    for path in (tmp_path / "*.parquet", sorted(map(str, tmp_path.iterdir()))):
        splits = from_parquet(path, **SPEC, **options, cache_bytes=0)
        assert_same(splits, by_hand(data, **options))
        samplers = [GroupSampler(each.train, support=0.4, seed=3) for each in (splits, by_hand(data, **options))]
        for _ in range(2):
            drawn, expected = (sampler.sample(4) for sampler in samplers)
            assert [bits(side) for side in drawn] == [bits(side) for side in expected]


class Stream:
    """A table of some other library: all that is known of it is Arrow's stream."""

    def __init__(self, data):
        self.data = data

    def __arrow_c_stream__(self, requested_schema=None):
        return self.data.__arrow_c_stream__(requested_schema)


FRAMES = {
    "arrow": lambda data: data,
    "chunks": lambda data: pa.concat_tables([data.slice(0, 50), data.slice(50)]),
    "pandas": lambda data: data.to_pandas(),
    "pandas with categories": lambda data: data.to_pandas().astype({"user": "category"}),
    "pandas by its index": lambda data: data.to_pandas().set_index("user"),
    "polars": pl.from_arrow,
    "polars with categories": lambda data: pl.from_arrow(data).cast({"user": pl.Categorical}),
    "a stream": Stream,
    "a reader": lambda data: data.to_reader(),
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_frames_give_the_tasks_of_the_table(kind, order):
    data = table(order)
    assert_same(from_frame(FRAMES[kind](data), **SPEC, seed=1), by_hand(data, seed=1))


ROWS = {"group": [0, 0, 1, 1], "f": [0.5, 1.0, 2.0, 4.0], "i": [1, 2, 3, 4], "b": [True, False, True, True]}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("f", torch.tensor([2.0, 4.0])),
        ("i", torch.tensor([3, 4])),
        (["f"], torch.tensor([[2.0], [4.0]])),
        (["i", "f"], torch.tensor([[3.0, 2.0], [4.0, 4.0]])),
        (["b", "i"], torch.tensor([[1, 3], [1, 4]])),
        (("f", "i"), (torch.tensor([2.0, 4.0]), torch.tensor([3, 4]))),
        ((["f", "f"],), (torch.tensor([[2.0, 2.0], [4.0, 4.0]]),)),
        (("b", ["i"], "group"), (torch.tensor([True, True]), torch.tensor([[3], [4]]), torch.tensor([1, 1]))),
    ],
)
def test_columns_become_arguments(columns, expected, tmp_path):
    pq.write_table(pa.table(ROWS), tmp_path / "a.parquet")
    for splits in (
        from_frame(pa.table(ROWS), group="group", columns=columns, fractions=(1.0, 0.0, 0.0)),
        from_parquet(tmp_path / "a.parquet", group="group", columns=columns, fractions=(1.0, 0.0, 0.0)),
    ):
        rows = splits.train.rows[splits.train.names.index(1)]
        assert type(rows) is type(expected)
        pairs = zip(rows, expected, strict=True) if isinstance(rows, tuple) else [(rows, expected)]
        for tensor, wanted in pairs:
            assert tensor.dtype == wanted.dtype
            assert torch.equal(tensor, wanted)


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (pa.array([1.0, 2.0], pa.float64()), torch.float32),
        (pa.array(np.float16([1.0, 2.0])), torch.float32),
        (pa.array(["1.0", "2.0"]).cast(pa.decimal128(5, 2)), torch.float32),
        (pa.array([1, 2], pa.int8()), torch.int64),
        (pa.array([1, 2], pa.uint64()), torch.int64),
        (pa.array([1, 2]).dictionary_encode(), torch.int64),
        (pa.array([True, True]), torch.bool),
    ],
)
def test_dtypes(column, dtype):
    frame = pa.table({"g": [0, 0], "x": column})
    (rows,) = from_frame(frame, group="g", columns="x", fractions=(1.0, 0.0, 0.0)).train.rows
    assert rows.dtype == dtype
    assert rows.tolist() == [1, 1 if dtype == torch.bool else 2]


def test_floats_become_the_default_dtype_of_when_they_were_asked_for(tmp_path):
    pq.write_table(pa.table({"g": [0, 0], "x": [0.1, 0.2]}), tmp_path / "a.parquet")
    torch.set_default_dtype(torch.float64)
    try:
        tasks = from_parquet(tmp_path / "a.parquet", group="g", columns="x", fractions=(1.0, 0.0, 0.0)).train
    finally:
        torch.set_default_dtype(torch.float32)
    assert tasks.rows[0].tolist() == [0.1, 0.2]


def test_nan_is_data_except_where_it_is_null(tmp_path):
    data = pl.DataFrame({"g": [0, 0], "x": [float("nan"), float("inf")]})
    data.write_parquet(tmp_path / "a.parquet")
    for splits in (
        from_frame(data, group="g", columns="x", fractions=(1.0, 0.0, 0.0)),
        from_parquet(tmp_path / "a.parquet", group="g", columns="x", fractions=(1.0, 0.0, 0.0)),
    ):
        assert splits.train.rows[0].isnan().tolist() == [True, False]


def counted(monkeypatch):
    """Row groups and columns of all reads from now on."""
    reads = []
    read = parquet._read

    def counting(file, part, names):
        reads.append((part, names))
        return read(file, part, names)

    monkeypatch.setattr(parquet, "_read", counting)
    return reads


def hundred(tmp_path):
    """Ten groups of ten rows; row groups of 25 rows; columns x0, x1, y and text."""
    data = table(rows=100).set_column(0, "user", pa.array(np.arange(100) // 10))
    pq.write_table(data, tmp_path / "a.parquet", row_group_size=25)
    return tmp_path / "a.parquet"


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    path = hundred(tmp_path)
    reads = counted(monkeypatch)
    tasks = from_parquet(path, **SPEC, fractions=(1.0, 0.0, 0.0), cache_bytes=0).train
    assert reads == [(part, ["user"]) for part in range(4)]
    del reads[:]
    assert tasks.sizes == [10] * 10
    GroupSampler(tasks, support=0.5, seed=0)
    assert reads == []
    for name, parts in ((1, [0]), (9, [3]), (2, [0, 1])):
        _ = tasks.rows[tasks.names.index(name)]
        assert reads == [(part, ["x0", "x1", "y"]) for part in parts]
        del reads[:]
    GroupSampler(tasks, support=0.5, seed=0).sample(10)
    assert [part for part, _ in reads] == [0, 1, 2, 3]  # each once, though each holds several of the groups


@pytest.mark.parametrize(
    ("kept", "expected"), [(0, [0, 1, 0, 3, 0]), (1, [0, 1, 0, 3, 0]), (2, [0, 1, 3]), (9, [0, 1, 3])]
)
def test_the_latest_row_groups_stay_in_memory(tmp_path, monkeypatch, kept, expected):
    one = 25 * (2 * 4 + 1)  # two floats and a boolean a row
    tasks = from_parquet(hundred(tmp_path), **SPEC, fractions=(1.0, 0.0, 0.0), cache_bytes=kept * one).train
    reads = counted(monkeypatch)
    for name in (1, 3, 1, 9, 1):
        _ = tasks.rows[tasks.names.index(name)]
    assert [part for part, _ in reads] == expected


def test_rows_are_a_sequence(tmp_path):
    rows = from_parquet(hundred(tmp_path), **SPEC, fractions=(1.0, 0.0, 0.0)).train.rows
    everything = bits(rows)
    assert len(rows) == 10
    assert bits([rows[-1], rows[3]]) == [everything[9], everything[3]]
    assert bits(rows[2:9:3]) == everything[2:9:3]
    with pytest.raises(IndexError):
        _ = rows[10]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sent", [lambda batches: batches, lambda batches: pickle.loads(pickle.dumps(batches))])
def test_files_are_read_in_workers_and_after_a_copy(tmp_path, workers, sent):
    sampler = GroupSampler(from_parquet(hundred(tmp_path), **SPEC, cache_bytes=0).train, support=0.5, seed=0)
    expected = [[bits(side) for side in sampler.batches(3).at(n)] for n in range(3)]
    loader = DataLoader(sent(sampler.batches(3)), batch_size=None, num_workers=workers)
    assert [[bits(side) for side in batch] for batch in islice(loader, 3)] == expected


def digest(path, batches):
    """All bits of some meta-batches from a file, in short."""
    splits = from_parquet(path, **SPEC, seed=1, cache_bytes=2**20)
    sampler = GroupSampler(splits.train, support=0.5, seed=0)
    found = hashlib.sha256()
    for _ in range(batches):
        for x, y in (*sampler.sample(16)[0], *sampler.sample(16)[1]):
            found.update(x.numpy().tobytes() + y.numpy().tobytes())
    return found.hexdigest()


DRAWN_ELSEWHERE = f"""
import hashlib, sys
from pyrometa.tasks import GroupSampler, from_parquet

SPEC = {SPEC}
{inspect.getsource(digest)}

def peak():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

large, small = sys.argv[1:]
digest(small, 1)
before = peak()
print(digest(large, 20), peak() - before)
"""


def test_a_large_file_is_drawn_from_in_little_memory_and_alike_in_another_process(tmp_path):
    rows, large, small = 1_000_000, tmp_path / "large.parquet", tmp_path / "small.parquet"
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=rows) for name in ("x0", "x1", "y")}
    data = pa.table({"user": [f"u{i}" for i in range(rows // 250) for _ in range(250)], **columns})
    pq.write_table(data, large, row_group_size=20_000)
    pq.write_table(data.slice(0, 20_000), small)
    assert large.stat().st_size > 23e6
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DRAWN_ELSEWHERE, str(large), str(small)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    bits, grown = done.stdout.split()
    assert bits == digest(large, 20)
    assert float(grown) < 10  # MiB


def test_files_that_changed_are_not_read(tmp_path):
    tasks = from_parquet(hundred(tmp_path), **SPEC, cache_bytes=0).train
    pq.write_table(table(), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet has changed since .*: call from_parquet again"):
        _ = tasks.rows[0]


def test_patterns_and_folders(tmp_path):
    for place in ("b", "a/deep"):
        (tmp_path / place).mkdir(parents=True)
        pq.write_table(pa.table(ROWS), tmp_path / place / "x[1].parquet")
    for path in (tmp_path / "**" / "*.parquet", tmp_path / "b" / "x[1].parquet"):
        splits = from_parquet(path, group="group", columns="f", fractions=(1.0, 0.0, 0.0))
        assert sorted(splits.train.sizes) == ([4, 4] if "*" in str(path) else [2, 2])


def test_the_files_of_a_pattern_are_in_the_order_of_their_names(monkeypatch):
    monkeypatch.setattr("glob.glob", lambda *arguments, **options: ["b", "c", "a"])
    assert parquet.find_files("x*") == ["a", "b", "c"]
