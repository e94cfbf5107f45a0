"""What is wrong with a table is said in one line, which names the column and the cure."""

import pickle

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyrometa.errors import ColumnError, ColumnTypeError
from pyrometa.tasks import from_frame, from_parquet, optional

GOOD = {"user": ["a", "a", "b", "b"], "dose": [1.0, 2.0, 3.0, 4.0], "y": [0.5, 1.5, 2.5, 3.5]}
NULLS = r"column 'dose' has 2 nulls, the first in row 1 of .*: drop these rows or fill them"

WRONG = {
    "missing": ({}, {"columns": ("doze", "y")}, ColumnError, "has no column 'doze': did you mean 'dose'\\?"),
    "missing, nothing like it": (
        {},
        {"columns": "height"},
        ColumnError,
        "has no column 'height': it has 'user', 'dose', 'y'$",
    ),
    "missing group": ({}, {"group": "users"}, ColumnError, "has no column 'users': did you mean 'user'\\?"),
    "nulls": ({"dose": [1.0, None, None, 4.0]}, {}, ColumnError, NULLS),
    "nulls in a matrix": ({"dose": [1.0, None, None, 4.0]}, {"columns": (["y", "dose"],)}, ColumnError, NULLS),
    "one null": ({"y": [1, 2, None, 3]}, {}, ColumnError, "column 'y' has 1 null in row 2 of "),
    "null group": ({"user": ["a", "a", "b", None]}, {}, ColumnError, "column 'user' has 1 null in row 3 of "),
    "NaN group": (
        {"user": [1.0, 1.0, float("nan"), 2.0]},
        {},
        ColumnError,
        "group column 'user' is NaN in row 2 of .*: drop these rows or name their group",
    ),
    "text": (
        {"dose": ["1", "2", "3", "4"]},
        {},
        ColumnTypeError,
        r"column 'dose' of .* holds text \(string\): the model takes numbers, so make it codes or a column a category",
    ),
    "text in categories": (
        {"dose": pa.array(list("abcd")).dictionary_encode()},
        {},
        ColumnTypeError,
        "column 'dose' of .* holds text",
    ),
    "dates": ({"y": pa.array([1, 2, 3, 4], pa.timestamp("s"))}, {}, ColumnTypeError, r"'y' of .* holds timestamp\["),
    "lists": ({"y": [[1.0], [2.0], [3.0], [4.0]]}, {}, ColumnTypeError, "holds list<.*>: .* make each part a column"),
    "nothing but nulls": ({"y": pa.nulls(4)}, {}, ColumnTypeError, "column 'y' of .* holds null"),
    "lists as groups": ({"user": [[1], [1], [2], [2]]}, {}, ColumnTypeError, "group column 'user' of .* holds list"),
    "too large": (
        {"y": pa.array([1, 2, 3, 2**63], pa.uint64())},
        {},
        ColumnError,
        "column 'y' does not fit into 64 bits",
    ),
    "no rows": ({name: [] for name in GOOD}, {"columns": "y"}, (ValueError, ColumnTypeError), "no row in|holds null"),
    "small groups": ({}, {"minimum": 3}, ValueError, "no group has 3 rows: the largest of 2 has 2"),
    "empty split": ({}, {"fractions": (0.9, 0.1, 0.0)}, ValueError, "0.1 of 2 groups leave validation empty"),
    "fractions": ({}, {"fractions": (0.5, 0.1, 0.1)}, ValueError, "add up to 1"),
    "minimum": ({}, {"minimum": 1}, ValueError, "minimum must be at least 2"),
    "seed": ({}, {"seed": "a"}, TypeError, "seed must be an integer"),
    "no columns": ({}, {"columns": ()}, ValueError, "columns is an empty tuple: name at least one column"),
    "an empty list": ({}, {"columns": ([], "y")}, TypeError, r"columns must be a name, a list of names, .*: got \[\]"),
    "no names": ({}, {"columns": ([0], "y")}, TypeError, r"got \[0\]"),
    "a nested tuple": ({}, {"columns": (("dose",), "y")}, TypeError, r"got \('dose',\)"),
}


def made(change, options):
    data = pa.table({**GOOD, **change})
    return data, {"group": "user", "columns": ("dose", "y"), "fractions": (1.0, 0.0, 0.0), **options}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("statistics", [True, False])
def test_wrong_files(tmp_path, case, statistics):
    change, options, error, message = WRONG[case]
    data, options = made(change, options)
    pq.write_table(data, tmp_path / "a.parquet", row_group_size=3, write_statistics=statistics)
    with pytest.raises(error, match=message) as raised:
        list(from_parquet(tmp_path / "a.parquet", **options).train.rows)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_frames(case):
    change, options, error, message = WRONG[case]
    data, options = made(change, options)
    with pytest.raises(error, match=message):
        from_frame(data, **options)


def test_an_error_knows_its_column_and_can_leave_a_worker():
    with pytest.raises(ColumnTypeError) as raised:
        from_frame(pa.table({**GOOD, "dose": list("abcd")}), group="user", columns="dose")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (type(copy), str(copy), copy.column) == (ColumnTypeError, str(raised.value), "dose")
    assert isinstance(copy, ValueError)
    assert isinstance(copy, TypeError)


def test_nulls_of_all_row_groups_are_counted_ahead_if_the_file_knows_them(tmp_path):
    pq.write_table(pa.table({**GOOD, "y": [1, 2, None, None]}), tmp_path / "a.parquet", row_group_size=1)
    with pytest.raises(ColumnError, match=r"column 'y' has 2 nulls, the first in row 2 of .*a\.parquet"):
        from_parquet(tmp_path / "a.parquet", group="user", columns="y")


def test_a_column_that_is_there_twice():
    data = pa.Table.from_arrays([pa.array([1, 1]), pa.array([1, 2]), pa.array([3, 4])], names=["user", "y", "y"])
    with pytest.raises(ColumnError, match="the frame has 2 columns 'y': rename all but one"):
        from_frame(data, group="user", columns="y")


def test_nan_of_pandas_is_null():
    with pytest.raises(ColumnError, match=r"'dose' has 1 null in row 2 of the frame: .*\(pandas writes NaN as null\)"):
        from_frame(pd.DataFrame({**GOOD, "dose": [1.0, 2.0, float("nan"), 4.0]}), group="user", columns="dose")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dose": ["1", "2", "3", "4"]}, "column 'dose' of .*b.parquet holds text"),
        (
            {"dose": [1, 2, 3, 4]},
            "column 'dose' is float in .*a.parquet and integer in .*b.parquet: write both with one",
        ),
        ({"user": [1, 1, 2, 2]}, "column 'user' is text in .*a.parquet and integer in .*b.parquet"),
        ({"dose": None}, "b.parquet has no column 'dose'"),
    ],
)
def test_files_that_differ(tmp_path, change, message):
    pq.write_table(pa.table(GOOD), tmp_path / "a.parquet")
    other = {name: values for name, values in {**GOOD, **change}.items() if values is not None}
    pq.write_table(pa.table(other), tmp_path / "b.parquet")
    with pytest.raises(ColumnError, match=message):
        from_parquet(tmp_path / "*.parquet", group="user", columns=("dose", "y"))


def test_files_may_differ_in_width_and_in_other_columns(tmp_path):
    pq.write_table(pa.table(GOOD), tmp_path / "a.parquet")
    other = {
        "y": pa.array(GOOD["y"], pa.float32()),
        "user": pa.array(GOOD["user"]).dictionary_encode(),
        "more": [[]] * 4,
    }
    pq.write_table(pa.table(other), tmp_path / "b.parquet")
    tasks = from_parquet(tmp_path / "*.parquet", group="user", columns="y", fractions=(1.0, 0.0, 0.0)).train
    assert tasks.rows[tasks.names.index("b")].tolist() == [2.5, 3.5, 2.5, 3.5]


def test_what_is_no_file(tmp_path):
    (tmp_path / "notes.txt").write_text("not a table")
    options = {"group": "user", "columns": "y"}
    with pytest.raises(FileNotFoundError, match=r"no file matches '.*/x\*\.parquet', looked up from /"):
        from_parquet(tmp_path / "x*.parquet", **options)
    with pytest.raises(FileNotFoundError, match=r"is a folder: name its files, say by '.*/\*\.parquet'"):
        from_parquet(tmp_path, **options)
    with pytest.raises(FileNotFoundError, match="path is an empty list"):
        from_parquet([], **options)
    with pytest.raises(ValueError, match=r"notes\.txt is no Parquet file: "):
        from_parquet(tmp_path / "notes.txt", **options)
    with pytest.raises(TypeError, match="cache_bytes must be an integer"):
        from_parquet(tmp_path / "notes.txt", **options, cache_bytes=1.5)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ([1, 2], "frame must be a pandas or polars DataFrame, an Arrow table .*, got list"),
        (pl.LazyFrame(GOOD), r"LazyFrame, which holds no data yet: pass frame\.collect\(\)"),
        (
            pd.DataFrame({**GOOD, "z": [1, "b", None, []]}),
            "the frame is no Arrow table .*: pass only the columns it needs",
        ),
    ],
)
def test_what_is_no_frame(frame, message):
    with pytest.raises(TypeError, match=message):
        from_frame(frame, group="user", columns="y")


def test_without_pyarrow(monkeypatch, tmp_path):
    monkeypatch.setattr(optional, "find_spec", lambda _: None)
    (tmp_path / "a.parquet").touch()
    for call in (
        lambda: from_parquet(tmp_path / "a.parquet", group="user", columns="y"),
        lambda: from_frame(pd.DataFrame(GOOD), group="user", columns="y"),
    ):
        with pytest.raises(ModuleNotFoundError, match=r'needs pyarrow, .* pip install "pyrometa\[tables\]"'):
            call()
