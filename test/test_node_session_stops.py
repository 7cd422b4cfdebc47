# SPDX-License-Identifier: Apache-2.0
"""What reaches the arm at a stop, when motion is switched on twice, after a dry run, and when others come and go."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import Twist
from session_bench import JOINTS as ARM_OF_JOINTS
from session_bench import NO_TF, SECOND, STEP, JointPolicy, start_moving
from std_msgs.msg import String

from specprune_ros.control.arm import Motion
from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.control.run import Run, RunConfig, RunGoal
from specprune_ros.nodes.node_process import spin_some
from specprune_ros.nodes.subscribing import VOLATILE

pytestmark = pytest.mark.ros
POSE = {"controller.output": "pose"}
CHUNKS = {"controller.output": "action_chunk"}
JOINTS = {
    **{**ARM_OF_JOINTS, "controller.trajectory": "chunk"},
    **{"limits.max_joint_speed": [1.5], "limits.max_joint_acceleration": [2.0]},
}


def targets(bench):
    return [message.pose.position.x for message in bench.messages("target_pose")]


def executable(bench):
    return [message.execute for message in bench.messages("action_chunk")]


def test_a_publisher_whose_node_the_graph_does_not_know_yet_is_no_rival(open_bench, monkeypatch):
    bench = open_bench()
    start_moving(bench)
    unknown = SimpleNamespace(node_name="_NODE_NAME_UNKNOWN_", node_namespace="_NODE_NAMESPACE_UNKNOWN_")
    known, topic = bench.node.get_publishers_info_by_topic, bench.session._motion.publisher.topic_name
    monkeypatch.setattr(
        bench.node, "get_publishers_info_by_topic", lambda name: [unknown] if name == topic else known(name)
    )
    assert bench.node._statuses()
    assert bench.session.motion_is_on and bench.session.rivals.names == []


def test_after_a_dry_run_the_arm_stays_where_others_have_moved_it(open_bench):
    bench = open_bench(**POSE)
    start_moving(bench)
    bench.set(dry_run=True)
    before, opened = len(targets(bench)), len(bench.messages("gripper"))
    for step in range(60):
        bench.tick(x=0.005 * (step + 1))
    assert len(targets(bench)) == before
    bench.set(dry_run=False)
    assert isinstance(bench.tick(x=0.3), Hold)
    assert targets(bench)[before:] == [] or targets(bench)[before:] == pytest.approx([0.3])
    bench.infer(x=0.3)
    assert isinstance(bench.tick(x=0.3), Motion)
    assert abs(targets(bench)[-1] - 0.3) < 0.05
    assert len(bench.messages("gripper")) == opened + 1  # others may have moved it


def test_a_pose_that_is_held_follows_an_arm_that_somebody_moves(open_bench):
    bench = open_bench(**POSE, **{"controller.max_lead": 0.05})
    start_moving(bench)
    for _ in range(12):
        held = bench.tick(images=False)
    assert isinstance(held, Hold)
    for step in range(60):
        bench.tick(x=0.005 * (step + 1), images=False)
        assert abs(targets(bench)[-1] - 0.005 * (step + 1)) < 0.05 + 1e-9
    assert len(set(targets(bench)[-60:])) < 10  # and does not creep along with it


def test_a_pose_that_is_held_stays_when_the_arm_is_not_seen_any_more(open_bench):
    bench = open_bench(**POSE)
    start_moving(bench)
    for x in np.linspace(0.0, 0.3, 60):
        bench.tick(x=float(x), images=False)
    held = targets(bench)[-1]
    assert held > 0.2
    bench.session._transforms.clear()
    for _ in range(40):
        bench.advance(STEP)
        bench.session._tick()
    assert bench.session._motion.measured.pose is None and set(targets(bench)[-40:]) == {held}


def test_the_first_chunk_after_an_outage_is_followed_by_another_at_once(open_bench):
    bench = open_bench(**CHUNKS, **{"replan.when": "chunk_end"})
    start_moving(bench)
    for _ in range(30):
        bench.advance(STEP)
        bench.session._tick()
    assert bench.session._motion.forbidden
    bench.advance(STEP)
    bench.infer()
    assert not executable(bench)[-1] and bench.session._due  # the last period knows no better
    assert isinstance(bench.tick(), Motion)
    bench.advance(STEP)
    bench.see()
    bench.session._worker.step()
    assert executable(bench)[-1] and not bench.session._due


def test_no_chunk_may_be_executed_while_an_input_is_missing(open_bench):
    bench = open_bench(JointPolicy(1.0, 1.0), **{**JOINTS, **CHUNKS})

    def step(alive=True):
        bench.advance(STEP)
        bench.see()
        if alive:
            bench.joints(a=0.0, b=0.0)
        bench.session._tick()
        bench.work()
        return bench.session._motion.result

    for _ in range(25):
        step()
    bench.enable()
    step()
    assert isinstance(step(), Motion) and executable(bench)[-1]
    for _ in range(30):
        held = step(alive=False)
    assert held.reason == HoldReason.STALE_INPUT
    stop = [message.steps for message in bench.messages("action_chunk")].index(0)
    assert len(executable(bench)) > stop + 10 and not any(executable(bench)[stop:])
    for _ in range(30):
        step()
    assert executable(bench)[-1]


@pytest.mark.parametrize("forget", ["reset", "instruction"])
def test_whoever_executes_chunks_is_told_that_one_was_forgotten(open_bench, forget):
    bench = open_bench(**CHUNKS)
    bench.tick()
    bench.enable()
    bench.advance(0.01)
    bench.infer()
    assert isinstance(bench.tick(), Motion)
    assert all(message.steps for message in bench.messages("action_chunk"))
    if forget == "reset":
        bench.reset()
    else:
        bench.set(instruction="something else")
    for _ in range(3):
        assert bench.tick().reason == HoldReason.NO_CHUNK
    assert [message.steps for message in bench.messages("action_chunk")].count(0) == 1
    assert bench.messages("action_chunk")[-1].steps == 0


def test_whoever_executes_chunks_needs_no_pose_of_ours(open_bench):
    bench = open_bench(**CHUNKS, **NO_TF)
    bench.enable()
    run = Run(RunGoal(time_limit=30.0), RunConfig(), bench.now)
    bench.advance(0.01)
    for _ in range(300):  # longer than the longest hold
        bench.infer()
        assert isinstance(bench.tick(), Motion)
        assert run.update(bench.session.run_tick(bench.now)) is None
    assert all(executable(bench))


def test_a_pose_that_is_lost_lifts_no_limit(open_bench):
    bench = open_bench(**CHUNKS, **{"limits.on_violation": "hold", "limits.workspace_max": [0.01, 1.0, 1.0]})
    bench.enable()
    bench.advance(0.01)
    bench.infer()
    assert bench.tick(x=0.1).reason == HoldReason.LIMIT
    bench.session._transforms.clear()
    for _ in range(3):
        bench.advance(STEP)
        bench.see()
        bench.session._transforms.clear()
        bench.session._tick()
        bench.work()
        assert bench.session._motion.result.reason == HoldReason.POSE_UNKNOWN and not executable(bench)[-1]


def test_the_first_chunk_after_a_clock_jump_may_be_executed(open_bench):
    """A simulator that waits for it makes no time, and so no control period, before."""
    bench = open_bench(**CHUNKS)
    start_moving(bench)
    bench.set_time(bench.now - 10 * SECOND)
    bench.session.on_clock_jump()
    assert not executable(bench)[-1]
    bench.infer()
    assert executable(bench)[-1]


def test_a_second_enable_in_a_hold_does_not_let_the_arm_creep(open_bench):
    bench = open_bench(**POSE)
    start_moving(bench)
    for _ in range(12):
        held = bench.tick(images=False)
    assert isinstance(held, Hold)
    for x in (0.02, 0.04, 0.06):
        bench.enable()
        bench.tick(x=x, images=False)
        assert targets(bench)[-1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1e9], ids=["too old", "not finite"])
def test_a_chunk_that_is_refused_may_not_be_executed(open_bench, scale):
    bench = open_bench(**CHUNKS, **{"inputs.max_age": 5.0, "execution.max_observation_age": 0.2})
    bench.enable()
    bench.advance(0.01)
    bench.see()
    bench.policy.actions = bench.policy.actions * scale
    bench.advance(0.1 if scale else 0.3)
    bench.pose()
    bench.work()
    assert executable(bench) == [False]


def test_a_tick_that_fails_holds_the_arm(open_bench, monkeypatch):
    bench = open_bench()
    start_moving(bench)
    monkeypatch.setattr(bench.session._arm, "tick", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.enable(False)
    assert bench.speeds()[-1] == 0.0 and not bench.session.motion_is_on

    def fail(timeout_sec):
        bench.session._tick()

    spin_some(SimpleNamespace(spin_once=fail), bench.node)  # and does not end the process


def test_a_tick_that_fails_sends_nothing_to_an_arm_that_a_person_drives(open_bench, monkeypatch):
    bench = open_bench()
    start_moving(bench)
    bench.take_over()
    bench.tick()
    sent = len(bench.speeds())
    monkeypatch.setattr(bench.session._arm, "tick", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.enable(False)
    assert len(bench.speeds()) == sent


@pytest.mark.parametrize("twice", [False, True], ids=["", "enabled twice"])
@pytest.mark.parametrize("stop", ["enable", "takeover"])
def test_a_stop_cuts_off_the_trajectory_that_runs_out(open_bench, stop, twice):
    bench = open_bench(JointPolicy(1.0, 1.0), **JOINTS)
    here = np.zeros(2)

    def step(infer=False):
        nonlocal here
        bench.advance(STEP)
        bench.see()
        bench.joints(a=float(here[0]), b=float(here[1]))
        if infer:
            bench.work()
        bench.session._tick()
        running = bench.session._arm._trajectory
        here = here if running is None else running.at(bench.now / SECOND).positions
        return bench.session._motion.result

    for _ in range(25):
        step()
    bench.enable()
    step(infer=True)
    while not (isinstance(held := step(), Hold) and held.reason == HoldReason.CHUNK_FINISHED):
        pass
    assert bench.session._arm.coasts(bench.now / SECOND)
    if twice:
        bench.enable()
    sent = len(bench.messages("joint_trajectory"))
    bench.enable(False) if stop == "enable" else bench.take_over()
    (message,) = bench.messages("joint_trajectory")[sent:]
    assert len(message.points) == 1
    for _ in range(20):
        step()
    assert len(bench.messages("joint_trajectory")) == sent + 1


@pytest.mark.parametrize("output", ["twist", "pose"])
def test_a_release_of_an_arm_that_nobody_holds_sends_nothing(open_bench, output):
    bench = open_bench(**{"controller.output": output})
    start_moving(bench)
    sent = len(bench.sent)
    for _ in range(20):
        assert bench.take_over(False).success
    assert len(bench.sent) == sent


def test_motion_that_is_switched_on_twice_goes_on_as_it_was(open_bench):
    bench = open_bench(**{"limits.max_acceleration": 1.0})
    start_moving(bench)
    for _ in range(6):
        bench.infer()
        bench.tick()
    before = bench.speeds()[-1]
    bench.advance(0.001)
    bench.see()
    bench.advance(0.001)
    assert before > 0.2 and bench.enable().success
    bench.work()  # on what was seen before
    bench.tick()
    assert abs(bench.speeds()[-1] - before) <= 1.0 * STEP + 1e-9 and executable(bench)[-1]


def test_an_arm_that_is_told_to_move_more_slowly_is_believed_meanwhile(open_bench):
    bench = open_bench(JointPolicy(1.0, 1.0), **JOINTS)
    bench.policy.actions = np.tile([4.5, 4.5, 1.0], (8, 1))
    here, motion = np.zeros(2), bench.session._motion

    def step():
        nonlocal here
        bench.advance(STEP)
        bench.see()
        bench.joints(a=float(here[0]), b=float(here[1]))
        bench.work()
        bench.session._tick()
        running, before = bench.session._arm._trajectory, here
        here = here if running is None else running.at(bench.now / SECOND).positions
        return motion.result, (here - before)[0] / STEP

    def believed_speed():
        return bench.session.sensors._joints._motions["a"].speed

    for _ in range(25):
        step()
    bench.enable()
    for _ in range(30):
        _, speed = step()
    assert speed > 1.2
    bench.set(limits__max_joint_speed=[0.15])
    found = [step() for _ in range(40)]
    assert all(isinstance(result, Motion) for result, _ in found)
    assert found[-1][1] == pytest.approx(0.15, rel=0.01)
    assert believed_speed() == pytest.approx(1.5)
    bench.enable(False)
    assert believed_speed() == pytest.approx(1.5)  # it may still brake
    for _ in range(30):
        step()
    assert believed_speed() == pytest.approx(0.15)  # from now on the new limit is what the arm can do


def test_an_arm_that_brakes_when_its_limit_is_lowered_is_believed(open_bench):
    """New limits and a new task at once: the arm holds in the next period, and takes a while to rest."""
    bench = open_bench(JointPolicy(1.0, 1.0), **JOINTS)
    bench.policy.actions = np.tile([4.5, 4.5, 1.0], (8, 1))
    here, speed = np.zeros(2), 0.0

    def step(work=True):
        nonlocal here, speed
        bench.advance(STEP)
        running = bench.session._arm._trajectory
        before = here
        if running is None:
            speed = max(speed - 2.0 * STEP, 0.0)
            here = here + speed * STEP
        else:
            here = running.at(bench.now / SECOND).positions
            speed = float((here - before)[0]) / STEP
        bench.see()
        bench.joints(a=float(here[0]), b=float(here[1]))
        if work:
            bench.work()
        bench.session._tick()
        return bench.session._motion.result

    for _ in range(25):
        step()
    bench.enable()
    for _ in range(30):
        step()
    assert speed > 1.2
    bench.set(limits__max_joint_speed=[0.15], instruction="something else")
    held = [step(work=False) for _ in range(4)]
    assert all(isinstance(result, Hold) for result in held)
    found = [step() for _ in range(60)]
    assert not [r for r in (*held, *found) if isinstance(r, Hold) and r.reason == HoldReason.JOINTS_UNKNOWN]
    assert isinstance(found[-1], Motion)


def test_an_arm_that_moved_on_while_tf_was_silent_is_believed(open_bench):
    """It may, for inputs.max_age; no jump is that."""
    bench = open_bench()
    start_moving(bench)
    with pytest.MonkeyPatch.context() as silent:
        silent.setattr(bench, "pose", lambda *_: None)
        for _ in range(8):  # 0.4 s
            assert isinstance(bench.tick(), Motion)
            bench.work()
    assert isinstance(bench.tick(x=0.2), Motion)  # at limits.max_speed


@pytest.mark.parametrize("output", ["twist", "pose"])
def test_an_arm_that_rests_is_not_elsewhere_after_a_silence(open_bench, output):
    """A driver that was started again, or a second publisher."""
    bench = open_bench(**{"controller.output": output})
    start_moving(bench)
    for _ in range(40):  # the chunk ends, and the arm is at rest
        held = bench.tick(images=False)
    assert isinstance(held, Hold)
    sent = targets(bench)[-1:]
    bench.advance(1.0)
    for _ in range(20):
        bench.tick(x=0.4, images=False)
    assert "jumps by 0.400 m" in bench.session.measured_problem(bench.now)
    assert targets(bench)[-1:] == sent


def test_limits_of_joints_do_not_matter_to_an_end_effector(open_bench):
    seven = {"limits.joint_min": [-1.0] * 7, "limits.joint_max": [1.0] * 7, "limits.max_joint_speed": [1.0] * 7}
    bench = open_bench(**seven)
    start_moving(bench)
    bench.set(limits__joint_min=[-2.0] * 6, limits__joint_max=[2.0] * 6, limits__max_joint_speed=[1.0] * 6)
    bench.set(dry_run=True)
    assert bench.session._motion.dry_run and bench.speeds()[-1] == 0.0


def test_a_dry_run_stops_the_arm_before_anything_else_is_changed(open_bench, monkeypatch):
    bench = open_bench()
    start_moving(bench)
    monkeypatch.setattr(bench.session._motion, "configure", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.set(dry_run=True, limits__max_speed=0.1)
    assert bench.session._motion.dry_run and bench.speeds()[-1] == 0.0


def test_who_looks_at_another_type_does_not_hide_the_controller(open_bench):
    bench = open_bench()
    start_moving(bench)
    publisher = bench.session._motion.publisher
    context = rclpy.Context()
    rclpy.init(context=context)
    onlooker = rclpy.create_node("_ros2cli_1", context=context)
    onlooker.create_subscription(Twist, publisher.topic_name, lambda message: None, VOLATILE)
    found = bench.node.get_subscriptions_info_by_topic
    bench.until(lambda: "_ros2cli_1" in [info.node_name for info in found(publisher.topic_name)])
    bench.session._listeners._looked_at = -np.inf
    assert bench.session.receivers().count == 1
    onlooker.destroy_node()
    context.shutdown()


def test_a_gripper_that_comes_late_hears_the_opening(open_bench):
    bench = open_bench()
    start_moving(bench)
    sent, publisher = len(bench.messages("gripper")), bench.session._motion._gripper.publisher
    bench.infer()
    bench.tick()
    assert len(bench.messages("gripper")) == sent
    bench.node.create_subscription(publisher.msg_type, publisher.topic_name, lambda message: None, VOLATILE)
    bench.until(lambda: publisher.get_subscription_count() > 0)
    for _ in range(2):
        bench.infer()
        bench.tick()
    assert len(bench.messages("gripper")) == sent + 1


def test_a_gripper_that_restarts_while_the_arm_holds_hears_the_opening(open_bench, monkeypatch):
    bench = open_bench()
    start_moving(bench)
    gripper, counts = bench.session._motion._gripper, [1]
    monkeypatch.setattr(gripper.publisher, "get_subscription_count", lambda: counts[-1])
    bench.infer()
    bench.tick()
    sent = len(bench.messages("gripper"))
    for count in (1, 0, 1):
        counts.append(count)
        for _ in range(10):
            held = bench.tick(images=False)
    assert isinstance(held, Hold)
    bench.infer()
    assert isinstance(bench.tick(), Motion) and len(bench.messages("gripper")) == sent + 1


def test_a_model_is_given_back_without_counting_as_a_hang(open_bench, monkeypatch):
    """Another arm of the process may keep it locked for as long as it loads."""
    bench, loading, gave_back = open_bench(), [], []

    @contextlib.contextmanager
    def while_loading():
        loading.append(1)
        try:
            yield
        finally:
            loading.pop()

    bench.node.trigger_deactivate()
    bench.node.trigger_cleanup()
    monkeypatch.setattr(bench.node, "while_loading", while_loading)
    monkeypatch.setattr(bench.node._model, "give_back", lambda owner: gave_back.append(bool(loading)))
    monkeypatch.setattr("specprune_ros.nodes.policy_node.Session", lambda *_: 1 / 0)
    bench.node.trigger_configure()
    assert gave_back == [True] and "ZeroDivisionError" in bench.node._failure


def test_an_instruction_of_spaces_moves_nothing(open_bench):
    bench = open_bench(instruction="")
    bench.node._on_instruction(String(data="   "))
    assert "instruction is empty" in bench.node.instruction_problem()
    assert not bench.enable().success
