"""Sphinx settings; build with ``make docs``."""

import os
import re
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # gallery scripts are small: threads would wait more than work
os.environ.setdefault("MPLBACKEND", "agg")

import sciml  # noqa: E402
from sciml.exceptions import AmbiguityWarning, ConditioningWarning, ConvergenceWarning, FallbackWarning  # noqa: E402

# A gallery script that warns is as wrong as one that fails.
for category in (AmbiguityWarning, ConditioningWarning, ConvergenceWarning, FallbackWarning):
    warnings.filterwarnings("error", category=category)

project = "sciml"
author = "The sciml developers"
copyright = "The sciml developers, BSD 3-Clause licence"
release = version = sciml.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "py:obj"

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say types and shapes
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

sphinx_gallery_conf = {
    "examples_dirs": "../gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"demo\.py",
    "subsection_order": ["../gallery/solvers", "../gallery/inverse", "../gallery/stats", "../gallery/linalg", "*"],
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "doc_module": ("sciml",),
    "reference_url": {"sciml": None},
    "backreferences_dir": "api/generated/backreferences",
    "show_memory": False,
    "download_all_examples": False,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "sciml"
html_show_sourcelink = False
html_sidebars = {name: [] for name in ("index", "start", "how_to_choose", "options", "notation", "changelog")}
html_theme_options = {
    "header_links_before_dropdown": 5,
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def markdown_to_rst(app, relative_path, parent_docname, content):
    """Turn the headings and the code words of an included Markdown file, the changelog, into reStructuredText."""
    if not str(relative_path).endswith(".md"):
        return
    lines = []
    for line in content[0].splitlines():
        heading = re.fullmatch(r"(#+) (.*)", line)
        if heading:
            lines += [heading[2], "=-~"[len(heading[1]) - 1] * len(heading[2])]
        else:
            lines.append(re.sub(r"`([^`]+)`", r"``\1``", line))
    content[0] = "\n".join(lines)


def plain_bars_and_stars(app, what, name, obj, options, lines):
    """Keep |r|, an absolute value, and (B, *shape) what their author meant, and no markup of reStructuredText."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``|`.*?`)", line)  # words and code in turn
            parts[::2] = [re.sub(r"\|(\S|\S[^|]*\S)\|", r"\|\1\|", words) for words in parts[::2]]
            parts[::2] = [re.sub(r"(?<=, )\*(?=\w+[,)])", r"\*", words) for words in parts[::2]]
            lines[number] = "".join(parts)


def setup(app):
    """Connect the functions above."""
    app.connect("include-read", markdown_to_rst)
    app.connect("autodoc-process-docstring", plain_bars_and_stars, priority=900)  # after numpydoc
