# SPDX-License-Identifier: Apache-2.0
"""The method by hand where numbers meet their limits: frames, displacements, layers, speeds, schedules."""

import math

import numpy as np
import pytest
import torch

from specprune_ros.camera import Camera
from specprune_ros.errors import ConfigError, ObservationError
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.controller import ActionAwareController, Decision, Reason, Speed
from specprune_ros.pruning.dynamic_pruning import layer_importance, update_importance
from specprune_ros.pruning.frames import FrameHistory, patch_similarity, reference_delay
from specprune_ros.pruning.ranking import ranks, top_indices, top_mask
from specprune_ros.pruning.scene_motion import MotionCue, SceneMotion, moves_as_said, plane_displacement
from specprune_ros.pruning.schedule import (
    Mode,
    ModelShape,
    SetSizes,
    layers_behind_static,
    make_schedule,
    round_half_up,
    scale_layer,
    snap,
)
from specprune_ros.pruning.score_history import ScoreHistory, moved
from specprune_ros.pruning.scores import entropy_confidence, mean_std_confidence, patch_scores, text_attention
from specprune_ros.pruning.static_selection import Evidence, choose_sets

PATCH, GRID = 4, 3
SIDE = PATCH * GRID


def pictures(seed=0, views=1, extra=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (views, SIDE + extra, SIDE + extra, 3), np.uint8)
    )


# Frames


def shifted(x, y):
    """(1, P, 2): every patch showed what was that many patches from it."""
    return torch.tensor([x, y], dtype=torch.float32).expand(1, GRID * GRID, 2)


@pytest.mark.parametrize(("axis", "sign"), [(0, -1), (0, 1), (1, -1), (1, 1)])
def test_a_patch_whose_centre_was_out_of_view_is_like_anything(axis, sign):
    now, before = pictures(0), pictures(1)
    edge = {(0, -1): [0, 3, 6], (0, 1): [2, 5, 8], (1, -1): [0, 1, 2], (1, 1): [6, 7, 8]}[axis, sign]
    for amount, out in ((0.5, False), (0.502, True)):
        displacement = shifted(*(sign * amount * (axis == k) for k in (0, 1)))
        alike = patch_similarity(now, before, PATCH, displacement)[0]
        assert [patch for patch in range(GRID**2) if alike[patch] == 1.0] == (edge if out else [])


@pytest.mark.parametrize(("x", "y"), [(-0.5, 0.0), (0.5, 0.0), (0.0, -0.5), (0.0, 0.5), (-0.5, 0.5), (0.25, -0.25)])
def test_a_displaced_patch_is_compared_with_what_was_there_and_the_border_is_repeated(x, y):
    before = pictures(1)[0].numpy()
    rows = np.clip(np.arange(SIDE) + round(y * PATCH), 0, SIDE - 1)
    columns = np.clip(np.arange(SIDE) + round(x * PATCH), 0, SIDE - 1)
    now = torch.from_numpy(before[rows][:, columns].copy())[None]
    assert (patch_similarity(now, torch.from_numpy(before)[None], PATCH, shifted(x, y)) == 1.0).all()
    assert (patch_similarity(now, torch.from_numpy(before)[None], PATCH) < 1.0).any()


def test_similarity_by_hand():
    """Pixels beyond whole patches do not count; of two views each has its own."""
    now, before = pictures(0, 2, extra=3), pictures(1, 2, extra=3)
    before[0, :, SIDE:] = before[0, SIDE:] = 0
    found = patch_similarity(now, before, PATCH)
    assert found.shape == (2, GRID**2) and found.dtype == torch.float32
    for view in (0, 1):
        for patch in range(GRID**2):
            top, left = PATCH * (patch // GRID), PATCH * (patch % GRID)
            a, b = (images[view, top : top + PATCH, left : left + PATCH].flatten().double() for images in (now, before))
            assert found[view, patch] == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-5)
    assert (patch_similarity(torch.zeros_like(now), torch.zeros_like(now), PATCH) == 1.0).all()


@pytest.mark.parametrize(
    ("units", "steps"), [(0.0, 11), (0.5, 10), (1.0, 10), (1.01, 9), (2.0, 9), (6.5, 4), (9.5, 1), (10.0, 1), (50.0, 1)]
)
def test_the_reference_frame_of_a_speed(units, steps):
    """floor(7 - v) + 4 control steps of 1/16 s, at least one; a unit is 1/16 m in a step, so 1 m/s."""
    assert reference_delay(PruningConfig(control_rate=16.0, metres_per_unit=1 / 16), units) == steps / 16


def test_frames_are_kept_a_control_step_apart_as_far_back_as_they_are_asked_for():
    config = PruningConfig(control_rate=0.9)  # frames are kept a second apart
    history = FrameHistory(config)
    assert history.nearest(0.0) is None and history.wants(5.0)
    frames = pictures()
    history.add(frames, 10.0)
    assert not history.wants(10.5) and history.wants(11.0) and history.wants(10.0) and history.wants(9.0)
    history.add(pictures(1), 10.5)
    assert history.nearest(99.0).stamp == 10.0
    again = pictures(2)
    history.add(again, 10.0)
    assert history.nearest(10.0).frames is again and history.nearest(0.0).frames is again
    for second in range(11, 40):
        history.add(frames, float(second))
    # 7 + 4 control steps of 1/0.9 s, a frame more for what lies between, and the newest
    assert history.nearest(0.0).stamp == 39 - 13
    history.add(frames, 20.0)  # the clock was set back
    assert history.nearest(99.0).stamp == history.nearest(0.0).stamp == 20.0
    history.reset()
    assert history.nearest(0.0) is None


# Scores and their history


def test_attention_and_confidence_by_hand():
    q, k = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    found = text_attention(q, k, slice(1, 3))
    expected = torch.stack([(q[h, 1:3] @ k[h].T / 2.0).softmax(dim=-1) for h in range(2)])
    torch.testing.assert_close(found, expected.float())
    torch.testing.assert_close(
        patch_scores(expected), (expected[0, 0] + expected[0, 1] + expected[1, 0] + expected[1, 1]) / 4
    )
    even, sure = torch.full((1, 1, 4), 0.05), torch.tensor([[[0.2, 0.0, 0.0, 0.0]]])
    assert float(entropy_confidence(even)) == pytest.approx(1 / math.log(4), rel=1e-4)
    assert float(entropy_confidence(sure)) > 1e5
    assert float(entropy_confidence(torch.tensor([[[0.3, 0.1]]]))) == pytest.approx(
        1 / -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-4
    )
    scores = torch.tensor([[[0.1, 0.3], [0.3, 0.5]]])
    assert float(mean_std_confidence(scores)) == pytest.approx(0.3 / 0.1, rel=1e-5)


def test_no_two_ranks_tie_where_there_are_most_of_them_and_the_slope_is_steepest():
    scores = torch.rand(768, generator=torch.Generator().manual_seed(0))
    importance = layer_importance(scores, torch.tensor(0.18), 0.15)
    assert importance.unique().numel() == 768
    assert torch.equal(importance.argsort(descending=True), scores.argsort(descending=True))


def test_importance_by_hand():
    scores, confidence = torch.tensor([0.1, 0.9, 0.5]), torch.tensor(2.0)
    weights = [1 / (1 + math.exp(0.05 * rank)) for rank in (2, 0, 1)]
    expected = torch.tensor([2.0 * weight / sum(weights) for weight in weights])
    torch.testing.assert_close(layer_importance(scores, confidence, 0.05), expected.double())
    torch.testing.assert_close(update_importance(torch.tensor([1.0]), torch.tensor([2.0]), 0.25), torch.tensor([1.25]))


def test_ranks_by_hand():
    scores = torch.tensor([[0.2, 0.9, 0.2, 0.5]])
    assert ranks(scores).tolist() == [[2, 0, 3, 1]] and top_mask(scores, 2).tolist() == [[False, True, False, True]]
    assert top_indices(scores[0], 3).tolist() == [0, 1, 3] and top_indices(scores[0], 0).tolist() == []


def test_a_patch_is_dynamic_below_the_threshold_and_not_at_it():
    similarity = torch.tensor([[0.9, 1.0, 0.95, 1.0]])
    evidence = Evidence(torch.zeros(1, 4), similarity, (torch.zeros(1, 4),))
    for threshold, dynamic in ((1.0, [0, 2]), (0.95, [0])):
        sets = choose_sets(evidence, SetSizes(0, 4, 0), similarity_threshold=torch.tensor(threshold))
        assert sets.dynamic_set[0].nonzero().flatten().tolist() == dynamic


def test_older_scores_weigh_less():
    history = ScoreHistory(1, 2, length=3, decay=0.5, device=torch.device("cpu"))
    for number in (7.0, 1.0, 2.0, 4.0):
        history.add(torch.tensor([[number, 0.0]]))
    assert history.scores()[0].tolist() == pytest.approx([(4 + 2 / 2 + 1 / 4) / 1.75, 0.0])
    history.reset()
    assert history.scores().tolist() == [[0.0, 0.0]]


def test_scores_between_patches_are_mixed():
    scores = torch.arange(9, dtype=torch.float32)[None, None]  # row * 3 + column
    for x, y in ((0.5, 0.0), (-0.25, 0.0), (0.0, 0.75), (0.25, -0.5), (1.0, 1.0), (0.0, 0.0)):
        found = moved(scores, shifted(x, y))[0, 0].view(3, 3)
        for row in range(3):
            for column in range(3):
                expected = 0.0
                for r in range(3):
                    for c in range(3):
                        across = max(0.0, 1 - abs(column + x - c))
                        down = max(0.0, 1 - abs(row + y - r))
                        expected += (3 * r + c) * across * down
                assert float(found[row, column]) == pytest.approx(expected, abs=1e-6)
    outside = moved(torch.ones(1, 1, 9), shifted(3.0, 0.0))
    assert not outside.any() and not moved(torch.ones(1, 1, 9), shifted(0.0, -3.0)).any()


# The controller


def speed(v_t=0.0, v_r=0.0, v_z=0.0):
    return Speed(v_t, v_r, v_z)


def controller(**config):
    made = ActionAwareController(
        PruningConfig(translation_threshold=0.25, rotation_threshold=0.5, exit_factor=2.0, **config)
    )
    made.decide(speed(9.0), 0.0)  # the dense one
    return made


def test_thresholds_of_speed():
    below = math.nextafter(0.25, 0)
    assert controller().decide(speed(0.25), 0.0) == Decision(Mode.COARSE, Reason.FAST)
    assert controller().decide(speed(below), 0.0) == Decision(Mode.FINE, Reason.SLOW)
    assert controller().decide(speed(0.0, 0.5), 0.0).mode == Mode.COARSE
    assert controller().decide(speed(0.0, math.nextafter(0.5, 0)), 0.0).mode == Mode.FINE
    assert controller().decide(speed(v_z=1e-9), 0.0).mode == Mode.COARSE  # on its way up
    assert controller().decide(speed(v_z=-0.1), 0.0).mode == Mode.FINE
    for v_t, v_r, mode in ((0.49, 0.99, Mode.FINE), (0.5, 0.0, Mode.COARSE), (0.0, 1.0, Mode.COARSE)):
        slow = controller()
        slow.decide(speed(), 0.0)
        assert slow.decide(speed(v_t, v_r, 0.3), 0.0).mode == mode


def test_when_an_inference_is_dense():
    made = ActionAwareController(PruningConfig(scene_cut_share=0.5, refresh_interval=3))
    reasons = [made.decide(speed(9.0), 0.0).reason for _ in range(8)]
    assert reasons == [
        *(Reason.NO_HISTORY, Reason.FAST, Reason.FAST, Reason.REFRESH),
        *(Reason.FAST, Reason.FAST, Reason.REFRESH, Reason.FAST),
    ]
    assert made.decide(speed(9.0), 0.5).reason == Reason.FAST
    assert made.decide(speed(9.0), 0.51) == Decision(Mode.DENSE, Reason.SCENE_CUT)
    assert [made.decide(speed(9.0), 0.0).reason for _ in range(3)] == [Reason.FAST, Reason.FAST, Reason.REFRESH]
    made.reset()
    assert made.decide(speed(9.0), 0.9).reason == Reason.NO_HISTORY


def test_reset_forgets_that_the_hand_was_slow():
    made = controller()
    made.decide(speed(), 0.0)
    made.reset()
    made.decide(speed(0.3), 0.0)
    assert made.decide(speed(0.3), 0.0).mode == Mode.COARSE


def test_speed_of_a_twist():
    found = Speed.of([0.3, 0.0, -0.4, 2.0, 1.0, 2.0])
    assert (found.v_t, found.v_r, found.v_z) == pytest.approx((0.5, 3.0, -0.4))
    assert Speed.of(None) is None
    for place in range(6):
        twist = np.zeros(6)
        twist[place] = np.nan
        assert Speed.of(twist) is None
    with pytest.raises(ObservationError):
        Speed.of([0.0] * 5)


# Layers and numbers of tokens


@pytest.mark.parametrize(
    "values",
    [
        {"static_layer": 31, "prune_layers": (32,), "update_layers": (32,)},
        {"prune_layers": (3,), "update_layers": (3,)},
        {"prune_layers": (10,), "update_layers": (0, 10)},
        {"prune_layers": (0,), "update_layers": (0,)},
        {"global_layers": (32,), "local_layers": (1,), "static_layer": 1},
        {"local_layers": (5,), "static_layer": 5, "prune_layers": (6,), "update_layers": (6,)},
    ],
)
def test_layers_at_the_edge_are_allowed(values):
    PruningConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"static_layer": 32, "prune_layers": (0,), "update_layers": (0,)},
        {"prune_layers": (2,), "update_layers": (5,)},
        {"prune_layers": (10,), "update_layers": (11,)},
        {"prune_layers": (10,), "update_layers": (0,)},
        {"global_layers": (33,)},
        {"local_layers": (3,), "static_layer": 2},
        {"update_layers": (1, 5)},
    ],
)
def test_layers_beyond_the_edge_are_refused(values):
    with pytest.raises(ConfigError):
        PruningConfig(**values)


SHAPE = ModelShape(num_layers=32, num_views=2, patches_per_view=256)


def test_layers_of_a_model_of_another_depth():
    config, half = PruningConfig(), ModelShape(16, 2, 256)
    assert [scale_layer(layer, config, half) for layer in (1, 2, 3, 15, 32)] == [1, 1, 2, 8, 16]
    assert [scale_layer(layer, config, SHAPE) for layer in (1, 15, 32)] == [1, 15, 32]
    assert scale_layer(1, config, ModelShape(4, 1, 4)) == 1
    assert layers_behind_static((5, 10, 15, 20), config, SHAPE) == (5, 10, 15, 20)
    assert layers_behind_static((5, 10, 15, 20), config, ModelShape(8, 2, 256)) == (3, 4, 5)
    assert layers_behind_static((0, 5), config, SHAPE) == (5,) and layers_behind_static((32,), config, SHAPE) == ()
    with pytest.raises(ConfigError, match="the model has 2 layers; allowed: 1 to 1"):
        make_schedule(config, ModelShape(2, 1, 16), 10, "coarse")
    assert make_schedule(config, ModelShape(3, 1, 16), 10, "coarse").prune_layers == ()


@pytest.mark.parametrize(
    ("patches", "fixed", "tile", "most", "snapped"),
    [
        *((188, 93, 1, 512, 188), (188, 93, 64, 512, 163), (196, 93, 64, 512, 227)),
        *((195, 93, 64, 512, 227), (500, 93, 64, 512, 483), (1, 93, 64, 512, 35), (600, 93, 64, 512, 483)),
        *((10, 5, 64, 12, 12), (0, 0, 8, 100, 8), (3, 1, 4, 100, 3)),
    ],
)
def test_snapping_to_tiles(patches, fixed, tile, most, snapped):
    assert snap(patches, fixed, tile, most) == snapped


def test_rounding():
    assert [round_half_up(value) for value in (0.49, 0.5, 1.5, 2.5, -0.5, -0.51)] == [0, 1, 2, 3, 0, -1]


def test_tokens_of_the_paper_in_every_layer():
    """K_G, K_D, K_L of 30, 20, 24 times 0.8; 94 patches of each view, of which a tenth goes four times."""
    plan = make_schedule(PruningConfig(), SHAPE, 93, "coarse")
    assert (plan.sets.global_tokens, plan.sets.dynamic_tokens, plan.sets.local_tokens) == (24, 16, 19)
    assert (plan.target, plan.budgets) == (188, (94, 94))
    alive = plan.alive_per_layer()
    assert alive == (512,) * 2 + (188,) * 3 + (169,) * 5 + (152,) * 5 + (137,) * 5 + (123,) * 12
    assert plan.tokens_per_layer() == tuple(number + 93 for number in alive)
    assert plan.scored_layers == {1, 2, 5, 10, 15, 20, 32}
    assert plan.alive_per_layer(static=100)[2:11] == (100,) * 3 + (90,) * 5 + (81,)
    fine = make_schedule(PruningConfig(), SHAPE, 93, "fine")
    assert (fine.sets.global_tokens, fine.target) == (40, 2 * 157)
    dense = make_schedule(PruningConfig(), SHAPE, 93, "dense")
    assert dense.alive_per_layer() == (512,) * 32 and dense.scored_layers == {5, 10, 15, 20, 32}
    tiled = make_schedule(PruningConfig(), SHAPE, 93, "coarse", tile=64)
    assert tiled.budgets == (82, 81) and tiled.tokens_per_layer()[2:12] == (256,) * 10
    union = make_schedule(PruningConfig(selection="union"), SHAPE, 93, "coarse", tile=64)
    assert union.tile == 1 and union.budgets == (94, 94)
    quarter = make_schedule(PruningConfig(), ModelShape(32, 3, 64), 93, "coarse")
    assert (quarter.sets.global_tokens, quarter.target) == (6, 3 * 24)
    least = make_schedule(PruningConfig(budget_tokens=1), ModelShape(32, 1, 16), 93, "coarse")
    assert least.target == 1
    most = make_schedule(PruningConfig(budget_tokens=256, global_tokens=256, alpha=4.0), SHAPE, 93, "fine")
    assert most.budgets == (256, 256) and most.sets.global_tokens == 256


# The motion of the scene


def looking_down(x=0.0, y=0.0, height=1.0):
    """A camera over the plane z = 0 that sees a square of 2 by 2 m from 1 m."""
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[:3, 3] = x, y, height
    return Camera(np.array([[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1.0]]), pose)


def test_a_camera_over_a_plane_by_hand():
    """2 m are 4 patches: 0.5 m to the right is one patch, and what is seen now was one patch to the right before."""
    right = plane_displacement(looking_down(x=0.5), looking_down(), 0.0, 4)
    np.testing.assert_allclose(right, np.tile([1.0, 0.0], (16, 1)), atol=1e-12)
    np.testing.assert_allclose(
        plane_displacement(looking_down(y=0.5), looking_down(), 0.0, 4), np.tile([0.0, -1.0], (16, 1)), atol=1e-12
    )
    # From half the height the plane at 0.5 m fills as much; from twice as high each patch is nearer to the middle.
    away = plane_displacement(looking_down(), looking_down(height=2.0), 0.0, 4)
    middles = np.arange(4) - 1.5
    np.testing.assert_allclose(away[:4, 0], -middles / 2, atol=1e-12)
    np.testing.assert_allclose(away[::4, 1], -middles / 2, atol=1e-12)
    raised = plane_displacement(looking_down(x=0.25), looking_down(), 0.5, 4)
    np.testing.assert_allclose(raised, np.tile([1.0, 0.0], (16, 1)), atol=1e-12)
    assert not plane_displacement(None, looking_down(), 0.0, 4).any()
    assert not plane_displacement(looking_down(), None, 0.0, 4).any()
    assert not plane_displacement(looking_down(), looking_down(), 0.0, 4).any()
    assert (plane_displacement(looking_down(x=0.1), looking_down(), 3.0, 4) == 8.0).all()  # the plane is behind it
    far = plane_displacement(looking_down(x=50.0), looking_down(), 0.0, 4)
    assert (far[:, 0] == 8.0).all() and (plane_displacement(looking_down(), looking_down(x=50.0), 0.0, 4) >= -8.0).all()
    behind = plane_displacement(looking_down(x=0.1), looking_down(height=-1.0), 0.0, 4)
    assert (behind == 8.0).all()


def test_what_moves_with_the_camera_is_told_from_the_scene():
    rng = np.random.default_rng(0)
    before = rng.integers(0, 256, (16, 16), np.uint8)
    now = np.roll(before, -4, axis=1)  # the scene went a patch to the left
    now[8:12, 4:8] = before[8:12, 4:8]  # and patch 9 is the hand
    one_right = np.tile(np.array([1.0, 0.0], np.float32), (16, 1))
    follows = moves_as_said(now, before, one_right).reshape(4, 4)
    expected = np.ones((4, 4), bool)
    expected[2, 1] = False
    expected[:, 3] = follows[:, 3]  # came from out of view
    assert (follows == expected).all()
    assert not moves_as_said(before, before, one_right).any()
    plain = np.full_like(before, 7)  # alike at both places: nothing says that it moved
    assert not moves_as_said(plain, plain, one_right).any()
    down = np.roll(before, -4, axis=0)
    assert moves_as_said(down, before, one_right[:, ::-1])[:12].all()
    border = np.repeat(before[:, :1], 16, axis=1)  # what lies left of the border is the border
    border[:, 4:] = before[:, 4:]
    assert moves_as_said(border, before, -one_right).reshape(4, 4)[:, 0].all()


def test_cues_are_grey_middles_of_whole_patches():
    views = [np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)]
    assert SceneMotion(PruningConfig(), 3).cue(views, [None]).grey is None
    motion = SceneMotion(PruningConfig(history_motion="flow"), 3)
    cue = motion.cue(views, [None])
    assert cue.grey.shape == (1, 111, 111) and cue.grey.dtype == np.uint8 and cue.cameras == (None,)
    whole = np.full((100, 200, 3), 10, np.uint8)
    whole[25:75, 50:150] = 200
    quarter = SceneMotion(PruningConfig(history_motion="flow"), 3, area=0.25).cue([whole], [None])
    assert (quarter.grey == 200).all()  # the middle half of each side
    assert motion.displacement(cue, MotionCue()) is None and motion.displacement(MotionCue(), cue) is None
    assert motion.displacement(cue, cue).tolist() == np.zeros((1, 9, 2)).tolist()
    tf = SceneMotion(PruningConfig(history_motion="tf", motion_plane_height=0.5), 4)
    ramp = np.random.default_rng(1).integers(0, 256, (112, 112, 3), np.uint8)
    here = tf.cue([np.roll(ramp, -28, axis=1)], [looking_down(x=0.25)])
    found = tf.displacement(here, tf.cue([ramp], [looking_down()]))
    assert found.dtype == np.float32 and (found[0].reshape(4, 4, 2)[:, :3] == [1.0, 0.0]).all()
