# SPDX-License-Identifier: Apache-2.0
"""A search for pruning constants, on a small bag."""

import errno
import json
import shutil
import sys
import time

import pytest
from light_replay import light_replay  # noqa: F401  a fixture that every test here uses
from replay_bags import BagMaker, parameter_file

from specprune_ros.errors import UserError
from specprune_ros.parameter_file import read_parameters
from specprune_ros.replay import suggest
from specprune_ros.replay.options import parse
from specprune_ros.replay.replay import run_search
from specprune_ros.replay.settings import settings

IMAGES = 9
FEW = 3  # observations that are enough here


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return BagMaker(IMAGES).write(tmp_path_factory.mktemp("searched") / "bag")


def searched(bag, out, trials, *more, arguments=(), code=0):
    words = ["--suggest", "--trials", str(trials), "--params-file", str(parameter_file(out.parent)), "--quiet"]
    assert run_search(parse([str(bag), *map(str, more), *words, "--out", str(out), *arguments])) == code
    return None if code else json.loads((out / suggest.NUMBERS).read_text())


def test_search_is_seeded_goes_on_and_is_judged_on_what_it_did_not_see(bag, tmp_path, monkeypatch):
    monkeypatch.setattr(suggest, "FEW", FEW)
    first = searched(bag, tmp_path / "out", 4)
    assert [trial["values"]["preset"] for trial in first["trials"][:3]] == ["paper", "fast", "careful"]
    assert {trial["inferences"] for trial in first["trials"]} == {6}
    longer = searched(bag, tmp_path / "out", 5)
    assert longer["trials"][:4] == first["trials"] and len(longer["trials"]) == 5
    assert searched(bag, tmp_path / "again", 4)["trials"] == first["trials"]
    good = [trial for trial in longer["trials"] if trial["within"]]
    assert (longer["suggested"] is not None) == bool(good)
    assert "Pareto front" in (tmp_path / "out" / suggest.PAGE).read_text()
    if good:
        assert longer["searched"]["flop_share"] == min(trial["flop_share"] for trial in good)
        assert longer["held_out"]["inferences"] == 3
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


@pytest.mark.parametrize("content", [b"no database" * 100, None], ids=["rubbish", "folder"])
def test_a_search_that_cannot_be_read_says_what_to_delete(tmp_path, content):
    folder = tmp_path / "50% of #1?"  # what a URL would take for something else
    folder.mkdir()
    suggest.open_study(folder, [], 0)
    assert (folder / suggest.STORAGE).is_file()
    (folder / suggest.STORAGE).unlink()
    if content is None:
        (folder / suggest.STORAGE).mkdir()
    else:
        (folder / suggest.STORAGE).write_bytes(content)
    with pytest.raises(UserError, match=r"suggest\.db cannot be read .*delete it") as caught:
        suggest.open_study(folder, [], 0)
    assert "\n" not in str(caught.value)


def test_the_last_of_several_bags_judges_and_is_not_searched(bag, tmp_path, monkeypatch):
    monkeypatch.setattr(suggest, "FEW", FEW)
    judge = BagMaker(7).write(tmp_path / "judge")
    found = searched(bag, tmp_path / "out", 1, judge)
    assert found["trials"][0]["inferences"] == IMAGES
    if found["held_out"]:
        assert found["held_out"]["inferences"] == 7


def test_a_bag_without_observations_does_not_leave_the_judging_to_another(bag, tmp_path):
    maker = BagMaker(IMAGES, offset=-5)  # everything is too old when it comes
    with pytest.raises(UserError, match=r"blind gives no observation; refused"):
        searched(bag, tmp_path / "out", 1, maker.write(tmp_path / "blind"))


def test_a_full_disk_is_told_in_one_line(bag, tmp_path, monkeypatch):
    def dump(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(suggest.pickle, "dump", dump)
    with pytest.raises(UserError, match="no space left"):
        searched(bag, tmp_path / "out", 1)


def test_minutes_end_a_search(bag, tmp_path, monkeypatch):
    monkeypatch.setattr(suggest, "FEW", FEW)
    measure, calls = suggest.Search.measure, []

    def slow(self, config, places):
        calls.append(places)
        time.sleep(0.1)  # longer than the time allowed
        return measure(self, config, places)

    monkeypatch.setattr(suggest.Search, "measure", slow)
    found = searched(bag, tmp_path / "out", 50, arguments=["--minutes", "0.001"])
    assert 1 <= len(found["trials"]) < 3 and calls


@pytest.mark.parametrize(
    "other",
    [
        ["--start", "1"],
        ["--duration", "2"],
        ["--every", "2"],
        ["--rate", "5"],
        ["--instruction", "wave"],
        ["-p", "controller.step_duration:=0.1"],
        ["-p", "inputs.camera_transforms:=[flip_horizontal]"],
        ["-p", "pruning.control_rate:=10.0"],
        ["-r", "~/image_primary:=/front"],
    ],
    ids=lambda words: words[0] + words[1].partition(":=")[0],
)
def test_a_search_on_something_else_does_not_continue(bag, tmp_path, other):
    words = [str(bag), "--suggest", "--params-file", str(parameter_file(tmp_path))]
    assert identity(words) == identity(words) != identity([*words, *other])


def test_a_bag_that_was_recorded_again_starts_a_new_search(bag, tmp_path):
    words = ["--suggest", "--params-file", str(parameter_file(tmp_path))]
    first = identity([str(BagMaker(3).write(tmp_path / "bag")), *words])
    shutil.rmtree(tmp_path / "bag")
    assert identity([str(BagMaker(4).write(tmp_path / "bag")), *words]) != first


def identity(words):
    options = parse(words)
    given = read_parameters(options.params_file.read_text(), "file", "/specprune_policy")
    return suggest.identity(options, settings({**given, **options.parameters}))


def test_an_interrupted_search_goes_on(bag, tmp_path, monkeypatch):
    monkeypatch.setattr(suggest, "FEW", FEW)
    measure, calls = suggest.Search.measure, []

    def interrupted(self, config, places):
        calls.append(config)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, config, places)

    monkeypatch.setattr(suggest.Search, "measure", interrupted)
    assert searched(bag, tmp_path / "out", 3, code=130) is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [suggest.STORAGE]
    monkeypatch.undo()
    monkeypatch.setattr(suggest, "FEW", FEW)
    found = searched(bag, tmp_path / "out", 3)
    assert len(found["trials"]) == 3
    assert [trial["values"]["preset"] for trial in found["trials"]] == ["paper", "careful", "fast"]
