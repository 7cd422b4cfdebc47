# SPDX-License-Identifier: Apache-2.0
"""Parameters that the user gave and that the node does not have: most likely misspelled."""

import difflib

from rclpy.node import Node

LATER = ("qos_overrides.",)  # declared with their subscriptions


def warn_of_unknown(node: Node) -> None:
    """Log every given parameter that does not exist, with the nearest one that does. Call it after declaring."""
    # rclpy has no public way to ask for overrides that were not declared.
    for name in sorted(node._parameter_overrides):
        if not node.has_parameter(name) and not name.startswith(LATER):
            node.get_logger().warning(no_such_parameter(node, name, ", it is ignored"))


def no_such_parameter(node: Node, name: str, consequence: str = "") -> str:
    """That `name` does not exist, and which one may be meant."""
    near = nearest(name, list(node.get_parameters_by_prefix("")))
    return f"there is no parameter {name}{consequence}" + (f"; did you mean {near}?" if near else "")


def nearest(name: str, known: list[str]) -> str:
    """The known name that `name` resembles most, as a whole or by its last part; "" when it resembles none."""
    last_parts = {candidate.rpartition(".")[2]: candidate for candidate in known}
    for word, words in ((name, {candidate: candidate for candidate in known}), (name.rpartition(".")[2], last_parts)):
        matches = difflib.get_close_matches(word, words, 1)
        if matches:
            return words[matches[0]]
    return ""
