# SPDX-License-Identifier: Apache-2.0
"""Two reports side by side."""

import copy
import json
import re
import sys

import pytest
from replay_bags import BagMaker, parameter_file

from specprune_ros.errors import UserError
from specprune_ros.replay.__main__ import main
from specprune_ros.replay.compare import compare, comparison
from specprune_ros.replay.options import parse
from specprune_ros.replay.replay import run


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """report.json of a replay with one pruned arm."""
    folder = tmp_path_factory.mktemp("compared")
    bag, out = BagMaker(4).write(folder / "bag"), folder / "out"
    words = ["--params-file", str(parameter_file(folder)), "--arms", "paper", "--out", str(out), "--quiet"]
    assert run(parse([str(bag), *words])) == 0
    return out / "report.json"


@pytest.fixture
def report(path):
    return json.loads(path.read_text())


def changed(report):
    """As from another machine, with one action that is 0.25 larger."""
    other = copy.deepcopy(report)
    other["moments"][2]["arms"]["paper"]["actions"][1][0] += 0.25
    other["machine"]["processor"] = "Another"
    other["arms"]["paper"]["latency_ms"]["p50"] = 2 * report["arms"]["paper"]["latency_ms"]["p50"]
    return other


def test_a_report_equals_itself(report):
    found = comparison(report, report)
    assert found["warnings"] == []
    for arm in ("dense", "paper"):
        assert found["actions"][arm] == {"compared": 4, "equal": 4, "median": 0.0, "largest": 0.0}


def test_what_differs_is_measured_and_said(report):
    found = comparison(report, changed(report))
    assert found["actions"]["paper"]["equal"] == 3 and found["actions"]["dense"]["equal"] == 4
    assert found["actions"]["paper"]["largest"] == pytest.approx(0.25)
    assert found["warnings"] == ["another processor: compare the speed-ups rather than the latencies"]
    one, other = found["arms"]["paper"]["p50 ms"]
    assert other == pytest.approx(2 * one)


def test_other_observations_arms_and_constants_are_warned_of(report):
    other = copy.deepcopy(report)
    del other["moments"][0]
    other["configurations"]["paper"]["alpha"] = 0.5
    other["arms"]["mine"] = other["arms"]["paper"]
    warnings = " / ".join(comparison(report, other)["warnings"])
    assert "A has 4 inferences, B 3, and 3 are of the same stamps" in warnings
    assert "paper has other constants" in warnings and "only B has mine" in warnings


def test_command_prints_a_table_and_writes_a_page_that_needs_nothing_else(path, report, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other.json"
    other.write_text(json.dumps(changed(report)))
    words = ["--compare", str(path.parent), str(other), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process belongs to pytest
    monkeypatch.setattr(sys, "argv", ["replay", *words])
    assert main() == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("paper: p50 ms")]
    assert line.endswith("2.00")
    page = (tmp_path / "out/compare.html").read_text()
    assert "paper: p50 ms" in page and "<svg" in page and "Another" in page
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", page)
    assert len(page) < 500_000


def test_a_report_that_was_edited_gets_one_line(path, report, tmp_path):
    for number, change in enumerate(
        (
            lambda r: r.update(arms=None),
            lambda r: r.pop("machine"),
            lambda r: r.update(verdict=[]),
            lambda r: next(iter(r["arms"].values())).pop("latency_ms"),
            lambda r: r["moments"][0]["arms"].clear(),
            lambda r: next(iter(r["moments"][0]["arms"].values())).update(actions=[[1, 2], [3]]),
        )
    ):
        other = tmp_path / f"{number}.json"
        change(edited := json.loads(json.dumps(report)))
        other.write_text(json.dumps(edited))
        with pytest.raises(UserError, match=f"{number}.json was changed or is not whole") as caught:
            compare(["--compare", str(path), str(other), "--out", str(tmp_path)])
        assert "\n" not in str(caught.value)
    (tmp_path / "bom.json").write_text(json.dumps(report), encoding="utf-8-sig")
    compare(["--compare", str(path), str(tmp_path / "bom.json"), "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is not the report of a replay"),
        ('{"format": 0, "arms": {}, "moments": []}', "has format 0"),
    ],
)
def test_what_is_no_report_gets_one_line(path, tmp_path, text, said):
    other = tmp_path / "other.json"
    if text is not None:
        other.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        compare(["--compare", str(path), str(other), "--out", str(tmp_path)])
    assert "\n" not in str(caught.value) and not (tmp_path / "compare.html").exists()
