# SPDX-License-Identifier: Apache-2.0
import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specprune_ros.control.command import Command, Hold, HoldReason, Refusal
from specprune_ros.control.executor import ChunkExecutor, ExecutorConfig
from specprune_ros.control.watchdog import Watchdog
from specprune_ros.errors import ConfigError

DT = 0.05


def executor(config=None, **kwargs):
    made = ChunkExecutor(7, kwargs.pop("period", DT), config=config or ExecutorConfig(blend_steps=0), **kwargs)
    made.enable()
    return made


def chunk(value, gripper=0.0, steps=8):
    """Steps value, value + 1, ... in all arm dimensions."""
    actions = np.repeat(value + np.arange(steps, dtype=float)[:, None], 7, axis=1)
    actions[:, 6] = gripper
    return actions


def hold_reason(result):
    assert isinstance(result, Hold), result
    return result.reason


def first(result):
    assert isinstance(result, Command), result
    return result.action[0]


def test_disabled_until_enabled_and_nothing_is_kept_from_before():
    made = ChunkExecutor(7, DT)
    assert made.submit(chunk(0), 0.0, DT, 0.0).refusal == Refusal.DISABLED
    assert hold_reason(made.step(0.0)) == HoldReason.DISABLED
    made.enable(since=1.0)
    assert hold_reason(made.step(1.0)) == HoldReason.NO_CHUNK
    assert made.submit(chunk(0), 0.9, DT, 1.0).refusal == Refusal.BEFORE_ENABLE
    assert made.submit(chunk(0), 1.0, DT, 1.0).accepted


def test_skips_the_steps_that_are_past_and_then_runs_every_step():
    made = executor()
    receipt = made.submit(chunk(0), 10.0, DT, 10.12)
    assert receipt.accepted and receipt.first_step == 2 and receipt.jump is None
    commands = [made.step(10.10 + k * DT) for k in range(7)]
    assert [command.index for command in commands[:6]] == [2, 3, 4, 5, 6, 7]
    assert [first(command) for command in commands[:6]] == [2, 3, 4, 5, 6, 7]
    assert commands[0].stamp == 10.0 and commands[0].remaining == pytest.approx(0.3)
    assert hold_reason(commands[6]) == HoldReason.CHUNK_FINISHED


def test_a_newer_chunk_takes_over_where_its_stamp_says():
    made = executor()
    made.submit(chunk(0), 0.0, DT, 0.0)
    assert first(made.step(0.2)) == 4
    receipt = made.submit(chunk(100), 0.1, DT, 0.22)
    assert receipt.first_step == 2
    np.testing.assert_allclose(receipt.jump[:6], made.step(0.22).action[:6] - (0.6 * 4 + 0.4 * 5))
    assert first(made.step(0.25)) == 103


def test_stop_holds_at_once_and_forgets():
    made = executor()
    made.submit(chunk(0), 0.0, DT, 0.0)
    made.stop()
    assert hold_reason(made.step(0.01)) == HoldReason.DISABLED
    made.enable()
    assert hold_reason(made.step(0.02)) == HoldReason.NO_CHUNK


def test_clear_keeps_motion_enabled():
    made = executor()
    made.submit(chunk(0), 0.0, DT, 0.0)
    made.clear()
    assert hold_reason(made.step(0.01)) == HoldReason.NO_CHUNK
    assert made.submit(chunk(0), 0.0, DT, 0.02).accepted


@pytest.mark.parametrize(
    ("actions", "stamp", "dt", "refusal"),
    [
        (np.zeros((8, 6)), 1.0, DT, Refusal.WRONG_SHAPE),
        (np.zeros(56), 1.0, DT, Refusal.WRONG_SHAPE),
        (np.zeros((0, 7)), 1.0, DT, Refusal.WRONG_SHAPE),
        ([["a"]], 1.0, DT, Refusal.WRONG_SHAPE),
        ([[1.0], [1.0, 2.0]], 1.0, DT, Refusal.WRONG_SHAPE),
        (np.full((8, 7), np.nan), 1.0, DT, Refusal.NOT_FINITE),
        (np.full((8, 7), -np.inf), 1.0, DT, Refusal.NOT_FINITE),
        (np.full((8, 7), 1e308), 1.0, DT, Refusal.NOT_FINITE),
        (np.zeros((8, 7)), math.nan, DT, Refusal.BAD_TIME),
        (np.zeros((8, 7)), 1.0, 0.0, Refusal.BAD_TIME),
        (np.zeros((8, 7)), 1.0, -DT, Refusal.BAD_TIME),
        (np.zeros((8, 7)), 1.0, math.inf, Refusal.BAD_TIME),
        (np.zeros((8, 7)), 0.95, 1e-310, Refusal.BAD_TIME),
        (np.zeros((8, 7)), 1.0, 1e6, Refusal.BAD_TIME),
        (np.zeros((8, 7)), 2.0, DT, Refusal.FUTURE),
        (np.zeros((8, 7)), 0.9, DT, Refusal.DUPLICATE),
        (np.zeros((8, 7)), 0.8, DT, Refusal.OUT_OF_ORDER),
    ],
)
def test_refuses_bad_chunks_and_keeps_running_the_good_one(actions, stamp, dt, refusal):
    made = executor()
    assert made.submit(chunk(0), 0.9, DT, 1.0).accepted
    receipt = made.submit(actions, stamp, dt, 1.0)
    assert receipt.refusal == refusal and not receipt.accepted
    assert first(made.step(1.0)) == 2


def test_refuses_late_chunks():
    made = executor(ExecutorConfig(max_observation_age=0.3))
    assert made.submit(chunk(0), 0.0, DT, 0.4).refusal == Refusal.TOO_OLD
    assert made.submit(chunk(0, steps=4), 0.0, DT, 0.2).refusal == Refusal.EXPIRED


def test_a_chunk_slightly_ahead_waits():
    made = executor()
    assert made.submit(chunk(0), 1.04, DT, 1.0).accepted
    assert hold_reason(made.step(1.0)) == HoldReason.CHUNK_NOT_STARTED
    assert first(made.step(1.04)) == 0


def test_clock_jump_backwards_forgets_everything_and_recovers():
    watchdog = Watchdog({"observation": 0.5})
    made = executor(watchdog=watchdog)
    watchdog.feed("observation", 100.0)
    made.submit(chunk(0), 100.0, DT, 100.0)
    assert first(made.step(100.0)) == 0
    assert hold_reason(made.step(3.0)) == HoldReason.CLOCK_JUMPED
    assert hold_reason(made.step(3.05)) == HoldReason.STALE_INPUT
    watchdog.feed("observation", 3.1)
    assert made.submit(chunk(50), 3.1, DT, 3.1).accepted
    assert first(made.step(3.1)) == 50


def test_clock_jump_forwards_holds():
    made = executor()
    made.submit(chunk(0), 0.0, DT, 0.0)
    assert hold_reason(made.step(1e6)) == HoldReason.CHUNK_FINISHED


def test_stale_input_holds_and_recovers():
    watchdog = Watchdog({"tf": 0.1})
    made = executor(watchdog=watchdog)
    made.submit(chunk(0), 0.0, DT, 0.0)
    watchdog.feed("tf", 0.0)
    assert first(made.step(0.1)) == 2
    held = made.step(0.15)
    assert hold_reason(held) == HoldReason.STALE_INPUT and held.detail.startswith("tf")
    watchdog.feed("tf", 0.2)
    assert first(made.step(0.2)) == 4


def test_blend_moves_from_the_old_chunk_to_the_new_by_hand_computed_weights():
    made = executor(ExecutorConfig(blend_steps=3))
    made.submit(np.zeros((8, 7)), 0.0, DT, 0.0)
    made.submit(np.full((8, 7), 4.0), 0.1, DT, 0.15)
    assert [first(made.step(0.15 + k * DT)) for k in range(4)] == pytest.approx([1.0, 2.0, 3.0, 4.0])


def test_blend_takes_place_only_while_the_old_chunk_lasts():
    made = executor(ExecutorConfig(blend_steps=3))
    made.submit(np.zeros((4, 7)), 0.0, DT, 0.0)
    made.submit(np.full((8, 7), 4.0), 0.1, DT, 0.15)  # the old chunk has one step left
    assert [first(made.step(0.15 + k * DT)) for k in range(3)] == pytest.approx([1.0, 4.0, 4.0])
    made.clear()
    made.submit(np.zeros((2, 7)), 1.0, DT, 1.0)
    made.submit(np.full((8, 7), 4.0), 1.1, DT, 1.2)  # nothing is left to blend with
    assert first(made.step(1.2)) == 4.0


def test_increments_of_another_step_length_are_blended_as_rates():
    made = executor(ExecutorConfig(blend_steps=1))
    made.submit(np.full((8, 7), 2.0), 0.0, 0.1, 0.0)  # 20 units a second
    receipt = made.submit(np.full((8, 7), 3.0), 0.1, 0.05, 0.1)  # 60 units a second
    command = made.step(0.1)
    assert command.action[0] / command.dt == pytest.approx((20 + 60) / 2)
    assert receipt.jump[0] == pytest.approx(2.0 - 1.0)


def test_absolute_targets_are_interpolated_and_blended_without_a_jump():
    made = executor(ExecutorConfig(blend_steps=4), delta=False, discrete=(6,), period=0.01)
    made.submit(chunk(0.0), 0.0, DT, 0.0)
    assert first(made.step(0.075)) == pytest.approx(1.5)
    receipt = made.submit(chunk(5.0), 0.1, DT, 0.1)  # 3 above the old chunk
    assert receipt.jump[0] == pytest.approx(3 / 5)
    assert first(made.step(0.1)) == pytest.approx(2 + 3 / 5)
    assert first(made.step(0.3)) == pytest.approx(9.0)


def test_ensemble_is_the_weighted_mean_of_all_chunks_for_the_same_time():
    made = executor(ExecutorConfig(splice="ensemble", ensemble_decay=math.log(2)))
    made.submit(np.full((8, 7), 0.0), 0.0, DT, 0.0)
    made.submit(np.full((8, 7), 6.0), 0.1, DT, 0.1)
    assert first(made.step(0.1)) == pytest.approx(6 * 1 / 1.5)
    made.submit(np.full((8, 7), 14.0), 0.2, DT, 0.2)
    assert first(made.step(0.2)) == pytest.approx((14 + 6 / 2 + 0 / 4) / 1.75)
    assert first(made.step(0.4)) == pytest.approx((14 + 6 / 2) / 1.5)  # the first chunk is over
    assert first(made.step(0.5)) == pytest.approx(14)


@pytest.mark.parametrize("splice", ["blend", "ensemble"])
@pytest.mark.parametrize("delta", [True, False])
def test_the_gripper_is_never_half_open(splice, delta):
    made = executor(ExecutorConfig(splice=splice, blend_steps=5), delta=delta, period=0.013)
    opened, closing = chunk(0, gripper=1.0), chunk(0, gripper=1.0)
    closing[3:, 6] = 0.0
    values = []
    for i in range(60):
        now = i * 0.013
        if i % 11 == 0:
            made.submit(opened if i % 22 else closing, now - 0.04, DT, now)
        result = made.step(now)
        values.append(result.action[6] if isinstance(result, Command) else 1.0)
    assert set(values) == {0.0, 1.0}


def test_a_caller_that_reuses_its_array_does_no_harm():
    made, actions = executor(), chunk(0)
    made.submit(actions, 0.0, DT, 0.0)
    actions[:] = 99
    made.step(0.0).action[:] = 77
    assert first(made.step(0.0)) == 0


def test_configuration_is_checked():
    with pytest.raises(ConfigError, match=r"execution\.blend_steps"):
        ExecutorConfig(blend_steps=-1)
    with pytest.raises(ConfigError, match=r"execution\.splice"):
        ExecutorConfig(splice="jump")


def test_two_threads():
    """Chunks from one thread, steps from another: whole chunks only, and no error."""
    made = executor(period=0.001)
    errors = []

    def submit():
        try:
            for i in range(300):
                made.submit(np.full((8, 7), float(i)), i * 0.001, DT, i * 0.001)
        except Exception as error:
            errors.append(error)

    worker = threading.Thread(target=submit)
    worker.start()
    for i in range(300):
        result = made.step(i * 0.001)
        if isinstance(result, Command):
            assert len(set(result.action[:6])) == 1
    worker.join()
    assert not errors


events = st.lists(
    st.tuples(
        st.sampled_from(["step", "submit", "stop", "enable", "clear"]),
        st.floats(-0.3, 0.3, allow_nan=False),
        st.floats(allow_nan=True, allow_infinity=True, width=16),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(events, st.sampled_from(["blend", "ensemble"]), st.booleans())
def test_commands_are_finite_and_inside_what_was_predicted(events, splice, delta):
    """Whatever happens in whatever order: finite commands, within the hull of the accepted chunks (and rest)."""
    made = ChunkExecutor(7, 0.03, delta=delta, config=ExecutorConfig(splice=splice))
    now, low, high = 10.0, 0.0, 0.0
    for kind, shift, value in events:
        now += shift if kind == "step" else 0.0
        if kind == "submit" and made.submit(np.full((6, 7), value), now + shift, DT, now).accepted:
            low, high = min(low, value), max(high, value)
        elif kind == "step":
            result = made.step(now)
            if isinstance(result, Command):
                assert made.enabled
                assert np.isfinite(result.action).all()
                assert (result.action >= low - 1e-6 * abs(low)).all() and (result.action <= high + 1e-6 * high).all()
        elif kind in ("stop", "enable", "clear"):
            getattr(made, kind)()


def test_a_chunk_slightly_ahead_is_blended_from_its_first_step_on():
    made = executor(ExecutorConfig(blend_steps=2))
    assert made.submit(chunk(0), 0.0, DT, 0.0).accepted
    assert made.submit(chunk(100), 0.12, DT, 0.1).first_step == 0
    assert first(made.step(0.12)) == pytest.approx((2 * 2.4 + 100) / 3, abs=0.5)
    assert first(made.step(0.12 + 7 * DT)) == pytest.approx(107.0)  # the last step is what was predicted


def test_a_chunk_ahead_by_more_than_the_running_one_is_long_is_no_error():
    made = executor()
    assert made.submit(chunk(0), 0.0, 0.01, 0.0).accepted
    assert made.submit(chunk(100, gripper=1.0), 0.095, 0.01, 0.0).accepted


@pytest.mark.parametrize("splice", ["blend", "ensemble"])
@pytest.mark.parametrize("speed", [2.0, 4.0, 5.0])
def test_a_joint_that_turns_half_round_during_an_inference_goes_on_the_same_way(splice, speed):
    config = ExecutorConfig(splice=splice, max_observation_age=1.0)
    executor = ChunkExecutor(1, 0.02, delta=False, discrete=(), config=config)
    executor.circular = [0]
    executor.enable()

    def angle(time):
        return (speed * time + np.pi) % (2 * np.pi) - np.pi

    for stamp in (100.0, 101.0, 102.0):
        ready = stamp + 0.9
        actions = np.array([[angle(stamp + 0.05 * k)] for k in range(40)])
        assert executor.submit(actions, stamp, 0.05, ready).accepted
        for tick in range(45):
            now = ready + 0.02 * tick
            off = executor.step(now).action[0] - angle(now)
            assert abs((off + np.pi) % (2 * np.pi) - np.pi) < 0.02
