# SPDX-License-Identifier: Apache-2.0
"""Properties that every implementation of the method must have."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from random_model import model_config, random_checkpoint
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from specprune_ros.camera import Camera
from specprune_ros.engine.forward_pass import ForwardPass
from specprune_ros.errors import ObservationError
from specprune_ros.openvla.config import DIFFUSION, DISCRETE
from specprune_ros.policy import Observation, Policy
from specprune_ros.pruning.config import PRESETS, PruningConfig
from specprune_ros.pruning.controller import ActionAwareController, Speed
from specprune_ros.pruning.frames import FrameHistory, patch_similarity, reference_delay
from specprune_ros.pruning.ranking import ranks, top_indices, top_mask
from specprune_ros.pruning.scene_motion import SceneMotion, plane_displacement
from specprune_ros.pruning.schedule import ModelShape, SetSizes, make_schedule
from specprune_ros.pruning.score_history import ScoreHistory, moved
from specprune_ros.pruning.static_selection import Evidence, PatchSets, choose_sets, select_budget, select_union

VIEWS, PATCHES = 2, 16
TAU = 0.996
unhurried = settings(deadline=None)  # the machine may be busy
AT_REST, MOVING = Speed(0.0, 0.0, 0.0), Speed(2.0, 5.0, 0.1)

scores = arrays(np.float32, (VIEWS, PATCHES), elements=st.floats(0, 1, width=32))
distinct_scores = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).uniform(1, 1e6, (VIEWS, PATCHES))  # `unique` takes ten times as long
)
counts = st.integers(0, PATCHES)
set_sizes = st.builds(SetSizes, counts, counts, counts)


@st.composite
def evidence(draw: st.DrawFn, values: st.SearchStrategy = scores) -> Evidence:
    history, similarity, first, second = (torch.from_numpy(draw(values)).float() for _ in range(4))
    return Evidence(history, similarity / max(float(similarity.max()), 1e-6), (first, second))


def observation(
    config, seed: int = 0, stamp: float = 0.0, twist: NDArray | None = None, instruction: str = "pick up the bowl"
) -> Observation:
    random = np.random.default_rng(seed)
    size = config.image_size
    views = {f"view{v}": random.integers(0, 256, (size, size, 3), dtype=np.uint8) for v in range(config.num_views)}
    return Observation(views, random.uniform(-1, 1, config.proprio_dim), instruction, stamp, twist)


def members(per_view: tuple[NDArray[np.int64], ...]) -> list[list[int]]:
    return [indices.tolist() for indices in per_view]


# Keeping everything is the dense model


@pytest.mark.parametrize(
    "constants",
    [
        {"budget_tokens": 256, "keep_ratio": 1.0, "scene_cut_share": 1.0},
        {"selection": "union", "alpha": 4.0, "local_tokens": 256, "keep_ratio": 1.0, "scene_cut_share": 1.0},
        {"selection": "union", "alpha": 4.0, "local_tokens": 256, "prune_layers": (0,), "scene_cut_share": 1.0},
    ],
    ids=["budget", "union", "static_only"],
)
@pytest.mark.parametrize("seed", range(3))
def test_keeping_everything_reproduces_the_dense_actions(constants: dict, seed: int):
    config = model_config(grid=6, hidden=64, num_heads=4, num_layers=10)
    checkpoint = random_checkpoint(config, seed, torch.float32)
    dense, everything = Policy(checkpoint, "off"), Policy(checkpoint, PruningConfig().changed(constants), tile=1)
    for inference in range(3):
        seen = observation(config, seed=10 * seed + inference, stamp=float(inference))
        chunk = everything.act(seen)
        np.testing.assert_allclose(chunk.actions, dense.act(seen).actions, rtol=0, atol=1e-5)
        assert sum(map(len, chunk.pruning.kept_final)) == config.num_patches
    assert chunk.pruning.mode == "fine"


def test_a_count_above_the_view_keeps_the_view_whole():
    config = PruningConfig(local_tokens=256, alpha=4.0, budget_tokens=256, fine_factor=8.0)
    plan = make_schedule(config, ModelShape(8, VIEWS, PATCHES), fixed_tokens=20, mode="fine")
    assert plan.sets == SetSizes(PATCHES, PATCHES, PATCHES)
    assert plan.budgets == (PATCHES, PATCHES)


# The selection does not see the order of the tokens


@unhurried
@given(evidence(distinct_scores), set_sizes, st.permutations(range(PATCHES)), st.integers(1, PATCHES))
def test_selection_moves_with_the_patches(seen: Evidence, sizes: SetSizes, order: list[int], budget: int):
    moved = Evidence(seen.history[:, order], seen.similarity[:, order], tuple(s[:, order] for s in seen.local))
    before, after = choose_sets(seen, sizes, TAU), choose_sets(moved, sizes, TAU)
    for name in ("global_set", "dynamic_set", "local_set"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name)[:, order])

    shares = [scores / scores.sum(dim=1, keepdim=True) for scores in (seen.history, *seen.local)]
    for attention in (sum(shares), shares[0], sum(shares[1:])):
        if min(row.sort().values.diff().min() for row in attention) < 1e-5:
            return  # a tie, which the index breaks
    kept_before, kept_after = (
        as_mask(select_budget(sets, shown, sizes, (budget,) * VIEWS))
        for sets, shown in ((before, seen), (after, moved))
    )
    torch.testing.assert_close(kept_after, kept_before[:, order])


def as_mask(kept: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(VIEWS * PATCHES, dtype=torch.bool)
    mask[kept] = True
    return mask.view(VIEWS, PATCHES)


# Ties


@unhurried
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.data())
def test_of_equal_scores_the_lower_index_comes_first(values: list[int], data: st.DataObject):
    count = data.draw(st.integers(0, len(values)))
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))
    tensor = torch.tensor(values, dtype=torch.float32)
    assert [expected.index(i) for i in range(len(values))] == ranks(tensor).tolist()
    assert sorted(expected[:count]) == top_indices(tensor, count).tolist()
    assert sorted(expected[:count]) == top_mask(tensor, count).nonzero().flatten().tolist()


@unhurried
@given(st.integers(1, PATCHES))
def test_equal_evidence_keeps_the_first_patches(budget: int):
    flat = torch.full((VIEWS, PATCHES), 0.5)
    seen = Evidence(flat, torch.ones_like(flat), (flat, flat))
    sizes = SetSizes(0, 0, 0)
    kept = select_budget(choose_sets(seen, sizes, TAU), seen, sizes, (budget,) * VIEWS)
    assert kept.tolist() == [view * PATCHES + i for view in range(VIEWS) for i in range(budget)]


# The sets and the two selections


@unhurried
@given(evidence(), set_sizes)
def test_sets_have_the_asked_sizes_and_hold_the_right_patches(seen: Evidence, sizes: SetSizes):
    sets = choose_sets(seen, sizes, TAU)
    for view in range(VIEWS):
        scored = int((seen.history[view] > 0).sum())
        changed = int((seen.similarity[view] < TAU).sum())
        assert int(sets.global_set[view].sum()) == min(sizes.global_tokens, scored)
        assert int(sets.dynamic_set[view].sum()) == min(sizes.dynamic_tokens, changed)
        assert sizes.local_tokens <= int(sets.local_set[view].sum()) <= min(2 * sizes.local_tokens, PATCHES)
        assert_highest(seen.history[view], sets.global_set[view])
        assert_highest(-seen.similarity[view], sets.dynamic_set[view])


def assert_highest(values: torch.Tensor, chosen: torch.Tensor) -> None:
    if chosen.any() and not chosen.all():
        assert values[chosen].min() >= values[~chosen].max()


@unhurried
@given(evidence(), set_sizes, st.integers(1, PATCHES), st.integers(1, PATCHES))
def test_budget_is_exact_and_relates_to_the_union(seen: Evidence, sizes: SetSizes, first: int, second: int):
    sets = choose_sets(seen, sizes, TAU)
    budgets = (first, second)
    kept = select_budget(sets, seen, sizes, budgets)
    assert kept.tolist() == sorted(set(kept.tolist()))
    union, mask = as_mask(select_union(sets)), as_mask(kept)
    torch.testing.assert_close(union, sets.union)
    for view, budget in enumerate(budgets):
        assert int(mask[view].sum()) == budget
        if int(union[view].sum()) <= budget:
            assert bool((mask[view] | ~union[view]).all())  # the whole union, filled up
        else:
            assert bool((union[view] | ~mask[view]).all())  # members of the union only
        assert_highest(sets.votes[view], mask[view])


@unhurried
@given(st.integers(1, PATCHES))
def test_patches_of_equal_votes_are_kept_by_attention(budget: int):
    random = torch.Generator().manual_seed(budget)
    history, local = (torch.rand(VIEWS, PATCHES, generator=random) for _ in range(2))
    nothing = torch.zeros(VIEWS, PATCHES, dtype=torch.bool)
    sets, seen = PatchSets(nothing, nothing, nothing), Evidence(history, torch.ones_like(history), (local,))
    shares = [scores / scores.sum(dim=1, keepdim=True) for scores in (history, local)]
    # A set that is switched off has no say.
    for sizes, attention in (
        (SetSizes(1, 0, 1), sum(shares)),
        (SetSizes(1, 1, 0), history),
        (SetSizes(0, 1, 1), local),
        (SetSizes(0, 1, 0), sum(shares)),
    ):
        mask = as_mask(select_budget(sets, seen, sizes, (budget,) * VIEWS))
        for view in range(VIEWS):
            assert_highest(attention[view], mask[view])


# Frames


def test_unchanged_frames_have_nothing_dynamic_not_even_black_patches():
    random = np.random.default_rng(0)
    frames = torch.from_numpy(random.integers(0, 256, (VIEWS, 56, 56, 3), dtype=np.uint8))
    frames[1, :28] = 0
    assert (patch_similarity(frames, frames, 14) == 1).all()


def test_similarity_is_low_where_the_picture_changed():
    frames = torch.full((1, 56, 56, 3), 100, dtype=torch.uint8)
    changed = frames.clone()
    changed[0, 14:28, 42:56, 0] = 0  # row 1, column 3
    similarity = patch_similarity(changed, frames, 14)
    assert similarity.shape == (1, 16)
    assert (similarity[0] < TAU).nonzero().flatten().tolist() == [7]
    assert similarity[0, 7].item() == pytest.approx((2 / 3) ** 0.5)


@unhurried
@given(st.lists(st.integers(0, 200), min_size=1, max_size=12, unique=True), st.integers(0, 400))
def test_reference_frame_is_the_nearest_and_of_two_the_newer(stamps: list[int], asked: int):
    history = FrameHistory(PruningConfig(control_rate=8.0))
    for stamp in sorted(stamps):
        history.add(torch.tensor(stamp), stamp / 8)
    nearest = history.nearest(asked / 16)
    assert nearest is not None
    assert nearest.frames.item() == min(stamps, key=lambda stamp: (abs(2 * stamp - asked), -stamp))


def test_a_fast_camera_does_not_shorten_the_frame_history():
    config = PruningConfig()
    history = FrameHistory(config)
    for tick in range(600):  # 60 Hz for 10 s, and a frame that comes twice
        history.add(torch.tensor(tick - 1), tick / 60)
        history.add(torch.tensor(tick), tick / 60)
    nearest = history.nearest(599 / 60 - reference_delay(config, 0.0))
    assert nearest is not None
    assert abs(nearest.frames.item() - (599 - 33)) <= 2  # 0.55 s are 33 frames


def test_one_frame_that_comes_late_does_not_empty_the_frame_history():
    history = FrameHistory(PruningConfig())
    for tick in range(11):
        history.add(torch.tensor(tick), 1.0 + tick / 20)
    history.add(torch.tensor(99), 1.49)
    assert history.nearest(1.0).frames.item() == 0 and history.nearest(1.49).frames.item() == 10
    history.add(torch.tensor(100), 0.5)  # the clock was set back
    assert history.nearest(1.5).frames.item() == 100


@unhurried
@given(st.floats(0, 20), st.floats(0, 20))
def test_a_faster_arm_compares_with_a_nearer_frame(slow: float, fast: float):
    config = PruningConfig()
    slow, fast = sorted((slow, fast))
    assert 1 / config.control_rate <= reference_delay(config, fast) <= reference_delay(config, slow)


def test_reference_frame_at_rest_is_eleven_steps_old():
    assert reference_delay(PruningConfig(), 0.0) == pytest.approx(11 / 20)
    assert reference_delay(PruningConfig(), 1.0) == pytest.approx(10 / 20)  # one action unit per step
    assert reference_delay(PruningConfig(), 1.01) == pytest.approx(9 / 20)


# Stability


@pytest.mark.parametrize("selection", ["budget", "union"])
@pytest.mark.parametrize("preset", PRESETS)
def test_kept_set_is_stable_without_motion(selection: str, preset: str):
    geometry = model_config(grid=8)
    config = PruningConfig.from_preset(preset).changed({"selection": selection, "refresh_interval": 0})
    policy = Policy(random_checkpoint(geometry, 3, torch.float32), config, tile=1)
    reports = [policy.act(observation(geometry, stamp=0.4 * i, twist=np.zeros(6))).pruning for i in range(30)]
    assert [report.mode for report in reports] == ["dense"] + ["fine"] * 29
    assert all(report.dynamic_set == (0, 0) for report in reports)
    # What was dropped feeds back into the history, so a few patches at the threshold may swap until it has settled.
    settled = [(members(report.kept_static), members(report.kept_final)) for report in reports[20:]]
    assert all(kept == settled[0] for kept in settled)


# Motion of the scene

SIDE = 4  # patches along a view of PATCHES
shifts = st.integers(-SIDE, SIDE)
NO_CAMERAS = (None,) * VIEWS


def shifted(pictures: NDArray, right: int, down: int, fill: float = 0) -> NDArray:
    """(V, S, S, ...) moved by whole elements; what comes into view is `fill`."""
    result = np.full_like(pictures, fill)
    size = pictures.shape[1]
    to_rows, to_columns = slice(max(0, down), size + min(0, down)), slice(max(0, right), size + min(0, right))
    rows, columns = slice(max(0, -down), size + min(0, -down)), slice(max(0, -right), size + min(0, -right))
    result[:, to_rows, to_columns] = pictures[:, rows, columns]
    return result


@unhurried
@given(arrays(np.float32, (3, VIEWS, PATCHES), elements=st.floats(0, 1, width=32)), shifts, shifts)
def test_a_shift_of_whole_patches_moves_the_scores_by_exactly_that(scores: NDArray, right: int, down: int):
    history = ScoreHistory(VIEWS, PATCHES, 3, 0.5, torch.device("cpu"))
    for row in scores[::-1]:
        history.add(torch.from_numpy(row))
    displacement = torch.tensor([-right, -down], dtype=torch.float32).expand(VIEWS, PATCHES, 2)
    history.move(displacement)
    for row, window in zip(scores, history.window.numpy(), strict=True):
        expected = shifted(row.reshape(VIEWS, SIDE, SIDE), right, down).reshape(VIEWS, PATCHES)
        np.testing.assert_array_equal(window, expected)


@unhurried
@given(
    arrays(np.float32, (1, VIEWS, PATCHES), elements=st.floats(0, 1, width=32)),
    arrays(np.float32, (VIEWS, PATCHES, 2), elements=st.floats(-SIDE, SIDE, width=32)),
)
def test_moved_scores_stay_within_what_they_were(scores: NDArray, displacement: NDArray):
    result = moved(torch.from_numpy(scores), torch.from_numpy(displacement)).numpy()
    assert (result >= 0).all()
    assert (result <= scores.max(axis=-1, keepdims=True) * (1 + 1e-6)).all()


@pytest.mark.parametrize(("right", "down"), [(0, 0), (28, 14), (-14, 28), (0, -14)])
def test_flow_finds_a_shift_of_whole_patches(right: int, down: int):
    size, grid = 224, 16
    random = np.random.default_rng(5)
    layers = [
        random.uniform(0, 900 / side, (VIEWS, side, side, 3)) for side in (5, 9, 17, 33)
    ]  # as scenes: coarse most
    before = sum(
        np.stack([cv2.resize(v, (size, size), interpolation=cv2.INTER_CUBIC) for v in layer]) for layer in layers
    )
    before = np.clip(before, 0, 255).astype(np.uint8)
    now = shifted(before, right, down, fill=128)
    motion = SceneMotion(PruningConfig(history_motion="flow"), grid)
    found = motion.displacement(motion.cue(now, NO_CAMERAS), motion.cue(before, NO_CAMERAS))
    assert found is not None
    assert found.dtype == np.float32
    inside = shifted(np.ones((1, grid, grid)), right // 14, down // 14)[0].astype(bool)  # patches that were in view
    wrong = np.abs(found.reshape(VIEWS, grid, grid, 2) - np.array([-right / 14, -down / 14]))[:, inside]
    if right or down:
        assert (wrong < 0.25).mean() > 0.8  # of a patch; edges of the new content are found worse
    else:
        assert not wrong.any()


def test_a_camera_that_slides_over_the_plane_moves_the_view_by_whole_patches():
    """All but the hand at the view's lower edge, which moves with the camera."""
    grid, height = 8, 0.1
    intrinsics = np.array([[-1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1]])  # of a mirrored view
    pose = np.array([[1.0, 0, 0, 0.4], [0, -1, 0, 0], [0, 0, -1, 0.6], [0, 0, 0, 1]])  # 0.5 m above the plane
    slid = pose.copy()
    slid[:2, 3] += [2 * 0.5 / grid, 1 * 0.5 / grid]  # two patches along x, one along y of the base
    table = np.random.default_rng(3).integers(0, 256, (1, 112, 112, 3), dtype=np.uint8)
    views = np.concatenate([table, shifted(table, 28, 14, fill=77)])
    views[:, -14:] = table[:, :14]  # the hand
    motion = SceneMotion(PruningConfig(history_motion="tf", motion_plane_height=height), grid)
    before, now = (
        motion.cue([view, view], (Camera(intrinsics, p), None)) for view, p in zip(views, (pose, slid), strict=True)
    )
    found = motion.displacement(now, before)
    assert found is not None
    expected = np.tile(np.array([-2.0, -1.0], np.float32), (grid, grid, 1))
    in_view = found[0].reshape(grid, grid, 2)[1:, 2:]
    np.testing.assert_array_equal(in_view[:-1], expected[2:, 2:])
    np.testing.assert_array_equal(in_view[-1], 0.0)
    np.testing.assert_array_equal(found[1], 0.0)  # a view without a camera stands still
    assert not np.any(motion.displacement(now, now))


def test_a_camera_below_the_plane_sees_nothing_of_it():
    intrinsics = np.array([[1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1]])
    above = np.array([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.6], [0, 0, 0, 1]])
    below = above - np.array([[0.0] * 4, [0] * 4, [0, 0, 0, 0.6], [0] * 4])
    for pair in ((below, above), (above, below)):
        now, before = (Camera(intrinsics, pose) for pose in pair)
        assert (np.abs(plane_displacement(now, before, 0.1, 4)) == 8).all()  # out of view


@pytest.mark.parametrize(("right", "down"), [(14, 0), (-28, 14), (0, 0)])
def test_a_panning_camera_makes_nothing_dynamic(right: int, down: int):
    random = np.random.default_rng(1)
    before = random.integers(0, 256, (VIEWS, 56, 56, 3), dtype=np.uint8)
    now = shifted(before, right, down)
    displacement = torch.tensor([-right / 14, -down / 14]).expand(VIEWS, PATCHES, 2)
    assert (patch_similarity(torch.from_numpy(now), torch.from_numpy(before), 14, displacement) == 1).all()
    if right or down:
        assert (patch_similarity(torch.from_numpy(now), torch.from_numpy(before), 14) < TAU).all()


@pytest.mark.parametrize("history_motion", ["flow", "tf"])
def test_a_scene_at_rest_is_pruned_as_without_motion(history_motion: str):
    geometry = model_config(grid=8)
    checkpoint = random_checkpoint(geometry, 3, torch.float32)
    camera = Camera(np.array([[1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1]]), np.eye(4))
    results = []
    for constants in ({}, {"history_motion": history_motion}):
        policy = Policy(checkpoint, PruningConfig().changed(constants | {"history_length": 3}), tile=1)
        seen = [observation(geometry, stamp=0.4 * i, twist=np.zeros(6)) for i in range(5)]
        results.append([policy.act(replace(o, cameras={"view0": camera})) for o in seen])
    for without, with_motion in zip(*results, strict=True):
        np.testing.assert_array_equal(without.actions, with_motion.actions)
        assert members(without.pruning.kept_final) == members(with_motion.pruning.kept_final)


@pytest.mark.parametrize(
    ("intrinsics", "pose"),
    [(np.eye(4), np.eye(4)), (np.eye(3), np.full((4, 4), np.nan)), (np.zeros((3, 3)), np.eye(4))],
)
def test_a_camera_that_cannot_be_is_refused(intrinsics: NDArray, pose: NDArray):
    with pytest.raises(ObservationError):
        Camera(intrinsics, pose)


# Schedule


configs = st.builds(
    PruningConfig,
    selection=st.sampled_from(["budget", "union"]),
    alpha=st.floats(0.05, 4.0),
    budget_tokens=st.integers(1, 256),
    fine_factor=st.floats(1.0, 8.0),
    keep_ratio=st.floats(0.1, 1.0),
    prune_layers=st.sampled_from([(0,), (5, 10, 15, 20), (3, 31), (32,)]),
    update_layers=st.just((3, 5, 10, 15, 20)),
    scene_cut_share=st.just(1.0),
)
shapes = st.builds(ModelShape, st.integers(3, 40), st.integers(1, 3), st.sampled_from([4, 16, 64, 256]))
tiles = st.sampled_from([1, 8, 16, 64, 128])


@unhurried
@given(configs, shapes, st.integers(1, 150), st.sampled_from(["coarse", "fine"]), tiles)
def test_schedule_only_ever_drops_and_fills_tiles(
    config: PruningConfig, shape: ModelShape, fixed: int, mode: str, tile: int
):
    plan = make_schedule(config, shape, fixed, mode, tile)
    lengths = plan.tokens_per_layer()
    assert len(lengths) == shape.num_layers
    assert lengths[: plan.static_layer] == (fixed + shape.num_patches,) * plan.static_layer
    assert list(lengths) == sorted(lengths, reverse=True)
    assert lengths[-1] > fixed

    assert max(plan.budgets) - min(plan.budgets) <= 1
    assert max(plan.budgets) <= shape.patches_per_view
    if config.selection == "budget":
        assert lengths[plan.static_layer] == fixed + sum(plan.budgets)
        for length in lengths[plan.static_layer :]:
            assert length % tile == 0 or not any(n % tile == 0 for n in range(fixed + 1, lengths[0] + 1))
        if plan.target + tile <= shape.num_patches and plan.target > tile:
            assert abs(sum(plan.budgets) - plan.target) <= tile / 2


@unhurried
@given(configs, shapes, st.integers(1, 150))
def test_fine_keeps_at_least_what_coarse_keeps_and_dense_keeps_all(
    config: PruningConfig, shape: ModelShape, fixed: int
):
    coarse, fine, dense = (
        make_schedule(config, shape, fixed, mode).tokens_per_layer() for mode in ("coarse", "fine", "dense")
    )
    assert all(c <= f <= d for c, f, d in zip(coarse, fine, dense, strict=True))
    assert set(dense) == {fixed + shape.num_patches}


# History


def test_history_is_the_last_inference_in_the_paper():
    history = ScoreHistory(1, 3, length=1, decay=1.0, device=torch.device("cpu"))
    history.add(torch.tensor([[0.1, 0.2, 0.3]]))
    history.add(torch.tensor([[0.3, 0.0, 0.1]]))
    torch.testing.assert_close(history.scores(), torch.tensor([[0.3, 0.0, 0.1]]))


@unhurried
@given(st.integers(1, 6), st.floats(0.1, 1.0))
def test_a_dropped_patch_decays_and_is_forgotten_after_the_window(length: int, decay: float):
    history = ScoreHistory(1, 2, length, decay, torch.device("cpu"))
    history.add(torch.tensor([[1.0, 1.0]]))
    first = history.scores()[0, 0].item()
    for age in range(1, length + 1):
        history.add(torch.tensor([[1.0, 0.0]]))  # the second patch was dropped
        expected = first * decay**age if age < length else 0.0
        assert history.scores()[0, 1].item() == pytest.approx(expected, abs=1e-6)
    assert history.scores()[0, 0].item() == pytest.approx(1.0)
    history.reset()
    assert not history.scores().any()


# Controller


def controller_with_history(**constants) -> ActionAwareController:
    controller = ActionAwareController(PruningConfig(**constants))
    controller.decide(AT_REST, 0.0)
    return controller


@unhurried
@given(st.lists(st.tuples(st.floats(0.101, 0.124), st.floats(0.501, 0.62), st.floats(-1, 1)), min_size=1, max_size=8))
def test_between_the_thresholds_the_mode_does_not_change(motions: list[tuple[float, float, float]]):
    for start, mode in ((AT_REST, "fine"), (MOVING, "coarse")):
        controller = controller_with_history()
        assert controller.decide(start, 0.0).mode == mode
        assert {controller.decide(Speed(*motion), 0.0).mode for motion in motions} == {mode}


def test_fine_is_entered_slow_and_not_rising_and_left_by_speed_alone():
    controller = controller_with_history()
    rising, sinking = Speed(0.05, 0.0, 0.1), Speed(0.05, 0.0, -0.1)
    assert controller.decide(MOVING, 0.0).mode == "coarse"
    assert controller.decide(rising, 0.0).mode == "coarse"
    assert controller.decide(sinking, 0.0).mode == "fine"
    assert controller.decide(rising, 0.0).mode == "fine"
    assert controller.decide(Speed(0.125, 0.0, -0.1), 0.0).mode == "coarse"  # at the exit threshold, not below it
    assert controller.decide(Speed(0.1, 0.0, 0.0), 0.0).mode == "coarse"
    assert controller.decide(Speed(0.09, 0.49, 0.0), 0.0).mode == "fine"
    assert controller.decide(Speed(0.0, 0.625, 0.0), 0.0).mode == "coarse"


def test_unknown_velocity_is_fine_and_stays_so_until_fast():
    controller = controller_with_history()
    controller.decide(MOVING, 0.0)
    decision = controller.decide(None, 0.0)
    assert (decision.mode, decision.reason) == ("fine", "velocity_unknown")
    assert controller.decide(Speed(0.11, 0.0, 0.3), 0.0).mode == "fine"
    assert Speed.of([float("nan")] * 6) is None


def test_dense_when_there_is_no_history_the_scene_is_cut_or_a_refresh_is_due():
    controller = ActionAwareController(PruningConfig(refresh_interval=4, scene_cut_share=0.5))
    shares = [1.0, 0.5, 0.51, 0.0, 0.0, 0.0, 0.0, 0.0]
    reasons = [controller.decide(MOVING, share).reason for share in shares]
    assert reasons == ["no_history", "fast", "scene_cut", "fast", "fast", "fast", "refresh", "fast"]
    controller.reset()
    assert controller.decide(MOVING, 0.0).reason == "no_history"


def test_refresh_interval_zero_never_refreshes_and_scene_cut_share_one_never_cuts():
    controller = controller_with_history(refresh_interval=0, scene_cut_share=1.0)
    assert {controller.decide(MOVING, 1.0).mode for _ in range(300)} == {"coarse"}


def test_without_the_controller_always_coarse():
    controller = controller_with_history(controller=False)
    for motion in (AT_REST, MOVING, None):
        assert controller.decide(motion, 0.0).reason == "controller_off"


# Nothing is read back inside a forward pass


@pytest.fixture
def fake_forward(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run every forward pass twice: first on tensors without data, which fail whatever depends on it."""
    real, passed = ForwardPass.__call__, []

    def twice(forward: ForwardPass, inputs):
        state = forward._pruning.state if forward._pruning else None
        before = state.snapshot() if state else None
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = type(inputs)(*(mode.from_tensor(tensor) for tensor in vars(inputs).values()))
            outputs = real(forward, fake)
        passed.append(forward._pruning.schedule.mode if forward._pruning else "off")
        if state and before:
            state.restore(before)
        result = real(forward, inputs)
        for name, tensor in vars(result).items():
            assert getattr(outputs, name).shape == tensor.shape
        return result

    monkeypatch.setattr(ForwardPass, "__call__", twice)
    return passed


@pytest.mark.parametrize(
    ("tile", "history_motion", "confidence"),  # each value once: no code depends on two of them
    [(1, "none", "entropy"), (16, "none", "mean_std"), (1, "flow", "none")],
)
def test_budget_selection_needs_no_data_on_the_host(
    fake_forward: list[str], confidence: str, tile: int, history_motion: str
):
    geometry = model_config()
    config = PruningConfig(confidence=confidence, history_motion=history_motion)
    policy = Policy(random_checkpoint(geometry, 0, torch.float32), config, tile)
    fast = np.array([1.0, 0, 0, 0, 0, 0])
    for stamp, twist in enumerate((None, None, fast)):
        policy.act(observation(geometry, stamp=float(stamp), twist=twist))
    assert fake_forward == ["dense", "fine", "coarse"]


@pytest.mark.parametrize(
    ("variant", "reselect"),
    [
        ({"head": DIFFUSION, "diffusion_steps": 2}, False),
        ({"head": DIFFUSION, "diffusion_steps": 2}, True),
        ({"head": DISCRETE, "film": True, "proprio_dim": 0}, False),
    ],
)
def test_no_head_needs_data_on_the_host(fake_forward: list[str], variant: dict, reselect: bool):
    geometry = model_config(**variant)
    config = PruningConfig(reselect=reselect)
    policy = Policy(random_checkpoint(geometry, 0, torch.float32), config, tile=1)
    for stamp, twist in enumerate((None, None, np.array([1.0, 0, 0, 0, 0, 0]))):
        policy.act(observation(geometry, stamp=float(stamp), twist=twist))
    assert fake_forward == ["dense", "fine", "coarse"]


def test_union_selection_depends_on_the_data(fake_forward: list[str]):
    geometry = model_config()
    policy = Policy(random_checkpoint(geometry, 0, torch.float32), PruningConfig(selection="union"), tile=1)
    policy.act(observation(geometry))
    with pytest.raises((DynamicOutputShapeException, DataDependentOutputException)):
        policy.act(observation(geometry, stamp=1.0))


# Whole inferences

CHECKPOINTS = {
    views: random_checkpoint(model_config(num_layers=7, num_views=views), 9, torch.float32) for views in (1, 2, 3)
}


@settings(max_examples=15, deadline=None)
@given(configs, st.integers(0, 10**6), tiles)
def test_reports_of_any_configuration_are_consistent(config: PruningConfig, seed: int, tile: int):
    geometry = model_config(num_layers=7, num_views=1 + seed % 3)
    policy = Policy(CHECKPOINTS[geometry.num_views], config, tile)
    for inference in range(3):
        report = policy.act(observation(geometry, seed + inference, float(inference))).pruning
        fixed = report.tokens_per_layer[0] - geometry.num_patches
        for kept in (*report.kept_static, *report.kept_final):
            assert kept.tolist() == sorted(set(kept.tolist()))
            assert all(0 <= patch < geometry.patches_per_view for patch in kept)
        for static, final in zip(report.kept_static, report.kept_final, strict=True):
            assert set(final.tolist()) <= set(static.tolist())
        static_length = report.tokens_per_layer[config.static_layer]
        assert static_length == fixed + sum(map(len, report.kept_static))
        assert report.tokens_per_layer[-1] == fixed + sum(map(len, report.kept_final))
        assert 0 < report.flop_share <= 1.05
        assert report.mode == ("fine" if inference else "dense")
