# SPDX-License-Identifier: Apache-2.0
"""~/get_action_chunk with a real client, a fake policy and a clock that the test sets: observation now -> chunk."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from client_bench import ClientBench
from specprune_ros.srv import GetActionChunk

from specprune_ros.control.command import Hold

pytestmark = pytest.mark.ros


class ServiceBench(ClientBench):
    """With a client of the service."""

    def __init__(self, monkeypatch, **parameters):
        super().__init__(monkeypatch, "planner", **parameters)
        self.client = self.other.create_client(GetActionChunk, "specprune_policy/get_action_chunk")
        self.spin_until(self.client.service_is_ready)

    def ask(self, **request):
        """A request that waits for its chunk, or has its answer."""
        waiting = self.node.chunks._waiting
        before = len(waiting)
        future = self.client.call_async(GetActionChunk.Request(**request))
        self.spin_until(lambda: len(waiting) > before or future.done())
        return future

    def answer(self, future):
        self.spin_until(future.done)
        return future.result()


@pytest.fixture
def bench(monkeypatch):
    benches = []

    def make(**parameters):
        benches.append(ServiceBench(monkeypatch, **parameters))
        return benches[-1]

    yield make
    for each in benches:
        each.close()


def test_a_chunk_from_what_is_seen_after_the_request_and_nothing_moves(bench):
    b = bench()
    b.see()
    b.advance(0.01)
    asked = b.ask()
    b.work()  # on what was seen before
    b.executor.spin_once(timeout_sec=0.0)
    assert not asked.done()
    b.infer()  # without a control period in between
    answer = b.answer(asked)
    assert answer.success and not answer.message
    chunk = answer.chunk
    assert not chunk.execute and (chunk.steps, chunk.mode, chunk.instruction) == (8, "coarse", "go")
    np.testing.assert_array_equal(np.array(chunk.actions).reshape(8, 7), b.policy.actions)
    assert chunk.header.stamp.sec * 10**9 + chunk.header.stamp.nanosec == b.now
    assert isinstance(b.tick(), Hold) and not b.speeds()


def test_the_node_does_other_things_meanwhile_and_every_request_is_answered(bench):
    b = bench()
    first, second = b.ask(), b.ask()
    assert b.enable().success
    b.tick()
    b.infer()
    assert b.answer(first).success and b.answer(second).success
    assert b.messages("action_chunk")[-1].execute  # the arm that moves by this node is another matter


def test_an_inference_starts_for_it_when_none_is_due(bench):
    b = bench(**{"replan.when": "chunk_end"})
    b.enable()
    b.infer()
    b.tick()
    b.session._due = False
    b.ask()
    assert b.session._due


def test_an_instruction_becomes_the_nodes(bench):
    b = bench()
    asked = b.ask(instruction="pick up the cup")
    b.infer()
    assert b.answer(asked).chunk.instruction == "pick up the cup"
    assert b.node.get_parameter("instruction").value == "pick up the cup"


def test_a_chunk_of_another_clients_instruction_is_no_answer(bench):
    b = bench()
    drawer, gripper = b.ask(instruction="open the drawer"), b.ask(instruction="close the gripper")
    anything = b.ask()
    b.infer()
    assert b.answer(gripper).chunk.instruction == "close the gripper" and b.answer(anything).success
    answer = b.answer(drawer)
    assert not answer.success and "changed meanwhile, to 'close the gripper'" in answer.message


def test_no_chunk_in_time_says_why(bench):
    b = bench()
    b.policy.error = RuntimeError("kernel image is broken")
    asked = b.ask(timeout=0.3)
    b.infer()
    b.tick()
    assert not asked.done()
    for _ in range(6):
        b.tick(images=False)
    answer = b.answer(asked)
    assert not answer.success and "kernel image is broken" in answer.message


def test_without_a_clock_it_is_refused(bench):
    """Time that stands still would keep a request, a run and its end for ever."""
    b = bench()
    b.set_time(0)
    b.node.get_clock()  # simulated time, which nobody publishes
    answer = b.answer(b.ask())
    assert not answer.success and "nobody publishes /clock; start the simulator" in answer.message
    assert "nobody publishes /clock" in b.enable().message


def test_a_clock_that_goes_back_ends_it(bench):
    b = bench()
    asked = b.ask()
    b.set_time(b.now - 10**9)
    b.session._tick()
    assert not b.answer(asked).success


def test_deactivate_ends_it_and_an_inactive_node_has_none(bench):
    b = bench()
    asked = b.ask()
    b.node.trigger_deactivate()
    answer = b.answer(asked)
    assert not answer.success and "deactivated" in answer.message
    answer = b.answer(b.ask())
    assert not answer.success and "activate it first" in answer.message


@pytest.mark.parametrize("request_", [{"timeout": -1.0}, {"timeout": float("nan")}, {"instruction": "x" * 2000}])
def test_requests_that_make_no_sense(bench, request_):
    b = bench()
    answer = b.answer(b.ask(**request_))
    assert not answer.success and answer.message
