# SPDX-License-Identifier: Apache-2.0
"""The scripted expert, its noise, and where its episodes start."""

import functools
import itertools
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specprune_ros.errors import UserError
from specprune_ros.sim.libero_env import simulator_action
from training import collect, recording
from training.episodes import VIEWS, episode_paths, read_episode
from training.expert import ActionNoise, Expert
from training.pick_and_place import ExpertError, Grasp, known_tasks
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
    assert known_tasks("libero_goal_with_mug") == known_tasks("libero_goal") == (1, 4, 8)


def test_training_and_evaluation_never_meet():
    assert not set(TRAINING_STATES) & set(EVALUATION_STATES)
    assert {*TRAINING_STATES, *EVALUATION_STATES} == set(range(50))


def test_episodes_that_are_for_evaluation_are_kept_apart(tmp_path):
    with pytest.raises(UserError, match="a folder of their own"):
        collect.main([str(tmp_path), "--first", str(EVALUATION_SEED - 1), "--episodes", "2"])


@pytest.fixture(scope="module")
def env(libero_spatial):
    return libero_spatial(SIZE)


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
def test_other_tasks_are_refused(env, monkeypatch):
    monkeypatch.setitem(env.robosuite.parsed_problem, "goal_state", [["open", "wooden_cabinet_1_top_region"]])
    with pytest.raises(ExpertError, match="cannot solve"):
        Expert(env)
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
