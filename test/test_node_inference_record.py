# SPDX-License-Identifier: Apache-2.0
"""What the diagnostics count of inferences, and what `~/status` says of one."""

import math

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from specprune_ros.nodes.reporting.inference_record import InferenceRecord
from specprune_ros.nodes.reporting.latency import pauses
from specprune_ros.nodes.reporting.status_text import StatusText, inference_text
from specprune_ros.nodes.subscribing import LATCHED
from specprune_ros.policy import ActionChunk, PruningReport

pytestmark = pytest.mark.ros

MS = 1_000_000  # nanoseconds
CHUNK = 0.4  # seconds


def chunk(mode="coarse", reason="fast", seconds=0.1):
    kept = (np.arange(60), np.arange(40))
    report = PruningReport(
        mode, reason, "paper", "", 0.1, 0.0, 0.0, ("a", "b"), (256, 256), (), (), (), kept, kept, (), 0.43
    )
    return ActionChunk(np.zeros((8, 7)), 0.0, "", "", report, {}, seconds)


def record(*times):
    """Of chunks with an observation at the first and ready at the second time, milliseconds."""
    made = InferenceRecord(CHUNK)
    for stamp, ready in times:
        made.add(chunk(), stamp * MS, ready * MS)
    return made


@pytest.mark.parametrize(
    ("times", "misses"),
    [
        ([(0, 190), (190, 380), (380, 570)], 0),  # there before the one before ends
        ([(0, 190), (190, 400)], 0),
        ([(0, 190), (190, 401)], 1),  # the one before ended at 400
        ([(0, 300), (300, 600), (600, 900)], 2),  # shorter than a chunk, and still too slow
        ([(0, 500), (500, 1000)], 2),  # over when they come
        ([(0, 400)], 0),  # just in time
        ([(0, 401)], 1),
        ([(0, 190), (400, 590)], 1),  # seen when the one before ended, and there later
        ([(0, 190), (401, 591)], 0),
        ([(0, 100), (5000, 5100)], 0),  # the cameras were away
    ],
)
def test_deadline_misses(times, misses):
    assert record(*times).values()["deadline misses"] == misses


def test_an_interrupted_chunk_has_no_successor():
    made = record((0, 190))
    made.interrupt()
    made.add(chunk(), 300 * MS, 450 * MS)
    assert made.values()["deadline misses"] == 0


def test_latencies_ages_and_modes_since_activation():
    made = record((0, 1000))
    made.clear()
    assert math.isnan(made.values()["latency p50 ms"]) and made.values()["deadline misses"] == 0
    for k, mode in enumerate(("dense", "coarse", "coarse")):
        made.add(
            chunk(mode, "scene_cut" if mode == "dense" else "fast", 0.1 + 0.01 * k), k * 200 * MS, (k * 200 + 150) * MS
        )
    values = made.values()
    assert values["chunks"] == 3 and values["latency p50 ms"] == pytest.approx(110)
    assert values["latency max ms"] == pytest.approx(120) and values["observation age p99 ms"] == pytest.approx(150)
    assert values["observation age p50 ms"] == pytest.approx(150)
    assert values["latency p99 ms"] == pytest.approx(119.8)
    summary = made.summary()
    assert (summary.count, summary.mode, summary.misses) == (3, "coarse", 0)
    assert (summary.latency_p50, summary.latency_p99, summary.age) == pytest.approx((0.11, 0.1198, 0.15))
    made.clear()
    summary = made.summary()
    assert (summary.count, summary.latency_p50, summary.latency_p99, summary.age, summary.mode) == (
        0,
        0.0,
        0.0,
        0.0,
        "",
    )
    assert (values["mode dense (scene_cut)"], values["mode coarse (fast)"]) == (1, 2)


def test_two_inferences_have_to_fit_into_a_chunk():
    """One passes before a chunk comes, and it has to last for the next; a fifth is kept in reserve."""
    assert not pauses(0.15, CHUNK) and not pauses(0.16, CHUNK) and pauses(0.17, CHUNK)


def test_status_text_of_an_inference():
    assert inference_text(chunk(), 0.12) == (
        "coarse (fast): 100 of 512 patches kept, inference 100 ms, observation 120 ms old"
    )


def test_a_late_listener_hears_the_last_status():
    context = rclpy.Context()
    context.init()
    node, heard = Node("status", context=context), []
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    status = StatusText(node)
    status.publish("before")
    status.publish("well")
    node.create_subscription(String, "~/status", heard.append, LATCHED)
    for _ in range(500):
        executor.spin_once(timeout_sec=0.01)
        if heard:
            break
    assert [message.data for message in heard] == ["well"]
    status.destroy()
    node.destroy_node()
    context.shutdown()
