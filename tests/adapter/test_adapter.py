"""Tables in, posteriors out: each group by itself, whatever else is in the table."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import adapter_program
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from adapter_program import made_meta, made_table

import pyrometa as pm

COLUMNS = (["x0", "x1"], "y")


def adapter(**options):
    return pm.Adapter(made_meta(), "user", COLUMNS, **{"draws": 64, **options})


def numbers(result):
    """All columns of numbers, by group."""
    frame = result.to_pandas().set_index("user").drop(columns="error")
    return frame.astype(float).sort_index()


def test_a_row_a_group_in_the_order_of_first_rows():
    table = made_table([3, 5, 3, 4])
    found = adapter()(table)
    assert found.column_names[:4] == ["user", "rows", "slope[0]_mean", "slope[1]_mean"]
    assert found.column_names[-1] == "error"
    assert found["user"].to_pylist() == [0, 1, 2, 3]
    assert found["rows"].to_pylist() == [3, 5, 3, 4]
    assert found["error"].null_count == 4


def test_numbers_are_those_of_the_draws():
    table = made_table([3, 5, 3])
    meta = made_meta()
    found = numbers(pm.Adapter(meta, "user", COLUMNS, draws=64, quantiles=(0.1, 0.5), seed=5)(table))
    draws = meta.sample_many([adapter_program.task(table, i) for i in range(3)], draws=64, seed=5)["slope"].numpy()
    for place in (0, 1):
        one = draws[:, :, place]
        np.testing.assert_allclose(found[f"slope[{place}]_mean"], one.mean(1), rtol=1e-5)
        np.testing.assert_allclose(found[f"slope[{place}]_sd"], one.std(1, ddof=1), rtol=1e-5)
        np.testing.assert_allclose(found[f"slope[{place}]_q10"], np.quantile(one, 0.1, axis=1), rtol=1e-4)
        np.testing.assert_allclose(found[f"slope[{place}]_q50"], np.quantile(one, 0.5, axis=1), rtol=1e-4, atol=1e-6)


def test_order_of_rows_groups_and_batches_do_not_matter():
    table = made_table([3, 5, 3, 4, 3])
    expected = numbers(adapter()(table))
    order = np.argsort(np.random.default_rng(0).random(5)[table["user"].to_numpy()], kind="stable")
    pd.testing.assert_frame_equal(numbers(adapter()(table.take(order))), expected, rtol=1e-5)
    pd.testing.assert_frame_equal(numbers(adapter(batch_size=1)(table)), expected, rtol=1e-5)
    mixed = np.argsort(table["y"].to_numpy(), kind="stable")  # rows of a group in another order are the same data
    pd.testing.assert_frame_equal(numbers(adapter()(table.take(mixed))), expected, rtol=1e-3, atol=1e-5)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    adapter()(made_table([3, 4]))
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_do_not_share_their_noise():
    table, one = made_table([3] * 40), adapter()
    expected = numbers(one(table))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda start: numbers(one(table.slice(start, 30))), range(0, 120, 30)):
            pd.testing.assert_frame_equal(found, expected.loc[found.index], rtol=1e-5)


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame])
def test_the_result_is_of_the_kind_given(kind):
    table = made_table([3, 4])
    found = adapter()(table.to_pandas() if kind is pd.DataFrame else pl.from_arrow(table))
    assert type(found) is kind
    assert list(found["rows"]) == [3, 4]


def test_a_bad_group_is_told_and_stops_nothing():
    table = made_table([3, 5, 3, 4, 3, 3]).to_pandas()
    table.loc[table.user == 1, "y"] = np.nan
    table.loc[table.index[table.user == 3][2], "x1"] = np.inf
    table.loc[table.user == 4, "y"] = 1e30
    table.loc[table.user == 5, "user"] = None
    found = adapter()(table)
    good = numbers(adapter()(made_table([3, 5, 3, 4, 3, 3])))
    assert found["error"].isna().tolist() == [True, False, True, False, False, False]
    assert found["error"][1] == "5 values are no finite number in column 'y', the first in its row 0: None"
    assert found["error"][3] == "1 value is no finite number in column 'x1', the first in its row 2: inf"
    assert found["error"][4].startswith("task 0, inner step")
    assert found["error"][5] == "the group is null: name it"
    assert found.loc[[1, 3, 4, 5]].drop(columns=["user", "rows", "error"]).isna().all(axis=None)
    rest = found.loc[[0, 2]].drop(columns=["user", "error"]).astype(float)
    np.testing.assert_allclose(rest, good.loc[[0, 2]], rtol=1e-5)


def test_text_that_is_no_number_is_told_of_its_group():
    table = made_table([3, 3]).to_pandas()
    expected = adapter()(table)
    table["y"] = table["y"].map(repr)
    table.loc[4, "y"] = "n/a"
    found = adapter()(table)
    assert found["error"][1] == "1 value is no finite number in column 'y', the first in its row 1: 'n/a'"
    np.testing.assert_allclose(found["slope[0]_mean"][0], expected["slope[0]_mean"][0], rtol=1e-5)


def test_a_table_of_bad_groups_alone():
    table = made_table([3]).to_pandas().assign(y=np.nan)
    assert adapter()(table)["error"].notna().all()


def test_pickled_it_gives_the_same():
    table = made_table([3, 5])
    one = adapter()
    first = one(table)
    assert pickle.loads(pickle.dumps(one))(table).equals(first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": "mean"}, r"outputs must be some of 'mean', 'sd', 'quantiles', as in \('mean', 'sd'\), got 'mean'"),
        ({"outputs": ("mode",)}, r"outputs must be some of .* got \('mode',\)"),
        ({"quantiles": (0.0, 0.5)}, "quantiles must be levels between 0 and 1"),
        ({"draws": 0}, "draws must be a whole number from 1 up, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number from 1 up, got 1.5"),
    ],
)
def test_bad_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        adapter(**change)


def test_what_is_no_meta_svi_is_refused():
    with pytest.raises(TypeError, match="meta must be a MetaSVI or the path of a run, got function"):
        pm.Adapter(adapter_program.model, "user", COLUMNS)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"usr": [1], "x0": [1.0], "x1": [1.0], "y": [1.0]}), "has no column 'user': did you mean 'usr'"),
        (pa.table({"user": [1], "x0": ["a"], "x1": [1.0], "y": [1.0]}), "column 'x0' of the table holds text"),
    ],
)
def test_a_column_of_no_use_is_refused_by_name(table, message):
    with pytest.raises(ValueError, match=message):
        adapter()(table)
