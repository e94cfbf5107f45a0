"""Offers each executed page as a notebook: a link under its title to a copy that stands by itself."""

import os
from pathlib import Path

import nbformat
from docutils import nodes
from jupyter_cache import get_cache
from notebook_text import portable
from sphinx.addnodes import download_reference


def offer(app, doctree):
    """Writes the copy of an executed page, with its outputs, and links to it."""
    env = app.env
    if "kernelspec" not in env.metadata[env.docname]:
        return
    source = Path(env.mystnb_config.output_folder) / f"{env.docname}.ipynb"
    cache = get_cache(env.mystnb_config.execution_cache_path)
    _, notebook = cache.merge_match_into_notebook(nbformat.read(source, 4))
    copy = Path(app.outdir).parent / "notebooks" / source.name
    copy.parent.mkdir(exist_ok=True)
    nbformat.write(portable(notebook), copy)

    words = nodes.literal("", source.name, classes=["xref", "download"])
    link = download_reference("", "", words, reftarget="/" + os.path.relpath(copy, app.srcdir), refdoc=env.docname)
    title = doctree.next_node(nodes.title)
    title.parent.insert(1, nodes.paragraph("", "", nodes.Text("As a notebook: "), link))


def setup(app):
    app.connect("doctree-read", offer, priority=400)  # before Sphinx collects the files to offer
    return {"parallel_read_safe": True}
