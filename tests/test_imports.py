"""Who may import whom, read from the source; and what `import pyrometa` does in a fresh interpreter."""

import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from import_figure import imports

import pyrometa

PACKAGE = Path(__file__).parents[1] / "pyrometa"

GROUND = {"types", "errors", "nest", "internals", "generators"}
BELOW_PROGRAM = GROUND | {"rewrites", "explain", "atomic", "recording", "noise", "elbos"}
PARTS = {"adapter", "amortize", "models", "guides", "diagnostics", "recipes", "tasks", "train"}
CORE = BELOW_PROGRAM | {"program", "inner", "engine", "processes", "outer"}

# For each part what it may import at the top of a module, and what else inside a function.
# The row with the longest matching name counts. "" is the package's own __init__.
TABLE = {
    "nest": (set(), set()),
    "internals": (set(), set()),
    "generators": (set(), set()),
    "errors": (set(), set()),
    "types": ({"nest"}, set()),
    "rewrites": (GROUND, set()),
    "explain": (GROUND, set()),
    "atomic": (GROUND, set()),
    "recording": (GROUND | {"atomic"}, set()),
    "noise": (GROUND | {"rewrites"}, set()),
    "elbos": (GROUND | {"rewrites", "explain"}, set()),
    "program": (BELOW_PROGRAM, set()),
    "inner": (GROUND, set()),
    "engine": (BELOW_PROGRAM | {"program", "inner"}, set()),
    "outer": (GROUND | {"engine", "inner", "processes"}, set()),
    "processes": (GROUND, set()),
    "tasks": (GROUND, set()),
    "saving": (GROUND, set()),
    "learner": (CORE | {"saving"}, set()),
    "metasvi": (CORE | {"learner"}, {"interop"}),
    "algorithms": (CORE | {"metasvi"}, set()),
    "models": (set(), set()),
    "guides": (set(), set()),
    "guides.row_rule": ({"inner"}, set()),
    "guides.log_joint": (GROUND | {"elbos"}, set()),
    "guides.row_surface": (GROUND | {"inner"}, set()),
    "guides.semi_amortized": (GROUND | {"elbos", "inner", "noise", "program"}, set()),
    "amortize": (GROUND | {"engine", "guides", "inner", "metasvi", "noise", "outer", "program", "tasks"}, set()),
    "adapter": (GROUND | {"metasvi", "saving", "tasks"}, {"recipes"}),
    "train": (GROUND | {"metasvi", "processes", "saving", "tasks"}, set()),
    "recipes": (
        GROUND | {"elbos", "engine", "inner", "metasvi", "noise", "outer", "saving", "scores", "tasks", "train"},
        set(),
    ),
    "scores": (set(), set()),
    "diagnostics": (GROUND | {"atomic", "elbos", "explain", "noise", "program"}, {"plots"}),
    "interop": (GROUND | {"inner", "outer", "program", "tasks"}, set()),
    "plots": (set(), set()),
    "": (CORE | {"metasvi", "algorithms", "scores"} | PARTS, set()),
    "demo": ({"", "diagnostics", "models", "recipes", "tasks", "train"}, {"plots"}),
    "cli": (
        GROUND | {"", "adapter", "demo", "diagnostics", "metasvi", "plots", "recipes", "saving", "tasks", "train"},
        set(),
    ),
    "__main__": ({"cli"}, set()),
}

# The parts that import Pyro. All others do without, and so does what is not named of a room of which a file is.
WITH_PYRO = {
    "internals", "explain.source_lines", "atomic.surroundings", "recording.fingerprint", "recording.watch", "elbos",
    "program", "outer.optimizer", "tasks.prior", "metasvi", "algorithms.arguments", "amortize", "models", "guides",
    "recipes.parts", "cli.starter", "scores", "diagnostics", "demo.reconstructions", "demo.training", "demo.trust",
}  # fmt: skip

HEAVY = (
    "gym", "learn2learn", "torchvision", "matplotlib", "typer", "mlxtend", "sklearn", "zuko", "pyarrow", "pandas",
    "polars", "arviz", "xarray",
)  # fmt: skip
ENTRIES = {"cli", "plots", "interop"}  # may need an extra when imported


def module_name(path, root):
    """`program/leaves.py` is `program.leaves`, `tasks/__init__.py` is `tasks`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_in(name, part):
    """Whether a module is a part or within it."""
    return name == part or name.startswith(part + ".")


def row_of(name):
    """The key of the longest row that holds the module, None without one."""
    rows = [row for row in TABLE if row and is_in(name, row)]
    return max(rows, key=len) if rows else ("" if not name else None)


def violations(root):
    """One line for each import that the table does not allow, and for each module that has no row."""
    tops = {path.stem for path in root.glob("*.py")} | {path.name for path in root.iterdir() if path.is_dir()}
    found = []
    for path in sorted(root.rglob("*.py")):
        name = module_name(path, root)
        row = row_of(name)
        if row is None:
            found.append(f"{name}: has no row in the table")
            continue
        eager, lazily = TABLE[row]
        for line, target, lazy in imports(path, root):
            parts = target.split(".")
            where = f"{path.relative_to(root)}:{line} imports {target}"
            if parts[0] == "pyro" and not any(is_in(name, part) for part in WITH_PYRO):
                found.append(f"{where}, which this part must do without")
            if parts[0] != "pyrometa":
                continue
            top = parts[1] if len(parts) > 1 and parts[1] in tops else ""
            allowed = eager | lazily if lazy else eager
            if top not in allowed and top != row.split(".")[0]:
                found.append(f"{where}, not in the row of {row or 'pyrometa'}: {sorted(allowed)}")
    return found


def circle(root):
    """Modules that import each other in a circle, be it inside a function or for types alone; empty if none do."""
    files = {module_name(path, root): path for path in root.rglob("*.py")}
    imported = {name: modules_imported(name, path, root, files) for name, path in files.items()}
    done = set()

    def visit(name, above):
        if name in above:
            return [*above[above.index(name) :], name]
        if name in done:
            return []
        found = next(filter(None, (visit(target, [*above, name]) for target in imported[name])), [])
        done.add(name)
        return found

    return next(filter(None, (visit(name, []) for name in files)), [])


def modules_imported(name, path, root, files):
    """The modules of a package that one of its files imports from, itself left out."""
    targets = [target.split(".")[1:] for _, target, _ in imports(path, root) if target.split(".")[0] == "pyrometa"]
    found = {next(m for m in (".".join(parts), ".".join(parts[:-1]), "") if m in files) for parts in targets}
    return sorted(found - {name})


def test_no_imports_go_in_a_circle():
    assert circle(PACKAGE) == []


@pytest.mark.parametrize("how", ["from {}", "if TYPE_CHECKING:\n    from {}", "def f():\n    from {}"])
def test_a_circle_is_found(tmp_path, how):
    for name, target in (("__init__", "a"), ("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.py").write_text(how.format(f"pyrometa.{target} import x"))
    assert circle(tmp_path) == ["a", "b", "a"]


def test_the_package_follows_the_table():
    assert violations(PACKAGE) == []


def modules_of(part):
    """The sources of a part of the package: of a module, or of a folder with all that is in it."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if is_in(module_name(path, PACKAGE), part)]


@pytest.mark.parametrize("part", sorted({*TABLE, *WITH_PYRO}))
def test_the_table_names_parts_that_exist(part):
    assert modules_of(part)


@pytest.mark.parametrize("part", sorted(WITH_PYRO))
def test_what_may_import_pyro_does(part):
    found = [target for path in modules_of(part) for _, target, _ in imports(path, PACKAGE)]
    assert any(is_in(target, "pyro") for target in found)


def test_the_table_leads_one_way():
    relation = {}
    for row, (eager, lazily) in TABLE.items():
        relation.setdefault(row.split(".")[0], set()).update(eager | lazily)
    tuple(TopologicalSorter(relation).static_order())  # raises at a circle


def rooms_in(text):
    """What CONTRIBUTING.md says in its table of who imports whom: {room: what it may import}."""
    section = re.search(r"^## Who imports whom\n(.*?)(?=^## )", text, re.M | re.S)[1]
    rows = re.findall(r"^\| `([^`]+)` \|([^|]*)\|$", section, re.M)
    return {
        room: set(re.findall(r"`([^`]+)`", allowed)) | (GROUND if "the ground" in allowed else set())
        for room, allowed in rows
    }


def test_the_contributors_table_says_the_same():
    told = rooms_in((PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    parts = {
        path.stem if path.is_file() else path.name
        for path in PACKAGE.iterdir()
        if path.name not in ("__init__.py", "__pycache__")
    }
    assert told.keys() - {"pyrometa"} == parts - {"py"}
    expected = {}
    for row, (eager, lazily) in TABLE.items():
        names = {name or "pyrometa" for name in eager | lazily}
        expected.setdefault(row.split(".")[0] or "pyrometa", set()).update(names)
    assert told == expected


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        (
            "inner/sgd.py",
            "from pyrometa.program import loss",
            "imports pyrometa.program.loss, not in the row",
        ),
        (
            "inner/sgd.py",
            "from ..program.loss import f",
            "imports pyrometa.program.loss.f, not in the row",
        ),
        (
            "inner/sgd.py",
            "def f():\n    from pyrometa import metasvi",
            "imports pyrometa.metasvi, not in the row",
        ),
        ("inner/sgd.py", "from pyrometa import MetaSVI", "imports pyrometa.MetaSVI, not in the row"),
        ("inner/sgd.py", "import pyrometa", "imports pyrometa, not in the row"),
        ("inner/sgd.py", "import pyro.poutine", "which this part must do without"),
        (
            "inner/sgd.py",
            "import importlib\nimportlib.import_module('pyrometa.engine')",
            "imports pyrometa.engine",
        ),
        ("program/loss.py", "import pyrometa.engine.loop", "imports pyrometa.engine.loop, not in the row"),
        ("tasks/digits.py", "from pyrometa.models import vae", "imports pyrometa.models.vae, not in the row"),
        ("models/vae.py", "from .. import metasvi", "imports pyrometa.metasvi, not in the row"),
        ("guides/flow.py", "from pyrometa.inner import SGD", "imports pyrometa.inner.SGD, not in the row"),
        ("metasvi.py", "from pyrometa.interop import learn2learn", "imports pyrometa.interop.learn2learn"),
        ("cli.py", "from pyrometa.engine._plan import x", "imports pyrometa.engine._plan.x, not in the row"),
        ("outer/unrolled.py", "import pyro", "which this part must do without"),
        ("helpers.py", "", "has no row"),
    ],
)
def test_what_is_not_in_the_table_is_found(tmp_path, path, source, complaint):
    make_package(tmp_path, path, source)
    (found,) = violations(tmp_path)
    assert complaint in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("inner/sgd.py", "from pyrometa.types import Params\nfrom .loop import adapt\nfrom . import loop"),
        ("program/loss.py", "import pyro\nfrom pyrometa import errors"),
        ("outer/optimizer.py", "import pyro"),
        ("engine/loop.py", "from ..inner.loop import adapt\nfrom pyrometa.program import loss"),
        ("guides/semi_amortized.py", "from pyrometa.inner import SGD\nfrom pyrometa.guides import flow"),
        ("metasvi.py", "def f():\n    from pyrometa.interop import learn2learn"),
        ("__init__.py", "from pyrometa.metasvi import MetaSVI\nfrom . import tasks\n__version__ = '1'"),
        ("cli.py", "import pyrometa as pm\nfrom pyrometa import MetaSVI, __version__"),
    ],
)
def test_what_is_in_the_table_is_allowed(tmp_path, path, source):
    make_package(tmp_path, path, source)
    assert violations(tmp_path) == []


def make_package(root, path, source):
    """An empty package of every module in the table, with one source written."""
    for row in TABLE:
        (root / Path(*row.split("."))).mkdir(parents=True, exist_ok=True)
    (root / path).write_text(source)


FRESH = """
import sys, warnings
import pyro, torch
state = lambda: (
    pyro.settings.get(), list(warnings.filters), torch.get_default_dtype(), torch.get_num_threads(),
    torch.is_grad_enabled(), list(pyro.get_param_store().keys()), torch.get_rng_state().tolist(),
)
before = dict(zip(NAMES, state()))
import importlib
for module in MODULES:
    importlib.import_module(module)
after = dict(zip(NAMES, state()))
changed = [name for name in NAMES if before[name] != after[name]]
loaded = [name for name in HEAVY if name in sys.modules]
if changed or loaded:
    sys.exit(f"changed: {changed}, imported: {loaded}")
"""
NAMES = ["settings", "filters", "dtype", "threads", "grad mode", "param store", "random state"]


def fresh(modules, path=None):
    """What a fresh interpreter says when it imports the modules; nothing, if all is well."""
    code = f"NAMES, MODULES, HEAVY = {NAMES!r}, {modules!r}, {HEAVY!r}\n{FRESH}"
    environment = {**os.environ, "PYTHONPATH": str(path or PACKAGE.parent), "PYTHONWARNINGS": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_importing_pyrometa_loads_no_extra_and_changes_nothing():
    assert fresh(["pyrometa"]) == ""


LATER = ("diagnostics", "guides", "models", "tasks", "train")


def test_parts_are_attributes_of_the_package_on_first_use(tmp_path):
    (tmp_path / "use.py").write_text(
        "import sys\nimport pyrometa as pm\n"
        "assert 'pyrometa.guides' not in sys.modules\n"
        "listed = dir(pm)\n"
        f"for name in {LATER}:\n"
        "    assert getattr(pm, name).__name__ == f'pyrometa.{name}', name\n"
        "    assert name in listed, name\n"
        "assert pm.guides.ParticleGuide and pm.models.VAE and pm.diagnostics.elbo and pm.tasks.SinusoidTasks\n"
    )
    assert fresh(["use"], f"{tmp_path}{os.pathsep}{PACKAGE.parent}") == ""


def test_other_attributes_are_missed_by_name():
    with pytest.raises(AttributeError, match="'pyrometa' has no attribute 'guide'"):
        _ = pyrometa.guide


def test_every_module_imports_without_an_extra():
    names = [module_name(path, PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
    modules = [f"pyrometa.{name}" for name in names if name and name.split(".")[0] not in ENTRIES]
    assert fresh(modules) == ""


BUSY = """
import warnings
import mlxtend, pyro, torch
pyro.settings.set(module_local_params=True)
warnings.warn('old')
warnings.simplefilter('ignore')
torch.set_default_dtype(torch.float64)
torch.manual_seed(3)
print('a banner')
"""


def test_an_import_that_does_more_is_found(tmp_path):
    (tmp_path / "busy.py").write_text(BUSY)
    said = fresh(["busy"], tmp_path)
    assert "changed: ['settings', 'filters', 'dtype', 'random state'], imported: ['mlxtend']" in said
    assert "a banner" in said
    assert "old" in said
