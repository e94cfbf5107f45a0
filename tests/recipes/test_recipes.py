"""What a recipe says: read, set from outside, written again, and made into objects."""

import pickle
import re
import sys

import pyro.infer
import pytest
import torch

import pyrometa as pm
from pyrometa.recipes import program, read, sources, trainer
from pyrometa.recipes.nearest import meant
from pyrometa.recipes.parts import CLASSES
from pyrometa.recipes.toml import parsed, written

PROGRAM = """
model = "recipe_program:model"
guide = {guide}
[optim]
{optim}
{rest}
"""


def made(tmp_path, guide='"recipe_program:guide"', optim='name = "Adam"\nlr = 0.1', rest="", sets=()):
    (tmp_path / "recipe.toml").write_text(PROGRAM.format(guide=guide, optim=optim, rest=rest))
    return read(tmp_path, sets)


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


TABLES = {
    "model": "a:b",
    "text": 'quotes " and \\ and\nlines, ü, \x7f',
    "flag": True,
    "numbers": [1, -2.5, 1e-30, float("inf")],
    "nested": [["x0", "x1"], "y"],
    "empty": [],
    "inner": {"name": "NaturalGradient", "lr": {"guide.a": 0.1}, "others": {"name": "SGD", "lr": 0.01}},
    "trainer": {},
}


def test_what_is_written_is_read_back_equal():
    assert parsed(written(TABLES)) == TABLES
    assert parsed(written({"a": parsed("a = 2020-01-02T03:04:05Z")["a"]})) == parsed("a = 2020-01-02T03:04:05Z")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("inner.lr=1e-3", 1e-3),
        ("inner.lr = 3", 3),
        ("inner.lr=true", True),
        ('inner.lr=["a", "b"]', ["a", "b"]),
        ("inner.lr=layer", "layer"),
        ("inner.lr=schools:model", "schools:model"),
        ("inner.lr=data/*.parquet", "data/*.parquet"),
        ('inner.lr="3"', "3"),
        ("inner.lr={guide = 0.1}", {"guide": 0.1}),
    ],
)
def test_values_of_the_command_line(tmp_path, text, value):
    recipe = made(tmp_path, rest='[inner]\nname = "SGD"', sets=[text])
    assert recipe.table("inner") == {"name": "SGD", "lr": value}
    assert made(tmp_path, sets=["inner.others.lr=1", text]).table("inner") == {"others": {"lr": 1}, "lr": value}


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("adma", "'Adam'"), ("max_stps", "'max_steps'"), ("LR", "'lr'"), ("zzz", "there are Adam, Adamax, lr, max_steps")],
)
def test_the_nearest_name(given, nearest):
    assert nearest in meant(given, ["Adam", "Adamax", "lr", "max_steps"])


def test_tables_make_what_the_classes_make(tmp_path):
    rest = """
[meta]
steps = 3
adapt = ["guide.*"]
reduction = "mean"
[inner]
name = "NaturalGradient"
lr = 0.3
others = { name = "Adam", lr = 0.01, betas = [0.8, 0.9] }
[meta_gradient]
name = "Unrolled"
step_weights = [0.0, 0.5, 0.5]
[engine]
record = "auto"
[noise]
points = "sobol"
[loss]
name = "Trace_ELBO"
num_particles = 4
vectorize_particles = true
[score]
name = "PredictiveLoss"
num_particles = 7
"""
    meta = program(made(tmp_path, rest=rest))
    assert meta.steps == 3
    assert meta.inner == pm.NaturalGradient(0.3, others=pm.Adam(0.01, betas=(0.8, 0.9)))
    assert meta.meta_gradient == pm.Unrolled(step_weights=(0.0, 0.5, 0.5))
    assert (meta.engine, meta.noise) == (pm.Engine(record="auto"), pm.Noise(points="sobol"))
    given = meta._state.program
    assert isinstance(given.loss, pyro.infer.Trace_ELBO)
    assert (given.loss.num_particles, given.loss.vectorize_particles) == (4, True)
    assert (type(given.score), given.score.num_particles) == (pm.PredictiveLoss, 7)


@pytest.mark.parametrize("table", sorted(CLASSES))
def test_the_classes_of_the_package_are_all_there(table):
    names = set(CLASSES[table])
    public = {"inner": pm.inner.InnerRule, "meta_gradient": pm.outer.MetaGradient}
    if table in public:
        kinds = [getattr(pm, name) for name in pm.__all__ if isinstance(getattr(pm, name), type)]
        expected = {kind.__name__ for kind in kinds if kind.__module__.startswith(f"pyrometa.{_ROOM[table]}.")}
        assert names == expected


_ROOM = {"inner": "inner", "meta_gradient": "outer"}


@pytest.mark.parametrize("guide", ['"AutoNormal"', '{ name = "AutoNormal", init_scale = 0.5 }'])
def test_an_autoguide_by_its_name(tmp_path, guide):
    meta = program(made(tmp_path, guide=guide))
    assert type(meta.guide) is pyro.infer.autoguide.AutoNormal
    assert meta.guide._init_scale == (0.5 if "scale" in guide else 0.1)
    assert program(made(tmp_path, guide=guide)).guide is not meta.guide


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ('name = "SGD"\nlr = 0.3\nmomentum = 0.9', {"lr": 0.3, "momentum": 0.9}),
        ('name = "Adam"\nlr = 0.3\nbetas = [0.5, 0.6]', {"lr": 0.3, "betas": (0.5, 0.6)}),
        ('name = "ClippedAdam"\nlrd = 0.999', {"lrd": 0.999}),
        ('name = "AdamW"\nclip_norm = 10.0', {"lr": 1e-3}),
    ],
)
def test_optimizers_of_torch_and_of_pyro(tmp_path, text, settings):
    meta = program(made(tmp_path, optim=text))
    x = torch.randn(2, 5)
    meta.init((x, x))
    group = meta.optimizer.param_groups[0]
    assert {key: group[key] for key in settings} == settings
    assert type(meta.optimizer).__name__ == text.split('"')[1]


def test_a_function_makes_the_whole_of_it(tmp_path):
    (tmp_path / "recipe.toml").write_text('meta = "recipe_program:make_meta"\n')
    meta = program(read(tmp_path))
    assert (type(meta), meta.steps) == (pm.MetaSVI, 2)
    for table, key in (("inner", "lr"), ("optim", "lr")):
        with pytest.raises(pm.RecipeError, match="stands beside meta") as error:
            program(read(tmp_path, [f"{table}.{key}=1"]))
        assert error.value.file.endswith("recipe.toml with --set")
        assert error.value.table == table


def test_a_function_has_the_other_keys_of_its_table(tmp_path):
    (tmp_path / "recipe.toml").write_text('[meta]\nsource = "recipe_program:make_meta"\nsteps = 4\n')
    assert program(read(tmp_path)).steps == 4
    for told, message in (
        ("meta.stps=3", "stps is a key that nobody knows: did you mean 'steps'?"),
        ("meta.steps=many", "steps must be a whole number, got 'many'"),
        ("meta.source=3", "source must be an import path"),
        ("inner.lr=1", "stands beside meta, whose function makes all of the MetaSVI"),
    ):
        with pytest.raises(pm.RecipeError, match=re.escape(message)):
            program(read(tmp_path, [told]))
    with pytest.raises(pm.RecipeError, match="must be an import path such as 'schools:make_meta' or a table, got 3"):
        program(read(tmp_path, ["meta=3"]))
    with pytest.raises(pm.RecipeError, match=r"\[meta\] source is 'recipe_program:one_thing', which returned int"):
        program(read(tmp_path, ["meta={source='recipe_program:one_thing'}"]))


def test_a_trainer_from_its_table(tmp_path):
    rest = """
[trainer]
max_steps = 7
clip_norm = 2.0
logger = ["jsonl"]
schedule = { name = "CosineAnnealingLR", T_max = 7 }
callbacks = ["recipe_program:make_tasks"]
"""
    made_trainer = trainer(made(tmp_path, rest=rest))
    assert (made_trainer.max_steps, made_trainer.clip_norm, made_trainer.meta_batch) == (7, 2.0, 16)
    assert made_trainer.out == str(tmp_path / "runs" / "recipe")
    assert len(made_trainer.callbacks) == 1
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = made_trainer.schedule(optimizer)
    assert (type(scheduler).__name__, scheduler.T_max) == ("CosineAnnealingLR", 7)


def test_tasks_from_files(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    users = [i // 6 for i in range(240)]
    table = pa.table({"user": users, "x": [float(i) for i in range(240)], "y": [float(i) for i in range(240)]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rest = """
[trainer]
max_steps = 3
seed = 4
[tasks]
path = "*.parquet"
group = "user"
columns = [["x"], "y"]
support = 2
fractions = [0.5, 0.3, 0.2]
validation_tasks = 5
"""
    train, validation, test = sources(made(tmp_path, rest=rest))
    assert (len(train.tasks), train.support) == (20, 2)
    support, query = validation
    assert [len(validation[0]), len(test[0])] == [5, 5]
    assert (support[0][0].shape, query[0][1].shape) == ((2, 1), (4,))
    support, query = sources(made(tmp_path, rest=rest, sets=["tasks.support='all'"])).train.sample(2)
    assert [len(s[1]) for s in support] == [6, 6]
    assert all(torch.equal(s[1], q[1]) for s, q in zip(support, query, strict=True))  # scored on what it adapts to
    support, query = validation
    again = sources(made(tmp_path, rest=rest, sets=["trainer.seed=5"]))
    assert torch.equal(again.validation[0][0][1], support[0][1])  # another draw of the same split
    assert not torch.equal(again.train.sample(20)[0][0][1], train.sample(20)[0][0][1])


def test_an_error_is_pickled_with_its_place(tmp_path):
    with pytest.raises(pm.RecipeError) as error:
        trainer(made(tmp_path, rest="[trainer]\nmax_stps = 3"))
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value)
    assert (again.file, again.table, again.key) == (str(tmp_path / "recipe.toml"), "trainer", "max_stps")


def test_paths_and_modules_are_looked_for_in_the_folder(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "beside_the_recipe.py").write_text("from recipe_program import model, guide\n")
    recipe = made(tmp_path, rest="", sets=["folder=there", "model=beside_the_recipe:model"])
    program(recipe)
    assert recipe.path("data") == str(tmp_path / "there" / "data")
    copy = tmp_path / "runs" / "a"
    copy.mkdir(parents=True)
    (copy / "recipe.toml").write_text(recipe.text(copy))
    assert read(copy).folder == recipe.folder
    del sys.modules["beside_the_recipe"]


def test_what_a_source_draws_follows_from_the_seed_and_moves_no_generator(tmp_path):
    rest = '[tasks]\nsource = "recipe_program:drawn_tasks"'
    before = torch.get_rng_state()
    first, again, other = (sources(made(tmp_path, rest=rest, sets=[f"trainer.seed={seed}"])) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.validation, again.validation)
    assert not torch.equal(first.validation, other.validation)


@pytest.mark.parametrize(
    ("sets", "file"),
    [
        (["tasks.source=recipe_program:wrong"], "recipe.toml with --set"),
        (['tasks={source="recipe_program:wrong"}'], "--set"),
        (["trainer.seed=1"], "recipe.toml"),
    ],
)
def test_an_error_of_a_table_says_whether_the_command_line_has_set_something_in_it(tmp_path, sets, file):
    recipe = made(tmp_path, rest='[tasks]\nsource = "recipe_program:wrong"', sets=sets)
    with pytest.raises(pm.RecipeError, match=r"\[tasks\] can't be followed: the disk is full") as error:
        sources(recipe)
    assert error.value.file.removeprefix(f"{tmp_path}/") == file


def test_a_class_is_called_and_clip_arguments_reach_pyro(tmp_path):
    optim = 'name = "Adam"\nclip_norm = 2.0\nclip_value = 3'
    meta, other = (program(made(tmp_path, guide='"recipe_program:Guide"', optim=optim)) for _ in range(2))
    assert type(meta.guide).__name__ == "Guide"
    assert meta.guide is not other.guide
    assert meta._state.optim.pt_clip_args == {"clip_norm": 2.0, "clip_value": 3}
