# SPDX-License-Identifier: Apache-2.0
"""Sphinx, for `rosdoc2 build` and for `sphinx-build docs out/docs`: the documents, and the API from the docstrings."""

from pathlib import Path
from xml.etree import ElementTree

_package = ElementTree.parse(Path(__file__).parents[1] / "package.xml").getroot()

project = _package.findtext("name")
author = _package.findtext("maintainer")
release = _package.findtext("version")
extensions = ["autoapi.extension", "myst_parser", "sphinx.ext.napoleon"]
autoapi_dirs = ["../specprune_ros"]
autoapi_type = "python"  # reads the source: neither torch nor ROS is needed
autoapi_options = ["members", "undoc-members", "show-module-summary"]
autoapi_ignore = ["*/specprune_ros/msg/*"]
myst_heading_anchors = 3
exclude_patterns = ["conf.py"]
html_theme = "alabaster"
