# SPDX-License-Identifier: Apache-2.0
"""What a session says on its topics and in its diagnostics, to the field; what it takes, it gives back."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import TwistStamped
from session_bench import SECOND, STEP, FakePolicy, start_moving
from std_msgs.msg import String

from specprune_ros.control.arm import Motion
from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.control.takeover import InCharge
from specprune_ros.nodes.outputs.overlay import Overlay
from specprune_ros.nodes.reporting.diagnostics import ERROR, OK, WARN, Diagnostics, Status
from specprune_ros.nodes.reporting.latency import Latency
from specprune_ros.nodes.stamps import to_duration, to_stamp
from specprune_ros.policy import ActionChunk
from specprune_ros.pruning.controller import Reason
from specprune_ros.pruning.schedule import Mode
from specprune_ros.sensing.assembler import Sensed
from specprune_ros.viewing.patch_drawing import draw_kept

pytestmark = pytest.mark.ros


@pytest.fixture
def bench(open_bench):
    return open_bench()


def told(bench, monkeypatch):
    """The lines of ~/status from now on."""
    lines = []
    monkeypatch.setattr(bench.session._status_text, "publish", lines.append)
    return lines


# Chunks and statistics


def test_every_field_of_a_chunk(bench):
    bench.policy.actions = np.arange(56).reshape(8, 7) / 100
    bench.infer()
    chunk = bench.messages("action_chunk")[0]
    assert chunk.header.frame_id == "base" and chunk.action_space == "delta_end_effector"
    assert list(chunk.names) == ["x", "y", "z", "roll", "pitch", "yaw", "gripper"] and list(chunk.units) == ["1"] * 7
    assert (chunk.unnorm_key, chunk.instruction, chunk.mode) == ("fake", "go", "coarse")
    assert list(chunk.actions) == pytest.approx(np.arange(56) / 100) and chunk.steps == 8
    assert not chunk.execute  # motion is off
    bench.enable()
    bench.advance(0.01)
    bench.infer()
    assert bench.messages("action_chunk")[1].execute


def test_every_field_of_the_statistics(bench):
    bench.policy.stages = {"towers": 0.01, "decoder": 0.02}
    bench.policy.report = {
        **{"mode": Mode.FINE, "reason": Reason.SLOW, "preset": "fast", "selection": "union", "flop_share": 0.25},
        **{"v_t": 0.1, "v_r": 0.2, "v_z": -0.3, "patches": (4, 5), "tokens_per_layer": (9, 7)},
        **{"global_set": (1, 2), "dynamic_set": (2, 3), "local_set": (3, 1)},
        "kept_static": (np.array([0, 1, 3]), np.array([2])),
        "kept_final": (np.array([1]), np.array([2, 3])),
    }
    bench.infer()
    stats = bench.messages("pruning")[0]
    assert (stats.preset, stats.selection, stats.mode, stats.reason) == ("fast", "union", "fine", "slow")
    assert (stats.v_t, stats.v_r, stats.v_z, stats.flop_share) == (0.1, 0.2, -0.3, 0.25)
    assert list(stats.views) == ["primary", "wrist"] and list(stats.patches) == [4, 5]
    assert [list(found) for found in (stats.global_set, stats.dynamic_set, stats.local_set)] == [[1, 2], [2, 3], [3, 1]]
    assert list(stats.kept_static) == [3, 1] and list(stats.kept_static_patches) == [0, 1, 3, 2]
    assert list(stats.kept_final) == [1, 2] and list(stats.kept_final_patches) == [1, 2, 3]
    assert list(stats.tokens_per_layer) == [9, 7]
    assert list(stats.stages) == ["towers", "decoder"] and list(stats.stage_seconds) == [0.01, 0.02]
    assert stats.header.frame_id == "base"


def test_chunks_are_numbered_stops_too_and_anew_after_a_start(bench):
    start_moving(bench)
    bench.infer()
    bench.enable(False)
    assert [chunk.sequence for chunk in bench.messages("action_chunk")] == [0, 1, 2]
    stop = bench.messages("action_chunk")[-1]
    assert (stop.steps, len(stop.actions), stop.execute) == (0, 0, False)
    assert stop.header.stamp == stop.ready == to_stamp(bench.now) and stop.unnorm_key == "fake"
    assert [stats.sequence for stats in bench.messages("pruning")] == [0, 1]
    bench.node.trigger_deactivate()
    bench.node.trigger_activate()
    bench.infer()
    assert bench.messages("action_chunk")[-1].sequence == 0


def test_a_twist_has_six_numbers_a_stamp_and_a_frame(bench):
    bench.policy.actions = np.tile([0.01, -0.02, 0.03, 0.001, -0.002, 0.003, 1.0], (8, 1))
    start_moving(bench)
    message = bench.messages("twist")[-1]
    linear, angular = message.twist.linear, message.twist.angular
    assert [linear.x, linear.y, linear.z] == pytest.approx([0.01, -0.02, 0.03])
    assert [angular.x, angular.y, angular.z] == pytest.approx([0.01, -0.02, 0.03])
    assert message.header.frame_id == "base" and message.header.stamp == to_stamp(bench.now)


def test_stamps():
    assert (to_stamp(3 * SECOND + 7).sec, to_stamp(3 * SECOND + 7).nanosec) == (3, 7)
    assert (to_duration(2.25).sec, to_duration(2.25).nanosec) == (2, 250_000_000)


class Listener:
    """A publisher that somebody listens to, or not."""

    def __init__(self, count):
        self.count, self.heard = count, []

    def get_subscription_count(self):
        return self.count

    def publish(self, message):
        self.heard.append(message)


def test_an_overlay_is_drawn_for_those_who_look():
    topics, destroyed = {"~/overlay/a": Listener(0), "~/overlay/b": Listener(1)}, []
    node = SimpleNamespace(create_publisher=lambda kind, topic, qos: topics[topic], destroy_publisher=destroyed.append)
    overlay = Overlay(node, ("a", "b"), (2, 3), 1.0)
    frame = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    sensed = Sensed(3 * SECOND + 5, {"a": frame, "b": frame}, np.zeros(0), None, "")
    report = SimpleNamespace(mode="coarse", kept_final=(np.array([0]), np.array([1, 5])), patches=(6, 6))
    overlay.publish(sensed, ActionChunk(np.zeros((1, 7)), 3.0, "", "", report, {}, 0.1), InCharge.POLICY)
    assert not topics["~/overlay/a"].heard
    (message,) = topics["~/overlay/b"].heard
    assert (message.height, message.width, message.step, message.encoding) == (60, 90, 270, "rgb8")
    assert message.header.stamp == to_stamp(3 * SECOND + 5) and message.header.frame_id == "b"
    drawn = np.frombuffer(message.data, np.uint8).reshape(60, 90, 3)
    expected = draw_kept(frame, np.array([1, 5]), (2, 3), 1.0)
    assert np.array_equal(drawn[24:], expected[24:]) and not np.array_equal(drawn[:24], expected[:24])  # a text on top
    overlay.destroy()
    assert destroyed == list(topics.values())


# Diagnostics


def test_diagnostics_come_at_changes_of_level_and_every_second():
    published, statuses = [], [Status("motion", "moving", OK, {"speed": 0.123456, "dry run": False})]
    node = SimpleNamespace(
        create_publisher=lambda *_: SimpleNamespace(publish=published.append),
        create_timer=lambda *_, **__: None,
        get_fully_qualified_name=lambda: "/left/policy",
        get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: to_stamp(SECOND))),
    )
    diagnostics = Diagnostics(node, lambda: statuses)
    counts = []
    for _ in range(21):
        diagnostics.update()
        counts.append(len(published))
    assert counts == [1] * 10 + [2] * 10 + [3]
    (status,) = published[0].status
    assert (status.name, status.hardware_id) == ("left/policy: motion", "left/policy")
    assert (status.message, status.level) == ("moving", OK) and published[0].header.stamp == to_stamp(SECOND)
    assert {pair.key: pair.value for pair in status.values} == {"speed": "0.1235", "dry run": "False"}
    statuses = [Status("motion", "holding", ERROR)]
    diagnostics.update()
    assert len(published) == 4 and published[-1].status[0].level == ERROR


def test_percentiles_of_latencies():
    latency = Latency()
    for value in range(101):
        latency.add(value / 100)
    assert latency.percentiles() == pytest.approx((0.5, 0.99)) and (latency.count, latency.maximum) == (101, 1.0)
    latency.clear()
    assert (latency.count, latency.maximum) == (0, 0.0) and np.isnan(latency.percentiles()).all()


def test_the_inference_status(bench):
    bench.policy.seconds = 0.03
    bench.infer()
    status = bench.status("inference")
    assert (status.message, status.level) == ("running", OK)
    assert (status.values["instruction"], status.values["warm-up coarse ms"]) == ("go", pytest.approx(40.0))
    bench.policy.graph_problem = "graphs are off: slower"
    assert (bench.status("inference").message, bench.status("inference").level) == ("graphs are off: slower", WARN)
    bench.policy.graph_problem, bench.policy.precision_problem = "", "bfloat16 is slow here"
    assert (bench.status("inference").message, bench.status("inference").level) == ("bfloat16 is slow here", WARN)
    bench.policy.precision_problem = ""
    bench.node.trigger_deactivate()
    assert (bench.status("inference").message, bench.status("inference").level) == ("stopped", OK)


def test_the_inputs_status(bench):
    bench.infer()
    status = bench.status("inputs")
    assert (status.message, status.level) == ("complete", OK) and "clock jumps" not in status.values
    assert status.values["TF"] == "known" and status.values["transforms refused"] == 0
    assert status.values["last refused transform"] == ""
    assert status.values["TF Hz (at most controller.rate)"] == pytest.approx(20, rel=0.2)
    assert status.values["images dropped (twice or out of order)"] == 0
    rates = [value for name, value in status.values.items() if name.endswith(" Hz")]
    assert len(rates) == 2  # of the two cameras
    bench.see(primary=bench.now - SECOND // 100)
    bench.see(primary=bench.now - SECOND // 100)
    assert bench.status("inputs").values["images dropped (twice or out of order)"] == 3

    bench.policy.constants = [6]
    bench.infer()
    status = bench.status("inputs")
    assert status.level == WARN and "proprio [6] never changed in the training data" in status.message
    bench.session._report.twist_problem = "no TF"
    assert "end-effector velocity is unknown: no TF" in bench.status("inputs").message
    bench.advance(2.0)
    status = bench.status("inputs")
    assert status.level == ERROR and "image_primary is 2.0" in status.message
    bench.node.trigger_deactivate()
    assert bench.status("inputs").level == OK  # nobody is waiting for them


def test_the_motion_status(bench):
    assert (bench.status("motion").message, bench.status("motion").level) == ("motion is off; call ~/enable", OK)
    bench.enable()
    bench.tick()
    status = bench.status("motion")
    assert (status.message, status.level) == ("holding, no_chunk", WARN) and "deviation m" not in status.values
    assert status.values["enabled"] and not status.values["dry run"]
    receivers = [value for name, value in status.values.items() if name.startswith("receivers of /bench")]
    assert receivers == [1]
    bench.policy.actions[:, 0] = 0.1
    start_moving(bench)
    status = bench.status("motion")
    assert (status.message, status.level) == ("moving", OK)
    assert status.values["deviation m"] == pytest.approx(0, abs=1e-9)
    bench.tick()  # the arm stays where it was: 0.1 m/s for 0.05 s
    assert bench.status("motion").values["deviation m"] == pytest.approx(0.005)
    bench.policy.actions[:, 0] = 1.0
    start_moving(bench)
    assert (bench.status("motion").message, bench.status("motion").level) == ("moving; limited by speed", WARN)
    bench.set(dry_run=True)
    start_moving(bench)
    assert bench.status("motion").message.startswith("moving (dry run)")


def test_what_holds_the_arm_is_counted_and_told_to_the_chunks_receiver(bench):
    start_moving(bench)
    stops = sum(not chunk.steps for chunk in bench.messages("action_chunk"))
    for _ in range(30):  # without images: stale after half a second
        result = bench.tick(images=False)
    assert isinstance(result, Hold) and result.reason == HoldReason.STALE_INPUT
    values = bench.status("motion").values
    assert values["holds stale_input"] == 1 and values["pauses between chunks"] == 1
    assert "holds chunk_finished" not in values
    assert bench.status("motion").level == ERROR
    assert sum(not chunk.steps for chunk in bench.messages("action_chunk")) == stops  # the chunk had ended by itself
    start_moving(bench)
    bench.session._transforms.clear()
    bench.advance(STEP)
    bench.session._tick()  # in the middle of a chunk
    assert bench.status("motion").values["holds stale_input"] == 2
    assert sum(not chunk.steps for chunk in bench.messages("action_chunk")) == stops + 1


def test_without_a_receiver_the_arm_holds(bench):
    start_moving(bench)
    for subscription in list(bench.node.subscriptions):
        if subscription.topic_name.endswith("/twist"):
            bench.node.destroy_subscription(subscription)
    bench.until(lambda: not bench.session.receivers().count)
    held = bench.tick()
    assert isinstance(held, Hold) and held.detail.startswith("receiver of the commands")
    status = bench.status("motion")
    assert status.level == ERROR and "nobody listens to /bench" in status.message
    assert bench.session.run_tick(bench.now).receiver == bench.session.receivers().topic
    bench.set(dry_run=True)  # which needs none
    assert bench.session.run_tick(bench.now).receiver == ""
    start_moving(bench)


@pytest.mark.parametrize("name", ["rosbag2_recorder", "specprune_watch"])
def test_who_records_the_commands_does_not_receive_them(bench, name):
    start_moving(bench)
    recorder = rclpy.create_node(name, context=bench.context)
    topic = bench.session.receivers().topic
    recorder.create_subscription(TwistStamped, topic, lambda message: None, 10)
    bench.until(lambda: bench.session.receivers().onlookers == (f"/{name}",))
    assert bench.session.receivers().count == 1 and isinstance(bench.tick(), Motion)
    for subscription in list(bench.node.subscriptions):
        if subscription.topic_name == topic:
            bench.node.destroy_subscription(subscription)
    bench.until(lambda: not bench.session.receivers().count)
    assert isinstance(bench.tick(), Hold)
    assert f"nobody but /{name} listens to {topic}; start" in bench.status("motion").message
    recorder.destroy_node()


# Answers and ~/status


def test_answers_of_enable(bench, open_bench):
    assert bench.enable().message == "motion is on"
    off = bench.enable(False)
    assert off.success and off.message == "motion is off"
    bench.set(dry_run=True)
    assert bench.enable().message == "motion is on (dry run: nothing moves)"
    bench.session._worker.problem = "no image"
    assert bench.enable().message.endswith("; waiting: no image")
    answer = open_bench(instruction="").enable()
    assert not answer.success and "there is no instruction" in answer.message


def test_status_tells_of_every_inference_and_again_of_a_problem(bench, monkeypatch):
    lines = told(bench, monkeypatch)
    clock = [100.0]
    monkeypatch.setattr("specprune_ros.nodes.session.time", SimpleNamespace(monotonic=lambda: clock[0]))
    bench.infer()
    assert len(lines) == 1 and lines[0].startswith("coarse (fast): 0 of 8 patches kept, inference 40 ms, observation")
    assert lines[0].endswith("; motion is off; call ~/enable")
    bench.session._worker.problem = "no image on /a"
    counts = []
    for _ in range(5):  # every half a second
        bench.session._tell_problem()
        counts.append(len(lines))
        clock[0] += 0.5
    assert counts == [2, 2, 3, 3, 4] and lines[-1] == "no inference: no image on /a; motion is off; call ~/enable"
    bench.session._worker.problem = "no image on /b"
    bench.session._tell_problem()
    assert len(lines) == 5  # another one at once
    bench.session._worker.problem = ""
    bench.session._tell_problem()
    assert len(lines) == 5


def test_what_a_run_sees_of_a_tick(bench):
    ticks = []
    bench.session.after_tick = ticks.append
    start_moving(bench)
    assert ticks == [bench.now]
    tick = bench.session.run_tick(bench.now)
    assert (tick.now, tick.enabled, tick.receiver) == (bench.now, True, "") and isinstance(tick.result, Motion)
    assert tick.pose.position == pytest.approx([0, 0, 0]) and tick.openings == [1.0] and tick.joints is None
    bench.enable(False)
    assert not bench.session.run_tick(bench.now).enabled
    assert bench.session.motion_message() == "motion is off; call ~/enable"


def test_inferences_of_a_run_are_counted_apart(bench):
    bench.infer()
    bench.session.run_record.clear()
    bench.infer()
    assert bench.session.run_record.summary().count == 1 and bench.status("inference").values["chunks"] == 2


# Live parameters and other inputs


def test_pruning_changes_live(bench):
    bench.set(pruning__alpha=0.5)
    bench.infer()
    assert bench.policy.pruning.alpha == 0.5
    bench.set(pruning__enabled=False)
    bench.infer()
    assert bench.policy.pruning == "off" and not bench.session.sensors.locates_cameras
    bench.set(pruning__enabled=True, pruning__history_motion="tf")
    assert bench.session.sensors.locates_cameras
    bench.set(pruning__history_motion="flow")
    assert not bench.session.sensors.locates_cameras
    bench.infer()
    before = bench.policy.calls.count("set_pruning")
    bench.set(limits__max_speed=0.1)
    bench.infer()
    assert bench.policy.calls.count("set_pruning") == before


def test_what_does_not_fit_the_checkpoint_is_refused_live(bench):
    def refuse(config):
        raise ValueError("never called for other groups")

    bench.policy.check_pruning = refuse
    bench.set(limits__max_speed=0.1)
    checked = []
    bench.policy.check_pruning = checked.append
    bench.set(pruning__alpha=0.5)
    assert [config.alpha for config in checked] == [0.5]


def test_the_grippers_and_the_commands_use_changed_parameters(open_bench):
    bench = open_bench(**{"controller.output": "pose"})
    start_moving(bench)
    assert bench.messages("gripper")[-1].position[0] == pytest.approx(0.08)
    bench.policy.actions[:, 0] = 1.0
    bench.set(controller__gripper_open_position=0.05, controller__max_lead=0.002, execution__blend_steps=0)
    bench.enable()
    bench.advance(0.01)
    bench.infer()
    for _ in range(4):  # the arm does not follow
        bench.tick()
    assert bench.messages("gripper")[-1].position[0] == pytest.approx(0.05)
    assert bench.messages("target_pose")[-1].pose.position.x == pytest.approx(0.002)
    assert bench.session._arm.executor.config.blend_steps == 0


def test_a_target_pose_starts_from_the_arm_after_enable(open_bench):
    bench = open_bench(**{"controller.output": "pose"})
    start_moving(bench)
    bench.enable(False)
    for step in range(100):  # moved by hand
        bench.tick(x=0.003 * step)
    bench.enable()
    bench.advance(0.01)
    bench.pose(0.3)
    bench.infer()
    bench.tick(x=0.3)
    assert bench.messages("target_pose")[-1].pose.position.x == pytest.approx(0.3, abs=0.03)


def test_the_urdf_says_which_joints_turn_without_end(bench, monkeypatch):
    seen = []
    monkeypatch.setattr(bench.session._motion, "set_motions", seen.append)
    bench.session._on_description(String(data='<robot><joint name="j" type="continuous"/></robot>'))
    assert seen == [{"j"}]
    bench.session._on_description(String(data="no URDF"))
    assert len(seen) == 1
    bench.set(limits__max_speed=0.1)
    assert seen[-1] == {"j"}  # is not forgotten


def test_the_next_inference_waits_for_its_time(open_bench):
    bench = open_bench(**{"replan.when": "chunk_end", "replan.margin": 0.05, "replan.on_fine": False})
    bench.policy.actions[:, 0] = 0.0  # or the arm leaves the plan by standing still
    woken = []
    bench.session._worker.wake = lambda: woken.append(bench.now)
    bench.enable()
    bench.advance(0.01)
    bench.infer()
    assert not bench.session._due
    woken.clear()
    for _ in range(6):  # until 0.1 s are left
        bench.tick(images=False)
    assert not bench.session._due and not woken
    for _ in range(2):
        bench.tick(images=False)
    assert bench.session._due and len(woken) == 1


def test_the_expected_latency_follows_the_last_ones(bench):
    loop = bench.session._motion
    loop.submit(np.zeros((8, 7)), bench.now, bench.now + SECOND // 5)
    assert loop.latency == pytest.approx(0.2)
    loop.submit(np.zeros((8, 7)), bench.now, bench.now + SECOND // 10)
    assert loop.latency == pytest.approx(0.18)


def test_a_slow_hand_asks_for_fine_pruning_and_an_early_inference(open_bench):
    bench = open_bench(**{"replan.when": "chunk_end", "replan.margin": 0.0})
    x = 0.0
    for _ in range(12):  # 0.3 m/s
        x += 0.3 * STEP
        bench.tick(x=x)
    assert bench.session._wanted_mode() == Mode.COARSE
    bench.enable()
    bench.advance(0.001)
    bench.see(x=x)
    bench.work()
    assert not bench.session._due
    for _ in range(5):  # it stops, in the middle of a chunk
        bench.tick(x=x)
    assert bench.session._wanted_mode() == Mode.FINE and bench.session._due
    bench.set(pruning__enabled=False)
    assert bench.session._wanted_mode() == ""


def test_proprio_takes_the_turn_that_the_checkpoint_saw(open_bench):
    policy = FakePolicy()
    low, high = np.full(6, -1.0), np.full(6, 1.0)
    low[3], high[3] = 3.0, 3.6  # rad about x: the middle is beyond half a turn
    policy.proprio_dim, policy.proprio_range = 6, (low, high)
    bench = open_bench(policy, **{"inputs.proprio": "end_effector"})
    near = bench.session.sensors._near
    assert near == pytest.approx([3.3, 0.0, 0.0])
    assert {"tf", "image_primary", "image_wrist"} < set(bench.session._arm.watchdog.max_ages)
    assert "joint_states" not in bench.session._arm.watchdog.max_ages


def test_joints_of_the_proprio_are_watched(open_bench):
    policy = FakePolicy()
    policy.proprio_dim, policy.proprio_range = 1, (np.zeros(1), np.ones(1))
    fingers = {"inputs.proprio": "joints", "inputs.joint_names": ["finger"], "controller.output": "action_chunk"}
    bench = open_bench(policy, **fingers)
    assert set(bench.session._arm.watchdog.max_ages) >= {"joint_states", "image_primary", "image_wrist"}
    assert "tf" not in bench.session._arm.watchdog.max_ages  # nothing depends on it
    bench.joints(finger=0.5)
    bench.see()
    bench.work()
    assert bench.policy.observations[-1].proprio == [0.5]
    bench.enable()
    held = bench.tick()
    assert held.reason in (HoldReason.NO_CHUNK, HoldReason.STALE_INPUT)
    for _ in range(20):
        held = bench.tick()
    assert held.reason == HoldReason.STALE_INPUT and held.detail.startswith("joint_states")


def test_changed_ages_hold_for_messages_and_for_the_watchdog(bench):
    bench.set(inputs__max_age=0.31)
    assert bench.session.sensors.config.max_age == 0.31
    assert set(bench.session._arm.watchdog.max_ages.values()) == {0.31}


def test_a_clock_that_jumps_back_forgets_the_poses(bench):
    start_moving(bench)
    bench.set_time(bench.now - 20 * SECOND)
    bench.session._tick()
    assert bench.session.end_effector.newest() is None
    bench.tick(images=False)
    assert "listened to for a second" in bench.session.measured_problem(bench.now)
    assert bench.session._clock_jumps == 1


# Beginning and end


def entities(node):
    return [
        len(list(found)) for found in (node.publishers, node.subscriptions, node.timers, node.services, node.clients)
    ]


@pytest.mark.parametrize("gripper", ["command", "action"])
def test_cleanup_gives_back_what_configure_took(open_bench, gripper):
    bench = open_bench(**{"controller.gripper_output": gripper})
    bench.node.trigger_deactivate()
    bench.node.trigger_cleanup()
    idle = entities(bench.node)
    assert bench.session._worker.turns.arms == 0  # nobody left: the inference thread ends
    bench.node.trigger_configure()
    assert entities(bench.node) != idle
    bench.node.trigger_cleanup()
    assert entities(bench.node) == idle


def test_nothing_runs_before_activate_and_after_deactivate(bench):
    assert bench.session.timer.runs and bench.session._worker.active
    bench.node.trigger_deactivate()
    assert not bench.session.timer.runs and not bench.session._worker.active
    assert not bench.session._arm.executor.enabled


# Several arms, oddities, and what is not known


def test_arms_that_share_a_model_tell_how_long_they_wait(bench):
    assert "arms on this model" not in bench.status("inference").values
    waits = bench.session._worker.waits
    for seconds in (0.1, 0.2, 0.3):
        waits.add(seconds)
    bench.session._worker.turns.add(object())
    values = bench.status("inference").values
    assert (values["arms on this model"], values["wait for a turn p50 ms"]) == (2, pytest.approx(200))
    assert values["wait for a turn p99 ms"] == pytest.approx(298)


@pytest.mark.parametrize("found", ["oddity", "slow_joints"])
def test_odd_inputs_are_a_warning(bench, monkeypatch, found):
    bench.infer()
    monkeypatch.setattr(bench.session.sensors, found, lambda: "a picture stands still")
    status = bench.status("inputs")
    assert (status.message, status.level) == ("a picture stands still", WARN)


def test_ages_of_the_inputs(bench):
    bench.infer()
    bench.advance(0.25)
    values = bench.status("inputs").values
    ages = {name.rpartition("/")[2]: value for name, value in values.items() if name.endswith("age ms")}
    assert ages["image_primary age ms"] == pytest.approx(250) and ages["image_primary max age ms"] == 500


def test_a_pose_that_is_not_known(bench):
    bench.session._transforms.clear()
    assert bench.status("inputs").values["TF"] == "unknown"


def test_without_frames_nothing_is_told_of_tf(open_bench):
    bench = open_bench(**{"controller.output": "action_chunk", "inputs.base_frame": "", "inputs.ee_frame": ""})
    bench.infer()
    assert not any("TF" in name for name in bench.status("inputs").values)
    assert bench.messages("action_chunk")[0].header.frame_id == ""


def test_chunks_that_others_execute_are_not_called_limited(open_bench):
    bench = open_bench(**{"controller.output": "action_chunk", "limits.max_speed": 0.1})  # of the 0.5 m/s asked for
    start_moving(bench)
    status = bench.status("motion")
    assert (status.message, status.level) == ("moving", OK)
    assert not any(name.startswith("limit") for name in status.values)
