# SPDX-License-Identifier: Apache-2.0
"""A session in this process: what it does with chunks, time, holds and parameters, to the message."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from session_bench import SECOND, START, STEP, SessionBench, start_moving
from std_msgs.msg import String

from specprune_ros.control.arm import Motion
from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.nodes.reporting.diagnostics import ERROR, OK
from specprune_ros.nodes.reporting.status_text import StatusText
from specprune_ros.nodes.subscribing import LATCHED

pytestmark = pytest.mark.ros


@pytest.fixture
def bench(monkeypatch):
    bench = SessionBench(monkeypatch)
    yield bench
    bench.close()


@pytest.fixture
def impatient(monkeypatch):
    """From the start, and not by a change while it runs."""
    bench = SessionBench(monkeypatch, **{"inputs.max_age": 0.2, "replan.when": "continuous"})
    yield bench
    bench.close()


def stamp_of(header):
    return header.stamp.sec * SECOND + header.stamp.nanosec


def test_a_chunk_has_the_stamp_of_its_observation(bench):
    seen = bench.now
    bench.policy.seconds = 0.3
    bench.see()
    bench.advance(0.3)  # the inference took that long
    bench.work()
    chunk, stats = bench.messages("action_chunk")[0], bench.messages("pruning")[0]
    assert stamp_of(chunk.header) == seen == stamp_of(stats.header)
    assert chunk.ready.sec * SECOND + chunk.ready.nanosec == seen + 3 * SECOND // 10
    assert stats.observation_age == pytest.approx(0.3) and stats.inference_seconds == pytest.approx(0.3)
    assert chunk.dt.nanosec == round(STEP * SECOND) and (chunk.steps, len(chunk.actions)) == (8, 56)
    assert stats.sequence == chunk.sequence == 0


def test_cameras_of_unequal_stamps_meet_at_the_older(bench):
    bench.set_time(START + SECOND)
    for late in (60, 30, 0):  # the primary camera is faster: its image at the wrist's time is the one to take
        bench.pose(stamp=bench.now - late * 1_000_000)
    newest = bench.now
    bench.see(primary=newest - 40_000_000, wrist=newest - 50_000_000)
    bench.work()
    assert bench.policy.observations[0].stamp == pytest.approx((newest - 50_000_000) / SECOND, abs=1e-9)


def test_motion_starts_with_an_observation_newer_than_enable(bench):
    bench.see()
    bench.advance(0.01)
    assert bench.enable().success
    bench.work()  # on what was seen before; whoever enabled motion may have moved something since
    bench.pose()
    bench.session._tick()
    assert isinstance(bench.session._motion.result, Hold) and not any(bench.speeds())
    bench.infer()
    assert isinstance(bench.tick(), Motion) and bench.speeds()[-1] > 0
    bench.enable(False)
    assert bench.speeds()[-1] == 0.0  # at once, not at the next tick
    assert bench.messages("action_chunk")[-1].steps == 0  # and whoever executes the chunks is told


def test_a_dry_run_stops_the_arm_and_computes_on(bench):
    start_moving(bench)
    bench.set(dry_run=True)
    assert bench.speeds()[-1] == 0.0
    assert bench.messages("action_chunk")[-1].steps == 0
    count = len(bench.messages("twist")), len(bench.messages("gripper"))
    assert isinstance(bench.tick(), Motion)
    assert (len(bench.messages("twist")), len(bench.messages("gripper"))) == count
    bench.infer()
    computed = bench.messages("action_chunk")[-1]
    assert computed.steps and not computed.execute
    bench.set(dry_run=False)
    bench.infer()
    assert bench.messages("action_chunk")[-1].execute
    assert isinstance(bench.tick(), Motion) and bench.speeds()[-1] > 0


def test_the_gripper_is_commanded_again_after_enable(bench):
    start_moving(bench)
    bench.tick()
    assert len(bench.messages("gripper")) == 1  # only changes are sent
    bench.enable(False)
    start_moving(bench)
    assert len(bench.messages("gripper")) == 2  # somebody may have moved it meanwhile


def test_reset_forgets_the_running_chunk_and_the_history(bench):
    start_moving(bench)
    before = bench.policy.calls.count("reset")
    assert bench.reset().success
    held = bench.tick(images=False)
    assert isinstance(held, Hold) and held.reason == HoldReason.NO_CHUNK
    assert bench.speeds()[-1] == 0.0
    bench.infer()
    assert bench.policy.calls.count("reset") == before + 1


def test_a_new_instruction_resets(bench):
    start_moving(bench)
    bench.set(instruction="another")
    held = bench.tick(images=False)
    assert isinstance(held, Hold) and held.reason == HoldReason.NO_CHUNK
    bench.infer()
    assert bench.policy.observations[-1].instruction == "another"


def test_a_failed_inference_is_told_and_ends(bench):
    start_moving(bench)
    before = bench.policy.calls.count("reset")
    bench.policy.error = RuntimeError("kernel image is broken")
    bench.infer()
    status = bench.status("inference")
    assert status.level == ERROR and "kernel image is broken" in status.message and status.values["errors"] == 1
    held = []
    for _ in range(12):  # 0.6 s: longer than an input may be missing
        held.append(bench.tick())
        bench.work()
    assert isinstance(held[-1], Hold) and bench.speeds()[-1] == 0.0
    bench.policy.error = None
    bench.advance(0.01)
    bench.infer()
    assert (
        not bench.session._worker.problem and bench.policy.calls.count("reset") > before
    )  # what it had half done must not stay
    assert bench.status("inference").level == OK
    assert isinstance(bench.tick(), Motion)


def test_not_a_number_never_becomes_a_command(bench):
    start_moving(bench)
    bench.policy.actions = np.full((8, 7), np.nan)
    chunks = len(bench.messages("action_chunk"))
    bench.infer()
    assert "NaN" in bench.session._worker.problem
    assert len(bench.messages("action_chunk")) == chunks
    for _ in range(12):
        bench.tick()
        bench.work()
    assert np.isfinite(bench.speeds()).all() and bench.speeds()[-1] == 0.0


def test_a_problem_is_told_at_once_every_second_and_to_late_listeners(bench, monkeypatch):
    clock, told = 100.0, []
    publish = StatusText.publish

    def record(text, line):
        told.append((clock, line))
        publish(text, line)

    monkeypatch.setattr(StatusText, "publish", record)
    monkeypatch.setattr("specprune_ros.nodes.session.time", SimpleNamespace(monotonic=lambda: clock))
    bench.tick()
    assert not told  # there is no problem, and no inference
    bench.session._worker.problem = "the camera is on fire"
    for _ in range(50):  # 2.5 s
        bench.tick()
        clock += STEP
    bench.session._worker.problem = "so is the other one"
    bench.tick()
    times, lines = zip(*told, strict=True)
    assert times[0] == 100.0 and times[3] == clock
    assert all(1.0 <= again - before <= 1.0 + STEP + 1e-6 for before, again in itertools.pairwise(times[:3]))
    assert lines[0].startswith("no inference: the camera is on fire; ") and "so is the other one" in lines[-1]

    heard, late = [], rclpy.create_node("late", context=bench.context)
    late.create_subscription(String, f"{bench.node.get_fully_qualified_name()}/status", heard.append, LATCHED)
    executor = SingleThreadedExecutor(context=bench.context)
    executor.add_node(late)
    deadline = time.monotonic() + 30
    while not heard and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.1)
    late.destroy_node()
    assert [message.data for message in heard] == [lines[-1]]


def test_latency_figures(bench):
    for milliseconds in (10, 20, 90):
        bench.policy.seconds = milliseconds / 1000
        bench.infer()
        bench.advance(0.1)
    values = bench.status("inference").values
    assert values["chunks"] == 3 and values["latency p50 ms"] == pytest.approx(20)
    assert values["latency max ms"] == pytest.approx(90)
    assert values["mode coarse (fast)"] == 3 and values["observation age p50 ms"] == pytest.approx(0, abs=1e-6)


def test_a_clock_that_jumps_back_stops_and_recovers(bench):
    start_moving(bench)
    bench.set_time(START - 50 * SECOND)
    bench.session._tick()
    assert isinstance(bench.session._motion.result, Hold) and bench.speeds()[-1] == 0.0
    assert bench.status("inputs").values["clock jumps"] >= 1
    for _ in range(25):  # and the pose is listened to anew
        bench.tick(images=False)
    start_moving(bench)


def test_limits_change_live(bench):
    start_moving(bench)
    fast = bench.speeds()[-1]
    bench.set(limits__max_speed=fast / 4)
    bench.tick()
    bench.tick()
    assert bench.speeds()[-1] == pytest.approx(fast / 4)
    assert bench.status("motion").values["limit speed"] == 2


def test_an_invalid_proposal_changes_nothing(bench):
    start_moving(bench)
    before = bench.session._arm.limits
    with pytest.raises(AssertionError, match=r"limits\.max_speed"):
        bench.set(limits__max_speed=-1.0, limits__max_angular_speed=0.1)
    assert bench.session._arm.limits == before


def test_a_silent_camera_stops_the_arm_within_its_age(bench):
    bench.set(inputs__max_age=0.2, replan__when="continuous")
    start_moving(bench)
    results = []
    for _ in range(6):
        results.append(bench.tick(images=False))
    moved = [isinstance(result, Motion) for result in results]
    assert moved[:3] == [True, True, True] and not any(moved[4:])
    assert results[-1].reason == HoldReason.STALE_INPUT and "image" in results[-1].detail
    assert bench.status("motion").level == ERROR


def test_an_inference_that_fails_stops_the_arm_within_the_same_time(impatient):
    start_moving(impatient)
    impatient.policy.error = RuntimeError("broken")
    impatient.infer()
    results = [impatient.tick() for _ in range(6)]  # the images go on
    moved = [isinstance(result, Motion) for result in results]
    assert moved[:3] == [True, True, True] and not any(moved[4:])
    assert results[-1].reason == HoldReason.STALE_INPUT and "working inference" in results[-1].detail


def test_a_finished_chunk_is_a_pause(bench):
    start_moving(bench)
    results = [bench.tick() for _ in range(9)]
    assert results[-1].reason == HoldReason.CHUNK_FINISHED
    assert bench.status("motion").values["pauses between chunks"] == 1


def test_a_chunk_that_comes_after_its_end_is_counted(bench):
    bench.enable()
    bench.advance(0.01)
    bench.see()
    bench.advance(0.45)  # the chunk lasts 0.4 s
    bench.pose()
    bench.work()
    values = bench.status("inference").values
    assert values["late chunks"] == 1 and values["deadline misses"] == 1
    assert isinstance(bench.tick(images=False), Hold)


def test_a_new_start_counts_from_zero(bench):
    start_moving(bench)
    bench.set(limits__max_speed=0.05)
    bench.tick()
    assert bench.status("motion").values["limit speed"]
    bench.node.trigger_deactivate()
    bench.node.trigger_activate()
    assert "limit speed" not in bench.status("motion").values and bench.status("inference").values["chunks"] == 0


def test_what_came_before_a_small_jump_back_is_forgotten(bench):
    start_moving(bench)
    bench.set_time(bench.now - SECOND // 2)
    bench.session._tick()
    seen = len(bench.policy.observations)
    bench.infer()  # its stamps are older than those that were kept
    assert len(bench.policy.observations) == seen + 1
    assert bench.policy.observations[-1].stamp == pytest.approx(bench.now / SECOND)
