"""Every ```python block of the README and of the pages of docs runs, and every local link leads somewhere.

Of a page that is a walk, the blocks that begin with the name of a file are that file, and every ```bash block is run:
those that only read a run, each one command, in this process, which spares them the import of torch.
"""

import contextlib
import io
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import torch

from pyrometa.cli.running import run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/concepts").glob("*.md"))]
READMES = [ROOT / "examples" / "README.md", ROOT / "experiments" / "README.md"]
WALKS = [ROOT / "docs" / "table-to-posteriors.md"]
ERRORS = sorted((ROOT / "docs" / "errors").glob("*.md"))
CHINESE = {ROOT / "README.zh-CN.md": PAGES[0], ROOT / "docs/zh-CN/start.md": ROOT / "docs/tutorials/first-guide.md"}
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))  # run by the build of the docs
LINKED = [*PAGES, *TUTORIALS, *ERRORS, *CHINESE, *READMES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

FENCE = re.compile(r"^(?P<fence>(?:`{3,}|~{3,}))(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=fence)[`~]*[ \t]*$", re.M | re.S)
FILE = re.compile(r"# ([\w.]+\.\w+)\n")
READING = re.compile(r"pyrometa (?:info|evaluate|plot|adapt) .*\n")
NUMBER = re.compile(r"-?\d[\d.,:-]*")
ROLE = re.compile(r"\{py:obj\}`(?:~|[^`<]*<)?([\w.]*)>?`")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|(?:src|href)=\"([^\"]+)\"")


def python_blocks(text):
    """The (line, code) of each python block; ValueError for one that would look like it and not run."""
    blocks = []
    for match in FENCE.finditer(text):
        info = match["info"].strip()
        line = text.count("\n", 0, match.start("code"))
        if info == "python":
            blocks.append((line, match["code"]))
        elif info == "" or "py" in info or "code" in info:
            raise ValueError(f"line {line}: write ```python, ```bash or ```text, not ```{info}: every block runs")
    if len(re.findall(r"^[ \t>]*(?:```|~~~)[ \t]*\{?py", text, re.M)) != len(blocks):
        raise ValueError("an indented or unclosed ```python block would not run: start it at the margin")
    return blocks


def run_blocks(text, name):
    """Runs the blocks in order in one namespace, with the page's own line numbers in a traceback."""
    namespace = {"__name__": "__main__"}
    for line, code in python_blocks(text):
        exec(compile("\n" * line + code, name, "exec"), namespace)
    return namespace


def walk(text, folder):
    """Writes a page's files and runs its commands, in order; yields what each has said, and what the page shows."""
    for match in FENCE.finditer(text):
        info, code = match["info"].strip(), match["code"]
        if info == "bash":
            failed, said = here(code) if READING.fullmatch(code) else away(code, folder)
            assert not failed, f"{code}{said}"
        elif info == "text":
            yield said, code
        else:
            (folder / FILE.match(code)[1]).write_text(code, encoding="utf-8")


def here(code):
    """A command of pyrometa in this process and the current folder."""
    pyro.clear_param_store()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        failed = run(shlex.split(code)[1:])
    return failed, said.getvalue()


def away(code, folder):
    """Commands in a shell of their own."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def form(line):
    """A line without its numbers, its folders and the width of its columns."""
    return " ".join(NUMBER.sub("0", re.sub(r"/\S+/", "/", line)).split())


def local_links(text):
    """The targets of all links to files of the repository, outside code blocks, without their anchors."""
    targets = [first or second for first, second in LINK.findall(FENCE.sub("", text))]
    return [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in WALKS], ids=lambda path: path.name)
def test_the_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        run_blocks(page.read_text(encoding="utf-8"), str(page))


@pytest.mark.parametrize("page", WALKS, ids=lambda path: path.name)
def test_a_walk_runs_and_shows_what_comes_out(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a recipe's folder goes onto it
    monkeypatch.setitem(sys.modules, "shops", None)  # and its module among those that are there
    del sys.modules["shops"]
    text = page.read_text(encoding="utf-8")
    for line, code in python_blocks(text):
        name = FILE.match(code)[1]
        assert re.search(rf"python {name}|\b{Path(name).stem}:", text), f"nothing runs {name}, line {line}"
    shown = 0
    for said, told in walk(text, tmp_path):
        forms = [form(line) for line in said.splitlines()]
        assert [line for line in told.splitlines() if form(line) not in forms] == [], said
        shown += 1
    assert shown


@pytest.mark.parametrize("name", ["README.md", "docs/axes.md"])
def test_the_page_shows_code(name):
    assert python_blocks((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", CHINESE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_chinese_page_has_the_code_of_its_english_one(page):
    """And its headings, one for one."""
    texts = [path.read_text(encoding="utf-8") for path in (page, CHINESE[page])]
    chinese, english = (
        [match["code"] for match in FENCE.finditer(text) if match["info"] != "{toctree}"] for text in texts
    )
    assert chinese == english
    levels = [re.findall(r"^#+", FENCE.sub("", text), re.M) for text in texts]
    assert levels[0] == levels[1]


@pytest.mark.parametrize("page", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_local_links_exist(page):
    links = local_links(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_names_in_roles_exist():
    names = {name for page in PAGES for name in ROLE.findall(page.read_text(encoding="utf-8"))}
    assert {"pyrometa.MetaSVI", "pyrometa.Newton"} <= names  # ~name, and text <name>
    for name in names:
        pkgutil.resolve_name(name)  # an AttributeError or ImportError else, where Sphinx leaves out the link in silence


def test_blocks_share_a_namespace_in_order_and_keep_their_lines():
    text = "# A\n\n```python\nx = 1\n```\n\n```bash\nnot python\n```\n\n```python\nx += 1\n```\n"
    assert python_blocks(text) == [(3, "x = 1\n"), (11, "x += 1\n")]
    assert run_blocks(text, "page")["x"] == 2
    with pytest.raises(ZeroDivisionError) as error:
        run_blocks("one\n```python\n\n1 / 0\n```\n", "page")
    assert error.traceback[-1].lineno == 3  # counted from 0


def test_a_walk_writes_files_and_stops_at_what_fails(tmp_path):
    text = "```toml\n# a.toml\nx = 1\n```\n\n```bash\ncat a.toml\n```\n\n```text\nx = 2\n```\n"
    [(said, told)] = walk(text, tmp_path)
    assert (said, told) == ("# a.toml\nx = 1\n", "x = 2\n")
    assert form(told) in map(form, said.splitlines())
    with pytest.raises(AssertionError, match="no_such_file"):
        list(walk("```bash\ncat no_such_file | cat\n```\n", tmp_path))


def test_a_form_is_what_stays_the_same():
    assert form("run   /tmp/a-1/runs/recipe") == form("run /home/you/runs/recipe")
    assert form("1000  12  -0.79, 20.1 s") == form("1001 8 1.2, 7 s") != form("1001 8 1.2, 7 min")


@pytest.mark.parametrize(
    "text",
    [
        "```python no-test\nx\n```\n",
        "```py\nx\n```\n",
        "```{code-block} python\nx\n```\n",
        "```\nx\n```\n",
        "~~~pycon\nx\n~~~\n",
        "- item\n  ```python\n  x\n  ```\n",
        "```python\nx = 1\n",
    ],
)
def test_a_block_that_would_not_run_is_refused(text):
    with pytest.raises(ValueError, match="run"):
        python_blocks(text)


def test_links_are_found():
    text = '[a](b.md#c) ![f](<d.png>) <img src="e.svg" width="3"> [w](https://x.y) [h](#top)\n'
    text += "```text\n[z](z.md)\n```\n"
    assert local_links(text) == ["b.md", "d.png", "e.svg"]
