# SPDX-License-Identifier: Apache-2.0
"""Bad commands: instructions, parameters, other nodes on the same topics."""

import time

import pytest

pytest.importorskip("rclpy")

from fault_bench import PATIENCE, start_faulty_policy
from faults import GOES_ON, HOLDS, OFF, fault
from policy_client import INSTRUCTION, stop
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from std_msgs.msg import String

pytestmark = pytest.mark.ros

COMMANDS, NODES = "Instructions and parameters", "Other nodes"
STORM_SECONDS, STORM_RATE, STORMS = 2.0, 100.0, 6
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
    """Set parameters at STORM_RATE without waiting for each answer, while the arm moves on; the results of all.

    A busy machine may need more than one go until the arm has moved all the time.
    """
    for _ in range(STORMS):
        bench.wait_until_moving()
        first, results = len(bench.sent), one_storm(bench, changes)
        if all(sent.moves for sent in bench.sent[first:]):
            return results
    pytest.fail("the arm stopped in every storm")


def one_storm(bench, changes):
    futures = []
    start = time.monotonic()
    while len(futures) < STORM_RATE * STORM_SECONDS:
        due = len(futures) < (time.monotonic() - start) * STORM_RATE
        if due and sum(not future.done() for future in futures[-UNANSWERED:]) < UNANSWERED:
            name, value = changes[len(futures) % len(changes)]
            parameter = Parameter(name, value=value).to_parameter_msg()
            futures.append(bench.parameters.call_async(SetParametersAtomically.Request(parameters=[parameter])))
        bench.executor.spin_once(timeout_sec=0.002)
    bench.wait(lambda: all(future.done() for future in futures), "all answers", PATIENCE)
    return [future.result().result for future in futures]


def test_storm_of_valid_parameters(bench):
    results = storm(
        bench,
        [
            ("pruning.alpha", 0.5),
            ("limits.max_speed", 0.4),
            ("pruning.preset", "careful"),
            ("execution.blend_steps", 3),
            ("pruning.enabled", False),
            ("pruning.enabled", True),
            ("limits.max_speed", 0.5),
            ("pruning.preset", "paper"),
        ],
    )
    assert all(result.successful for result in results), next(r.reason for r in results if not r.successful)
    bench.says(VALID_STORM)
    assert bench.set(execution__blend_steps=2, pruning__preset="paper") == ""


def test_storm_of_invalid_parameters(bench):
    results = storm(
        bench,
        [
            ("pruning.alpha", -1.0),
            ("limits.max_speed", float("nan")),
            ("pruning.preset", "best"),
            ("execution.blend_steps", "many"),
            ("controller.rate", 0.0),
            ("instruction", ""),
            ("inputs.cameras", []),
            ("no.such.parameter", 1),
        ],
    )
    assert not any(result.successful for result in results) and all(result.reason for result in results)
    bench.says(INVALID_STORM)


def test_controller_goes_away(bench):
    bench.stop_controller()
    bench.says(CONTROLLER)
    bench.wait_for_problem("motion", "holding")
    first = len(bench.sent)
    bench.start_controller()
    moving = bench.wait(lambda: [sent for sent in bench.sent[first:] if sent.moves], "motion with the new controller")
    assert moving[0].speed <= 0.15 + 1e-9  # from rest: limits.max_acceleration times a period
    bench.recover()


def test_second_node_with_the_same_name(bench):
    onset = time.time()
    second = start_faulty_policy(autostart=False)
    try:
        bench.says(NAMESAKE)
        assert time.time() - onset < 60
        bench.assert_held(time.time())
        assert not bench.enable().success  # whichever of the two answers
        stop(second)
    finally:
        second.kill()
    bench.wait(lambda: bench.statuses()["lifecycle"] == (b"\0", "active"), "the other node to be gone", 60.0)
    bench.spin(1.0)
    assert not bench.sent[-1].moves  # nothing moves by itself
    assert bench.enable().success
    bench.recover()
