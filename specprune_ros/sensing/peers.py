# SPDX-License-Identifier: Apache-2.0
"""What is known of those who publish the inputs, for messages that point the right way."""

from typing import Protocol


class Peers(Protocol):
    """Asked only when something is wrong; from any thread."""

    def publishers(self, topic: str) -> str:
        """The names of the nodes that publish on a topic, with commas; "" when nobody is known."""
        ...

    def mismatch(self, topic: str) -> str:
        """Why nothing is heard although somebody publishes on a topic, and the remedy; "" when that is not so."""
        ...


class UnknownPeers:
    """Where nobody can be asked: a bag."""

    def publishers(self, topic: str) -> str:
        return ""

    def mismatch(self, topic: str) -> str:
        return ""
