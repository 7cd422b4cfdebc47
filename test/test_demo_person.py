# SPDX-License-Identifier: Apache-2.0
"""The demo's scripted person, beside an arm that follows velocities and a policy that is told."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import TransformStamped, TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.time import Time
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from specprune_ros.demo.person import DEVICE, DURATION, Person
from specprune_ros.demo.push import SERVICE, TOPIC, Push
from specprune_ros.demo.recorder import POLICY, SIMULATOR

pytestmark = pytest.mark.ros
PERIOD = 0.05  # seconds
OFFSET = np.array([0.0, -0.08, 0.04])


class World:
    """`step`: one control period of the arm; `heard`: in order, what reached the policy and the arm."""

    def __init__(self):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node, self.person = rclpy.create_node("world", context=self.context), Person(context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        for node in (self.node, self.person):
            self.executor.add_node(node)
        self.heard = []
        self.now, self.place, self.velocity = 10.0, np.array([0.4, 0.1, 0.3]), np.zeros(3)
        self.tf = self.node.create_publisher(TFMessage, "/tf", 100)
        self.twist = self.node.create_publisher(TwistStamped, f"{SIMULATOR}/twist", 10)
        self.node.create_subscription(TwistStamped, f"{SIMULATOR}/twist", self._on_twist, 10)
        self.node.create_subscription(TwistStamped, DEVICE, lambda message: self.heard.append("device"), 10)
        self.node.create_service(SetBool, f"{POLICY}/takeover", self._on_takeover)

    def _on_twist(self, message):
        linear = message.twist.linear
        self.velocity = np.array([linear.x, linear.y, linear.z])
        self.heard.append(message.header.frame_id)

    def _on_takeover(self, request, response):
        self.heard.append(request.data)
        response.success = True
        return response

    def step(self):
        self.now += PERIOD
        self.place = self.place + 0.3 * self.velocity * PERIOD  # the simulator's lags behind alike
        transform = TransformStamped(child_frame_id="panda_hand_tcp")
        transform.header.frame_id = "panda_link0"
        transform.header.stamp = Time(seconds=self.now).to_msg()
        t = transform.transform.translation
        t.x, t.y, t.z = map(float, self.place)
        self.velocity = np.zeros(3)
        self.tf.publish(TFMessage(transforms=[transform]))
        self.spin(lambda: self.person._place is not None and np.allclose(self.person._before, self.place))
        for _ in range(6):
            self.executor.spin_once(timeout_sec=0.002)

    def spin(self, condition):
        deadline = time.monotonic() + 60.0
        while not condition():
            assert time.monotonic() < deadline
            self.executor.spin_once(timeout_sec=0.01)

    def command(self, x):
        """The policy's, with controller.output twist."""
        message = TwistStamped()
        message.header.frame_id, message.twist.linear.x = "world", x
        self.twist.publish(message)
        self.spin(lambda: self.person._first is not None)

    def close(self):
        self.executor.shutdown()
        for node in (self.node, self.person):
            node.destroy_node()
        self.context.shutdown()


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


@pytest.mark.parametrize("by", [SERVICE, TOPIC])
def test_takes_over_pushes_and_lets_go(world, by):
    push = Push(0.5, OFFSET, by)
    world.spin(lambda: not world.person.missing(push) and world.tf.get_subscription_count() > 0)
    world.person.begin(push, world.now)
    for _ in range(8):
        world.step()
    assert not world.heard  # not yet
    for _ in range(round(DURATION / PERIOD) + 8):
        world.step()
    world.command(0.1)
    facts = world.person.end()
    assert facts["released"] and facts["wanted_m"] == OFFSET.tolist()
    assert np.linalg.norm(np.array(facts["moved_m"]) - OFFSET) < 0.03
    assert facts["first_command"]["commanded_m_s"] == [0.1, 0.0, 0.0]
    assert np.abs(facts["first_command"]["measured_m_s"]).max() < 0.05
    assert world.heard.count("panda_link0") > 20
    assert (world.heard.count("device") > 20) == (by == TOPIC)
    told = [heard for heard in world.heard if isinstance(heard, bool)]
    assert told == ([True, False] if by == SERVICE else [])
    assert world.heard[0] is True or by == TOPIC
