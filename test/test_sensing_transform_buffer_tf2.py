# SPDX-License-Identifier: Apache-2.0
"""Our buffer against the answers of the real tf2 (`oracle/tf2_reference.py` recorded them).

Poses and twists of the end effector come from such look-ups alone (`nodes.end_effector`), so equal answers here are
equal results from `tf2_ros` and from our own buffer.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from specprune_ros.sensing.transform_buffer import TransformBuffer, TransformError

NANOSECONDS = 1e9
RECORDED = json.loads((Path(__file__).parent / "data" / "tf2.json").read_text())
CLOCK = 5e-7  # seconds: two steps of a float64 of seconds since 1970, which is how that binding takes stamps too
FASTEST = 4.0  # m/s or rad/s, over the whole chain


@pytest.fixture(scope="module")
def buffer():
    result = TransformBuffer()
    for parent, child, stamp, position, quaternion, static in RECORDED["transforms"]:
        result.set_transform(parent, child, stamp / NANOSECONDS, position, quaternion, static=static)
    return result


def test_every_answer_of_tf2(buffer):
    kinds = {"pose": 0, "newest": 0, "extrapolation": 0}
    for answer in RECORDED["answers"]:
        target, source, stamp = answer["target"], answer["source"], answer["stamp"]
        if "error" in answer:
            with pytest.raises(TransformError):
                buffer.lookup(target, source, stamp / NANOSECONDS)
            kinds["extrapolation"] += 1
            continue
        found = buffer.lookup(target, source, stamp / NANOSECONDS if stamp else None)
        said = f"{target} <- {source} at {stamp}"
        np.testing.assert_allclose(found.pose.position, answer["position"], atol=FASTEST * CLOCK, err_msg=said)
        apart = 2 * np.arccos(min(1.0, abs(found.pose.quaternion @ answer["quaternion"])))
        assert apart < 1e-6 + FASTEST * CLOCK, said
        if not stamp and answer["found_stamp"]:
            assert found.stamp == pytest.approx(answer["found_stamp"] / NANOSECONDS, abs=CLOCK), said
        elif not stamp and target != source:
            assert found.stamp is None, said  # a chain of static links alone
        kinds["newest" if not stamp else "pose"] += 1
    assert min(kinds.values()) > 10, kinds
