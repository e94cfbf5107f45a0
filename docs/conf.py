import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "pyrometa"
author = "The pyrometa developers"
copyright = author
version = release = installed_version("pyrometa")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "import_directive",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "pyrometa"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autodoc_inherit_docstrings = False  # the docstrings of torch and Pyro are not written for this site
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
