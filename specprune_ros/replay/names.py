# SPDX-License-Identifier: Apache-2.0
"""ROS names: expanded and remapped as on the node."""

from collections.abc import Iterable
from dataclasses import dataclass

from specprune_ros.errors import ConfigError
from specprune_ros.sensing.camera_check import COMPRESSED

NODE = "specprune_policy"


@dataclass(frozen=True)
class Names:
    """The names of one node. `rules`: (from, to) of topics, in order."""

    namespace: str = ""  # with a leading slash, or empty
    node: str = NODE
    rules: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, rules: Iterable[str]) -> "Names":
        """From remapping rules as they follow `-r`: `from:=to`, `__ns:=/arm1`, `__node:=name`.

        Raises ConfigError for one that is no rule.
        """
        namespace, node, topics = "", NODE, []
        for rule in rules:
            source, separator, target = rule.partition(":=")
            source = source.rpartition(":")[2]  # `node:from:=to`
            if not separator or not source or not target:
                raise ConfigError(f"-r {rule} is no remapping rule; write -r ~/image_primary:=/camera/color/image_raw")
            if source == "__ns":
                namespace = "/" + target.strip("/") if target.strip("/") else ""
            elif source in ("__node", "__name"):
                node = target
            else:
                topics.append((source, target))
        return cls(namespace, node, tuple(topics))

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.node}"

    def expand(self, name: str) -> str:
        """The fully qualified name, before remapping."""
        if name.startswith("~"):
            return f"{self.full_name}/{name.lstrip('~/')}"
        return name if name.startswith("/") else f"{self.namespace}/{name}"

    def resolve(self, name: str) -> str:
        """The topic that the node subscribes to or publishes on; the first rule that fits counts."""
        full = self.expand(name)
        for source, target in self.rules:
            if self.expand(source) == full:
                return self.expand(target)
        return full

    def compressed(self, name: str) -> str:
        """The topic of compressed images of `name`: by a rule of its own, or beside that of the raw ones."""
        own = self.resolve(name + COMPRESSED)
        return own if own != self.expand(name + COMPRESSED) else self.resolve(name) + COMPRESSED
