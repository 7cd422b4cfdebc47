# SPDX-License-Identifier: Apache-2.0
"""What of a URDF matters here: which joints turn without end."""

from xml.etree import ElementTree

from specprune_ros.errors import ObservationError


def continuous_joints(urdf: str) -> frozenset[str]:
    """Names of the joints of type continuous. Raises ObservationError for what is no URDF."""
    try:
        robot = ElementTree.fromstring(urdf)
    except ElementTree.ParseError as error:
        raise ObservationError(f"the robot description is no XML ({error}); publish a URDF") from error
    return frozenset(joint.get("name", "") for joint in robot.iter("joint") if joint.get("type") == "continuous")
