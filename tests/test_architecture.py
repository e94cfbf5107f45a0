"""What docs/architecture.md says of the package, looked up in the package; and the figure that its build draws."""

import builtins
import importlib
import re
from pathlib import Path

import import_figure as drawer
import pytest
import torch

from pyrometa import types

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pyrometa"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
STATION = re.compile(r"^\| (\d+) \| `([\w.]+)`[^|]*\| `([\w/.]+)` \| ([^|]+) \| ([^|]+) \|$", re.M)
STATIONS = STATION.findall(PAGE)


def module_of(file):
    """The module of a file of the package."""
    parts = Path(file).with_suffix("").parts
    return importlib.import_module(".".join(["pyrometa", *(part for part in parts if part != "__init__")]))


def missing_of(station, file, told):
    """Names that a row of a table tells and its file, the shared types, torch and Python do not have."""
    module = module_of(file)
    homes = [vars(home) for home in (module, types, torch, builtins)]
    found = [name for name in re.findall(r"`(\w+)`", told) if not any(name in home for home in homes)]
    thing = module
    for part in station.split("."):
        thing = getattr(thing, part, None)
    return found if thing is not None else [station, *found]


@pytest.mark.parametrize("row", STATIONS, ids=lambda row: f"{row[0]} {row[1]}")
def test_each_station_and_its_types_exist(row):
    _, station, file, arrives, leaves = row
    told = re.sub(r"`(vmap|reduction)`", "", f"{arrives} {leaves}")
    assert missing_of(station, file, told) == []


def test_what_a_station_does_not_have_is_found():
    assert missing_of("adapt", "inner/adaptation.py", "`Path`, `Params`, `Tensor`, `int`") == []
    assert missing_of("adapted", "inner/adaptation.py", "`Paths`") == ["adapted", "Paths"]


def test_the_way_leads_down_and_up_again():
    numbers = [int(row[0]) for row in STATIONS]
    turn = numbers.index(max(numbers)) + 1
    assert numbers[:turn] == list(range(1, turn + 1))
    assert numbers[turn:] == sorted(numbers[turn:], reverse=True)
    assert (numbers[turn], numbers[-1]) == (turn, 1)
    assert len(STATIONS) == len(re.findall(r"^\| \d+ \|", PAGE, re.M))


def section(title):
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]


def test_the_rooms_are_those_of_the_package():
    first = "".join(re.findall(r"^\|([^|]*)\|", section("The rooms"), re.M))
    told = {name for name in re.findall(r"`([\w/]+)`", first) if "/" not in name}
    assert told == set(drawer.relation(PACKAGE)) - {"pyrometa"}


@pytest.mark.parametrize("title", ["The rooms", "Where do I change ...?"])
def test_the_files_of_a_table_exist(title):
    paths = [path for path in re.findall(r"`([\w/.]+)`", section(title)) if "/" in path or path.endswith(".py")]
    assert paths
    assert [path for path in paths if not any((root / path).exists() for root in (PACKAGE, ROOT))] == []


def test_no_arrow_of_the_figure_points_up():
    uses = drawer.relation(PACKAGE)
    floor = drawer.floors(uses)
    assert uses.keys() == floor.keys()
    assert all(floor[room] > floor[other] for room in uses for other in uses[room])
    assert drawer.svg(uses, drawer.titles(PACKAGE)).count("<rect") == len(uses)


def test_the_figure_reads_the_imports_that_the_table_is_held_to():
    expected = {}
    tops = set(drawer.relation(PACKAGE))
    for path in PACKAGE.rglob("*.py"):
        room = drawer.room_of(path, PACKAGE)
        for _, target, _ in drawer.imports(path, PACKAGE):
            first, *rest = target.split(".")
            other = rest[0] if rest and rest[0] in tops else "pyrometa"
            if first == "pyrometa" and other != room:
                expected.setdefault(room, set()).add(other)
    assert {room: set(others) for room, others in drawer.relation(PACKAGE).items() if others} == expected


def package(root, **sources):
    """A package of these rooms."""
    for room, source in sources.items():
        (root / room).mkdir(parents=True)
        (root / room / "__init__.py").write_text(source)
    return root


def test_an_arrow_that_follows_from_others_is_left_out(tmp_path):
    made = package(
        tmp_path / "pkg",
        top="from pkg import middle\nimport pkg.low",
        middle="def f():\n    from ..low import g",
        low="import os",
    )
    uses = drawer.relation(made)
    assert uses == {"top": {"middle": False, "low": False}, "middle": {"low": True}, "low": {}}
    assert drawer.floors(uses) == {"top": 2, "middle": 1, "low": 0}
    assert set(drawer.arrows(uses)) == {("top", "middle", False), ("middle", "low", True)}


def test_a_circle_ends_the_build(tmp_path):
    made = package(tmp_path / "pkg", a="import pkg.b", b="from .. import c", c="def f():\n    import pkg.a")
    with pytest.raises(ValueError, match=r"an arrow would point up, for imports go round: \w -> \w -> \w -> \w"):
        drawer.svg(drawer.relation(made), {})


GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


def is_there(name):
    """Whether a dotted name of the package, ``pm.`` for short, is one."""
    parts = ["pyrometa", *name.split(".")[1:]]
    thing = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], 2):
        if not hasattr(thing, part):
            try:
                importlib.import_module(".".join(parts[:depth]))
            except ModuleNotFoundError:
                return False
        thing = getattr(thing, part)
    return True


def test_the_names_of_the_glossary_are_there():
    names = set(re.findall(r"`((?:pm|pyrometa)\.[\w.]+)`", GLOSSARY))
    assert len(names) > 50
    assert [name for name in sorted(names) if not is_there(name)] == []
    assert not is_there("pm.MetaSVI.adjust")


def test_a_word_is_told_once():
    words = [word for row in re.findall(r"^\| ([^|]+) \|", GLOSSARY, re.M) for word in row.split(", ")]
    assert len(words) > 80
    assert {word for word in words if words.count(word) > 1} == {"word"}
