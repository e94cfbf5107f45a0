"""Tables in, posteriors out: each group by itself, whatever else is in the table."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import adapter_program
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyro
import pytest
import torch
from adapter_program import made_meta, made_table
from pyro.infer.autoguide import AutoLaplaceApproximation

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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [0, 3])
def test_data_outside_of_the_support_are_told_of_their_group(bad):
    table = made_table([4] * 6).to_pandas().assign(y=[0, 1, 2, 1] * 6)
    one = pm.Adapter(adapter_program.made_classes(), "user", ("x0", "y"), ("mean",))
    expected = one(table)
    table.loc[table.user == bad, "y"] = 7
    fresh = pm.Adapter(adapter_program.made_classes(), "user", ("x0", "y"), ("mean",))
    for again in (fresh, fresh, one):  # nor are the others run one by one from then on
        found = again(table)
        assert found["error"].notna().tolist() == [i == bad for i in range(6)]
        assert "within the support (IntegerInterval(lower_bound=0, upper_bound=2)) of" in found["error"][bad]
    np.testing.assert_allclose(found["w[0]_mean"].drop(bad), expected["w[0]_mean"].drop(bad), rtol=1e-4, atol=1e-6)
    plan = one.meta.plan((torch.ones(6, 4), torch.ones(6, 4).long()))
    assert "dense: tasks are run one by one" not in plan.values()


def test_groups_of_text_that_are_data_too_keep_their_names():
    table = made_table([3, 4, 3]).to_pandas()
    table["user"] = table["user"].map({0: "1", 1: "01", 2: "a"})
    found = pm.Adapter(made_meta(), "user", (["user", "x0"], "y"), ("mean",), draws=16)(table)
    assert found["user"].tolist() == ["1", "01", "a"]
    assert found["error"].isna().tolist() == [True, True, False]


def test_large_numbers_that_name_groups_are_kept():
    table = made_table([3, 4, 3]).to_pandas()
    names = [2**60 + 1, 2**60 + 3, None]
    table["user"] = pd.array([names[i] for i in table["user"]], dtype="Int64")
    found = adapter()(table)["user"].tolist()
    assert found == names


def test_a_group_named_nan_is_as_one_named_null():
    table = made_table([3, 4, 3])
    table = table.set_column(0, "user", pa.array([[1.0, np.nan, 2.0][i] for i in table["user"].to_pylist()]))
    assert adapter()(table)["error"].to_pylist() == [None, "the group is null: name it", None]


@pytest.mark.parametrize("name", ["rows", "error", "slope[0]_mean"])
def test_a_group_column_does_not_overwrite_a_result(name):
    table = made_table([3]).rename_columns({"user": name})
    with pytest.raises(ValueError, match=r"the result has a column .* besides the group's: rename the group column"):
        pm.Adapter(made_meta(), name, COLUMNS)(table)


def test_a_site_of_another_shape_for_another_group_is_named():
    one = pm.Adapter(adapter_program.made_local(), "user", "y", ("mean",))
    assert one(made_table([3, 3])).column_names[2:5] == ["z[0]_mean", "z[1]_mean", "z[2]_mean"]
    with pytest.raises(ValueError, match="site 'z' has another shape for groups of another size: leave it out by"):
        one(made_table([3, 4]))


@pytest.mark.parametrize("outputs", [("mean", "sd", "quantiles"), ("quantiles",)])
@pytest.mark.parametrize("rows", [0, 3], ids=["no row", "bad groups alone"])
def test_a_table_without_a_good_group_has_the_columns_of_one_with(rows, outputs):
    one, table = adapter(outputs=outputs), made_table([3, 4])
    expected = one(table)
    for again in (one, pickle.loads(pickle.dumps(one)), pm.Adapter(one.meta, "user", COLUMNS, outputs)):
        found = again(table.set_column(3, "y", pa.array([np.nan] * 7)).slice(0, rows))
        assert found.schema == expected.schema
        assert all(found[name].null_count == len(found) for name in found.column_names[2:-1])
        assert found["error"].to_pylist() == [NOT_FINITE] * (rows > 0)


NOT_FINITE = "3 values are no finite number in column 'y', the first in its row 0: nan"


def test_before_first_data_a_table_of_bad_groups_alone_says_why_it_lacks_columns():
    one, bad = adapter(), made_table([3, 4]).to_pandas().assign(y=np.nan)
    found = one(bad)
    assert found.columns.tolist() == ["user", "rows", "error"]
    assert (
        "lacks the columns of the sites, which are not known before a good group: call meta.init" in found["error"][1]
    )
    one.meta.init(tuple(x[None] for x in adapter_program.task(made_table([5]), 0)))
    assert one(bad).columns.tolist() == one(made_table([3, 4])).column_names
    assert "lacks" not in one(bad)["error"][1]


def test_sites_that_follow_the_rows_have_no_column_without_a_good_group():
    one = pm.Adapter(adapter_program.made_local(), "user", "y", ("mean",))
    one(made_table([3]))
    assert one(made_table([4]).to_pandas().assign(y=np.nan)).columns.tolist() == ["user", "rows", "error"]


def test_an_amortized_guide_knows_its_sites():
    amortized = pm.Amortize(adapter_program.mean_of_rows, torch.zeros(4), rows=(2, 8), features=4, rounds=1)
    one, table = pm.Adapter(amortized.meta, "user", "y", ("mean",), draws=8), made_table([3])
    expected = one(table)
    assert one(table.slice(0, 0)).schema == expected.schema


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
        ({"draws": 1}, "one draw has no sd: give draws=2 or more"),
        ({"draws": 0}, "draws must be a whole number from 1 up, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number from 1 up, got 1.5"),
    ],
)
def test_bad_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        adapter(**change)


def test_amortize_adapts_groups_to_their_exact_posteriors():
    torch.manual_seed(0)
    amortized = pm.Amortize(
        adapter_program.mean_of_rows, torch.zeros(4), rows=(2, 8), features=8, rounds=2, particles=2
    )
    amortized.fit(2)
    table = made_table([2, 3, 5, 5]).to_pandas()
    one = pm.Adapter(amortized.meta, "user", "y", draws=512)
    found, sums = one(table), table.groupby("user")["y"].sum()
    variance = 1 / (1 / 4 + found["rows"])
    np.testing.assert_allclose(found["mean_mean"], variance * sums, atol=5e-3)
    np.testing.assert_allclose(found["mean_sd"], variance**0.5, rtol=0.02)
    assert one.settings() == pickle.loads(pickle.dumps(one)).settings()


def test_modes_alone_have_no_spread():
    guide = AutoLaplaceApproximation(adapter_program.model)
    meta = pm.MetaSVI(adapter_program.model, guide, pyro.optim.Adam({"lr": 0.01}), steps=1)
    with pytest.raises(ValueError, match="AutoLaplaceApproximation draws its mode alone, which has no sd: give"):
        pm.Adapter(meta, "user", COLUMNS)
    assert pm.Adapter(meta, "user", COLUMNS, ("mean",))(made_table([3]))["error"].null_count == 1


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
