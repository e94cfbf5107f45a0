"""From a recipe to posteriors in this process: each command, what it prints and what it leaves behind."""

import io
import json
import pickle
import re
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyro
import pytest
import recipe_program
import torch
from matplotlib.image import imread
from pyro.infer.autoguide import AutoDelta

import pyrometa as pm
from pyrometa.adapter.whole_groups import WholeGroups
from pyrometa.cli import demo
from pyrometa.cli.devices import moved
from pyrometa.cli.trust import gaps, weights
from pyrometa.train.seeded import seeded


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def trained(folder, said, kept):
    """A run of four steps: the first test trains, and others have a copy."""
    if kept.exists():
        shutil.copytree(kept, folder / "run")
        return folder / "run"
    code, _, err = said("train")
    assert (code, err) == (0, "")
    shutil.copytree(folder / "run", kept)
    pyro.clear_param_store()
    return folder / "run"


def leaves(meta):
    """What a loaded MetaSVI holds, once it has seen data."""
    meta.init(recipe_program.make_tasks()[1][0])
    return {name: leaf.detach().clone() for name, leaf in meta.named_parameters()}


def by_hand(steps=4):
    """The run of the recipe, written in Python."""
    pyro.clear_param_store()
    meta = pm.MetaSVI(
        recipe_program.model,
        pyro.infer.autoguide.AutoNormal(recipe_program.model),
        pyro.optim.Adam({"lr": 0.05}),
        inner=pm.SGD(0.02, learn="layer"),
        steps=2,
        reduction="mean",
    )
    trainer = pm.Trainer(max_steps=steps, validate_every=2, progress=False)
    return meta, trainer.fit(meta, *recipe_program.make_tasks())


def users(count=6, rows=5):
    rng = np.random.default_rng(0)
    x = rng.normal(size=count * rows)
    slope = np.repeat(rng.normal(size=count), rows)
    return pa.table({"user": np.repeat(np.arange(count), rows), "x": x, "y": slope * x})


def test_a_recipe_trains_as_the_same_program_in_python_does(trained):
    best = json.loads((trained / "checkpoints" / "best.json").read_text())
    loaded = leaves(pm.load(trained / "checkpoints" / "step-00000004.safetensors"))
    meta, result = by_hand()
    assert (best["step"], best["validation"]) == (result.best_step, result.best_loss)
    assert {name: leaf.tolist() for name, leaf in meta.named_parameters()} == {k: v.tolist() for k, v in loaded.items()}


def test_it_says_what_came_out_and_writes_the_recipe_with_what_was_set(folder, said):
    code, out, _ = said("train", "--set", "trainer.out=there", "--set", "inner.lr=0.03", "--seed", "5")
    assert code == 0
    assert re.fullmatch(
        r"step 4 \(max_steps\), best validation loss [\d.]+ at \d, [\d.]+ s: pyrometa evaluate there\n", out
    )
    recipe = pm.recipes.read(folder / "there")
    assert recipe.table("inner") == {"name": "SGD", "lr": 0.03, "learn": "layer"}
    assert recipe.table("trainer") == {
        "max_steps": 4,
        "validate_every": 2,
        "progress": False,
        "out": "there",
        "seed": 5,
    }
    assert recipe.folder == folder


def test_a_run_is_gone_on_with_from_its_own_folder(trained, said):
    assert said("train")[0] == 2
    code, _, err = said("train", "run", "--set", "trainer.max_steps=8", "--resume")
    assert (code, err) == (0, "")
    pyro.clear_param_store()
    last = leaves(pm.load(trained / "checkpoints" / "step-00000008.safetensors"))
    meta, _ = by_hand(8)
    assert {name: leaf.tolist() for name, leaf in meta.named_parameters()} == {k: v.tolist() for k, v in last.items()}
    assert pm.recipes.read(trained).table("trainer")["max_steps"] == 8


def test_a_resume_that_fails_leaves_the_recipe(trained, said):
    before = (trained / "recipe.toml").read_text()
    code, _, err = said("train", "--resume", "nothing.safetensors", "--set", "inner.lr=0.5")
    assert code == 2
    assert "there is no checkpoint" in err
    assert (trained / "recipe.toml").read_text() == before


@pytest.mark.parametrize("machines", [1, 2])
def test_a_run_is_not_begun_over_another(trained, said, monkeypatch, machines):
    monkeypatch.setenv("GROUP_WORLD_SIZE", str(machines))  # of several only fit knows whether they were started again
    before = (trained / "recipe.toml").read_bytes()
    code, _, err = said("train", "--set", "trainer.max_steps=8")
    how = "--resume last" if machines == 1 else "pyrometa train run --resume last"
    assert (code, err.count("\n")) == (2, 1)
    assert f"run holds a run: go on with it by {how}, or give another " in err
    assert (trained / "recipe.toml").read_bytes() == before


def test_evaluate_prints_the_adaptation_curve_with_standard_errors(trained, said):
    code, out, err = said("evaluate", trained, "--gaps", 1)
    assert (code, err) == (0, "")
    pyro.clear_param_store()
    meta = pm.load(trained)
    with seeded(0):
        losses = meta.evaluate(*recipe_program.make_tasks()[1]).double()
    head, _, *rows, told, lost, _, gaps, _, figures = out.splitlines()
    step = json.loads((trained / "checkpoints" / "best.json").read_text())["checkpoint"].removesuffix(".safetensors")
    assert head == f"{step} of {trained}: 4 validation tasks"
    expected = zip(losses.mean(1).tolist(), (losses.std(1) / 2).tolist(), strict=True)
    assert [row.split() for row in rows] == [[str(k), f"{m:.4f}", "±", f"{e:.4f}"] for k, (m, e) in enumerate(expected)]
    counted = re.fullmatch(
        r"importance weights of 4 tasks' posteriors: (.*); k-hat is good \(at most 0\.67\) in .*", told
    )
    assert sum(int(part.split()[0]) for part in counted[1].split(", ")) == 4
    assert lost.startswith("gaps of 1 task: ")
    assert gaps.split()[0] == "0"
    folder = trained / "evaluation" / "validation"
    assert figures == f"figures: {folder}"
    assert sorted(path.name for path in folder.iterdir()) == ["gaps.png", "losses.png", "weights.png"]
    assert all(imread(path).std() > 0 for path in folder.iterdir())
    assert "gaps" not in said("evaluate", trained, "--gaps", 0)[1]
    assert sorted(path.name for path in folder.iterdir()) == ["losses.png", "weights.png"]


def test_a_point_estimate_has_no_importance_weights():
    meta = pm.MetaSVI(recipe_program.model, AutoDelta(recipe_program.model), pyro.optim.Adam({"lr": 0.01}))
    batches = [recipe_program.make_tasks()[1]]
    assert weights(meta, batches, 0).told.startswith("importance weights: none, as the guide gives ")
    assert gaps(meta, batches, 0, 1).told.startswith("gaps: none, as ")


def test_a_program_without_latents_has_no_gaps():
    def line(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("x", pyro.distributions.Normal(pyro.param("level", torch.zeros(())), 1.0), obs=x)

    meta = pm.MetaSVI(line, lambda x: None, pyro.optim.Adam({"lr": 0.01}), adapt="model", steps=1)
    tasks = torch.randn(2, 5)
    assert gaps(meta, [(tasks, tasks)], 0, 1).told.startswith("gaps: none, as no parameter of the guide adapts")


def test_a_folder_that_cannot_be_written_has_no_figures(trained, said):
    (trained / "evaluation").write_text("a file in the way")
    code, out, err = said("evaluate", trained, "--gaps", 0)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("figures: none, as ")


def test_evaluate_refuses_a_split_that_is_not_there(trained, said):
    assert said("evaluate", trained, "--split", "test") == (2, "", "pyrometa: the recipe's tasks have no test split\n")
    assert said("evaluate", trained, "--split", "tset")[2] == (
        "pyrometa: --split must be train, validation, test, got 'tset'\n"
    )


def test_info_says_what_is_in_a_run_without_its_program(trained, said, monkeypatch):
    (trained / "recipe.toml").write_text((trained / "recipe.toml").read_text().replace("recipe_program", "gone"))
    code, out, err = said("info", trained)
    assert (code, err) == (0, "")
    told = dict(line.split(None, 1) for line in out.partition("\n\n")[0].splitlines())
    assert told["program"] == f"model gone:model, guide AutoNormal, from {trained.parent}"
    assert told["step"].endswith(" of 4")
    assert f"torch {torch.__version__.split('+')[0]}" in told["versions"]
    assert "\n4 parameters, 4 numbers\n" in out
    assert re.search(r"\n  guide\.locs\.slope +\(\) +float32\n", out)


def test_plot_draws_the_curves_again(trained, said):
    before = imread(trained / "curves.png")
    (trained / "curves.png").unlink()
    assert said("plot", trained) == (0, f"{trained / 'curves.png'}\n", "")
    assert (imread(trained / "curves.png") == before).all()
    assert said("plot", trained, "--out", "other.png")[0] == 0
    assert imread("other.png").shape == before.shape


def test_adapt_writes_what_an_adapter_of_the_run_gives(trained, said):
    pq.write_table(users(), "users.parquet")
    code, out, err = said("adapt", trained, "--data", "users.parquet", "--out", "posterior.parquet")
    assert code == 0
    assert re.fullmatch(r"6 groups \(\d+ a second\); posteriors: posterior.parquet\n", out)
    assert err == "adapting: 100%, 6 groups, 0 rejected\n"
    pyro.clear_param_store()
    expected = pm.Adapter(pm.load(trained), "user", ("x", "y"), draws=16)(users()).drop_columns("error")
    assert pq.read_table("posterior.parquet").equals(expected)
    assert said("adapt", trained, "--data", "users.parquet", "--out", "posterior.parquet", "--seed", "3")[0] == 0
    assert not pq.read_table("posterior.parquet").equals(expected)


def test_the_options_of_adapt_go_before_the_recipe(trained, said, monkeypatch):
    pq.write_table(users().rename_columns(["person", "x", "y"]), "users.parquet")
    line = ("adapt", trained, "--data", "users.parquet", "--out", "posterior.parquet", "--batch-size", "2")
    code, _, err = said(*line)
    assert code == 2
    assert "'user'" in err
    sizes = []
    tables = WholeGroups.tables
    monkeypatch.setattr(WholeGroups, "tables", lambda self, *args: sizes.append(args[0]) or tables(self, *args))
    assert said(*line, "--group", "person", "--set", 'adapter.outputs=["mean"]')[0] == 0
    assert sizes == [1, 2]  # to find the parameters, and to adapt
    assert pq.read_table("posterior.parquet").column_names == ["person", "rows", "slope_mean"]


def test_bad_groups_are_counted_and_their_file_named(trained, said):
    table = users().set_column(2, "y", pa.array([float("nan"), *users()["y"].to_pylist()[1:]]))
    pq.write_table(table, "users.parquet")
    _, out, _ = said("adapt", trained, "--data", "users.parquet", "--out", "posterior.parquet")
    assert re.match(r"6 groups \(\d+ a second\), 1 rejected: posterior.rejected.parquet; posteriors: ", out)


def test_an_adapter_of_a_path_is_pickled_as_the_path_and_gives_the_same(trained):
    adapter = pm.Adapter("run", "user", ("x", "y"), draws=16)
    first = adapter(users())
    data = pickle.dumps(adapter)
    assert b"MetaSVI" not in data
    again = pickle.loads(data)
    pyro.clear_param_store()
    assert again(users()).equals(first)
    with pytest.raises(FileNotFoundError, match="there is no run and no checkpoint nowhere"):
        pm.Adapter("nowhere", "user", ("x", "y"))


def test_load_takes_the_best_checkpoint_of_a_folder_and_any_that_is_named(trained):
    third, fourth = (trained / "checkpoints" / f"step-0000000{step}.safetensors" for step in (3, 4))
    assert leaves_of(third) != leaves_of(fourth)
    (trained / "checkpoints" / "best.json").write_text(json.dumps({"checkpoint": third.name}))
    for path, expected in ((trained, third), (fourth, fourth)):
        assert leaves(pm.load(path)) == leaves_of(expected)
        pyro.clear_param_store()
    (trained / "checkpoints" / "best.json").unlink()
    assert leaves(pm.load(trained)) == leaves_of(fourth)


def leaves_of(path):
    return pm.saving.read(path, kind="meta")["parameters"]


@pytest.mark.parametrize("name", ["demo", "init", "train", "evaluate", "adapt", "info", "plot"])
def test_each_command_has_its_help(said, name):
    code, out, _ = said(name, "--help")
    assert code == 0
    assert f"Usage: pyrometa {name}" in out


def test_without_a_command_there_is_help(said):
    code, out, _ = said()
    assert code == 0
    assert "Usage: pyrometa" in out


def test_the_shell_completes_commands(said, monkeypatch):
    monkeypatch.setenv("_PYROMETA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "pyrometa tr")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert said()[1].split() == ["train"]


def test_init_writes_what_trains_and_adapts_as_it_is(tmp_path, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = said("init", "new")
    assert code == 0
    monkeypatch.chdir(tmp_path / "new")
    assert said("init", ".")[2] == "pyrometa: recipe.toml is there already: give another folder\n"
    train, evaluate, adapt = [line.split()[1:] for line in out.splitlines() if line.startswith("  pyrometa")]
    code, _, err = said(*train, "--set", "trainer.max_steps=2")
    assert code == 0, err
    for line in (evaluate, adapt):
        pyro.clear_param_store()
        code, _, err = said(*line)
        assert code == 0, err
    assert pq.read_table("posterior.parquet").num_rows == 100


def test_the_demo_writes_lines_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert list(demo._shown(range(100_000), "counting")) == list(range(100_000))
    assert "\r" not in sys.stderr.getvalue()
    assert 1 < sys.stderr.getvalue().count("\n") < 6


def test_what_samplers_give_is_moved_to_the_device_and_drawn_where_it_was():
    sampler, _ = recipe_program.make_sampler()
    (x, _), _ = moved(sampler, "cpu").sample(4)
    with torch.device("meta"):
        (away, _), _ = moved(sampler, "meta").sample(4)
        table = pm.Adapter(recipe_program.make_meta(), "user", ("x", "y")).cut(users())
        [(_, data)] = table.by_size(10)
    assert (x.device.type, away.device.type, away.shape) == ("cpu", "meta", x.shape)
    assert [part.device.type for part in data] == ["meta", "meta"]
    with pytest.raises(ValueError, match="moves what samplers of pyrometa"):
        moved(lambda step: None, "meta")
    assert moved(len, None) is len


def test_a_device_of_the_command_line(folder, said):
    assert said("train", "--device", "cpu", "--set", "tasks.source=recipe_program:make_sampler")[0] == 0
    assert said("evaluate", "run", "--device", "cpu", "--gaps", 0)[0] == 0
