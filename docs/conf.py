import hashlib
import logging
import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

project = "pyrometa"
author = "The pyrometa developers"
copyright = author
version = release = installed_version("pyrometa")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "import_directive",
    "notebook_download",
]
exclude_patterns = ["_build"]

# The tutorials are executed, and their outputs kept until a tutorial, the package or a pin changes.
BUILD = ROOT / "docs" / "_build"
sources = [*sorted((ROOT / "pyrometa").rglob("*.py")), ROOT / "pyproject.toml", Path(__file__)]
state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
nb_execution_mode = "cache"
nb_execution_cache_path = str(BUILD / "executed" / state)
nb_execution_in_temp = True
nb_execution_timeout = 600  # seconds a cell, on a busy machine
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_output_stderr = "error"
nb_merge_streams = True

# Kernels of a profile of their own, one thread each, silent. Pyro's progress bars ask for widgets, which no page has.
os.environ |= {
    "IPYTHONDIR": str(BUILD / "ipython"),
    "OMP_NUM_THREADS": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",
}
profile = BUILD / "ipython" / "profile_default"
profile.mkdir(parents=True, exist_ok=True)
(profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 'ERROR'\n", encoding="utf-8")
logging.getLogger("traitlets").setLevel(logging.WARNING)

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
