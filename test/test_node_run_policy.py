# SPDX-License-Identifier: Apache-2.0
"""~/run_policy with a real action client, a fake policy and a clock that the test sets; one test over DDS."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from action_msgs.msg import GoalStatus
from client_bench import ClientBench
from geometry_msgs.msg import Twist
from policy_client import INSTRUCTION, ROOT, START_PATIENCE, PolicyClient, start_policy, stop
from rclpy.action import ActionClient
from release_checkpoint import light_checkpoint
from session_bench import SECOND
from specprune_ros.action import RunPolicy
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.control.run import Outcome
from specprune_ros.nodes.node_process import spin_some

pytestmark = pytest.mark.ros
Result = RunPolicy.Result


class ActionBench(ClientBench):
    """With an action client."""

    def __init__(self, monkeypatch, **parameters):
        super().__init__(monkeypatch, "behaviour_tree", **parameters)
        self.client = ActionClient(self.other, RunPolicy, "specprune_policy/run_policy")
        self.feedback = []
        self.spin_until(self.client.server_is_ready)

    def close(self):
        self.node.runs.end(Outcome.DEACTIVATED, "the test is over")
        for _ in range(10):
            self.executor.spin_once(timeout_sec=0.0)
        super().close()

    def send(self, **goal):
        future = self.client.send_goal_async(
            RunPolicy.Goal(**goal), feedback_callback=lambda message: self.feedback.append(message.feedback)
        )
        self.spin_until(future.done)
        return future.result()

    def start(self, **goal):
        """(goal handle, future of its result)"""
        handle = self.send(**goal)
        assert handle.accepted
        return handle, handle.get_result_async()

    def result(self, future):
        self.spin_until(future.done)
        answer = future.result()
        assert not self.session._motion.enabled
        return answer.status, answer.result

    def work_and_tick(self, x=0.0, count=1):
        for _ in range(count):
            self.infer()
            result = self.tick(x=x)
        return result

    def parameter(self, name):
        return self.node.get_parameter(name).value


@pytest.fixture
def bench(monkeypatch):
    benches = []

    def make(**parameters):
        benches.append(ActionBench(monkeypatch, **parameters))
        return benches[-1]

    yield make
    for each in benches:
        each.close()


def test_numbers_of_the_action_are_those_of_the_outcomes():
    assert all(getattr(Result, outcome.name) == outcome for outcome in Outcome)


def test_a_goal_moves_the_arm_until_its_time_is_over(bench):
    b = bench()
    assert not b.session._motion.enabled
    handle, future = b.start(instruction="pick up the cup", time_limit=1.0)
    assert b.session._motion.enabled
    b.work_and_tick()
    b.spin_until(lambda: handle.status == GoalStatus.STATUS_EXECUTING)
    for _ in range(40):
        if b.node.runs._active is None:
            break
        b.work_and_tick()
    assert b.policy.observations[-1].instruction == "pick up the cup"
    assert max(b.speeds()) > 0 and b.speeds()[-1] == 0
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_SUCCEEDED, Result.TIMED_OUT)
    assert 1.0 <= result.elapsed < 1.06 and result.inferences >= 18 and 0.039 < result.latency_p50 < 0.041
    assert b.parameter("instruction") == "go"


def test_feedback_comes_twice_a_second(bench):
    b = bench()
    b.start()
    for step in range(60):
        b.work_and_tick(x=0.01 * step)
    b.spin_until(lambda: len(b.feedback) >= 6)
    elapsed = np.array([feedback.elapsed for feedback in b.feedback])
    assert (np.abs(np.diff(elapsed) - 0.5) <= 0.052).all()
    last = b.feedback[-1]
    assert last.mode == "coarse" and last.message.startswith("moving") and last.distance > 0.3
    assert 0 < last.latency_p50 < 0.1 and 0 <= last.observation_age < 0.1


def test_a_cancel_holds_before_another_control_period(bench):
    b = bench()
    handle, future = b.start()
    b.work_and_tick(count=3)
    assert b.speeds()[-1] > 0
    cancelled = handle.cancel_goal_async()
    b.spin_until(cancelled.done)  # no tick in between
    assert len(cancelled.result().goals_canceling) == 1
    assert b.speeds()[-1] == 0 and not b.session._motion.enabled
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_CANCELED, Result.CANCELLED)


def test_success_topic(bench):
    b = bench()
    _, future = b.start(until_success=True, time_limit=60.0)
    publisher = b.other.create_publisher(Bool, "specprune_policy/success", 10)
    b.spin_until(lambda: publisher.get_subscription_count() > 0)
    b.work_and_tick(count=3)
    publisher.publish(Bool(data=True))
    b.spin_until(lambda: b.node.runs._active.run.success)
    b.work_and_tick()
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_SUCCEEDED, Result.SUCCEEDED)


def test_success_that_lasts_less_than_a_period(bench):
    b = bench()
    _, future = b.start(until_success=True, time_limit=60.0)
    b.work_and_tick(count=3)
    for said in (True, False):
        b.node.runs._on_success(Bool(data=said))
    b.work_and_tick()
    assert b.result(future)[1].outcome == Result.SUCCEEDED


def test_time_over_before_the_success_is_a_failure(bench):
    b = bench()
    _, future = b.start(until_success=True, time_limit=0.2)
    b.work_and_tick(count=6)
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, Result.TIMED_OUT)


def test_at_rest_with_an_open_gripper(bench):
    b = bench()
    _, future = b.start(until_rest=0.5)
    for step in range(10):
        b.work_and_tick(x=0.02 * step)
    b.policy.actions = np.tile([0.0] * 6 + [1.0], (8, 1))
    b.work_and_tick(x=0.2, count=15)
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_SUCCEEDED, Result.SUCCEEDED)
    assert result.distance == pytest.approx(0.2, abs=0.005)


def test_region_of_the_end_effector(bench):
    b = bench()
    goal = RunPolicy.Goal(region_distance=0.03)
    goal.region_pose.position.x = 0.1
    _, future = b.start(region_pose=goal.region_pose, region_distance=0.03)
    for step in range(20):
        if b.node.runs._active is None:
            break
        b.work_and_tick(x=0.01 * step)
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_SUCCEEDED, Result.SUCCEEDED)
    assert 0.06 <= result.distance <= 0.081


def test_a_hold_that_lasts_too_long_ends_it_with_the_reason(bench):
    b = bench(**{"run.longest_hold": 1.0})
    _, future = b.start()
    b.work_and_tick(count=3)
    for _ in range(40):
        b.tick(images=False)
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, Result.HELD)
    assert "image_primary" in result.message or "inference" in result.message
    assert "stale_input" in result.holds


def test_deactivate_ends_it(bench):
    b = bench()
    _, future = b.start()
    b.work_and_tick(count=3)
    b.node.trigger_deactivate()
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, Result.DEACTIVATED)
    assert not b.send().accepted


def test_a_goal_that_asks_for_an_unknown_pose_is_refused(bench):
    b = bench(**{"controller.output": "action_chunk", "inputs.base_frame": "", "inputs.ee_frame": ""})
    assert not b.send(until_rest=True).accepted and not b.send(region_distance=0.1).accepted
    assert b.send(time_limit=1.0).accepted


def test_a_goal_that_asks_for_a_pose_that_tf_does_not_have_is_refused(bench, monkeypatch):
    b = bench()
    monkeypatch.setattr(b.session.end_effector, "newest", lambda: None)
    assert not b.send(until_rest=True).accepted


def test_an_unexpected_error_ends_it_and_is_its_reason(bench):
    b = bench()
    _, future = b.start()
    b.work_and_tick(count=3)

    def fail(timeout_sec):
        raise KeyError("no such thing")

    spin_some(SimpleNamespace(spin_once=fail), b.node)
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, Result.DISABLED)
    assert "unexpected error (KeyError: 'no such thing')" in result.message and b.speeds()[-1] == 0


def test_a_clock_that_jumps_ends_it(bench):
    b = bench()
    _, future = b.start()
    b.work_and_tick(count=3)
    b.set_time(b.now - SECOND)
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, Result.CLOCK_JUMP)


def test_a_lost_receiver_ends_it(bench):
    b = bench()
    _, future = b.start()
    b.work_and_tick(count=3)
    topic = b.session._motion.publisher.topic_name
    for subscription in list(b.node.subscriptions):
        if subscription.topic_name == topic:
            b.node.destroy_subscription(subscription)
    b.spin_until(lambda: b.session.receivers().count == 0)
    b.work_and_tick()
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, Result.RECEIVER_LOST)
    assert topic in result.message


def test_enable_and_reset_agree_with_it(bench):
    b = bench()
    _, future = b.start()
    b.work_and_tick(count=3)
    b.reset()
    assert b.tick() == Hold(HoldReason.NO_CHUNK) and b.node.runs._active is not None
    assert not isinstance(b.work_and_tick(count=3), Hold)
    assert b.enable().success and b.node.runs._active is not None
    b.enable(False)
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, Result.DISABLED)
    assert b.enable().success  # as without the action
    assert not isinstance(b.work_and_tick(count=3), Hold)


def test_a_goal_takes_over_an_arm_that_moves_by_enable(bench):
    b = bench()
    b.enable()
    b.work_and_tick(count=3)
    assert b.speeds()[-1] > 0
    b.start()
    assert b.speeds()[-1] == 0  # at once, and then from the next observation
    assert b.tick() == Hold(HoldReason.NO_CHUNK)
    assert not isinstance(b.work_and_tick(count=2), Hold)


def test_a_run_waits_for_a_person(bench):
    b = bench()
    _, future = b.start(time_limit=3.0)
    b.work_and_tick(count=3)
    b.take_over()
    b.work_and_tick(count=20)
    b.spin_until(lambda: b.feedback and b.feedback[-1].in_charge == "person")
    assert "a person is in charge" in b.feedback[-1].message
    b.take_over(False)
    assert not isinstance(b.work_and_tick(count=3), Hold)
    b.work_and_tick(count=40)
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_SUCCEEDED, Result.TIMED_OUT)
    assert result.taken_over == pytest.approx(20 * 0.051, abs=0.06)


def test_a_run_ends_when_a_person_takes_over(bench):
    b = bench(**{"run.on_takeover": "end"})
    _, future = b.start()
    b.work_and_tick(count=3)
    b.take_over()
    b.work_and_tick()
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, Result.TAKEN_OVER)
    assert not b.send().accepted  # not before the person lets go
    b.take_over(False)
    assert b.send().accepted


def test_what_ends_a_run_can_be_changed_while_it_runs(bench):
    b = bench()
    _, future = b.start()
    b.work_and_tick(count=3)
    b.set(run__on_takeover="end")
    b.take_over()
    b.work_and_tick()
    assert b.result(future)[1].outcome == Result.TAKEN_OVER


def test_diagnostics_tell_of_the_run(bench):
    b = bench()
    assert b.node._statuses()[0].values["run"] == "none"
    b.start()
    b.work_and_tick(count=20)
    assert b.node._statuses()[0].values["run"] == "1.02 s"


def test_a_second_goal_is_refused(bench):
    b = bench()
    b.start()
    first = b.node.runs._active
    assert not b.send().accepted
    assert b.node.runs._active is first and b.session._motion.enabled


def test_a_second_goal_preempts(bench):
    b = bench(**{"run.when_busy": "preempt"})
    _, first = b.start(instruction="pick up the cup")
    b.work_and_tick(count=3)
    _, second = b.start(instruction="pick up the bowl", time_limit=0.2)
    b.spin_until(first.done)
    assert (first.result().status, first.result().result.outcome) == (GoalStatus.STATUS_ABORTED, Result.PREEMPTED)
    assert b.session._motion.enabled and b.parameter("instruction") == "pick up the bowl"
    b.work_and_tick(count=6)
    assert b.result(second)[1].outcome == Result.TIMED_OUT
    assert b.parameter("instruction") == "go"


@pytest.mark.parametrize("goal", [{"preset": "bold"}, {"instruction": "  "}])
def test_a_goal_that_cannot_run_does_not_preempt(bench, goal):
    b = bench(**{"run.when_busy": "preempt"})
    b.start()
    b.work_and_tick(count=3)
    first = b.node.runs._active
    assert not b.send(**goal).accepted
    assert b.node.runs._active is first and b.session._motion.enabled


def test_a_dry_run_moves_nothing_and_is_put_back(bench):
    b = bench()
    _, future = b.start(dry_run=True, time_limit=0.3)
    b.work_and_tick(count=3)
    assert b.parameter("dry_run") and not b.speeds()
    b.work_and_tick(count=6)
    assert b.result(future)[1].outcome == Result.TIMED_OUT
    assert not b.parameter("dry_run") and not any(b.speeds())


@pytest.mark.parametrize("preset", ["fast", "off"])
def test_a_preset_for_one_run(bench, preset):
    b = bench(**{"pruning.preset": "careful"})
    before = {name: p.value for name, p in b.node.get_parameters_by_prefix("pruning").items()}
    _, future = b.start(preset=preset, time_limit=0.2)
    during = {name: p.value for name, p in b.node.get_parameters_by_prefix("pruning").items()}
    assert during["enabled"] == (preset != "off") and during != before
    b.work_and_tick(count=6)
    b.result(future)
    assert {name: p.value for name, p in b.node.get_parameters_by_prefix("pruning").items()} == before


def test_pruning_set_by_hand_is_put_back(bench):
    b = bench(**{"pruning.preset": "careful"})
    b.set(pruning__budget_tokens=b.parameter("pruning.budget_tokens") + 1)
    before = {name: p.value for name, p in b.node.get_parameters_by_prefix("pruning").items()}
    assert before["preset"] == ""
    _, future = b.start(preset="fast", time_limit=0.2)
    assert b.parameter("pruning.preset") == "fast"
    b.work_and_tick(count=6)
    b.result(future)
    assert {name: p.value for name, p in b.node.get_parameters_by_prefix("pruning").items()} == before


def test_what_was_changed_meanwhile_stays(bench):
    b = bench()
    _, future = b.start(instruction="pick up the cup", time_limit=0.2)
    b.set(instruction="pick up the bowl")
    b.work_and_tick(count=6)
    b.result(future)
    assert b.parameter("instruction") == "pick up the bowl"


def test_a_preset_that_does_not_exist_is_told_in_the_result(bench):
    b = bench()
    _, future = b.start(preset="bold", instruction="pick up the cup")
    status, result = b.result(future)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, Result.REFUSED)
    assert "bold" in result.message and b.parameter("instruction") == "go"


@pytest.mark.parametrize(
    "goal", [{"time_limit": -1.0}, {"region_joints": [0.1] * 7, "region_angle": 0.1}, {"until_rest": float("nan")}]
)
def test_goals_that_make_no_sense_are_refused(bench, goal):
    b = bench()
    assert not b.send(**goal).accepted and not b.session._motion.enabled


def take_over_and_give_back(client):
    """A person in the middle of a goal: chunks go on, commands do not."""
    service = client.node.create_client(SetBool, "specprune_policy/takeover")
    client.wait(service.service_is_ready, "~/takeover")
    chunks, twists = client.heard["chunk"], client.heard["twist"]

    def take_over(on):
        answer = service.call_async(SetBool.Request(data=on))
        client.wait(answer.done, "an answer of ~/takeover")
        assert answer.result().success

    take_over(True)
    client.wait(lambda: chunks[-1].in_charge == "person" and chunks[-1].steps, "a chunk that nobody executes")
    seen, sent = len(chunks), len(twists)
    client.wait(lambda: len(chunks) >= seen + 3, "more of them")
    assert len(twists) == sent and not any(chunk.execute for chunk in chunks[seen:])
    take_over(False)
    client.wait(lambda: len(twists) > sent and chunks[-1].in_charge == "policy", "motion again")


def test_over_dds_with_the_model():
    """A node in a process of its own with a real model: goal, feedback, cancel."""
    context = rclpy.Context()
    rclpy.init(context=context)
    process = start_policy(
        autostart=True,
        **{"model.checkpoint": light_checkpoint(), "controller.output": "twist", "instruction": None},
        # Whatever else the machine does.
        **{"inputs.max_age": 5.0, "execution.max_observation_age": 5.0, "controller.step_duration": 0.5},
        **{"run.longest_hold": 600.0},
    )
    client = PolicyClient(context, process)
    try:
        action = ActionClient(client.node, RunPolicy, "specprune_policy/run_policy")
        client.wait(action.server_is_ready, "the action", START_PATIENCE)
        client.wait(lambda: client.state() == "active", "the node", START_PATIENCE)
        feedback = []
        sent = action.send_goal_async(RunPolicy.Goal(instruction=INSTRUCTION, until_success=True), feedback.append)
        client.wait(sent.done, "an answer to the goal")
        handle = sent.result()
        assert handle.accepted
        client.wait(lambda: any(abs(t.twist.linear.x) > 0 for t in client.heard["twist"]), "motion")
        client.wait(lambda: len(feedback) >= 2, "feedback")
        take_over_and_give_back(client)
        result = handle.get_result_async()
        handle.cancel_goal_async()
        client.wait(result.done, "the result")
        assert result.result().status == GoalStatus.STATUS_CANCELED
        assert result.result().result.outcome == Result.CANCELLED and result.result().result.inferences > 0
        client.wait(lambda: client.heard["twist"][-1].twist == Twist(), "the arm to hold")
        example = subprocess.Popen(
            [sys.executable, "examples/run_policy.py", INSTRUCTION, "--time-limit", "5"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        client.wait(lambda: example.poll() is not None, "the example", START_PATIENCE)
        output = example.communicate()[0]
        assert example.returncode == 0 and "5 s are over" in output and "moving" in output, output
        stop(process)
    finally:
        process.kill()
        context.try_shutdown()


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Tree:
    """The example's behaviour tree on a bench."""

    def __init__(self, b, tasks, **goal):
        self.b = b
        self.tree = load_example("behaviour_tree").tree_of(b.client, tasks, **goal)

    def tick(self, count=1):
        """Control periods with a tick of the tree after each; its status."""
        for _ in range(count):
            self.tree.tick()
            self.b.spin_until(self.settled)
            self.b.work_and_tick()
            for _ in range(5):
                self.b.executor.spin_once(timeout_sec=0.001)
        return self.tree.root.status.name

    def settled(self):
        """Nothing that the node has to answer is on its way."""
        tip = self.tree.tip()
        sent = getattr(tip, "_sent", None)
        return sent is None or sent.done()

    def until(self, status):
        self.b.until(lambda: self.tick() == status)


def test_tasks_in_a_behaviour_tree(bench):
    pytest.importorskip("py_trees")
    b = bench()
    tree = Tree(b, ["pick up the cup", "pick up the bowl"], time_limit=0.3)
    assert tree.tick(3) == "RUNNING"
    assert b.session._motion.enabled and b.policy.observations[-1].instruction == "pick up the cup"
    tree.until("SUCCESS")
    followed = [observation.instruction for observation in b.policy.observations]
    assert followed.index("pick up the cup") < followed.index("pick up the bowl")
    assert not b.session._motion.enabled


def test_a_task_that_fails_is_tried_twice_by_the_tree(bench):
    pytest.importorskip("py_trees")
    b = bench()
    tree = Tree(b, ["pick up the cup"], time_limit=0.2, until_success=True)
    before = len(b.policy.observations)
    tree.until("FAILURE")
    assert len(b.policy.observations) - before >= 8 and not b.session._motion.enabled


def test_a_tree_that_is_interrupted_cancels_its_goal(bench):
    pytest.importorskip("py_trees")
    b = bench()
    tree = Tree(b, ["pick up the cup"])
    tree.tick(4)
    assert b.speeds()[-1] > 0
    tree.tree.root.stop(type(tree.tree.root.status).INVALID)
    b.spin_until(lambda: not b.session._motion.enabled)
    assert b.speeds()[-1] == 0


def test_the_result_names_the_recording(bench):
    b = bench(recording="/data/run_7")
    _, future = b.start(time_limit=0.2)
    b.work_and_tick(count=6)
    assert b.result(future)[1].recording == "/data/run_7"
