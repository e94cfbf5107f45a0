"""The directive ``import-figure``: the figure of who imports whom, drawn as the page is built."""

from docutils import nodes
from docutils.parsers.rst import Directive
from import_figure import PACKAGE, relation, svg, titles


class ImportFigure(Directive):
    """Draws the package; an incremental build draws it anew when a source has changed."""

    def run(self):
        for path in PACKAGE.rglob("*.py"):
            self.state.document.settings.env.note_dependency(str(path))
        try:
            return [nodes.raw("", svg(relation(PACKAGE), titles(PACKAGE)), format="html")]
        except ValueError as error:
            raise self.severe(str(error)) from None


def setup(app):
    app.add_directive("import-figure", ImportFigure)
    return {"parallel_read_safe": True}
