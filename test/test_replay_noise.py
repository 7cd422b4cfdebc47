# SPDX-License-Identifier: Apache-2.0
"""The noise floor: between neighbours of the recording, whatever the arms infer on; and what counts as within it."""

import copy
import itertools
import json

import numpy as np
import pytest
from light_replay import light_replay  # noqa: F401  a fixture that every test here uses
from replay_bags import BagMaker, parameter_file

from specprune_ros.replay.options import parse
from specprune_ros.replay.replay import run
from specprune_ros.replay.schedule import Schedule
from specprune_ros.replay.summary import exceeded, verdict, within_noise

IMAGES = 12


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The same recording on every observation, and on every third."""
    folder = tmp_path_factory.mktemp("noise")
    bag = BagMaker(IMAGES).write(folder / "bag")
    return [replayed(bag, folder / "all"), replayed(bag, folder / "third", "--every", "3")]


def replayed(bag, out, *words):
    """report.json of dense and paper."""
    words = ["--params-file", str(parameter_file(out.parent)), "--arms", "paper", "--quiet", "--out", str(out), *words]
    assert run(parse([str(bag), *words])) == 0
    return json.loads((out / "report.json").read_text())


def consecutive(chunks, places):
    """cm at the end of the shared steps, written out: LIBERO's 5 cm a unit, 0.05 s a step, images every 0.1 s."""
    apart = [(chunks[i][2:] - chunks[i + 1][:-2])[:, :3].sum(0) * 5 for i in places]
    return np.linalg.norm(apart, axis=1)


def test_the_floor_is_between_neighbours_of_the_recording(reports):
    every, third = reports
    chunks = [np.array(moment["arms"]["dense"]["actions"]) for moment in every["moments"]]
    for report, places in ((every, range(IMAGES - 1)), (third, range(0, IMAGES, 3))):
        seen = report["noise_floor"]["consecutive"]["centimetres"]
        expected = consecutive(chunks, places)
        np.testing.assert_allclose([seen["p50"], seen["max"]], [np.median(expected), expected.max()], rtol=1e-5)
    assert third["inferences"] == IMAGES // 3 and third["shared_steps"] == every["shared_steps"] == 6


def test_differences_are_over_as_many_steps_as_the_floor(reports):
    for report in reports:
        apart = []
        for moment in report["moments"][:-1]:
            dense, paper = (np.array(moment["arms"][arm]["actions"]) for arm in ("dense", "paper"))
            apart.append(np.linalg.norm((paper - dense)[:6, :3].sum(0)) * 5)
        seen = report["arms"]["paper"]["from_dense_over_shared_steps"]["centimetres"]["max"]
        assert seen == pytest.approx(max(apart), rel=1e-4) or seen > max(apart)  # the last one may be the largest


def test_observations_that_come_faster_than_steps_are_compared_over_whole_chunks(tmp_path):
    bag = BagMaker(IMAGES).write(tmp_path / "bag")
    report = replayed(bag, tmp_path / "out", "-p", "controller.step_duration:=0.3")
    assert report["shared_steps"] == len(report["moments"][0]["arms"]["dense"]["actions"])
    chunks = [np.array(moment["arms"]["dense"]["actions"]) for moment in report["moments"]]
    apart = [np.linalg.norm((a - b)[:, :3].sum(0)) * 5 for a, b in itertools.pairwise(chunks)]
    seen = report["noise_floor"]["consecutive"]["centimetres"]
    assert seen["max"] == pytest.approx(max(apart), rel=1e-4)
    assert report["arms"]["paper"]["seam"]["p50"] is not None


def test_pruning_that_is_slower_than_dense_is_not_advised(reports):
    comparison = copy.deepcopy(reports[0]) | {"inferences": 100}
    arm, floor = comparison["arms"]["paper"], comparison["noise_floor"]
    arm["above_noise_share"], arm["gripper"]["differing_steps_share"] = 0.0, 0.0
    for measure in ("centimetres", "degrees"):
        arm["from_dense_over_shared_steps"][measure]["p50"] = floor["typical"][measure]
    for speedup, chosen, words in ((1.5, "paper", "Set pruning.preset paper"), (0.8, "", "pruning.enabled false")):
        arm["speedup"] = speedup
        said = verdict(comparison, [])
        assert said.chosen == chosen and words in said.advice


def test_a_limit_for_joints_is_told_in_degrees(reports):
    arm = copy.deepcopy(reports[0]["arms"]["paper"])
    at_end = arm["from_dense_at_chunk_end"]
    arms = {"arms": {"paper": arm}}
    assert exceeded(arms, 0.0, None, None)[0][2] == f"{at_end['centimetres']['p99']} cm from dense at p99, allowed 0"
    at_end["centimetres"]["p99"] = None
    assert exceeded(arms, 0.0, None, None)[0][2] == f"{at_end['degrees']['p99']} degrees from dense at p99, allowed 0"


def test_what_follows_an_inference_is_found_once():
    schedule = Schedule(every=3)
    seen = [(schedule.due(stamp), schedule.is_next(stamp), schedule.wanted(stamp)) for stamp in range(7)]
    assert [due for due, _, _ in seen] == [True, False, False, True, False, False, True]
    assert [following for _, following, _ in seen] == [False, True, False, False, True, False, False]
    assert [wanted for *_, wanted in seen] == [True, True, False, True, True, False, True]
    as_recorded = Schedule(stamps=frozenset({0, 3}))
    assert not any(as_recorded.is_next(stamp) for stamp in range(5))


def test_a_wide_tail_of_the_floor_does_not_hide_an_arm_that_is_always_off(reports):
    floor, arm = reports[0]["noise_floor"], copy.deepcopy(reports[0]["arms"]["paper"])
    arm["above_noise_share"], arm["gripper"]["differing_steps_share"] = 0.0, 0.0
    apart = arm["from_dense_over_shared_steps"]
    for measure in ("centimetres", "degrees"):
        apart[measure]["p50"] = floor["typical"][measure]
    assert within_noise(arm, floor)
    apart["centimetres"]["p50"] *= 1.01
    assert not within_noise(arm, floor)
