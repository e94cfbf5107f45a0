"""Every ```python block of the README and of docs/*.md runs, and every local link leads somewhere."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
READMES = [ROOT / "examples" / "README.md", ROOT / "experiments" / "README.md"]
LINKED = [*PAGES, *READMES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

FENCE = re.compile(r"^(?P<fence>(?:`{3,}|~{3,}))(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=fence)[`~]*[ \t]*$", re.M | re.S)
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


def local_links(text):
    """The targets of all links to files of the repository, outside code blocks, without their anchors."""
    targets = [first or second for first, second in LINK.findall(FENCE.sub("", text))]
    return [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        run_blocks(page.read_text(encoding="utf-8"), str(page))


@pytest.mark.parametrize("name", ["README.md", "docs/start.md", "docs/axes.md"])
def test_the_page_shows_code(name):
    assert python_blocks((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_local_links_exist(page):
    links = local_links(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_blocks_share_a_namespace_in_order_and_keep_their_lines():
    text = "# A\n\n```python\nx = 1\n```\n\n```bash\nnot python\n```\n\n```python\nx += 1\n```\n"
    assert python_blocks(text) == [(3, "x = 1\n"), (11, "x += 1\n")]
    assert run_blocks(text, "page")["x"] == 2
    with pytest.raises(ZeroDivisionError) as error:
        run_blocks("one\n```python\n\n1 / 0\n```\n", "page")
    assert error.traceback[-1].lineno == 3  # counted from 0


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
