# SPDX-License-Identifier: Apache-2.0
"""A search for pruning constants, on a small bag."""

import json
import sys

import pytest
from replay_bags import BagMaker, parameter_file

from specprune_ros.errors import UserError
from specprune_ros.parameter_file import read_parameters
from specprune_ros.replay import suggest
from specprune_ros.replay.options import parse
from specprune_ros.replay.replay import run_search
from specprune_ros.replay.settings import settings

IMAGES = 15


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return BagMaker(IMAGES).write(tmp_path_factory.mktemp("searched") / "bag")


def searched(bag, out, trials, *more):
    words = ["--suggest", "--trials", str(trials), "--params-file", str(parameter_file(out.parent)), "--quiet"]
    assert run_search(parse([str(bag), *map(str, more), *words, "--out", str(out)])) == 0
    return json.loads((out / suggest.NUMBERS).read_text())


def test_search_is_seeded_goes_on_and_is_judged_on_what_it_did_not_see(bag, tmp_path, monkeypatch):
    monkeypatch.setattr(suggest, "FEW", 5)
    first = searched(bag, tmp_path / "out", 4)
    assert [trial["values"]["preset"] for trial in first["trials"][:3]] == ["paper", "fast", "careful"]
    assert {trial["inferences"] for trial in first["trials"]} == {10}
    longer = searched(bag, tmp_path / "out", 5)
    assert longer["trials"][:4] == first["trials"] and len(longer["trials"]) == 5
    assert searched(bag, tmp_path / "again", 4)["trials"] == first["trials"]
    good = [trial for trial in longer["trials"] if trial["within"]]
    assert (longer["suggested"] is not None) == bool(good)
    assert "Pareto front" in (tmp_path / "out" / suggest.PAGE).read_text()
    if good:
        assert longer["searched"]["flop_share"] == min(trial["flop_share"] for trial in good)
        assert longer["held_out"]["inferences"] == 5
        text = (tmp_path / "out" / suggest.YAML).read_text()
        pruning = settings(read_parameters(text, "suggested", "/specprune_policy")).pruning
        assert {name: getattr(pruning, name) for name in longer["suggested"] if name != "preset"} == {
            name: value for name, value in longer["suggested"].items() if name != "preset"
        }


def test_too_few_observations_and_a_missing_optimiser_get_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="too few"):
        searched(BagMaker(5).write(tmp_path / "bag"), tmp_path / "out", 1)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="pip install optuna"):
        suggest.open_study(tmp_path, [], 0)
