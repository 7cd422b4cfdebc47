# SPDX-License-Identifier: Apache-2.0
"""The evaluation's arms, intervals, results and closed loop."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from benchmark_modules import arms, closed_loop, libero_open_loop, libero_results, libero_sensitivity, significance
from training_data import write_data

from specprune_ros.errors import ConfigError, UserError
from specprune_ros.policy import Observation, Policy
from specprune_ros.pruning.schedule import ModelShape, make_schedule
from training.policy_driver import observe

ROOT = Path(__file__).parents[1]
FAST = np.ones(6)  # coarse mode
TINY = ROOT / "test" / "data" / "tiny_oft"


def outcome(success, tokens=218.0, steps=90):
    return closed_loop.Outcome(success, steps, 12, 50.0, tokens, tokens / 218, {"coarse": 11, "dense": 1})


def test_wilson_intervals_are_the_published_ones():
    # R. G. Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for successes, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        np.testing.assert_allclose(significance.wilson(successes, trials), (low, high), atol=1e-4)
    assert significance.wilson(0, 0) == (0.0, 1.0)


def test_the_paired_test_looks_at_the_pairs_that_differ():
    assert significance.paired_p_value([True] * 9, [True] * 9) == 1.0
    assert significance.paired_p_value([True] * 6 + [False], [False] * 6 + [False]) == pytest.approx(2 / 2**6)


def test_rates_of_two_ways():
    rates = significance.paired_rates(direct=[True, True, False], nodes=[True, False, False])
    assert list(rates) == ["direct", "direct_interval", "nodes", "nodes_interval", "p_of_a_difference"]
    assert (rates["direct"], rates["nodes"], rates["p_of_a_difference"]) == (2, 1, 1.0)
    assert rates["nodes_interval"] == significance.wilson(1, 3)


def test_signed_ranks_all_of_one_sign():
    # Of the 2^5 equally likely signs of five ranks two are as extreme as all alike.
    assert significance.signed_rank_p_value([1, 2, 3, 4, 5]) == pytest.approx(2 / 2**5)
    assert significance.signed_rank_p_value([0.0, 0.0]) == significance.signed_rank_p_value([]) == 1.0


def test_the_mean_of_groups_is_as_unsure_as_its_groups_are_few():
    values = np.random.default_rng(0).normal(size=400)
    mean, independent = significance.grouped_mean(values.reshape(400, 1))
    assert mean == pytest.approx(values.mean()) and independent == pytest.approx(values.std(ddof=1) / 20)
    assert significance.grouped_mean([values]) == (mean, independent)
    # Every observation ten times over, in one group each, says no more than once.
    assert significance.grouped_mean([np.full(10, value) for value in values]) == pytest.approx((mean, independent))


GRIPPER_ALONE = "gripper/paper:global_tokens=0,local_tokens=0,budget_tokens=16"
WITH_WAYS = ("action/paper", "gripper/no_local", "wrist/random", "wrist/fastv", "wrist/action/paper@0.1")


@pytest.mark.parametrize("name", [*arms.UNPRUNED, "paper", "careful", "fast", *arms.NAMED, *WITH_WAYS])
def test_every_arm_runs(name):
    chosen = arms.arm(name)
    if chosen.expert:
        return
    policy = Policy.from_checkpoint(TINY)
    chosen.apply(policy)
    view = np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)
    for step in range(2):
        chunk = policy.act(Observation({"a": view, "b": view}, np.zeros(8), "go", 0.4 * step, np.ones(6)))
    assert np.isfinite(chunk.actions).all()


@pytest.mark.parametrize("layers, patches", [(32, 256), (12, 64)])
@pytest.mark.parametrize("mode", ["coarse", "fine"])
def test_one_criterion_keeps_as_many_tokens_as_the_method(layers, patches, mode):
    shape = ModelShape(layers, 2, patches)
    paper = np.mean(make_schedule(arms.arm("paper").pruning, shape, 94, mode).tokens_per_layer())
    for name, kept in (("fastv", "local_tokens"), ("last_kept", "global_tokens")):
        plan = make_schedule(arms.arm(name).pruning, shape, 94, mode)
        mean = np.mean(plan.tokens_per_layer(static=2 * getattr(plan.sets, kept)))
        assert mean == pytest.approx(paper, rel=0.02), name


def test_one_criterion_keeps_what_it_should():
    policy = Policy.from_checkpoint(TINY)
    random = np.random.default_rng(0)
    views = [random.integers(0, 255, (224, 224, 3), np.uint8) for _ in range(2)]
    for name in ("fastv", "last_kept"):
        arms.arm(name).apply(policy)
        for step in range(2):
            report = policy.act(
                Observation(dict(zip("ab", views, strict=True)), np.zeros(8), "go", 0.4 * step, FAST)
            ).pruning
        assert report.mode == "coarse" and [len(kept) for kept in report.kept_final] == [72, 72]


def test_random_dropping_follows_the_method_s_schedule_and_nothing_else():
    policy = Policy.from_checkpoint(TINY)
    views = {name: np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8) for name in "ab"}

    def kept(name, count):
        arms.arm(name).apply(policy)
        reports = [policy.act(Observation(views, np.zeros(8), "go", 0.4 * i, FAST)).pruning for i in range(count)][1:]
        arms.arm("dense").apply(policy)
        return [report.tokens_per_layer for report in reports], [set(report.kept_static[0]) for report in reports]

    (tokens, chosen), (random_tokens, random_chosen) = kept("paper", 6), kept("random", 41)
    assert set(tokens) == set(random_tokens)
    share = np.mean([len(one & two) / len(one) for one, two in itertools.pairwise(random_chosen)])
    assert share == pytest.approx(94 / 256, abs=0.05)
    assert np.mean([len(one & two) / len(one) for one, two in itertools.pairwise(chosen)]) > 0.8


def test_an_arm_can_change_any_constant():
    config = arms.arm("fast:alpha=0.5,prune_layers=[5,10],keep_ratio=0.5").pruning
    assert config.alpha == 0.5 and config.prune_layers == (5, 10) and config.history_length == 4
    assert config.keep_ratio == 0.5
    for name, said in (("papr", "not known"), ("paper:alpha", "not NAME=VALUE"), ("paper:alhpa=1", "not a parameter")):
        with pytest.raises(ConfigError, match=said):
            arms.arm(name)


def test_a_way_to_choose_does_what_it_says():
    policy = Policy.from_checkpoint(TINY)
    random = np.random.default_rng(0)
    views = [random.integers(0, 255, (224, 224, 3), np.uint8) for _ in range(2)]
    kept = {}
    for name in ("paper", "wrist/paper", "action/paper", GRIPPER_ALONE):
        arms.arm(name).apply(policy)
        arms.GripperRun.places = np.array([[0.5, 0.5], [np.nan, np.nan]])
        for step in range(2):
            seen = Observation(dict(zip("ab", views, strict=True)), np.zeros(8), "go", 0.4 * step, FAST)
            kept[name] = policy.act(seen).pruning.kept_static
    arms.arm("dense").apply(policy)
    assert [len(view) for view in kept["wrist/paper"]] == [256, 94]
    assert set(kept["wrist/paper"][1]) == set(kept["paper"][1])
    assert [len(view) for view in kept["action/paper"]] == [94, 94]
    assert any(set(a) != set(b) for a, b in zip(kept["action/paper"], kept["paper"], strict=True))
    middle = {16 * row + column for row in (7, 8) for column in (7, 8)}
    assert middle <= set(kept[GRIPPER_ALONE][0])
    np.testing.assert_allclose(arms.as_seen(np.array([[0.5, 0.5], [0.01, 0.5]]), True), [[0.5, 0.5], [np.nan] * 2])


def test_latencies_make_arms_of_their_own():
    timed = arms.with_latencies(["dense", "paper:alpha=0.5"], ["0,0.1", "dense=0.109"], [1.0, 2.0])
    changed = "paper:alpha=0.5"
    assert timed[:4] == ["dense@0", f"{changed}@0", "dense@0.1", "dense@0.2"]
    assert timed[4:] == [f"{changed}@0.1", f"{changed}@0.2", "dense@0.109", "dense@0.218"]
    assert arms.with_latencies(["dense"], [], [1.0]) == ["dense"]
    chosen = arms.arm("paper:alpha=0.5@0.2")
    assert (chosen.name, chosen.latency, chosen.pruning.alpha) == ("paper:alpha=0.5@0.2", 0.2, 0.5)
    for latency in ("fast=0.1", "soon"):
        with pytest.raises(ConfigError, match="--latency"):
            arms.with_latencies(["dense"], [latency], [1.0])
    for name in ("dense@", "dense@-1", "dense@nan"):
        with pytest.raises(ConfigError, match="seconds"):
            arms.arm(name)


def test_arms_are_compared_at_the_same_latency(tmp_path):
    job = libero_results.Job("libero_spatial", 2, "wide", 0)
    results = libero_results.Results(tmp_path / "results.json", "abc")
    results.add(job, {"dense@0.1": outcome(True), "dense@0.2": outcome(False), "paper@0.2": outcome(True, steps=80)})
    summary = libero_results.summarize(results.episodes)
    assert summary["paper@0.2"]["against"]["dense"]["difference"] == 1.0
    assert "paper" not in summary["dense@0.1"]["against"]
    libero_results.latency_plot(summary, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_results_are_kept_and_compared_in_pairs(tmp_path):
    path = tmp_path / "results.json"
    results = libero_results.Results(path, "abc")
    for episode in range(10):
        job = libero_results.Job("libero_spatial", episode % 2, "standard", episode)
        results.add(job, {"dense": outcome(True), "blind": outcome(False), "paper": outcome(episode > 0, 160.0, 80)})
    results.write(summary=True)
    again = libero_results.Results(path, "abc")
    assert again.has(libero_results.Job("libero_spatial", 0, "standard", 0), "paper")
    assert not again.has(libero_results.Job("libero_spatial", 0, "wide", 0), "paper")
    summary = json.loads(path.read_text(), parse_constant=pytest.fail)["summary"]
    assert summary["paper"]["successes"] == 9 and summary["blind"]["steps_to_success"] is None
    against = summary["paper"]["against"]["dense"]
    assert (against["pairs"], against["p"], against["both_succeed"], against["more_steps"]) == (10, 1.0, 9, -10.0)
    assert against["difference"] == pytest.approx(-0.1) and against["steps_p"] == pytest.approx(2 / 2**9)
    blind = summary["blind"]["against"]
    assert blind["dense"]["p"] == pytest.approx(2 / 2**10) and blind["paper"]["p"] == pytest.approx(2 / 2**9)
    assert blind["paper"]["difference"] == -0.9 and blind["paper"]["more_steps"] is None
    assert [row["episodes"] for row in summary["paper"]["tasks"]] == [5, 5]
    table = libero_results.table(summary)
    assert "| dense | 10/10 = 100% |" in table and "not significantly different" in table and "-100 points" in table
    assert "| -90 points (p = 0.004) | no episode that both solve |" in table and "| -10.0 steps (p = 0.004) |" in table
    assert len(table.splitlines()) == 2 + 3
    libero_results.plot(summary, tmp_path / "plot.png")
    with pytest.raises(UserError, match="another checkpoint"):
        libero_results.Results(path, "abd")


def test_suites_have_rates_and_comparisons_of_their_own(tmp_path):
    results = libero_results.Results(tmp_path / "results.json", "abc")
    for episode in range(10):
        job = libero_results.Job("libero_object", 3, "standard", episode)
        results.add(job, {"dense": outcome(True), "paper": outcome(episode > 6)})
    results.add(libero_results.Job("libero_spatial", 3, "wide", 0), {"dense": outcome(True)})
    results.add(libero_results.Job("libero_spatial", 3, "wide", 1), {"fastv": outcome(True)})
    table = libero_results.table(libero_results.summarize(results.episodes))
    *_, names, _, dense, paper, fastv = table.splitlines()
    assert names == "| arm | libero_object | libero_spatial, wide |"
    assert dense == "| dense | 10/10 = 100% (72% to 100%) | 1/1 = 100% (21% to 100%) |"
    assert paper == "| paper | 3/10 = 30% (11% to 60%), p = 0.016 | not run |"
    assert fastv == "| fastv | not run | 1/1 = 100% (21% to 100%) |"  # no episode that dense ran too


def test_the_open_loop_error_of_keeping_everything_is_zero(tmp_path):
    write_data(tmp_path / "data", 2)
    everything = "paper:budget_tokens=256,prune_layers=[0]"
    words = [str(TINY), str(tmp_path / "data"), "--json", str(tmp_path / "r.json")]
    libero_open_loop.main([*words, "--arms", "fast", everything])
    rows = json.loads((tmp_path / "r.json").read_text())["arms"]
    assert rows[everything]["centimetres"] < 1e-4 and rows[everything]["flop_share"] == pytest.approx(1, abs=0.05)
    assert rows["fast"]["centimetres"] > 1e-3 and rows["fast"]["tokens"] < rows[everything]["tokens"]
    assert rows["fast"]["more_centimetres"] == 0.0 == rows["fast"]["more_centimetres_standard_error"]
    assert rows[everything]["more_centimetres"] == pytest.approx(-rows["fast"]["centimetres"], abs=1e-4)
    assert (tmp_path / "r.png").exists()


def test_the_sensitivity_has_a_point_per_value(tmp_path):
    write_data(tmp_path / "data", 1)
    words = [str(TINY), str(tmp_path / "data"), "--json", str(tmp_path / "r.json")]
    constants = ["alpha", "history_decay"]
    libero_sensitivity.main([*words, "--constants", *constants])
    curves = json.loads((tmp_path / "r.json").read_text())["constants"]
    assert list(curves) == constants
    tokens = [point["tokens"] for point in curves["alpha"]]
    assert tokens == sorted(tokens) and tokens[0] < tokens[-1]
    assert [point["value"] for point in curves["history_decay"]] == [0.3, 0.5, 0.7, 0.9, 1.0]
    assert (tmp_path / "r.png").exists()


@pytest.mark.sim
def test_the_closed_loop_infers_once_a_chunk(libero_spatial, monkeypatch):
    monkeypatch.setattr(closed_loop, "step_limit", lambda suite: 10)
    env, chosen = libero_spatial(128), arms.arm("paper")
    policy = Policy.from_checkpoint(TINY, pruning=chosen.pruning)
    result = closed_loop.run_episode(env, policy, chosen, env.task.initial_state(20))
    assert not result.success and result.steps == 10 and result.inferences == 2
    assert result.modes["dense"] == 1 and 0 < result.flop_share < 1
    monkeypatch.setattr(closed_loop, "step_limit", lambda suite: 12)
    # Answers are asked for when they will come in time for the end of the running chunk: at 0 and at 0.3 s.
    late = closed_loop.run_episode(env, policy, arms.arm("paper@0.074"), env.task.initial_state(20))
    assert (late.inferences, late.pauses) == (2, 2)
    never = closed_loop.run_episode(env, policy, arms.arm("paper@0.4"), env.task.initial_state(20))
    assert (never.inferences, never.pauses) == (2, 12)  # a chunk of 8 steps has ended when it arrives
    assert never.jerk < 0.01 < late.jerk
    seen = closed_loop.blinded(observe(env, 0.0))
    assert {image.max() for image in seen.views.values()} == {0} and (seen.proprio == env.proprio).all()
