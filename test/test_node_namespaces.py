# SPDX-License-Identifier: Apache-2.0
"""Two arms on one machine: two policy nodes, a namespace each, that share nothing but TF and /diagnostics."""

import time

import pytest

pytest.importorskip("rclpy")

import rclpy
from policy_client import INSTRUCTION, START_PATIENCE, PolicyClient, start_policy, stop
from release_checkpoint import light_checkpoint
from std_msgs.msg import String

pytestmark = pytest.mark.ros

ARMS = ("/left", "/right")


class Arm(PolicyClient):
    """Hears the diagnostics of its own node only."""

    def statuses(self):
        newest = {}
        hardware_id = f"{self.node.get_namespace().lstrip('/')}/specprune_policy"
        for array in self.heard["diagnostics"][-50:]:
            own = [status for status in array.status if status.hardware_id == hardware_id]
            newest.update({status.name.rsplit(": ", 1)[1]: status for status in own})
        return {name: (status.level, status.message) for name, status in newest.items()}


@pytest.fixture(scope="module")
def arms():
    context = rclpy.Context()
    context.init()
    own = {"model.checkpoint": light_checkpoint(), "autostart": True, "pruning.enabled": False, "inputs.max_age": 2.0}
    processes = [start_policy(namespace, **own) for namespace in ARMS]
    try:
        clients = [Arm(context, process, namespace) for process, namespace in zip(processes, ARMS, strict=True)]
        yield clients
        for process in processes:
            stop(process)
    finally:
        for process in processes:
            process.kill()
        for client in clients:
            client.node.destroy_node()
        context.shutdown()


def both(arms, condition, what, publishing):
    """Wait while only the arms of `publishing` get inputs."""
    deadline = time.monotonic() + START_PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}; {[client.statuses() for client in arms]}"
        for client in publishing:
            client.publish_inputs()
        for client in arms:
            client.executor.spin_once(timeout_sec=0.02)
        time.sleep(0.05)


def test_arms_do_not_hear_each_other(arms):
    left, right = arms
    both(arms, lambda: all("inference" in arm.statuses() for arm in arms), "both nodes", [])
    left.instruction.publish(String(data=INSTRUCTION))
    both(arms, lambda: left.heard["chunk"], "chunks of the left arm", [left])
    assert not right.heard["chunk"] and "no instruction" in right.statuses()["inference"][1]

    right.instruction.publish(String(data="open the drawer"))
    both(arms, lambda: "no image on /right" in right.statuses()["inference"][1], "the right arm's complaint", [left])
    both(arms, lambda: right.heard["chunk"], "chunks of the right arm", arms)
    assert {chunk.instruction for chunk in left.heard["chunk"]} == {INSTRUCTION}
    assert {chunk.instruction for chunk in right.heard["chunk"]} == {"open the drawer"}


def test_enabling_and_parameters_are_of_one_arm(arms):
    left, right = arms
    assert left.enable().success
    left.heard["chunk"].clear()
    right.heard["chunk"].clear()
    both(arms, lambda: any(c.execute for c in left.heard["chunk"]) and len(right.heard["chunk"]) > 2, "chunks", arms)
    assert not any(chunk.execute for chunk in right.heard["chunk"])
    assert right.statuses()["motion"][1] == "motion is off; call ~/enable"

    assert left.set(pruning__enabled=True) == ""
    left.heard["chunk"].clear()
    right.heard["chunk"].clear()
    both(arms, lambda: any(c.mode != "off" for c in left.heard["chunk"]) and right.heard["chunk"], "modes", arms)
    assert {chunk.mode for chunk in right.heard["chunk"]} == {"off"}
