# SPDX-License-Identifier: Apache-2.0
"""The limits as test cases of a JUnit file, for a lab's CI."""

from pathlib import Path
from xml.etree import ElementTree


def write_junit(path: Path, checks: list[tuple[str, str, str]]) -> None:
    """`checks`: (arm, limit, "" or by what it is exceeded)."""
    failures = sum(bool(problem) for *_, problem in checks)
    suite = ElementTree.Element(
        "testsuite", name="specprune_ros.replay", tests=str(len(checks)), failures=str(failures), errors="0"
    )
    for arm, limit, problem in checks:
        case = ElementTree.SubElement(suite, "testcase", classname=f"replay.{arm}", name=limit)
        if problem:
            ElementTree.SubElement(case, "failure", message=problem)
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
