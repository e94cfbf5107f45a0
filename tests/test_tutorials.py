"""The tutorials, which the docs' build runs: short, listed, with a figure each; and what their notebooks keep."""

import ast
import copy
from pathlib import Path

import pytest
from notebook_text import code_cells, portable

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
INDEX = (FOLDER / "index.md").read_text(encoding="utf-8")
PAGES = sorted(set(FOLDER.glob("*.md")) - {FOLDER / "index.md"})


def test_there_are_nine_and_the_index_has_no_other():
    assert len(PAGES) == 9
    listed = [line.split("](")[1].split(")")[0] for line in INDEX.splitlines() if line[:1].isdigit()]
    hidden = INDEX.split(":hidden:")[1].split("```")[0].split()
    assert sorted(listed) == [page.name for page in PAGES]
    assert listed == [f"{name}.md" for name in hidden]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_is_executed_and_goes_from_an_empty_file_to_a_figure_in_under_sixty_lines(page):
    text = page.read_text(encoding="utf-8")
    assert text.startswith("---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n\n# ")
    assert text.count("{code-cell}") == len(code_cells(text))
    assert "```python" not in text  # which nothing would run
    code = "".join(code_cells(text))
    assert len([line for line in code.splitlines() if line.strip()]) < 60
    assert ".plot()" in code or "plt.subplots(" in code
    assert "savefig(" in code
    assert max(map(len, code.splitlines())) <= 120
    ast.parse(code)


def test_cells_are_found_and_nothing_else():
    text = "# A\n\n```{code-cell}\nx = 1\n\n\ny = 2\n```\n\n```bash\nls\n```\n\n```{code-cell}\nx\n```\n"
    assert code_cells(text) == ["x = 1\n\n\ny = 2\n", "x\n"]


def test_a_notebook_keeps_its_code_and_the_words_of_its_links():
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": "[a](b.md#c), [d](../e.md) and [f](https://g.h/i) ![j](k.png)"},
            {"cell_type": "code", "source": "x = [1](2)", "outputs": [{"text": "[l](m.md)"}]},
        ],
        "nbformat": 4,
    }
    expected = copy.deepcopy(notebook)
    expected["cells"][0]["source"] = "a, d and [f](https://g.h/i) ![j](k.png)"
    assert portable(notebook) == expected
