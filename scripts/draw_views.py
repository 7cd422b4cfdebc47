# SPDX-License-Identifier: Apache-2.0
"""docs/viewers.png and docs/watch.png: what the viewers' files show, and the terminal, from the topics of a real node.

scripts/env python scripts/draw_views.py

The node runs the shipped policy and hears the sample bag over DDS in its own time; nothing here reads the node's
objects. Neither rviz nor Foxglove runs on every machine, so the first picture is drawn by matplotlib from the topics
that their files name. The second one is the terminal's text, photographed by Chromium.
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from specprune_ros.openvla.statistics import suite_key
from specprune_ros.processes.free_domain import free_domain, local_network
from specprune_ros.replay.bag import Bag
from specprune_ros.stamps import NANOSECONDS
from specprune_ros.viewing.dashboard import screen
from specprune_ros.viewing.mode_colors import MODE_COLORS
from specprune_ros.viewing.watched import Watched

ROOT = Path(__file__).parents[1]
PLAYED = ("/tf_static", "/libero_sim/instruction", "/clock", "/joint_states", "/tf")
IMAGES = ("/libero_sim/primary/image/compressed", "/libero_sim/wrist/image/compressed")
SPEED = 0.5  # of the recording
END = 6.6  # seconds into the recording
COLUMNS = 112  # of the terminal
CHECKPOINT = ROOT / "checkpoints" / "nano_libero"
ARGUMENTS = {
    "model.checkpoint": str(CHECKPOINT),
    "model.unnorm_key": suite_key(CHECKPOINT, "libero_spatial"),
    "inputs.image_transport": "compressed",
    "inputs.max_age": "0.6",
    "controller.output": "twist",
    "limits.max_speed": "0.35",
    "hang_timeout": "0.0",
}
REMAPPINGS = {
    "~/image_primary": "/libero_sim/primary/image",
    "~/image_wrist": "/libero_sim/wrist/image",
    "~/instruction": "/libero_sim/instruction",
}
COLORS = {str(mode): color for mode, color in MODE_COLORS.items()}


class Listener:
    """What the viewers would hear, with the time at which it came."""

    def __init__(self, node: Any) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from geometry_msgs.msg import TwistStamped
        from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
        from sensor_msgs.msg import Image
        from specprune_ros.msg import ActionChunk, PruningStats
        from std_msgs.msg import String
        from visualization_msgs.msg import MarkerArray

        self.watched = Watched("/specprune_policy")
        self.paths: list[Any] = []
        self.pruning: list[tuple[float, Any]] = []
        self.motion: list[tuple[float, str]] = []
        self.overlays: dict[str, Any] = {}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for kind, topic, hear, qos in (
            (MarkerArray, "path", lambda message, now: self.paths.append(message), 10),
            (PruningStats, "pruning", self._on_pruning, 10),
            (ActionChunk, "action_chunk", self.watched.on_chunk, 10),
            (String, "status", self.watched.on_status, latched),
            (TwistStamped, "twist", lambda message, now: None, 10),  # the arm's controller
            (Image, "overlay/primary", self._on_image("primary"), qos_profile_sensor_data),
            (Image, "overlay/wrist", self._on_image("wrist"), qos_profile_sensor_data),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, 10),
        ):
            name = topic if topic.startswith("/") else f"/specprune_policy/{topic}"
            node.create_subscription(kind, name, lambda message, hear=hear: hear(message, time.monotonic()), qos)

    def _on_image(self, view: str) -> Any:
        return lambda message, now: self.overlays.update({view: message})

    def _on_pruning(self, message: Any, now: float) -> None:
        self.watched.on_pruning(message, now)
        self.pruning.append((now, message))

    def _on_diagnostics(self, message: Any, now: float) -> None:
        self.watched.on_diagnostics(message, now)
        if "motion" in self.watched.parts:
            self.motion.append((now, self.watched.parts["motion"].message))


def listen() -> Listener:
    """Play the bag to a node, and hear what it says."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import CompressedImage, JointState
    from std_msgs.msg import String
    from tf2_msgs.msg import TFMessage

    from specprune_ros.nodes.policy_node import PolicyNode

    arguments = ["--ros-args", "--params-file", str(ROOT / "config/libero.yaml")]
    for name, value in ARGUMENTS.items():
        arguments += ["-p", f"{name}:={value}"]
    for name, topic in REMAPPINGS.items():
        arguments += ["-r", f"{name}:={topic}"]
    rclpy.init(args=[])
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    types = dict(zip(PLAYED, (TFMessage, String, Clock, JointState, TFMessage), strict=True))
    types |= dict.fromkeys(IMAGES, CompressedImage)
    qos: dict[str, Any] = {"/tf_static": latched, "/libero_sim/instruction": latched} | dict.fromkeys(
        IMAGES, qos_profile_sensor_data
    )
    player = rclpy.create_node("player", use_global_arguments=False)
    publishers = {topic: player.create_publisher(kind, topic, qos.get(topic, 10)) for topic, kind in types.items()}
    policy = PolicyNode(cli_args=arguments)
    listener = Listener(player)
    executor = SingleThreadedExecutor()
    executor.add_node(player)
    executor.add_node(policy)
    policy.trigger_configure()
    policy.trigger_activate()
    until = time.monotonic() + 3.0  # who listens to whom
    while time.monotonic() < until:
        executor.spin_once(timeout_sec=0.05)

    with Bag(ROOT / "examples/libero_bag") as bag:
        begin, enabled = time.monotonic(), False
        for message in bag.messages(types):
            at = (message.time - bag.start) / NANOSECONDS
            if at > END:
                break
            while time.monotonic() < begin + at / SPEED:
                executor.spin_once(timeout_sec=0.005)
            publishers[message.topic].publish(message.data)
            if not enabled and listener.pruning and policy.session is not None:
                enabled = policy.session.enable(True).success
    executor.spin_once(timeout_sec=0.1)
    policy.destroy_node()
    player.destroy_node()
    rclpy.try_shutdown()
    return listener


def draw_viewers(heard: Listener, path: Path) -> None:
    figure = plt.figure(figsize=(13, 7.6), layout="constrained", dpi=110)
    grid = figure.add_gridspec(4, 4, height_ratios=(1.3, 1.3, 0.5, 0.9))
    _draw_paths(figure.add_subplot(grid[:2, :2], projection="3d"), heard)
    for column, (view, message) in enumerate(sorted(heard.overlays.items())):
        axes = figure.add_subplot(grid[2:, column])
        axes.imshow(np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3))
        axes.set_title(f"~/overlay/{view}", fontsize=10)
        axes.set_axis_off()
    start = heard.pruning[0][0]
    times = np.array([at for at, _ in heard.pruning]) - start
    said = [message for _, message in heard.pruning]
    latency, tokens, modes, motion = (figure.add_subplot(grid[row, 2:]) for row in range(4))
    latency.plot(times, [message.inference_seconds * 1e3 for message in said], label="inference")
    latency.plot(times, [message.observation_age * 1e3 for message in said], label="age of the observation")
    latency.set(ylabel="ms", ylim=(0, None), title="~/pruning: latency")
    latency.legend(loc="upper right", fontsize=8)
    for index, name in enumerate(said[-1].views):
        tokens.plot(times, [message.kept_final[index] for message in said], drawstyle="steps-post", label=name)
    tokens.set(title="~/pruning: patches kept after the last layer", ylim=(0, None))
    tokens.legend(loc="upper right", fontsize=8)
    _draw_states(modes, times, [message.mode for message in said], COLORS)
    modes.set_title("~/pruning: mode", fontsize=10)
    told = [(at - start, message.partition(":")[0].partition(";")[0]) for at, message in heard.motion]
    palette = {"moving": "#2f9e6e", "motion is off": "#8c8c8c"}
    _draw_states(motion, np.array([at for at, _ in told]), [message for _, message in told], palette, other="#b5303a")
    motion.set_title("/diagnostics: motion and holds", fontsize=10)
    motion.set_xlabel("s; the recording plays at half its speed, so that two busy cores keep up")
    for axes in (latency, tokens, modes, motion):
        axes.set_xlim(0.0, times[-1])
        axes.title.set_fontsize(10)
    figure.savefig(path)


def _draw_paths(axes: Any, heard: Listener) -> None:
    """The newest path, and where the earlier ones began."""
    begins = np.array(
        [[line.points[0].x, line.points[0].y, line.points[0].z] for (line, _) in map(_parts, heard.paths)]
    )
    axes.plot(*begins.T, color="#8c8c8c", lw=1, label="where the arm was")
    line, steps = _parts(heard.paths[-1])
    axes.plot(*_points(line), color=_rgb(line.color), lw=2, label="~/path of the newest chunk")
    axes.scatter(*_points(steps), c=[_rgb(color) for color in steps.colors], s=22, depthshade=False)
    axes.locator_params(nbins=4)
    axes.set(xlabel="x (m)", ylabel="y (m)", zlabel="z (m)", aspect="equal")
    axes.set_title(f"~/path in {line.header.frame_id} (no robot model: the sample bag has none)", fontsize=10)
    axes.legend(loc="upper left", fontsize=8)


def _parts(message: Any) -> tuple[Any, Any]:
    line, steps = message.markers
    return line, steps


def _points(marker: Any) -> np.ndarray:
    return np.array([[point.x, point.y, point.z] for point in marker.points]).T


def _rgb(color: Any) -> tuple[float, float, float]:
    return color.r, color.g, color.b


def _draw_states(axes: Any, times: np.ndarray, states: list[str], colors: dict[str, str], other: str = "") -> None:
    """A band that changes colour with the state; each state is named where it begins, if there is room."""
    begins = [0, *(index for index in range(1, len(states)) if states[index] != states[index - 1])]
    named = set()
    for begin, end in zip(begins, [*begins[1:], len(states) - 1], strict=True):
        color = colors.get(states[begin], other)
        label = None if states[begin] in named else states[begin]
        named.add(states[begin])
        axes.axvspan(times[begin], times[end], color=color, alpha=0.8, lw=0, label=label)
    axes.set_yticks([])
    axes.legend(loc="upper right", fontsize=8, ncols=2)


def draw_terminal(heard: Listener, path: Path) -> None:
    from rich.console import Console

    console = Console(width=COLUMNS, file=io.StringIO(), record=True, force_terminal=True, color_system="truecolor")
    console.print(screen(heard.watched, heard.watched.arrivals[-1]))
    svg = console.export_svg(title="ros2 run specprune_ros watch")
    chromium = shutil.which("chromium") or sys.exit("needs Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "watch.svg")
        source.write_text(svg)
        width, height = (float(part) for part in svg.partition('viewBox="0 0 ')[2].partition('"')[0].split())
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={path}"]
        size = f"--window-size={round(width)},{round(height)}"
        subprocess.run([chromium, *options, size, source.as_uri()], check=True, capture_output=True, timeout=120)


def main() -> int:
    with free_domain() as domain:
        os.environ.update(local_network(domain))
        heard = listen()
    draw_viewers(heard, ROOT / "docs/viewers.png")
    draw_terminal(heard, ROOT / "docs/watch.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
