# SPDX-License-Identifier: Apache-2.0
"""What the real tf2 answers, for `test_sensing_transform_buffer_tf2.py`; run by hand where its Python binding is.

    apt-get install python3-tf2 python3-rospy python3-geometry-msgs    # Debian 12: tf2 0.7.6
    /usr/bin/python3 test/oracle/tf2_reference.py > test/data/tf2.json

tf2::BufferCore stores, interpolates and chains in ROS 1 as it does in ROS 2; only the time type differs.
"""

import json
import math
import random

import rospy
import tf2_py
from geometry_msgs.msg import TransformStamped

NANOSECONDS = 10**9
START = 1_763_000_000 * NANOSECONDS + 123_456_789
STATIC = (("world", "base"), ("base", "camera"), ("world", "table"))
# parent, child, rate (Hz), seconds without data. "tool" is the hand, "finger" moves on it.
TIMED = (("base", "shoulder", 100.0, ()), ("shoulder", "tool", 30.0, ((1.0, 1.3),)), ("tool", "finger", 20.0, ()))
SECONDS, JITTER = 2.5, 0.003
FRAMES = ("world", "base", "camera", "table", "shoulder", "tool", "finger")


def pose(generator, angle, radius):
    axis = [generator.gauss(0, 1) for _ in range(3)]
    norm = math.hypot(*axis)
    position = [generator.gauss(0, radius) for _ in range(3)]
    return position, [*(math.sin(angle / 2) * x / norm for x in axis), math.cos(angle / 2)]


def moving(phase, seconds):
    """Swings and turns at up to 1 m/s and 3 rad/s; the quaternion changes its sign at times, as real drivers' do."""
    position = [
        0.3 * math.cos(3 * seconds + phase),
        0.2 * math.sin(2 * seconds),
        0.5 + 0.1 * math.sin(5 * seconds + phase),
    ]
    yaw, pitch = 1.5 * math.sin(2 * seconds + phase), 0.8 * math.sin(1.5 * seconds)
    cy, sy, cp, sp = math.cos(yaw / 2), math.sin(yaw / 2), math.cos(pitch / 2), math.sin(pitch / 2)
    sign = -1 if math.sin(7 * seconds) > 0.5 else 1
    return position, [sign * q for q in (-sy * sp, cy * sp, sy * cp, cy * cp)]


def transforms(generator):
    """Rows: parent, child, stamp (ns), position, quaternion xyzw, static; as they arrive: partly out of order."""
    rows = [[parent, child, 0, *pose(generator, generator.uniform(0, 3), 0.5), True] for parent, child in STATIC]
    timed = []
    for phase, (parent, child, rate, gaps) in enumerate(TIMED):
        for k in range(int(SECONDS * rate)):
            seconds = k / rate + generator.uniform(0, JITTER)
            if not any(a < seconds < b for a, b in gaps):
                arrival = seconds + generator.choice((0.0, 0.0, 0.08))
                stamp = START + round(seconds * NANOSECONDS)
                timed.append((arrival, [parent, child, stamp, *moving(phase, seconds), False]))
    return rows + [row for _, row in sorted(timed)]


def stamped(parent, child, stamp, position, quaternion, _):
    message = TransformStamped()
    message.header.frame_id, message.child_frame_id = parent, child
    message.header.stamp = rospy.Time(0, stamp)
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = position
    q.x, q.y, q.z, q.w = quaternion
    return message


def answer(buffer, target, source, stamp):
    """A stamp of 0 asks for the newest common time."""
    query = {"target": target, "source": source, "stamp": stamp}
    try:
        found = buffer.lookup_transform_core(target, source, rospy.Time(0, stamp))
    except tf2_py.ExtrapolationException:
        return {**query, "error": "extrapolation"}
    t, q = found.transform.translation, found.transform.rotation
    return {
        **query,
        "position": [t.x, t.y, t.z],
        "quaternion": [q.x, q.y, q.z, q.w],
        "found_stamp": found.header.stamp.to_nsec(),
    }


def main():
    generator = random.Random(0)
    rows = transforms(generator)
    buffer = tf2_py.BufferCore(rospy.Duration(10.0))
    for row in rows:
        (buffer.set_transform_static if row[-1] else buffer.set_transform)(stamped(*row), "reference")
    queries = [(target, source, 0) for target in FRAMES for source in FRAMES]
    for _ in range(150):
        stamp = START + round(generator.uniform(-0.1, SECONDS + 0.1) * NANOSECONDS)
        queries.append((generator.choice(FRAMES), generator.choice(FRAMES), stamp))
    queries += [("world", "tool", row[2]) for row in rows if row[1] == "tool"][::4]  # where a sample is
    print(json.dumps({"tf2": "0.7.6", "transforms": rows, "answers": [answer(buffer, *query) for query in queries]}))


if __name__ == "__main__":
    main()
