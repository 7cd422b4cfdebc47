# SPDX-License-Identifier: Apache-2.0
"""Which topics of a bag are the node's inputs and outputs."""

from dataclasses import dataclass

from specprune_ros.recording.definitions import CHUNK
from specprune_ros.replay.bag import Bag
from specprune_ros.replay.bag_repair import BagError
from specprune_ros.replay.names import Names
from specprune_ros.replay.settings import Settings
from specprune_ros.sensing.camera_check import COMPRESSED, info_topic
from specprune_ros.sensing.config import image_input

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINTS, TF = "sensor_msgs/msg/JointState", "tf2_msgs/msg/TFMessage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
STRING, CLOCK_TYPE = "std_msgs/msg/String", "rosgraph_msgs/msg/Clock"


@dataclass(frozen=True)
class Topics:
    """Full names. Those that a bag need not have are "" where it has not."""

    images: dict[str, str]  # camera -> topic
    infos: dict[str, str]  # camera -> topic of its calibration, of those that have one
    joints: str
    tf: tuple[str, ...]
    tf_static: tuple[str, ...]
    instruction: str
    clock: str
    chunks: str  # of the recorded node

    def all(self) -> set[str]:
        cameras = (*self.images.values(), *self.infos.values())
        names = (*cameras, self.joints, *self.tf, *self.tf_static, self.instruction, self.clock)
        return {name for name in names if name}


def find_topics(bag: Bag, settings: Settings, names: Names) -> Topics:
    """Raises BagError that lists the bag's topics of the type of one that is missing."""
    inputs = settings.inputs
    needs_joints = (bool(inputs.joint_names) and inputs.proprio != "none") or bool(settings.controller.joint_names)
    joints = _present(bag, names.resolve("joint_states"), JOINTS)
    if needs_joints and not joints:
        raise _missing(bag, "joint states", names.resolve("joint_states"), (JOINTS,), "joint_states")
    tf, tf_static = (_present(bag, names.resolve(name), TF) for name in ("/tf", "/tf_static"))
    if inputs.proprio == "end_effector" and not (tf or tf_static):
        raise _missing(bag, "transforms", names.resolve("/tf"), (TF,), "/tf")
    images = {camera: _image_topic(bag, settings, names, camera) for camera in inputs.cameras}
    infos = {camera: _present(bag, info_topic(topic), CAMERA_INFO) for camera, topic in images.items()}
    return Topics(
        images=images,
        infos={camera: topic for camera, topic in infos.items() if topic},
        joints=joints if needs_joints else "",
        tf=tuple(filter(None, [tf])),
        tf_static=tuple(filter(None, [tf_static])),
        instruction=_present(bag, names.resolve("~/instruction"), STRING),
        clock=_present(bag, "/clock", CLOCK_TYPE),
        chunks=_present(bag, names.resolve("~/action_chunk"), CHUNK),
    )


def _image_topic(bag: Bag, settings: Settings, names: Names, camera: str) -> str:
    """The configured transport's topic, else the other's: the pictures are the same."""
    name = f"~/{image_input(camera)}"
    raw, compressed = names.resolve(name), names.compressed(name)
    if raw.endswith(COMPRESSED):
        raw, compressed = raw.removesuffix(COMPRESSED), raw
    found = [topic for topic, kind in ((raw, IMAGE), (compressed, COMPRESSED_IMAGE)) if _present(bag, topic, kind)]
    if not found:
        raise _missing(bag, f"images of the view {camera}", raw, (IMAGE, COMPRESSED_IMAGE), name)
    return found[-1] if settings.inputs.image_transport == "compressed" else found[0]


def _present(bag: Bag, topic: str, kind: str) -> str:
    """The topic if the bag has messages of this type on it, else ""."""
    return topic if bag.types.get(topic) == kind and bag.counts[topic] else ""


def _missing(bag: Bag, what: str, topic: str, kinds: tuple[str, ...], name: str) -> BagError:
    have = bag.of_type(kinds)
    listed = "it has " + ", ".join(have) if have else f"it has none of type {' or '.join(kinds)}"
    kind = bag.types.get(topic)
    state = "has no messages" if kind in kinds else f"is a {kind}" if kind else "is not there"
    return BagError(f"{bag.path}: {what}: {topic} {state}; {listed}; choose one with -r {name}:=TOPIC")
