# SPDX-License-Identifier: Apache-2.0
"""The simulator node as users run it: a real process, real DDS, real LIBERO."""

import dataclasses
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from node_server import start_node

from specprune_ros.parameters import check, from_mapping
from specprune_ros.pose import Pose
from specprune_ros.sim.config import RunConfig, SceneConfig

pytestmark = [pytest.mark.ros, pytest.mark.sim]

ROOT = Path(__file__).parents[1]
START = 300.0  # seconds of real time for the node to come up on a loaded machine
STEP_NS = 50_000_000


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "specprune_ros.nodes.libero_sim", "--ros-args", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


class Client:
    """Listens to everything the simulator says, and talks to it."""

    def __init__(self, context):
        import rclpy
        from geometry_msgs.msg import TwistStamped
        from rcl_interfaces.srv import SetParameters
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import qos_profile_sensor_data
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import Image, JointState
        from specprune_ros.msg import ActionChunk
        from std_msgs.msg import Bool, Float64, String
        from std_srvs.srv import Trigger
        from tf2_msgs.msg import TFMessage

        from specprune_ros.nodes.subscribing import LATCHED

        self.node = rclpy.create_node("test_client", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.heard = defaultdict(list)
        for name, kind, topic, qos in (
            ("clock", Clock, "/clock", qos_profile_sensor_data),
            ("primary", Image, "/libero_sim/primary/image", qos_profile_sensor_data),
            ("wrist", Image, "/libero_sim/wrist/image", qos_profile_sensor_data),
            ("joints", JointState, "/joint_states", 10),
            ("tf", TFMessage, "/tf", 100),
            ("tf_static", TFMessage, "/tf_static", LATCHED),
            ("success", Bool, "/libero_sim/success", LATCHED),
            ("instruction", String, "/libero_sim/instruction", LATCHED),
            ("factor", Float64, "/libero_sim/real_time_factor", 10),
        ):
            self.node.create_subscription(kind, topic, self.heard[name].append, qos)
        self.chunks = self.node.create_publisher(ActionChunk, "/libero_sim/action_chunk", 10)
        self.twists = self.node.create_publisher(TwistStamped, "/libero_sim/twist", 10)
        self.gripper = self.node.create_publisher(JointState, "/libero_sim/gripper", 10)
        self.reset = self.node.create_client(Trigger, "/libero_sim/reset")
        self.parameters = self.node.create_client(SetParameters, "/libero_sim/set_parameters")

    def wait(self, condition, what, timeout=180.0):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
            self.executor.spin_once(timeout_sec=0.1)

    def pass_time(self, seconds):
        """Wait until simulated time has advanced."""
        until = self.now + int(seconds * 1e9)
        self.wait(lambda: self.now >= until, f"{seconds} s of simulated time")

    def call(self, client, request):
        future = client.call_async(request)
        self.wait(future.done, client.srv_name)
        return future.result()

    def set_parameter(self, name, value):
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(self.parameters, request).results[0]

    def send(self, actions, *, execute=True, stamp=None, **fields):
        from builtin_interfaces.msg import Duration, Time
        from specprune_ros.msg import ActionChunk

        actions = np.asarray(actions, dtype=np.float64)
        message = ActionChunk(execute=execute, action_space="delta_end_effector", steps=len(actions))
        message.actions = actions.ravel().tolist()
        message.dt = Duration(nanosec=STEP_NS)
        stamp = self.now if stamp is None else stamp
        message.header.stamp = Time(sec=stamp // 10**9, nanosec=stamp % 10**9)
        for name, value in fields.items():
            setattr(message, name, value)
        self.chunks.publish(message)

    def drive(self, seconds, z, frame="panda_link0"):
        """Upwards with `z` m/s for so long, one velocity in every control period."""
        from geometry_msgs.msg import TwistStamped

        message = TwistStamped()
        message.header.frame_id, message.twist.linear.z = frame, z
        until, sent = self.now + int(seconds * 1e9), -1
        while self.now < until:
            if self.now != sent:
                sent = self.now
                self.twists.publish(message)
            self.executor.spin_once(timeout_sec=0.1)

    @property
    def now(self):
        """Simulated time, nanoseconds."""
        return nanoseconds(self.heard["clock"][-1].clock)

    @property
    def eef(self):
        """(3,) end effector in the base frame."""
        return pose(self.heard["tf"][-1].transforms[0]).position


def nanoseconds(stamp):
    return stamp.sec * 10**9 + stamp.nanosec


def pose(message):
    t, r = message.transform.translation, message.transform.rotation
    return Pose(np.array([t.x, t.y, t.z]), np.array([r.x, r.y, r.z, r.w]))


@pytest.fixture(scope="module")
def simulator():
    options = ("image_size:=128", "shadows:=false", "anti_aliasing:=false", "camera_rate:=4.0")
    process = start(*(word for option in options for word in ("-p", option)))
    yield process
    process.send_signal(signal.SIGINT)
    try:
        errors = process.communicate(timeout=START)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, errors
    assert "Traceback" not in errors, errors


@pytest.fixture(scope="module")
def shared_client(simulator):
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context)
    client = Client(context)

    def alive():
        assert simulator.poll() is None, simulator.stderr.read()
        topics = ("clock", "primary", "wrist", "joints", "tf", "tf_static", "success", "instruction")
        return all(client.heard[topic] for topic in topics)

    client.wait(alive, "every topic", START)
    client.wait(lambda: client.chunks.get_subscription_count() == 1, "the chunk subscription")
    yield client
    client.executor.shutdown()
    client.node.destroy_node()
    context.try_shutdown()


@pytest.fixture
def client(shared_client):
    """A new episode."""
    from std_srvs.srv import Trigger

    assert shared_client.call(shared_client.reset, Trigger.Request()).success
    for name in ("clock", "primary", "wrist", "joints", "tf"):
        shared_client.heard[name].clear()
    shared_client.wait(lambda: all(shared_client.heard[name] for name in ("clock", "joints", "tf")), "state")
    return shared_client


def test_topics_and_stamps(client):
    client.pass_time(1.5)
    heard = client.heard
    assert heard["instruction"][-1].data.startswith("pick up the black bowl between the plate and the ramekin")
    assert heard["success"][-1].data is False
    assert 0.0 < heard["factor"][-1].data <= 1.02
    ticks = np.diff([nanoseconds(message.clock) for message in heard["clock"]])
    assert (ticks > 0).all() and np.mean(ticks == STEP_NS) > 0.8  # the clock is best effort
    for message in heard["joints"]:
        assert message.name == [f"panda_joint{i}" for i in range(1, 8)] + ["panda_finger_joint1", "panda_finger_joint2"]
        assert len(message.position) == len(message.velocity) == 9
    joint_stamps = [nanoseconds(message.header.stamp) for message in heard["joints"]]
    tf_stamps = [nanoseconds(message.transforms[0].header.stamp) for message in heard["tf"]]
    assert set(np.diff(joint_stamps)) == set(np.diff(tf_stamps)) == {STEP_NS}
    for camera in ("primary", "wrist"):
        stamps = [nanoseconds(message.header.stamp) for message in heard[camera]]
        assert set(np.diff(stamps[1:])) == {250_000_000} and set(stamps) <= set(tf_stamps)
        image = heard[camera][-1]
        assert (image.height, image.width, image.step, image.encoding) == (128, 128, 384, "rgb8")
        assert image.header.frame_id == f"{camera}_optical_frame"
        pixels = np.frombuffer(image.data, np.uint8)
        assert 40 < pixels.mean() < 220 and pixels.std() > 20
    assert {nanoseconds(m.header.stamp) for m in heard["primary"]} == {
        nanoseconds(m.header.stamp) for m in heard["wrist"]
    }


def test_transforms_give_the_proprioception(client):
    fixed = {message.child_frame_id: message for message in client.heard["tf_static"][-1].transforms}
    arm = client.heard["tf"][-1].transforms[0]
    assert (arm.header.frame_id, arm.child_frame_id) == ("panda_link0", "panda_hand_tcp")
    assert fixed["panda_link0"].header.frame_id == fixed["primary_optical_frame"].header.frame_id == "world"
    assert fixed["wrist_optical_frame"].header.frame_id == "panda_hand_tcp"
    eef = pose(fixed["panda_link0"]) @ pose(arm)
    np.testing.assert_allclose(eef.position, [-0.21081, -0.01516, 1.17568], atol=1e-4)  # recorded: see test_libero_env
    np.testing.assert_allclose(eef.quaternion, [0.99937, -0.02661, -0.02258, -0.00576], atol=1e-4)
    looking = pose(fixed["primary_optical_frame"]).rotation.apply([0, 0, 1])
    assert looking[0] < -0.5 and looking[2] < -0.3  # towards the arm, and down


def test_a_chunk_moves_the_arm(client):
    before = client.eef
    client.send([[0, 0, 1.0, 0, 0, 0, 0.0]] * 20)
    client.pass_time(1.2)
    moved = client.eef - before
    assert moved[2] > 0.1 and np.abs(moved[:2]).max() < 0.05  # 20 steps of at most 5 cm, upwards; the arm lags
    assert client.heard["joints"][-1].position[7] < 0.01  # 0 closes the gripper
    end = client.eef
    client.pass_time(0.5)
    assert np.linalg.norm(client.eef - end) < 0.03  # the chunk is over: the arm holds


def test_steps_of_the_past_are_skipped(client):
    before, stamp = client.eef, client.now
    client.pass_time(0.5)
    up, down = [0, 0, 1.0, 0, 0, 0, 1.0], [0, 0, -1.0, 0, 0, 0, 1.0]
    client.send([up] * 10 + [down] * 8, stamp=stamp)
    client.pass_time(0.6)
    assert client.eef[2] < before[2] - 0.02


def test_the_arm_holds_without_execute(client):
    before = client.eef
    client.send([[0, 0, 1.0, 0, 0, 0, 1.0]] * 20, execute=False)
    client.pass_time(0.7)
    assert np.linalg.norm(client.eef - before) < 1e-3
    client.send([[0, 0, 1.0, 0, 0, 0, 1.0]] * 20)
    client.pass_time(0.3)
    client.send([[0, 0, 1.0, 0, 0, 0, 1.0]] * 20, execute=False)  # and stops a running chunk
    client.pass_time(0.5)
    stopped = client.eef
    client.pass_time(0.4)
    assert np.linalg.norm(client.eef - stopped) < 0.005


def test_bad_chunks_are_ignored(client, simulator):
    before = client.eef
    good = np.tile([0, 0, 1.0, 0, 0, 0, 1.0], (20, 1))
    client.send(np.full((20, 7), np.nan))
    client.send(good, steps=3)
    client.send(good, steps=2**32 - 1)
    client.send(good[:, :6])
    client.send(good, action_space="absolute_joint")
    client.send(good, stamp=client.now + 10**12)
    client.send(good, stamp=1)
    client.send([])
    client.pass_time(0.5)
    assert simulator.poll() is None
    assert np.linalg.norm(client.eef - before) < 1e-3
    client.send(good)
    client.pass_time(0.5)
    assert client.eef[2] > before[2] + 0.05


def test_velocities_move_the_arm_while_they_come(client, simulator):
    before = client.eef
    client.send([[0, 0, -1.0, 0, 0, 0, 1.0]] * 10)  # somebody who drives goes before a chunk
    client.drive(0.6, 0.6)
    moved = client.eef - before
    assert 0.05 < moved[2] < 0.3 and np.abs(moved[:2]).max() < 0.03
    client.pass_time(0.3)  # and it stops without them
    end = client.eef
    client.pass_time(0.4)
    assert np.linalg.norm(client.eef - end) < 0.005
    for velocity, frame in ((np.nan, "panda_link0"), (0.4, "panda_hand_tcp")):
        client.drive(0.2, velocity, frame)
    assert simulator.poll() is None and np.linalg.norm(client.eef - end) < 0.01


def test_the_gripper_has_a_topic_of_its_own(client, simulator):
    from sensor_msgs.msg import JointState

    assert client.heard["joints"][-1].position[7] > 0.03
    client.gripper.publish(JointState(position=[np.nan]))
    client.gripper.publish(JointState(position=[0.0, 0.0]))
    client.pass_time(0.3)
    assert simulator.poll() is None and client.heard["joints"][-1].position[7] > 0.03
    client.gripper.publish(JointState(position=[0.0]))
    client.wait(lambda: client.heard["joints"][-1].position[7] < 0.01, "closed fingers")
    client.gripper.publish(JointState(position=[0.08]))
    client.wait(lambda: client.heard["joints"][-1].position[7] > 0.03, "open fingers")


def test_success_ends_the_episode_and_reset_begins_another(client):
    from std_srvs.srv import Trigger

    with np.load(ROOT / "test" / "data" / "libero_episode.npz") as data:
        recorded = data["action"].astype(np.float64)
    recorded[:, 6] = (1 - recorded[:, 6]) / 2  # to the checkpoint's convention
    assert client.set_parameter("camera_rate", 0.1).successful
    client.wait(lambda: client.heard["clock"], "the clock")
    # Step k has to run in control period k: a chunk that covers only the future starts at its first step.
    client.send(recorded, stamp=client.now)
    client.heard["success"].clear()
    client.wait(lambda: client.heard["success"], "the end of the episode")
    first = client.heard["success"][-1].data
    assert first is True
    before = client.now
    reply = client.call(client.reset, Trigger.Request())
    assert reply.success and reply.message == client.heard["instruction"][-1].data
    client.wait(lambda: client.heard["success"][-1].data is False, "a new episode")
    client.pass_time(0.1)
    assert client.now > before  # time goes on
    np.testing.assert_allclose(client.eef, [0.44919, -0.01516, 0.26368], atol=1e-3)


def test_parameters_are_checked_while_it_runs(client):
    refused = client.set_parameter("suite", "libero_spacial")
    assert not refused.successful and "no suite 'libero_spacial'" in refused.reason
    refused = client.set_parameter("camera_rate", 50.0)
    assert not refused.successful and "camera_rate" in refused.reason
    assert client.set_parameter("init_state", 3).successful


def test_the_parameter_file_fits_both_nodes():
    from specprune_ros.control.action_space import ControllerConfig
    from specprune_ros.nodes.parameters.groups import InputsConfig

    sections = yaml.safe_load((ROOT / "config" / "libero.yaml").read_text())
    given = sections["/**/libero_sim"]["ros__parameters"]
    for kind in (SceneConfig, RunConfig):
        names = {field.name for field in dataclasses.fields(kind)}
        check(from_mapping(kind, {name: value for name, value in given.items() if name in names}, ""), "")
        given = {name: value for name, value in given.items() if name not in names}
    assert not given
    policy = sections["/**/specprune_policy"]["ros__parameters"]
    assert policy.pop("use_sim_time") is True
    for group, kind in (("inputs", InputsConfig), ("controller", ControllerConfig)):
        check(from_mapping(kind, policy.pop(group), group), group)
    assert not policy


def test_a_wrong_start_is_told_in_one_line():
    words = {
        "no suite 'libero_spacial'": "suite:=libero_spacial",
        "no task 99": "task:=99",
        "camera_rate": "camera_rate:=fast",
    }
    for said, argument in words.items():
        process = start_node("specprune_ros.nodes.libero_sim", ["-p", argument])
        errors = process.communicate(START)[1]
        assert process.returncode == 2 and said in errors and len(errors.strip().splitlines()) == 1, errors


@pytest.mark.parametrize(
    ("success", "elapsed", "ends", "code"),
    [(True, 1.0, True, 0), (False, 61.0, True, 1), (False, 59.0, False, 0)],
    ids=["solved", "too long", "goes on"],
)
def test_the_process_ends_with_the_episode(success, elapsed, ends, code):
    from specprune_ros.nodes.libero_sim import LiberoSim

    settings, stopped, said = RunConfig(duration=60.0, end_with_episode=True), [], []
    simulator = SimpleNamespace(
        **{"_over": False, "_first_motion": 10.0, "_now": 10.0 + elapsed, "exit_code": 0},
        _settings=SimpleNamespace(running=lambda _: settings),
        _success_pub=SimpleNamespace(publish=lambda message: said.append(message.data)),
        get_logger=lambda: SimpleNamespace(info=lambda _: None),
        stop=lambda: stopped.append(True),
    )
    LiberoSim._end_episode_when_due(simulator, success)
    assert (bool(stopped), simulator.exit_code, said) == (ends, code, [success] * ends)


# In the middle of a reset, whose scene takes a minute to load.
LOADING = """
import sys, time
from specprune_ros.nodes import libero_sim
class Loading:
    exit_code = 0
    def run(self):
        print("loads", flush=True)
        for _ in range(6000):  # a signal just before one long sleep would be heeded behind it
            time.sleep(0.1)
    def stop(self):
        pass
libero_sim.LiberoSim = Loading
sys.exit(libero_sim.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_reset_does_not_keep_it_when_it_is_told_to_end(number):
    process = subprocess.Popen(
        [sys.executable, "-c", LOADING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout.readline() == "loads\n"
        process.send_signal(number)
        assert process.communicate(timeout=START)[1] == "" and process.returncode == 0
    finally:
        process.kill()
