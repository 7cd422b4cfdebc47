# SPDX-License-Identifier: Apache-2.0
"""A policy node in this process, with a fake policy, a clock that the test sets, and messages put in by hand.

Nothing spins and no thread works: callbacks, control ticks, inferences and time happen when the test says so.
"""

import itertools
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import rclpy
import torch
from geometry_msgs.msg import TransformStamped
from rclpy.lifecycle import LifecyclePublisher
from rclpy.parameter import Parameter
from rclpy.time import Time
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage

from specprune_ros.control.arm import Motion
from specprune_ros.nodes.policy_node import PolicyNode
from specprune_ros.nodes.turns import Turns
from specprune_ros.policy import ActionChunk, PruningReport
from specprune_ros.pruning.controller import Reason
from specprune_ros.pruning.schedule import Mode

SECOND = 1_000_000_000
START = 100 * SECOND
STEP = 0.05  # seconds per step of a chunk
COUNT = itertools.count()
CARTESIAN = {
    "inputs.base_frame": "base",
    "inputs.ee_frame": "hand",
    "inputs.proprio": "none",
    "inputs.frozen_after": 0.0,
    "controller.output": "twist",
    "controller.rate": 20.0,
    "controller.step_duration": STEP,
    "limits.max_acceleration": 100.0,
    "limits.max_jerk": 100000.0,
    "limits.gripper_debounce": 0.0,
}

NO_TF = {"inputs.base_frame": "", "inputs.ee_frame": ""}
JOINTS = {
    **{**NO_TF, "controller.output": "joint_trajectory"},
    **{"controller.action_space": "absolute_joint", "controller.joint_names": ["a", "b"]},
    **{"controller.gripper_dimensions": [2], "limits.max_joint_speed": [0.5], "limits.max_joint_acceleration": [10.0]},
}


class FakePolicy:
    """Answers every observation with `actions`; `seconds` and `error` are what the test makes them.

    `report` and `stages`: what the report says otherwise, and its stage times.
    """

    chunk_length, action_dim, proprio_dim, num_views, image_size = 8, 7, 0, 2, 28
    action_space, unnorm_key = "delta_end_effector", "fake"
    action_names, action_units = ("x", "y", "z", "roll", "pitch", "yaw", "gripper"), ("1",) * 7
    patch_grid, center_crop, tile, calibration, graph_problem = (2, 2), False, 1, "tile 1", ""
    precision_problem = ""
    threads = 0
    device = torch.device("cpu")
    proprio_range = np.zeros(0), np.zeros(0)
    action_range = np.array([-1.0] * 6 + [0.0]), np.ones(7)

    def __init__(self):
        self.actions = np.tile([0.5, 0, 0, 0, 0, 0, 1.0], (8, 1))
        self.seconds, self.error, self.pruning = 0.04, None, None
        self.observations, self.calls = [], []
        self.report, self.stages, self.constants = {}, {}, []

    def moved_constants(self, proprio):
        return self.constants

    def warm_up(self, instruction=""):
        return {"coarse": self.seconds}

    def check_pruning(self, config):
        pass

    def set_pruning(self, pruning):
        self.pruning = pruning
        self.calls.append("set_pruning")

    def reset(self):
        self.calls.append("reset")

    def observe(self, views, stamp, cameras=None):
        pass

    def act(self, observation):
        self.observations.append(observation)
        if self.error is not None:
            raise self.error
        nothing = tuple(np.zeros(0, dtype=np.int64) for _ in observation.views)
        report = PruningReport(
            mode=Mode.COARSE,
            reason=Reason.FAST,
            preset="paper",
            selection="budget",
            v_t=0.0,
            v_r=0.0,
            v_z=0.0,
            views=tuple(observation.views),
            patches=(4, 4),
            global_set=(0, 0),
            dynamic_set=(0, 0),
            local_set=(0, 0),
            kept_static=nothing,
            kept_final=nothing,
            tokens_per_layer=(1,),
            flop_share=0.5,
        )
        return ActionChunk(
            self.actions.copy(),
            observation.stamp,
            observation.instruction,
            "fake",
            replace(report, **self.report),
            self.stages,
            self.seconds,
        )


class JointPolicy(FakePolicy):
    """For an arm of the joints `JOINTS`; every step of its chunks asks for `targets`, rad, with an open gripper."""

    action_dim, action_space = 3, "absolute_joint"
    action_names, action_units = ("a", "b", "gripper"), ("rad", "rad", "1")
    action_range = np.array([-2.0, -2.0, 0.0]), np.array([2.0, 2.0, 1.0])

    def __init__(self, *targets):
        super().__init__()
        self.actions = np.tile([*targets, 1.0], (8, 1))


class SessionBench:
    """`now`: the node's clock, nanoseconds. `sent`: (name of the topic, message), in order."""

    def __init__(self, monkeypatch, policy=None, **parameters):
        self.policy = policy or FakePolicy()
        monkeypatch.setattr("specprune_ros.nodes.model.load_policy", lambda *_: self.policy)
        monkeypatch.setattr(Turns, "_run", lambda turns: None)
        monkeypatch.setattr("specprune_ros.nodes.session.clock_problem", lambda node: "")  # time is what the test says
        self.sent = []
        publish = LifecyclePublisher.publish

        def record(publisher, message):
            if publisher.is_activated:
                self.sent.append((publisher.topic_name.rpartition("/")[2], message))
            publish(publisher, message)

        monkeypatch.setattr(LifecyclePublisher, "publish", record)
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        overrides = {"use_sim_time": True, "instruction": "go", **CARTESIAN, **parameters}
        self.node = PolicyNode(
            context=self.context,
            namespace=f"bench_{next(COUNT)}",  # the node before it may not be forgotten yet
            parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()],
        )
        self.arrival = 0.0  # seconds of the steady clock that tells when messages arrive
        steady = SimpleNamespace(monotonic=lambda: self.arrival)
        monkeypatch.setattr("specprune_ros.sensing.end_effector.time", steady)
        self.set_time(START)
        self.node.trigger_configure()
        assert self.node.session is not None, self.node._failure
        self.session = self.node.session
        self.session.sensors._arrival = self.node.takeover._arrival = steady.monotonic
        # Somebody has to listen to what moves the arm, or it holds.
        publisher = self.session._motion.publisher or self.session._publisher.chunks
        self.node.create_subscription(publisher.msg_type, publisher.topic_name, lambda message: None, 10)
        gripper = getattr(self.session._motion._gripper, "publisher", None)
        if gripper is not None:
            self.node.create_subscription(gripper.msg_type, gripper.topic_name, lambda message: None, 10)
        self.node.trigger_activate()
        self.until(lambda: publisher.get_subscription_count() > 0)
        for _ in range(25):  # a pose is listened to for a second before it moves the arm
            self.tick(images=False)

    def close(self):
        self.node.destroy_node()
        self.context.shutdown()

    # Time

    def set_time(self, now):
        self.now = now
        self.node.get_clock().set_ros_time_override(Time(nanoseconds=now))

    def advance(self, seconds):
        self.arrival += seconds
        self.set_time(self.now + round(seconds * SECOND))

    @staticmethod
    def until(condition, timeout=180.0):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    # Inputs

    def see(self, primary=None, wrist=None, x=0.0):
        """Images at the given stamps (nanoseconds; by default now), and a pose at `x` metres now."""
        self.pose(x)
        for shade, (camera, stamp) in enumerate((("primary", primary), ("wrist", wrist))):
            stamp = self.now if stamp is None else stamp
            image = Image(height=28, width=28, encoding="rgb8", step=84, data=bytes([40 * shade + 1, 90, 200]) * 784)
            image.header.stamp = Time(nanoseconds=stamp).to_msg()
            self.session._inputs._add_image(camera, image)

    def pose(self, x=0.0, stamp=None):
        if self.session._transforms is None:
            return
        transform = TransformStamped(child_frame_id="hand")
        transform.header.frame_id = "base"
        transform.header.stamp = Time(nanoseconds=self.now if stamp is None else stamp).to_msg()
        transform.transform.translation.x = x
        transform.transform.rotation.w = 1.0
        self.session._transforms.add(TFMessage(transforms=[transform]), False, self.now)

    def joints(self, **positions):
        message = JointState(name=list(positions), position=list(positions.values()))
        message.header.stamp = Time(nanoseconds=self.now).to_msg()
        self.session._inputs._add_joints(message)

    def infer(self, **stamps):
        """One inference on new images, a millisecond later."""
        self.advance(0.001)
        self.see(**stamps)
        self.work()

    def work(self):
        """What the worker's thread does when it is woken."""
        self.session._due = True
        self.session._worker.step()

    # What a user does

    def enable(self, on=True):
        return self.node._on_enable(SetBool.Request(data=on), SetBool.Response())

    def take_over(self, on=True):
        return self.node._on_takeover(SetBool.Request(data=on), SetBool.Response())

    def reset(self):
        return self.node._on_reset(Trigger.Request(), Trigger.Response())

    def set(self, **parameters):
        parameters = [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]
        result = self.node.set_parameters_atomically(parameters)
        assert result.successful, result.reason

    # Outputs

    def tick(self, x=0.0, images=True):
        """One control period, with a fresh pose and fresh images."""
        self.advance(STEP)
        if images:
            self.see(x=x)
        else:
            self.pose(x)
        self.session._tick()
        return self.session._motion.result

    def messages(self, topic):
        return [message for name, message in list(self.sent) if name == topic]

    def speeds(self):
        return [message.twist.linear.x for message in self.messages("twist")]

    def status(self, name):
        found = next(status for status in self.session.statuses() if status.name == name)
        return SimpleNamespace(message=found.message, level=found.level, values=found.values)


def start_moving(bench, x=0.0):
    """Motion on, by a first chunk."""
    answer = bench.enable()
    assert answer.success, answer.message
    bench.advance(0.01)
    bench.infer()
    result = bench.tick(x=x) if x else bench.tick()
    assert isinstance(result, Motion), result
