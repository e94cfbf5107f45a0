"""`pyrometa demo`: what it writes, that it is fair and reproducible, and what an interruption leaves."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pyro
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

import pyrometa
from pyrometa import NonFiniteError, cli
from pyrometa.cli.running import run
from pyrometa.demo import RECIPE, Demo, DemoConfig, table
from pyrometa.demo.comparison import curve_of, paired_difference, steps_to_reach
from pyrometa.demo.data import STUCK, demo_tasks
from pyrometa.demo.training import best_candidates, fit_pooled, new_vae, query_losses, start_at
from pyrometa.demo.trust import verdict
from pyrometa.recipes import program, read

ROOT = Path(__file__).parents[2]
CURVES = ["pooled", "picked", "meta"]
STEPS = ["0", "1", "2", "3", "4", "5", "10", "20", "50"]
WAY = ("SGD", "model", 1e-3)
BIAS = "model.decoder.output.bias"
TINY = replace(
    DemoConfig.quick(),
    hidden=8,
    latent=2,
    pooled_steps=3,
    pooled_batch=16,
    meta_steps=2,
    meta_batch=2,
    usual=(WAY,),
    picked=(("SGD", BIAS, 1.0),),
    validation_tasks=2,
    test_tasks=4,
    trusted_tasks=2,
    adaptation_steps=(0, 5),
)


def quietly(items, label):
    return items


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """`pyrometa demo --quick` in a fresh interpreter: its process, its directory and its result."""
    out = tmp_path_factory.mktemp("quick") / "made" / "here"
    code = "from pyrometa.cli import main; main()"
    arguments = [sys.executable, "-c", code, "demo", "--quick", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done, out, json.loads((out / "result.json").read_text())


def test_the_result_has_every_curve(quick):
    result = quick[2]
    assert result["complete"]
    assert list(result["curves"]) == CURVES
    for curve in result["curves"].values():
        assert list(curve) == STEPS
        for point in curve.values():
            assert math.isfinite(point["mean"])
            assert point["se"] > 0
    for way, gain in result["gain"].items():
        gap = result["curves"][way]["5"]["mean"] - result["curves"]["meta"]["5"]["mean"]
        assert gain["mean"] == pytest.approx(gap, abs=1e-3)
        assert gain["se"] > 0
    for told in result["trust"].values():
        assert len(told["k_hat"]) == sum(told["words"].values()) == DemoConfig.quick().trusted_tasks
        assert told["threshold"] == pytest.approx(2 / 3)


def test_the_result_says_how_it_was_made(quick):
    result = quick[2]
    config = DemoConfig.quick()
    assert (result["tasks"], result["seed"]) == (config.test_tasks, 0)
    assert result["settings"]["meta_steps"] == config.meta_steps
    assert {way: list(best) for way, best in result["settings"]["pooled_adapts_by"].items()} == {
        "pooled": STEPS,
        "picked": STEPS,
    }
    rates = result["settings"]["learned_rates"]
    assert [len(of_steps) for of_steps in rates.values()] == [5] * 4  # weight and bias of the decoder's two layers
    assert result["versions"]["torch"] == torch.__version__.split("+")[0]
    assert result["versions"]["pyrometa"] == pyrometa.__version__
    assert result["seconds"] > 0


def test_quick_trains_something(quick):
    curves = quick[2]["curves"]
    assert all(curve["0"]["mean"] < 784 * math.log(2) - 150 for curve in curves.values())
    assert curves["pooled"]["5"]["mean"] < curves["pooled"]["0"]["mean"] - 10
    assert curves["meta"]["5"]["mean"] < curves["meta"]["0"]["mean"]


def test_the_files_are_figures_and_nothing_else_is_left(quick):
    out = quick[1]
    assert {path.name for path in out.iterdir()} == {"result.json", "adaptation.png", "reconstructions.png", "run"}
    for name in ("adaptation.png", "reconstructions.png"):
        image = imread(out / name)
        assert min(image.shape[:2]) > 400
        assert image.std() > 0.05  # something is drawn


def test_the_command_prints_the_table_and_shows_its_progress(quick):
    done, out, result = quick
    assert table(result) in done.stdout
    assert str(out / "adaptation.png") in done.stdout
    assert "meta-training" in done.stderr
    assert "Warning" not in done.stderr
    assert done.stderr.count("\n") <= 40


def test_the_full_demo_compares_at_least_a_hundred_tasks_on_equal_budgets():
    config = DemoConfig()
    assert config.test_tasks >= 100
    assert config.adaptation_steps == (0, 1, 2, 3, 4, 5, 10, 20, 50)
    assert config.budget["pooled"] == pytest.approx(config.budget["meta"], rel=0.01)
    assert config.budget["pooled"] >= config.budget["meta"]


def test_the_budget_is_images_times_gradients_with_second_order_twice():
    config = DemoConfig(
        meta_steps=3, meta_batch=4, support=10, query=7, inner_steps=5, pooled_steps=2, pooled_batch=100
    )
    assert config.meta_budget == 3 * 4 * (5 * 10 * 2 + 7)
    assert config.extra_pooled_steps == 13  # 1,284 images, rounded up
    assert config.budget == {"pooled": 200 + 1300, "meta": 200 + 1284}


def numbers(config, out, progress=quietly):
    result = Demo(config, out, progress).run()
    return {**result, "seconds": None}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The numbers of a run, and how many items each of its stages has had."""
    lengths = {}

    def record(items, label):
        lengths[label] = len(items)
        return items

    return numbers(TINY, tmp_path_factory.mktemp("tiny"), record), lengths


def test_each_start_trains_for_its_budget(tiny):
    _, lengths = tiny
    assert lengths["pooled VAE by SVI"] == TINY.pooled_steps
    assert lengths["pooled VAE, extra budget"] == TINY.extra_pooled_steps
    assert lengths["meta-training"] == TINY.meta_steps


def test_one_seed_gives_one_result_and_leaves_the_generator_and_the_param_store_alone(tiny, tmp_path):
    first, _ = tiny
    pyro.param("mine", torch.ones(2))
    torch.rand(3)
    before = torch.get_rng_state()
    assert numbers(TINY, tmp_path) == first
    other = numbers(replace(TINY, seed=1), tmp_path)
    assert other["curves"] != first["curves"]
    assert torch.equal(torch.get_rng_state(), before)
    assert list(pyro.get_param_store().keys()) == ["mine"]


def test_the_tasks_are_binary_and_the_test_classes_unseen():
    tasks = demo_tasks(TINY)
    assert tasks.train.family.family.classes == tasks.pooled.family.family.classes == [0, 1, 2, 3, 4, 5, 6]
    batch = tasks.train.sample(3)
    for images in (*batch, *tasks.validation, *tasks.test):
        assert set(images.unique().tolist()) == {0.0, 1.0}
    assert tasks.test.support.shape == (4, 10, 784)


def test_each_camera_has_stuck_pixels_of_its_own_which_support_and_query_share():
    support, query = demo_tasks(replace(TINY, test_tasks=50)).test
    images = torch.cat([support, query], 1)
    corners = images.unflatten(-1, (28, 28))[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]  # no ink ever gets there
    hot, dark = corners.mean((1, 2)), STUCK / 2
    assert set(corners.mean(1).unique().tolist()) == {0.0, 1.0}
    assert len({tuple(camera) for camera in corners[:, 0].tolist()}) > 2
    error = math.sqrt(dark * (1 - dark) / (4 * 50))
    assert abs(hot.mean().item() - dark) < 4 * error
    ink = images[..., 14 * 28 + 8 : 14 * 28 + 20]
    assert ((ink == 0).all(1) | (ink == 1).all(1)).float().mean() > STUCK - 0.06


def test_every_start_meets_the_same_noise():
    tasks, vae = demo_tasks(TINY).test, new_vae(TINY)
    losses = [query_losses(start_at(vae, WAY, TINY), tasks, (0, 5), 3, quietly, "") for _ in range(2)]
    assert paired_difference(losses[0][1], losses[1][1]) == {"mean": 0.0, "se": 0.0}
    other = query_losses(start_at(vae, WAY, TINY), tasks, (0, 5), 4, quietly, "")
    assert not torch.equal(other, losses[0])


def test_adaptation_leaves_the_start_where_it_was():
    tasks, vae = demo_tasks(TINY).test, new_vae(TINY)
    before = copy.deepcopy(vae.state_dict())
    query_losses(start_at(vae, WAY, TINY), tasks, (0, 5), 0, quietly, "")
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_each_number_of_steps_has_its_best_candidate_and_what_diverges_is_left_out():
    tasks, vae = demo_tasks(TINY).validation, new_vae(TINY)
    ways = (("SGD", "model", 1e-5), ("SGD", "both", 1e6), ("Adam", BIAS, 0.3), ("SGD", BIAS, 1e-5))
    config = replace(TINY, adaptation_steps=(0, 1, 5))
    best = best_candidates(vae, ways, tasks, config, quietly, "ways")
    assert best == {0: ways[0], 1: ways[2], 5: ways[2]}
    losses = {
        way: query_losses(start_at(vae, way, config), tasks, (0, 1, 5), 0, quietly, "").mean(1) for way in ways[2:]
    }
    assert losses[ways[2]][2] < losses[ways[3]][2]
    with pytest.raises(NonFiniteError, match="ways: none of the candidates is stable"):
        best_candidates(vae, ways[1:2], tasks, config, quietly, "ways")


@pytest.mark.parametrize(
    ("k_hat", "word"),
    [([0.1] * 4, "Yes"), ([0.1, 0.2, 0.3, 0.9], "Mostly"), ([0.9, 0.1, 0.7, 0.8], "Mostly not"), ([0.9] * 4, "No")],
)
def test_the_verdict_is_what_the_diagnostics_found(k_hat, word):
    told = {"k_hat": k_hat, "threshold": 0.67, "words": {"too narrow": 3, "close": 1}}
    good = sum(k < 0.67 for k in k_hat)
    assert f"? {word}: in {good} of 4 unseen images" in verdict(told)
    assert "3 too narrow, 1 close" in verdict(told)


def test_the_statistics_are_those_of_the_tasks():
    a, b = torch.tensor([3.0, 5.0, 7.0, 9.0]), torch.tensor([2.0, 3.0, 4.0, 5.0])
    assert paired_difference(a, b) == pytest.approx({"mean": 2.5, "se": math.sqrt(5 / 3) / 2})
    curve = curve_of(torch.stack([a, b]), (0, 10))
    assert curve["0"] == pytest.approx({"mean": 6.0, "se": math.sqrt(20 / 3) / 2})
    assert [steps_to_reach(curve, target) for target in (7.0, 3.5, 3.4)] == [0, 10, None]


@pytest.mark.parametrize(
    ("mean", "reached", "words"),
    [
        (1.5, None, "1.5 ± 0.2 nats per image below the pooled VAE that adapts its decoder (not there in 50 steps)"),
        (-1.5, 0, "1.5 ± 0.2 nats per image above the pooled VAE that adapts its decoder (there in 0)"),
    ],
)
def test_the_table_says_what_came_out(quick, mean, reached, words):
    gain = {"pooled": {"mean": mean, "se": 0.2, "steps_to_reach": reached}, "picked": quick[2]["gain"]["picked"]}
    result = {**quick[2], "gain": gain}
    assert words in table(result)


@pytest.mark.parametrize(
    ("stage", "curves"),
    [("pooled VAE by SVI", None), ("meta-training", CURVES[:2]), ("meta start, unseen tasks", CURVES[:2])],
)
def test_ctrl_c_leaves_what_was_finished(tmp_path, monkeypatch, capsys, stage, curves):
    def interrupt(items, desc, **_):
        if desc.strip() == stage:
            raise KeyboardInterrupt
        return items

    monkeypatch.setattr("tqdm.tqdm", interrupt)
    monkeypatch.setattr(DemoConfig, "quick", lambda seed: replace(TINY, seed=seed))
    monkeypatch.setattr(sys, "argv", ["pyrometa", "demo", "--quick", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130
    said = capsys.readouterr().err
    assert f"interrupted during: {stage}" in said
    if curves is None:
        assert "finished: nothing yet" in said
        assert list(tmp_path.iterdir()) == []
        return
    assert f"finished: {tmp_path / 'result.json'}" in said
    meta_trained = {"run"} if stage == "meta start, unseen tasks" else set()
    assert {path.name for path in tmp_path.iterdir()} == {"result.json"} | meta_trained
    result = json.loads((tmp_path / "result.json").read_text())
    assert not result["complete"]
    assert list(result["curves"]) == curves


@pytest.fixture
def own_path(monkeypatch):
    """The folders of recipes go onto Python's path: here only for a test."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.usefixtures("own_path")
def test_ctrl_c_in_meta_training_saves_what_the_next_command_goes_on_with(tmp_path, monkeypatch, capsys):
    def interrupting(items, desc, **_):
        for i in items:
            if desc.strip() == "meta-training" and i == 1:
                signal.raise_signal(signal.SIGINT)
            yield i

    monkeypatch.setattr("tqdm.tqdm", interrupting)
    monkeypatch.setattr(DemoConfig, "quick", lambda seed: replace(TINY, seed=seed))
    assert run(["demo", "--quick", "--out", str(tmp_path)]) == 130
    said = capsys.readouterr().err
    assert f"interrupted during: meta-training; finished: {tmp_path / 'result.json'}\n" in said
    (stopped,) = (line for line in said.splitlines() if line.startswith("stopped by SIGINT after step 1, saved as "))
    command = stopped.partition(": go on from there by pyrometa ")[2].split()
    assert command == ["train", os.path.relpath(tmp_path / "run"), "--resume", "last"]
    assert run(command) == 0
    assert capsys.readouterr().out.startswith("step 2 (max_steps)")


@pytest.mark.usefixtures("own_path")
def test_meta_training_is_a_run_for_the_other_commands(quick, capsys):
    folder = quick[1] / "run"
    record = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert run(["evaluate", str(folder), "--gaps", "0"]) == 0
    printed = capsys.readouterr().out.splitlines()[2:-2]
    assert [line.split()[1] for line in printed] == [f"{loss:.4f}" for loss in record["adaptation"]]
    assert run(["info", str(folder)]) == 0
    assert "meta pyrometa.demo.recipe:make_meta" in capsys.readouterr().out
    assert run(["plot", str(folder), "--out", str(folder / "again.png")]) == 0
    (folder / "again.png").unlink()


def test_the_recipe_has_the_counts_of_the_full_demo():
    recipe, counts = read(RECIPE), {**asdict(DemoConfig()), "max_steps": DemoConfig().meta_steps}
    of_demo = {key: value for table in ("meta", "tasks", "trainer") for key, value in recipe.table(table).items()}
    own = {"source", "schedule", "validate_every", "checkpoint_every"}
    assert of_demo["schedule"]["T_max"] == counts["max_steps"]
    assert {key: value for key, value in of_demo.items() if key not in own} == {
        key: counts[key] for key in of_demo if key not in own
    }


def vae_by_hand(config):
    """The pooled start of the demo."""
    torch.manual_seed(config.seed)
    vae = new_vae(config)
    fit_pooled(vae, demo_tasks(config).pooled, config.pooled_steps, config.pooled_lr, config, quietly, "")
    return vae


@pytest.mark.usefixtures("own_path")
def test_the_recipe_trains_from_the_pooled_start_of_the_demo(tmp_path, capsys):
    config = replace(TINY, seed=3)
    counts = {"meta.hidden": 8, "meta.latent": 2, "meta.pooled_steps": 3, "meta.pooled_batch": 16}
    counts |= {"tasks.validation_tasks": 2, "tasks.test_tasks": 4, "trainer.max_steps": 2, "trainer.meta_batch": 2}
    sets = [f"{key}={value}" for key, value in {**counts, "trainer.progress": "false", "trainer.seed": 3}.items()]
    made = program(read(RECIPE, sets)).model.__self__.state_dict()
    expected = vae_by_hand(config).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in made.items())
    command = [part for told in [*sets, f"trainer.out={tmp_path}"] for part in ("--set", told)]
    assert run(["train", str(RECIPE), *command]) == 0
    assert run(["evaluate", str(tmp_path), "--split", "test", "--set", "meta.pooled_steps=0", "--gaps", "0"]) == 0
    assert "4 test tasks" in capsys.readouterr().out


def test_a_write_that_fails_leaves_the_file_of_before(tmp_path, monkeypatch):
    (tmp_path / "adaptation.png").write_bytes(b"before")

    savefig = Figure.savefig

    def fail(figure, path, **options):
        if not isinstance(path, Path):  # the run's curves
            return savefig(figure, path, **options)
        path.write_bytes(b"half a fig")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        Demo(TINY, tmp_path).run()
    assert (tmp_path / "adaptation.png").read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"adaptation.png", "result.json", "run"}


def test_a_missing_extra_is_one_line_with_the_cure(monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name in ("typer", "tqdm") else object())
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == 'the pyrometa command needs tqdm, typer: pip install "pyrometa[cli]"\n'


def test_the_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pyrometa", "--version"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"pyrometa {pyrometa.__version__}\n"


@pytest.mark.parametrize("arguments", [["demo", "--seed", "-1"], ["demo", "--out", __file__], ["dmeo"]])
def test_bad_arguments_are_refused_before_any_work(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["pyrometa", *arguments])
    monkeypatch.setattr(Demo, "run", lambda self: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert arguments[-2 if len(arguments) > 1 else 0] in capsys.readouterr().err
