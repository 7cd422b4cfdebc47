# SPDX-License-Identifier: Apache-2.0
"""The recording that ships with the repository, as pictures and poses, and copies of it with faults in the cameras."""

from pathlib import Path

import cv2
import numpy as np

from specprune_ros.recording.bag_writer import BagWriter
from specprune_ros.replay.bag import Bag
from specprune_ros.sensing.end_effector import EndEffector
from specprune_ros.sensing.transforms import BufferedTransforms
from specprune_ros.stamps import NANOSECONDS, from_stamp

SAMPLE = Path(__file__).parents[1] / "examples" / "libero_bag"
VIEWS = ("primary", "wrist")
TOPICS = {f"/libero_sim/{view}/image/compressed": view for view in VIEWS}


def decoded(message):
    return cv2.imdecode(message.data, cv2.IMREAD_COLOR)[..., ::-1]


def observations():
    """[(seconds, view -> (H, W, 3) RGB as recorded, pose of the end effector)]"""
    transforms = BufferedTransforms(clock=lambda: 0.0)
    arm = EndEffector(transforms, "world", "panda_hand_tcp")
    frames = {}
    with Bag(SAMPLE) as bag:
        for seen in bag.messages([*TOPICS, "/tf", "/tf_static"]):
            if seen.topic in TOPICS:
                frames.setdefault(from_stamp(seen.message.header.stamp), {})[TOPICS[seen.topic]] = decoded(seen.message)
            else:
                transforms.add(seen.message, seen.topic == "/tf_static", seen.time)
        # The buffer keeps ten seconds, the whole recording.
        return [(stamp / NANOSECONDS, views, arm.pose(stamp, NANOSECONDS // 10)) for stamp, views in frames.items()]


def copy(path, change, until=5.0):
    """A bag of the first `until` seconds; `change`: view -> RGB picture in, the same out. Headers stay."""
    with Bag(SAMPLE) as bag, BagWriter(path, latched=("/tf_static", "/libero_sim/instruction")) as writer:
        for name, value in bag.custom_data.items():
            writer.set_custom_data(name, value)
        pair = {}
        for seen in bag.messages(bag.types):
            if seen.time - bag.start > until * NANOSECONDS:
                break
            if seen.topic not in TOPICS:
                writer.write_raw(seen.topic, bag.types[seen.topic], seen.time, seen.data)
                continue
            pair[TOPICS[seen.topic]] = seen
            if len(pair) < len(VIEWS):
                continue
            changed = change({view: decoded(own.message) for view, own in pair.items()})
            for view, own in pair.items():
                pixels = np.ascontiguousarray(changed[view][..., ::-1])
                own.message.data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].ravel()
                writer.write(own.topic, bag.types[own.topic], own.time, own.message)
            pair = {}
    return path
