# SPDX-License-Identifier: Apache-2.0
"""Small bags of an arm that moves in front of two cameras, for a policy of random weights."""

import cv2
import numpy as np
from release_checkpoint import TINY, light_checkpoint
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

CHECKPOINT = light_checkpoint()
GOLDEN = np.load(TINY / "golden.npz")
INSTRUCTION = str(GOLDEN["instruction"])
FINGERS = ("panda_finger_joint1", "panda_finger_joint2")
NODE = "/specprune_policy"
MAX_AGE = 0.6  # seconds
PARAMETERS = f"""
/**/specprune_policy:
  ros__parameters:
    model: {{device: cpu, threads: 1, checkpoint: {CHECKPOINT}}}
    inputs:
      joint_names: [{", ".join(FINGERS)}]
      base_frame: world
      ee_frame: hand
      max_age: {MAX_AGE}
"""
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND  # of the stamps
PERIOD = SECOND // 10
TYPES = get_typestore(Stores.ROS2_JAZZY)
CLOCK = "rosgraph_msgs/msg/Clock"
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class BagMaker:
    """The messages of a bag; a test may change or leave out some before `write`."""

    def __init__(self, images=30, compressed=False, simulated=False, offset=0):
        """`offset`: seconds that the stamps are later than the recorder's clock."""
        self.messages = []  # time, topic, type, message
        self.compressed, self.simulated, self.offset = compressed, simulated, offset
        self.definitions = {}  # topic -> (text, digest) of types that rosbags does not know
        self.add(0, f"{NODE}/instruction", "std_msgs/msg/String", self.make("std_msgs/msg/String", INSTRUCTION))
        for tick in range(2 * images):
            time = tick * PERIOD // 2
            if simulated:
                self.add(time, "/clock", CLOCK, self.make(CLOCK, self.time(time)))
            self.add_motion(time)
            if tick % 2 == 0:
                for view in ("primary", "wrist"):
                    self.add_image(time, view)

    @staticmethod
    def make(kind, *fields):
        return TYPES.types[kind](*fields)

    def add(self, time, topic, kind, message):
        """`time`: since the start, nanoseconds."""
        self.messages.append((time, topic, kind, message))

    def time(self, since):
        return self.make("builtin_interfaces/msg/Time", *divmod(START + since + self.offset * SECOND, SECOND))

    def header(self, time, frame=""):
        return self.make("std_msgs/msg/Header", self.time(time), frame)

    def add_motion(self, time):
        empty = np.zeros(0)
        joints = self.make(
            "sensor_msgs/msg/JointState", self.header(time), list(FINGERS), GOLDEN["state"][6:], empty, empty
        )
        self.add(time, "/joint_states", "sensor_msgs/msg/JointState", joints)
        seconds = time / SECOND
        position = GOLDEN["state"][:3] + np.array([0.05 * np.sin(seconds), 0.04 * np.cos(2 * seconds), -0.02 * seconds])
        quaternion = Rotation.from_rotvec(GOLDEN["state"][3:6]).as_quat()
        transform = self.make(
            "geometry_msgs/msg/Transform",
            self.make("geometry_msgs/msg/Vector3", *map(float, position)),
            self.make("geometry_msgs/msg/Quaternion", *map(float, quaternion)),
        )
        stamped = self.make("geometry_msgs/msg/TransformStamped", self.header(time, "world"), "hand", transform)
        self.add(time, "/tf", "tf2_msgs/msg/TFMessage", self.make("tf2_msgs/msg/TFMessage", [stamped]))

    def add_image(self, time, view):
        topic, kind, message = self.image(time, view)
        self.add(time, topic, kind, message)

    def image(self, time, view, pixels=None):
        pixels = self.pixels(time, view) if pixels is None else pixels
        header = self.header(time, f"{view}_optical_frame")
        if self.compressed:
            data = cv2.imencode(".png", pixels[..., ::-1])[1].ravel()
            message = self.make(COMPRESSED, header, "rgb8; png compressed bgr8", data)
            return f"{NODE}/image_{view}/compressed", COMPRESSED, message
        height, width = pixels.shape[:2]
        message = self.make(IMAGE, header, height, width, "rgb8", 0, 3 * width, pixels.ravel())
        return f"{NODE}/image_{view}", IMAGE, message

    @staticmethod
    def pixels(time, view):
        """The golden picture with a square that moves."""
        pixels = GOLDEN[f"{view}_image"].copy()
        at = 8 + int(time // (PERIOD // 2)) * 3 % (pixels.shape[0] - 48)
        pixels[at : at + 32, at : at + 32] = 255 - pixels[at : at + 32, at : at + 32]
        return pixels

    def drop(self, condition):
        """Leave out messages for which `condition(time in seconds, topic)` holds."""
        self.messages = [entry for entry in self.messages if not condition(entry[0] / SECOND, entry[1])]

    def write(self, path, storage=StoragePlugin.MCAP, mode=CompressionMode.NONE):
        writer = Writer(path, version=9, storage_plugin=storage)
        if mode != CompressionMode.NONE:
            writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            connections = {}
            for time, topic, kind, message in self.messages:
                if topic not in connections:
                    connections[topic] = self._connect(writer, topic, kind)
                data = message if isinstance(message, bytes) else TYPES.serialize_cdr(message, kind)
                writer.write(connections[topic], START + time, data)
        return path

    def _connect(self, writer, topic, kind):
        if topic in self.definitions:
            text, digest = self.definitions[topic]
            return writer.add_connection(topic, kind, msgdef=text, rihs01=digest)
        return writer.add_connection(topic, kind, typestore=TYPES)


def parameter_file(folder, text=PARAMETERS):
    path = folder / "arm.yaml"
    path.write_text(text)
    return path
