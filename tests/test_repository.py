"""What the repository says in two places agrees, and what belongs in one place is in one."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

import pyrometa

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"\b(torch|torchvision|pyro-ppl)\s*(?:\[[^\]]*\])?\s*==\s*(\d[\w.]*)")
RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", re.M)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def tracked_files():
    """The files that git tracks, or would with `git add .`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def pins(texts):
    """{package: [(file, version), ...]} of every exact pin in {file: text}."""
    found = {}
    for name, text in texts.items():
        for package, version in PIN.findall(text):
            found.setdefault(package, []).append((name, version))
    return found


def targets(makefile):
    """The names of all rules of a Makefile that are words."""
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.M))


def made(text):
    """The targets of every `make TARGET` in code: in backticks, or at the start of a line."""
    return re.findall(r"(?:`|^[ \t]*(?:\$ )?)make ([a-z-]+)", text, re.M)


def test_torch_is_pinned_in_one_place_and_the_newest_of_it_runs():
    suffixes = {".toml", ".cfg", ".txt", ".md", ".rst", ".yaml", ".yml", ".py", ""}
    texts = {name: read(name) for name in tracked_files() if Path(name).suffix in suffixes and "test_rep" not in name}
    found = pins(texts)
    assert set(found) == {"torch", "torchvision", "pyro-ppl"}
    for package, places in found.items():
        assert {name for name, _ in places} == {"pyproject.toml"}
        versions = [version for _, version in places]
        assert len(versions) == (1 if package == "pyro-ppl" else 2)  # one for Python 3.10, which new releases leave out
        runs = max(versions, key=Version) if sys.version_info >= (3, 11) else min(versions, key=Version)
        assert importlib.metadata.version(package).split("+")[0] == runs


def test_a_second_pin_is_found():
    assert pins({"a": 'x = ["torch==2.1.0", "torchvision == 0.3"]', "b": "pip install torch==2.2"}) == {
        "torch": [("a", "2.1.0"), ("b", "2.2")],
        "torchvision": [("a", "0.3")],
    }


def test_nothing_that_is_made_is_tracked():
    made_up = re.compile(r"(^|/)(uv\.lock|\.venv|\.uv|__pycache__|_build|\.hypothesis|[^/]*\.egg-info)(/|$)")
    assert [name for name in tracked_files() if made_up.search(name)] == []
    assert "pyproject.toml" in tracked_files()


def test_the_version_has_one_source_and_the_changelog_is_not_ahead():
    project = tomllib.loads(read("pyproject.toml"))
    assert "version" in project["project"]["dynamic"]
    source = read(project["tool"]["hatch"]["version"]["path"])
    assert re.findall(r'^__version__ = "(.+)"$', source, re.M) == [pyrometa.__version__]
    headings = re.findall(r"^## .*$", read("CHANGELOG.md"), re.M)
    assert headings[0] == "## [Unreleased]"
    releases = [Version(release) for release in RELEASE.findall(read("CHANGELOG.md"))]
    assert len(releases) == len(headings) - 1
    assert releases == sorted(releases, reverse=True)
    assert all(release <= Version(pyrometa.__version__) for release in releases)


def test_every_phony_target_has_a_rule():
    makefile = read("Makefile")
    assert set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()) == targets(makefile)


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "docs/tutorials/first-guide.md", "docs/index.md", ".ci/run"]
)
def test_each_make_command_is_a_target(name):
    assert set(made(read(name))) <= targets(read("Makefile"))


def test_the_readme_gives_the_two_commands():
    assert {"demo", "test"} <= set(made(read("README.md")))


def test_make_commands_are_found():
    assert made("`make demo` then\nmake test\n    make lint\nwe make docs") == ["demo", "test", "lint"]
    assert targets("UV := x\nsetup: .venv\n\nbench-all: setup\n\t@touch\n") == {"setup", "bench-all"}


def test_ci_runs_make_and_nothing_else():
    lines = [line for line in read(".ci/run").splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make lint", "make docs", "make test"]
