"""How Sphinx builds the site: ``python -m sphinx -W docs site``, which opens from the disk."""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).parent
# What is documented is the checkout, installed or not; and `pages` lies beside this file.
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

project = "Permafrost"
html_title = "Permafrost"
copyright = "the authors of Permafrost"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "pages"]
exclude_patterns = ["pictures"]

# The anchors that code hosts give to headings.
myst_heading_anchors = 4
# One backtick in a docstring is a name of the code.
default_role = "code"
# Two hyphens begin an option.
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_static_path = ["pictures/style.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
# A page that was opened from the disk may not fetch others to quote them.
html_show_search_summary = False
