# SPDX-License-Identifier: Apache-2.0
"""Sphinx, for `rosdoc2 build` and for `sphinx-build docs out/docs`: the documents, and the API from the docstrings.

rosdoc2 copies the documents into its build folder, by default under the package, and runs this file there.
"""

from pathlib import Path
from xml.etree import ElementTree

_root = next(folder for folder in Path(__file__).resolve().parents if (folder / "package.xml").exists())
_package = ElementTree.parse(_root / "package.xml").getroot()

project = _package.findtext("name")
author = _package.findtext("maintainer")
release = _package.findtext("version")
extensions = ["autoapi.extension", "myst_parser", "sphinx.ext.napoleon"]
autoapi_dirs = [str(_root / "specprune_ros")]
autoapi_type = "python"  # reads the source: neither torch nor ROS is needed
autoapi_options = ["members", "undoc-members", "show-module-summary"]
autoapi_ignore = ["*/specprune_ros/msg/*"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files beside the documents
exclude_patterns = ["conf.py", "modules.rst", "specprune_ros*.rst"]  # the last two: rosdoc2's, which import
html_theme = "alabaster"
