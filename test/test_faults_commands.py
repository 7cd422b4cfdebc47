# SPDX-License-Identifier: Apache-2.0
"""Bad commands: instructions, parameters, other nodes on the same topics."""

import time

import pytest

pytest.importorskip("rclpy")

import rclpy
from fault_bench import AT_ONCE
from faults import GOES_ON, HOLDS, OFF, fault
from geometry_msgs.msg import Twist
from policy_client import INSTRUCTION
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from std_msgs.msg import String

pytestmark = pytest.mark.ros

COMMANDS, NODES = "Instructions and parameters", "Other nodes"
STORM_SECONDS, STORM_RATE = 1.0, 100.0
UNANSWERED = 8  # requests at most; a service keeps 10

UNCHANGED = "is refused; the last good one stays in force"
EMPTY = fault(COMMANDS, "empty instruction", GOES_ON, "lifecycle", "instruction is empty", UNCHANGED)
BLANK = fault(COMMANDS, "instruction of spaces", GOES_ON, "lifecycle", "instruction is empty", UNCHANGED)
HUGE = fault(COMMANDS, "instruction of a megabyte", GOES_ON, "lifecycle", "in at most 1000", UNCHANGED)
STRANGE = fault(COMMANDS, "instruction in characters the tokenizer does not know", GOES_ON, "inference", "running")
LONG = fault(
    COMMANDS,
    "instruction longer than the model's prompt",
    HOLDS,
    "inference",
    "tokens; say it shorter",
    "with the next instruction",
)
VALID_STORM = fault(COMMANDS, "100 valid parameter changes per second", GOES_ON, "inference", "running")
INVALID_STORM = fault(
    COMMANDS, "100 invalid parameter changes per second", GOES_ON, "inference", "running", "all are refused"
)
CONTROLLER = fault(NODES, "the arm's controller goes away", HOLDS, "motion", "nobody listens to")
DEAF_CONTROLLER = fault(
    NODES,
    "the arm's controller takes another message type",
    HOLDS,
    "motion",
    "subscribes to geometry_msgs/msg/Twist, and this node publishes geometry_msgs/msg/TwistStamped",
    "with a controller that takes it",
)
NAMESAKE = fault(
    NODES,
    "a second policy node with the same name",
    OFF,
    "lifecycle",
    "another node is named /specprune_policy",
    "end one of them, then enable",
)


@pytest.mark.parametrize(
    ("row", "text"), [(EMPTY, ""), (BLANK, " \n\t"), (HUGE, "a" * 1_000_000)], ids=["empty", "blank", "huge"]
)
def test_refused_instructions(bench, row, text):
    bench.instruction.publish(String(data=text))
    bench.says(row)
    bench.assert_moves_on(1.0)
    assert bench.next_chunk().instruction == INSTRUCTION
    bench.instruction.publish(String(data=INSTRUCTION))


def test_strange_instruction(bench):
    text = "\N{ROBOT FACE} \x07 \N{ZERO WIDTH SPACE}取って"
    bench.instruction.publish(String(data=text))
    bench.next_chunk(lambda chunk: chunk.instruction == text)
    bench.wait_until_moving("motion after a new instruction")
    bench.says(STRANGE)
    bench.instruction.publish(String(data=INSTRUCTION))
    bench.next_chunk(lambda chunk: chunk.instruction == INSTRUCTION)


def test_long_instruction(bench):
    bench.instruction.publish(String(data="\N{ROBOT FACE}" * 999))
    onset = time.time()
    bench.assert_held(onset)
    bench.says(LONG)
    bench.instruction.publish(String(data=INSTRUCTION))
    bench.recover()


def storm(bench, changes):
    """Set parameters at STORM_RATE without waiting for each answer; the results of all."""
    futures = []
    start = time.monotonic()
    while len(futures) < STORM_RATE * STORM_SECONDS:
        due = len(futures) < (time.monotonic() - start) * STORM_RATE
        if due and sum(not future.done() for future in futures[-UNANSWERED:]) < UNANSWERED:
            name, value = changes[len(futures) % len(changes)]
            parameter = Parameter(name, value=value).to_parameter_msg()
            futures.append(bench.parameters.call_async(SetParametersAtomically.Request(parameters=[parameter])))
        bench.executor.spin_once(timeout_sec=0.002)
    bench.wait(lambda: all(future.done() for future in futures), "all answers")
    return [future.result().result for future in futures]


def test_storm_of_valid_parameters(bench):
    changes = [
        ("pruning.alpha", 0.5),
        ("limits.max_speed", 0.4),
        ("pruning.preset", "careful"),
        ("execution.blend_steps", 3),
        ("pruning.enabled", False),
        ("pruning.enabled", True),
        ("limits.max_speed", 0.5),
        ("pruning.preset", "paper"),
    ]
    results = bench.undisturbed(lambda: storm(bench, changes))
    assert all(result.successful for result in results), next(r.reason for r in results if not r.successful)
    bench.says(VALID_STORM)
    assert bench.set(execution__blend_steps=2, pruning__preset="paper") == ""


def test_storm_of_invalid_parameters(bench):
    changes = [
        ("pruning.alpha", -1.0),
        ("limits.max_speed", float("nan")),
        ("pruning.preset", "best"),
        ("execution.blend_steps", "many"),
        ("controller.rate", 0.0),
        ("instruction", ""),
        ("inputs.cameras", []),
        ("no.such.parameter", 1),
    ]
    results = bench.undisturbed(lambda: storm(bench, changes))
    assert not any(result.successful for result in results) and all(result.reason for result in results)
    bench.says(INVALID_STORM)


def test_controller_goes_away(bench):
    bench.stop_controller()
    bench.says(CONTROLLER)
    bench.wait_for_problem("motion", "holding")
    context = rclpy.Context()
    context.init()
    try:
        servo = rclpy.create_node("servo_node", context=context)
        servo.create_subscription(Twist, "/specprune_policy/twist", lambda message: None, 10)
        bench.says(DEAF_CONTROLLER)
        servo.destroy_node()
    finally:
        context.shutdown()
    first, since = len(bench.sent), time.time()
    bench.start_controller()
    moving = bench.wait(lambda: [sent for sent in bench.sent[first:] if sent.moves], "motion with the new controller")
    # From rest, by limits.max_acceleration: the first commands may come before the new subscription is connected.
    assert moving[0].speed <= 3.0 * (max(moving[0].stamp - since, 0.0) + 0.05) + 1e-9
    bench.recover()


def test_second_node_with_the_same_name(bench):
    context = rclpy.Context()
    context.init()  # a participant of its own, like another process
    try:
        namesake = rclpy.create_node("specprune_policy", context=context)
        bench.says(NAMESAKE)
        bench.assert_held(time.time(), allowed=AT_ONCE)
        assert not bench.enable().success
        namesake.destroy_node()
    finally:
        context.shutdown()
    bench.wait(lambda: bench.statuses()["lifecycle"] == (b"\0", "active"), "the other node to be gone")
    bench.spin(1.0)
    assert not bench.sent[-1].moves  # nothing moves by itself
    assert bench.enable().success
    bench.recover()
