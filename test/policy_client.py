# SPDX-License-Identifier: Apache-2.0
"""The world around the policy node in tests: publishes real inputs over DDS, listens, and drives the lifecycle."""

import signal
import time
from array import array as packed
from collections import defaultdict
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped, TwistStamped
from lifecycle_msgs.srv import ChangeState, GetState
from node_server import start_node
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image, JointState
from specprune_ros.msg import ActionChunk, PruningStats
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "test" / "data" / "tiny_oft"
GOLDEN = dict(np.load(CHECKPOINT / "golden.npz"))  # read at once: forked processes would share the open file's position
PIXELS = {view: packed("B", GOLDEN[f"{view}_image"].tobytes()) for view in ("primary", "wrist")}  # as in messages
INSTRUCTION = str(GOLDEN["instruction"])
FINGERS = ("panda_finger_joint1", "panda_finger_joint2")
PARAMETERS = {
    "inputs.joint_names": list(FINGERS),
    "inputs.base_frame": "world",
    "inputs.ee_frame": "hand",
    "inputs.max_age": 1.5,  # so that a busy machine does not stop the arm all the time
    "inputs.frozen_after": 0.0,  # the pictures never change
    "model.device": "cpu",
    "hang_timeout": 60.0,  # others may use all processors
}
TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4, "unconfigured_shutdown": 5}
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PERIOD = 0.1  # seconds between two sets of inputs
# Seconds until something that has to happen has happened: nothing fails because the machine is busy.
PATIENCE = 180.0
START_PATIENCE = 300.0  # the same for a process that has to import and load first


def start_policy(namespace="", module="specprune_ros.nodes.policy_node", params_file=None, anew=False, **parameters):
    """The node, or another module with its parameters, in a process of its own. None leaves a parameter out."""
    arguments = ["--params-file", str(params_file)] if params_file else []
    for name, value in {**PARAMETERS, **parameters}.items():
        if value is None:
            continue
        text = "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else str(value)
        arguments += ["-p", f"{name}:={text}"]
    if namespace:
        arguments += ["-r", f"__ns:={namespace}"]
    return start_node(module, arguments, anew)


def stop(process):
    """Interrupt the node, as a terminal does, and see that it ends cleanly."""
    process.send_signal(signal.SIGINT)
    try:
        errors = process.communicate(timeout=PATIENCE)[1]
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in errors, errors


class PolicyClient:
    """`publish_inputs` sends one good set of inputs, in which attributes of `self` may be broken by a test."""

    def __init__(self, context, process, namespace=""):
        self.process = process
        prefix = f"{namespace}/specprune_policy"
        self.node = rclpy.create_node("test_client", context=context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.heard = defaultdict(list)
        for name, kind, topic, qos in (
            ("chunk", ActionChunk, f"{prefix}/action_chunk", 10),
            ("pruning", PruningStats, f"{prefix}/pruning", 10),
            ("twist", TwistStamped, f"{prefix}/twist", 10),
            ("gripper", JointState, f"{prefix}/gripper", 10),
            ("diagnostics", DiagnosticArray, "/diagnostics", 10),
        ):
            self.node.create_subscription(kind, topic, self.heard[name].append, qos)
        create = self.node.create_publisher
        self.images = {
            view: create(Image, f"{prefix}/image_{view}", qos_profile_sensor_data) for view in ("primary", "wrist")
        }
        self.joints = create(JointState, "joint_states", 10)
        self.tf = create(TFMessage, "/tf", 100)
        self.instruction = create(String, f"{prefix}/instruction", LATCHED)
        self.change_state = self.node.create_client(ChangeState, f"{prefix}/change_state")
        self.get_state = self.node.create_client(GetState, f"{prefix}/get_state")
        self.parameters = self.node.create_client(SetParametersAtomically, f"{prefix}/set_parameters_atomically")
        self.enabling = self.node.create_client(SetBool, f"{prefix}/enable")
        self.resetting = self.node.create_client(Trigger, f"{prefix}/reset")
        self.good()

    def good(self):
        """Nothing is broken."""
        self.missing = set()
        self.change_image = {"primary": lambda image: None, "wrist": lambda image: None}
        self.change_joints = lambda joints: None
        self.change_transform = lambda transform: None
        self.offset = 0.0  # seconds, added to every stamp

    # Inputs

    def publish_inputs(self):
        now = self.node.get_clock().now().nanoseconds + round(self.offset * 1e9)
        stamp = rclpy.time.Time(nanoseconds=now).to_msg()
        self.publish_motion(stamp)
        for view, publisher in self.images.items():
            if view not in self.missing:
                publisher.publish(self._image(view, stamp))

    def publish_motion(self, stamp):
        if "TF" not in self.missing:
            self.tf.publish(TFMessage(transforms=[self._transform(stamp)]))
        if "joints" not in self.missing:
            joints = JointState(name=["panda_joint1", *FINGERS], position=[0.1, *GOLDEN["state"][6:].tolist()])
            joints.header.stamp = stamp
            self.change_joints(joints)
            self.joints.publish(joints)

    def _image(self, view, stamp):
        pixels = GOLDEN[f"{view}_image"]
        image = Image(height=pixels.shape[0], width=pixels.shape[1], encoding="rgb8", step=pixels.shape[1] * 3)
        image.header.stamp = stamp
        image.data = PIXELS[view]
        self.change_image[view](image)
        return image

    def _transform(self, stamp):
        transform = TransformStamped(child_frame_id="hand")
        transform.header.frame_id, transform.header.stamp = "world", stamp
        t, q = transform.transform.translation, transform.transform.rotation
        t.x, t.y, t.z = map(float, GOLDEN["state"][:3])
        q.x, q.y, q.z, q.w = map(float, Rotation.from_rotvec(GOLDEN["state"][3:6]).as_quat())
        self.change_transform(transform)
        return transform

    # Waiting

    def wait(self, condition, what, timeout=PATIENCE, inputs=True):
        """Spin, publishing inputs, until `condition()` is true; returns its value."""
        deadline, due = time.monotonic() + timeout, 0.0
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {timeout} s for {what}; diagnostics: {self.statuses()}"
            assert self.process.poll() is None, (
                f"the node ended with {self.process.poll()}: {self.process.stderr.read()[-3000:]}"
            )
            if inputs and time.monotonic() >= due:
                due = time.monotonic() + PERIOD
                self.publish_inputs()
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def call(self, client, request, timeout=START_PATIENCE, inputs=False):
        self.wait(client.service_is_ready, client.srv_name, timeout, inputs=False)
        future = client.call_async(request)
        self.wait(future.done, f"an answer of {client.srv_name}", timeout, inputs)
        return future.result()

    def next_chunk(self, condition=lambda chunk: chunk.steps > 0, timeout=PATIENCE):
        """The next chunk that comes from now on and fulfils `condition`."""
        chunks = self.heard["chunk"]
        chunks.clear()
        return self.wait(lambda: next(filter(condition, list(chunks)), None), "a chunk", timeout)

    def statuses(self):
        """Short name -> the newest diagnostics of it."""
        newest = {}
        for array in self.heard["diagnostics"][-50:]:
            newest.update({status.name.rsplit(": ", 1)[1]: status for status in array.status})
        return {name: (status.level, status.message) for name, status in newest.items()}

    def values(self, name):
        """The newest values in the diagnostics of `name`, as text."""
        statuses = [s for array in self.heard["diagnostics"] for s in array.status if s.name.endswith(f": {name}")]
        return {pair.key: pair.value for pair in statuses[-1].values}

    def wait_for_problem(self, name, words, timeout=PATIENCE):
        """Until the diagnostics of `name` hold `words`, at a level above OK."""

        def found():
            level, message = self.statuses().get(name, (b"\0", ""))
            return level != b"\0" and words in message

        self.wait(found, f"{words!r} from {name}", timeout)

    # Commands

    def transition(self, name):
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[name]
        return self.call(self.change_state, request).success

    def state(self):
        return self.call(self.get_state, GetState.Request()).current_state.label

    def set(self, **parameters):
        """Set parameters atomically (`__` for a dot); "" or the reason of the refusal."""
        values = [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]
        request = SetParametersAtomically.Request(parameters=[value.to_parameter_msg() for value in values])
        result = self.call(self.parameters, request).result
        return "" if result.successful else result.reason

    def enable(self, data=True):
        return self.call(self.enabling, SetBool.Request(data=data), inputs=True)

    def reset(self):
        return self.call(self.resetting, Trigger.Request())
