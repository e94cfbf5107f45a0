"""Every error and warning of the package is told in docs/errors/ by its text, and what is told there is still said."""

import re
from pathlib import Path

import pytest
from package_messages import HOLE, Package

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "errors").glob("*.md"))

INTERNAL = {
    "NotLinearError", "NotPromotableError", "NotTOML", "SideBySideError", "StalePlanError", "Unfit", "UnprovedError",
    "_Damaged", "_FailsError", "_NoDerivativeError", "_NoSecondDerivativeError",
    "Exit", "typer.Exit", "Interrupted",
}  # fmt: skip
"""Caught within the package, or an exit code; what they say comes in the message of another."""

NEVER_LEAVES = {
    ("engine/in_parts.py", "each step is from a point of another form"),  # it is recorded as a whole then
    ("recording/split.py", "it writes to tensors"),
    ("learner/arguments.py", f"task {HOLE} of {HOLE}"),  # by which Python ends an iteration
    ("noise/drawn_steps.py", f"evaluation {HOLE} of {HOLE}"),
}

RAISED_AGAIN = {
    ("atomic/interrupts.py", "found"), ("processes.py", "error"), ("train/loop.py", "error"),
    ("train/loop.py", "interruption"),
}  # fmt: skip
"""An exception that was made elsewhere."""

OF_OTHERS = {
    ("engine/posterior_draws.py", "warning or reason"), ("engine/proved_plans.py", "warning or reason"),
    ("engine/runner.py", "warning or reason"), ("recording/background.py", "CannotCompileError"),
    ("saving/checkpoints.py", "CheckpointError"),
}  # fmt: skip
"""One of them at least passes on what another has said, which is told by itself."""

APART = {"cure", "meant", "reason", "told", "_at", "_culprit", "_listed", "_rank"}
"""What these return is told by itself, or is names."""

BESIDES = {
    "pyrometa.explain.reasons": ["_BATCHING", "reason"],
    "pyrometa.tasks.columns": ["_CURE", "_CURES"],
    "pyrometa.engine.trial": ["_DIFFERS"],
    "pyrometa.inner.cures": ["cure"],
    "pyrometa.train.loop": ["_how_to_resume"],
    "pyrometa.program.guards.draws": ["FIRST_ORDER"],
}
"""What becomes a message, or a part of one, on a way that the source does not show."""

CLAUSES = re.compile(r"<[a-z][a-z ,]*>|[:;] |\.\.\.(?=\)?$)")
ENTRY = re.compile(r"^- (`+) ?(.+?) ?\1\\$", re.M)


@pytest.fixture(scope="module")
def package():
    return Package(ROOT / "pyrometa", {"error": "pyrometa.recipes.recipe"}, frozenset({"fall_back"}), frozenset(APART))


@pytest.fixture(scope="module")
def sites(package):
    return list(package.sites())


@pytest.fixture(scope="module")
def entries():
    return [text for page in PAGES for _, text in ENTRY.findall(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def besides(package):
    found = [text for module, names in BESIDES.items() for name in names for text in package.texts_of(module, name)]
    return [text.replace(r"\1", HOLE) for text in found]


def parts(text, hole=re.compile(HOLE)):
    """What stands literally in a text, the longest first."""
    return sorted((" ".join(part.split()).strip(" ,:;.()") for part in hole.split(text)), key=len, reverse=True)


def is_told(text, entries):
    """Whether the longest literal part stands in an entry; of one that is short, all of the text."""
    longest = parts(text)[0]
    if len(longest.split()) >= 3:
        return any(longest in entry for entry in entries)
    return any(re.fullmatch(".+".join(map(re.escape, text.split(HOLE))), entry) for entry in entries)


def untold(found, entries):
    return [text for text in dict.fromkeys(found) if parts(text)[0] and not is_told(text, entries)]


def test_every_error_and_warning_is_told(sites, entries):
    found = [
        text
        for site in sites
        if site.kind not in INTERNAL
        for text in site.texts
        if (site.file, text) not in NEVER_LEAVES
    ]
    assert len(found) > 400
    assert untold(found, entries) == []


def test_parts_of_messages_are_told(besides, entries):
    assert untold(besides, entries) == []


def test_what_is_told_is_still_said(package, sites, besides, entries):
    said = {*package.constants(), *besides, *(text for site in sites for text in site.texts)}
    corpus = "\n".join(" ".join(text.split()) for text in said)
    stale = [entry for entry in entries if parts(entry, CLAUSES)[0] not in corpus]
    assert len(entries) > 400
    assert stale == []


def test_no_site_hides_its_text(sites):
    """What has no text to be seen is raised again, or is listed as internal."""
    hidden = {(site.file, site.kind) for site in sites if not any(parts(text)[0] for text in site.texts)}
    assert {place for place in hidden if place[1] not in INTERNAL} == RAISED_AGAIN | OF_OTHERS


def test_the_lists_hold_nothing_that_is_not_there(sites):
    assert {site.kind for site in sites} >= INTERNAL
    assert {(site.file, text) for site in sites for text in site.texts} >= NEVER_LEAVES


def test_a_text_without_an_entry_is_seen(tmp_path, entries):
    code = 'def f(x):\n    why = "of another kind"\n    raise ValueError(f"a thing {why}, got {x!r}: mend it")\n'
    (tmp_path / "new.py").write_text(code, encoding="utf-8")
    [site] = Package(tmp_path, {}, frozenset(), frozenset()).sites()
    assert site.texts == (f"a thing of another kind, got {HOLE}: mend it",)
    assert untold(site.texts, entries) == list(site.texts)
    assert untold(site.texts, [*entries, "a thing of another kind, got <value>: mend it"]) == []
