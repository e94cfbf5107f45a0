"""Tutorials as text: their code, and what of a notebook made from one can stand by itself."""

import re

CELL = re.compile(r"^```\{code-cell\}\n(.*?)^```$", re.M | re.S)
LOCAL = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:)[^)]+\)")


def code_cells(text):
    """The code of each cell of a page, in order."""
    return CELL.findall(text)


def portable(notebook):
    """A notebook in which links to pages of this site are their text."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = LOCAL.sub(r"\1", cell["source"])
    return notebook
