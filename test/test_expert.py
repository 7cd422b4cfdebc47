# SPDX-License-Identifier: Apache-2.0
"""The scripted expert, its noise, and where its episodes start."""

import functools
import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from specprune_ros.errors import UserError
from specprune_ros.sim.libero_env import LiberoEnv, simulator_action
from training import collect, recording
from training.data import are_named
from training.episodes import VIEWS, episode_paths, read_episode
from training.expert import ActionNoise, Expert
from training.pick_and_place import ExpertError, Grasp, known_tasks, turn_of_hand
from training.placements import (
    EVALUATION_SEED,
    EVALUATION_STATES,
    TRAINING_STATES,
    PlacementError,
    standard_state,
    wide_state,
)
from training.scene import Scene

SIZE = 128  # px of the pictures; half of what is usual
STOVE = "flat_stove_1_cook_region"


def run_here(function, jobs, workers, done):
    for job in jobs:
        done(job, function(job))


def test_blocks_travel_to_processes_that_start_afresh():
    block = collect.Block(Path("data"), "libero_spatial", 0, True, False, None, (1, 2))
    assert pickle.loads(pickle.dumps(block)) == block


def test_noise_changes_slowly_leaves_the_gripper_and_comes_from_its_seed():
    actions = np.array([[0.0] * 6 + [1.0]] * 4000)
    noise = ActionNoise(0.2, seed=5)
    executed = np.array([noise(action) for action in actions])
    assert (executed[:, 6] == 1).all() and np.abs(executed).max() <= 1
    np.testing.assert_allclose(executed[:, :6].std(axis=0), [0.2] * 3 + [0.06] * 3, rtol=0.15)
    assert np.corrcoef(executed[1:, 0], executed[:-1, 0])[0, 1] == pytest.approx(0.8, abs=0.05)
    again = ActionNoise(0.2, seed=5)
    np.testing.assert_array_equal(executed[:9], [again(action) for action in actions[:9]])
    np.testing.assert_array_equal(ActionNoise(0.0, seed=5)(actions[0]), actions[0])


def test_every_suite_has_tasks_that_the_expert_knows_and_its_variants_the_same():
    assert known_tasks("libero_spatial_swap") == known_tasks("libero_spatial") == tuple(range(10))
    assert known_tasks("libero_goal_with_mug") == known_tasks("libero_goal") == (1, 2, 4, 6, 8)


def test_training_and_evaluation_never_meet():
    assert not set(TRAINING_STATES) & set(EVALUATION_STATES)
    assert {*TRAINING_STATES, *EVALUATION_STATES} == set(range(50))


def test_episodes_that_are_for_evaluation_are_kept_apart(tmp_path):
    with pytest.raises(UserError, match="a folder of their own"):
        collect.main([str(tmp_path), "--first", str(EVALUATION_SEED - 1), "--episodes", "2"])


@pytest.fixture(scope="module")
def env(libero_spatial):
    return libero_spatial(SIZE)


@pytest.fixture(scope="module")
def goal_env():
    yield from other_suite("libero_goal", 6)  # the cream cheese goes into the bowl


@pytest.fixture(scope="module")
def object_env():
    yield from other_suite("libero_object", 1)  # the cream cheese, near a tall carton, goes into the basket


def other_suite(suite, task):
    env = LiberoEnv(suite, task, image_size=SIZE, shadows=False, anti_aliasing=False)
    yield env
    env.close()


def lying(box, others=()):
    """A scene of boxes (middle, half size) alone."""
    boxes = {"box_1": box} | {f"other_{i}": other for i, other in enumerate(others)}
    signs = np.array(list(itertools.product((-1, 1), repeat=3)))
    return SimpleNamespace(
        objects=tuple(boxes),
        position=lambda name: np.array(boxes[name][0]),
        corners=lambda name: signs * boxes[name][1],
    )


@pytest.mark.parametrize("size, degrees", [((0.04, 0.02), 0), ((0.02, 0.04), 90), ((0.026, 0.027), 0)])
def test_a_box_is_gripped_by_its_narrowest_side_and_without_need_the_hand_does_not_turn(size, degrees):
    scene = lying(((0.3, 0.1, 0.0), (*size, 0.05)))
    assert abs(np.degrees(turn_of_hand(scene, "box_1", 0.01))) == degrees


@pytest.mark.parametrize("side", [1, -1])
def test_the_hand_turns_where_its_palm_would_hit_something(side):
    tall = ((0.35, 0.1 - side * 0.1, 0.05), (0.026, 0.026, 0.07))
    flat = ((0.3, 0.1, 0.0), (0.04, 0.02, 0.01))
    turn = np.degrees(turn_of_hand(lying(flat, [tall]), "box_1", 0.0))
    assert 5 <= -side * turn <= 30  # that end of the palm leaves the tall thing
    assert (
        turn_of_hand(lying(flat, [((*tall[0][:2], 0.0), (0.026, 0.026, 0.01))]), "box_1", 0.0) == 0
    )  # lower than the palm


@pytest.mark.sim
@pytest.mark.parametrize("wide", [False, True])
def test_the_expert_places_the_bowl_in_spite_of_noise(env, wide):
    env.reset_to(wide_state(env, 4) if wide else standard_state(env, 4))
    expert, noise = Expert(env), ActionNoise(0.15, seed=1)
    for _ in range(200):
        action = expert.act()
        assert action.shape == (7,) and np.abs(action[:6]).max() <= 1 and action[6] in (0, 1)
        if expert.done or expert.failed:
            break
        env.step(simulator_action(noise(action)))
    assert expert.done and env.success


@pytest.mark.sim
@pytest.mark.parametrize(
    "scene, place", [("goal_env", "akita_black_bowl_1"), ("object_env", "basket_1_contain_region")]
)
def test_the_expert_drops_things_into_others(scene, place, request, monkeypatch):
    env = request.getfixturevalue(scene)
    monkeypatch.setattr(env, "image", functools.cache(env.image))  # nobody looks
    episode = recording.record(env, 1, wide=False)  # with noise
    assert episode is not None and 40 < len(episode.actions) < 200
    assert Scene(env).goal == ("cream_cheese_1", place)
    assert episode.facts["points"] == [*Scene(env).objects, "gripper"]
    # The goal's label: the hand is at the thing when it grips, and the thing over the place when it lets go.
    closed = np.flatnonzero(episode.actions[:, 6] == 0)
    assert np.linalg.norm(episode.goal[closed[0] + 8, 0]) < 0.03
    assert np.linalg.norm(np.diff(episode.goal[closed[-1]], axis=0)[0, :2]) < 0.03


@pytest.mark.sim
def test_furniture_that_the_goal_names_is_marked(goal_env, monkeypatch):
    monkeypatch.setitem(goal_env.robosuite.parsed_problem, "goal_state", [["on", "cream_cheese_1", STOVE]])
    scene = Scene(goal_env)
    assert scene.furniture_of_goal == (STOVE,)
    np.testing.assert_allclose(scene.position(STOVE) - scene.position("flat_stove_1"), [0.15, 0, 0], atol=1e-3)
    assert are_named([STOVE], "put the bowl on the stove") == [True]


@pytest.mark.parametrize(
    "instruction, meant",
    [
        ("pick up the tomato sauce and place it in the basket", "tomato_sauce_1 basket_1"),
        ("pick up the bbq sauce and place it in the basket", "bbq_sauce_1 basket_1"),
        ("pick up the black bowl on the cookie box", "akita_black_bowl_1 akita_black_bowl_2 cookies_1"),
    ],
)
def test_a_thing_that_shares_a_word_with_the_one_meant_is_not_named(instruction, meant):
    names = [
        "tomato_sauce_1",
        "bbq_sauce_1",
        "basket_1",
        "akita_black_bowl_1",
        "akita_black_bowl_2",
        "cookies_1",
        "gripper",
    ]
    named = are_named(names, instruction)
    assert [name for name, is_named in zip(names, named, strict=True) if is_named] == [*meant.split(), "gripper"]


@pytest.mark.sim
@pytest.mark.parametrize(
    "goal, reason",
    [
        (["in", "akita_black_bowl_1", "wooden_cabinet_1_top_region"], "no drawers"),
        (["on", "plate_1", "main_table_stove_front_region"], "plate_1 is 14 cm wide"),
        (["on", "wine_bottle_1", "wine_rack_1_top_region"], "not level"),
        (["turnon", "flat_stove_1"], "only moves one thing"),
        (["open", "wooden_cabinet_1_middle_region"], "only moves one thing"),
    ],
)
def test_what_the_expert_cannot_do_it_says(goal_env, monkeypatch, goal, reason):
    monkeypatch.setitem(goal_env.robosuite.parsed_problem, "goal_state", [goal])
    with pytest.raises(ExpertError, match=f"the expert cannot solve '.*': .*{reason}"):
        Expert(goal_env)


@pytest.mark.sim
def test_the_side_of_the_grasp_can_be_told(env):
    hands = []
    for side in (1, -1):
        env.reset(0)
        expert = Expert(env, Grasp(side=side))
        for _ in range(25):
            env.step(simulator_action(expert.act()))
        hands.append(env.eef_pose.position[1])
    assert hands[0] - hands[1] > 0.05


@pytest.mark.sim
def test_wide_placements_differ_repeat_and_leave_room(env):
    scene = Scene(env)
    states = [wide_state(env, seed) for seed in range(20)]
    np.testing.assert_array_equal(states[3], wide_state(env, 3))
    names = scene.objects
    places = np.array([[state[scene.state_slice(name)][:2] for name in names] for state in states])
    assert (places.std(axis=0) > 0.03).all()
    for first, second in itertools.combinations(range(len(names)), 2):
        assert np.linalg.norm(places[:, first] - places[:, second], axis=1).min() > 0.09
    bowl, plate, ramekin = (places[:, names.index(n)] for n in ("akita_black_bowl_1", "plate_1", _ramekin(names)))
    np.testing.assert_allclose(bowl, (plate + ramekin) / 2)  # "between the plate and the ramekin"
    assert not np.array_equal(states[3], wide_state(env, EVALUATION_SEED + 3))


@pytest.mark.sim
def test_other_suites_have_no_wide_placements(env, monkeypatch):
    monkeypatch.setattr(env, "task", replace(env.task, suite="libero_object"))
    with pytest.raises(PlacementError, match="libero_spatial only"):
        wide_state(env, 0)


@pytest.mark.sim
def test_collecting_goes_on_where_it_stopped_and_labels_what_it_shows(env, tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "run_jobs", run_here)
    monkeypatch.setattr(recording, "_environment", lambda *scene: {("libero_spatial", 0, False): env}[scene])
    monkeypatch.setattr(env, "image", functools.cache(env.image))  # only the first pictures are looked at
    command = [str(tmp_path), "--tasks", "0", "--no-shadows", "--episodes", "1"]
    collect.main(command)
    (path,) = episode_paths(tmp_path)
    written = path.stat().st_mtime_ns
    collect.main(command)
    assert path.stat().st_mtime_ns == written
    assert "1 episodes" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "dataset_statistics.json").exists()

    episode = read_episode(path)
    steps, names = len(episode.actions), episode.facts["points"]
    assert 50 < steps < 200 and episode.points.shape == (steps, 2, 6, 2)
    assert episode.facts["noise"] == 0 and episode.facts["seed"] == 0 and episode.facts["task"] == 0
    for view in VIEWS:
        assert episode.frames[view].shape == (steps, SIZE, SIZE, 3)
    # The hand is fixed to the wrist camera, and moves in the other view.
    gripper = episode.points[:, :, names.index("gripper")]
    assert np.nanstd(gripper[:, 1], axis=0).max() < 0.02 < np.nanstd(gripper[:, 0], axis=0).max()
    # The cookie box is the warmest colour on the table; in the mirrored image the labels are mirrored, too.
    x, y = (episode.points[0, 0, names.index("cookies_1")] * SIZE).astype(int)
    frame = episode.frames["primary"][0].astype(int)
    warmth = frame[..., 0] - frame[..., 2]
    assert warmth[y, x] > warmth[y, SIZE - 1 - x] + 10


def _ramekin(names):
    return next(name for name in names if "ramekin" in name)
