# SPDX-License-Identifier: Apache-2.0
"""The documents name files, parameters and launch arguments that exist."""

import ast
import re
from pathlib import Path

import pytest

from specprune_ros.parameter_file import read_parameters
from specprune_ros.replay.settings import settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUPS = "model|inputs|pruning|controller|limits|execution|replan|run"


def name_of(document: Path) -> str:
    return document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        assert "://" in target or (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_parameters_exist(document):
    known = set(re.findall(r"^\| `([a-z_.]+)`", (ROOT / "docs" / "parameters.md").read_text(), re.MULTILINE))
    # `limits.max_speed` in text, `limits.max_speed 0.05` in a command; not limits.py, not limits.*
    named = set(re.findall(rf"(?<![\w/.])((?:{GROUPS})\.[a-z_]+)\b(?!\()", document.read_text()))
    assert {name for name in named if not name.endswith((".py", ".md", ".yaml", ".safetensors"))} <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_parameter_examples_are_what_the_node_takes(document):
    for block in re.findall(r"```yaml\n(.*?)```", document.read_text(), re.DOTALL):
        if "ros__parameters" in block and "..." not in block:
            assert settings(read_parameters(block, document.name, "/specprune_policy")).unknown == ()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_launch_arguments_exist(document):
    source = (ROOT / "launch" / "policy.launch.py").read_text()
    known = set(re.findall(r'^    \("([a-z_]+)", "', source, re.MULTILINE)) | set(
        re.findall(r"DeclareLaunchArgument\(\"([a-z_]+)\"", source)
    )
    for command in re.findall(r"policy\.launch\.py((?: \\\n|[^\n`])*)", document.read_text()):
        assert set(re.findall(r"(?<=[\s])([a-z_]+):=", command)) <= known, command


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_python_examples_parse(document):
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
        ast.parse(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_prose_has_short_lines(document):
    code = False
    for number, line in enumerate(document.read_text().splitlines(), start=1):
        code = code != line.lstrip().startswith("```")
        prose = not code and not line.startswith(("|", "!["))
        assert not prose or len(line) <= 120 or " " not in line.strip(), f"{document.name}:{number}"
