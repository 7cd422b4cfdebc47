# SPDX-License-Identifier: Apache-2.0
"""One screen about a policy node, for somebody beside the arm: what it does, why it holds, what to do."""

import math

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from specprune_ros.control.command import HoldReason
from specprune_ros.viewing.mode_colors import MODE_COLORS
from specprune_ros.viewing.watched import NOW, Count, Part, Watched

LEVELS = {0: "green", 1: "yellow", 2: "bold red"}
COLORS: dict[str, str] = {str(mode): color for mode, color in MODE_COLORS.items()}
BAR = 24  # characters of a bar
BLOCKS = "▁▂▃▄▅▆▇█"
SEVERAL = 4  # holds and limits that have room
NOT_HEARD = (
    "Nothing heard of {node}. Is it running, on the same machine or network, with the same ROS_DOMAIN_ID and the same "
    "Fast DDS profile (config/fastdds.xml)? It speaks from its start on, also before it is configured."
)
CURES: dict[str, str] = {
    HoldReason.DISABLED: "motion is off: send a goal to ~/run_policy, or call ~/enable",
    HoldReason.CLOCK_JUMPED: "time went back: end the second publisher of /clock, or synchronise the clocks",
    HoldReason.STALE_INPUT: "an input is missing or old: see the inputs above, and its driver",
    HoldReason.NO_CHUNK: "the first inference has not come yet: see the inference above",
    HoldReason.CHUNK_NOT_STARTED: "observations are stamped ahead: synchronise the clocks",
    HoldReason.CHUNK_FINISHED: "inference is too slow for its chunk: pruning.preset fast, or a GPU",
    HoldReason.POSE_UNKNOWN: "TF of the end effector is missing or jumps: robot_state_publisher, one publisher a frame",
    HoldReason.JOINTS_UNKNOWN: "joint states are missing or jump: the arm's driver, joint names",
    HoldReason.ARM_MOVED: "the arm is not where it was told to be: bring it back, then call ~/enable again",
    HoldReason.NO_EFFECT: "the arm does not obey: controller active? protective stop? then call ~/enable again",
    HoldReason.TAKEN_OVER: "a person is in charge: the device has to fall silent, or call ~/takeover with false",
    HoldReason.LIMIT: "an action is beyond limits.*: widen them, or set limits.on_violation clamp",
}


def screen(watched: Watched, now: float) -> RenderableType:
    """Everything, at `now` seconds of the clock that `watched` was fed with."""
    if watched.told is None:
        return Group(_headline("NOT HEARD", "black on yellow", watched.node), Padding(_not_heard(watched), (1, 2)))
    stale = watched.stale(now)
    body = [_task(watched), _inference(watched, now), _inputs(watched), _trouble(watched, now)]
    shown = [Padding(part, (0, 1)) for part in body]
    if not stale:
        return Group(_state(watched), *shown)
    silent = f"{watched.silence(now):.0f} s without a word from {watched.node}; below is what it said last"
    table = Table.grid(expand=True)
    table.add_column(style="dim")
    for part in shown:
        table.add_row(part)
    return Group(_headline("STALE", "white on red", silent), table)


def _not_heard(watched: Watched) -> Text:
    text = Text(NOT_HEARD.format(node=watched.node))
    for other in sorted(watched.others):
        namespace, _, name = other.rpartition("/")
        arguments = [f"-r __ns:={namespace}"] if namespace else []
        arguments += [f"-p node:={name}"] if name != watched.node.rpartition("/")[2] else []
        text.append(f"\n\nHeard of {other}: ", "yellow")
        text.append(f"ros2 run specprune_ros watch --ros-args {' '.join(arguments)}")
    return text


def _headline(word: str, style: str, text: str) -> Padding:
    line = Text(f" {word} ", f"bold {style}")
    line.append(f" {text}", style)
    return Padding(line, (0, 0), style=style)


def _state(watched: Watched) -> Padding:
    """What the arm does, in one colour over the whole width."""
    lifecycle, motion = watched.parts.get("lifecycle"), watched.parts.get("motion")
    if lifecycle is not None and lifecycle.level == 2:
        return _headline("ERROR", "white on red", lifecycle.message)
    if motion is None or (lifecycle is not None and lifecycle.message != "active"):
        return _headline("OFF", "white on grey35", lifecycle.message if lifecycle else "")
    if motion.values.get("in charge") == "person":
        return _headline("PERSON", "white on blue", motion.message)
    if motion.message.startswith("moving"):
        word = "DRY RUN" if motion.values.get("dry run") == "True" else "MOVING"
        return _headline(word, "black on green" if motion.level == 0 else "black on yellow", motion.message)
    if motion.values.get("enabled") != "True":
        return _headline("OFF", "white on grey35", motion.message)
    return _headline("HOLDING", "white on red" if motion.level == 2 else "black on yellow", motion.message)


def _task(watched: Watched) -> Table:
    table = _rows()
    table.add_row("node", watched.node)
    table.add_row("instruction", Text(watched.instruction or "none yet", "bold" if watched.instruction else "yellow"))
    table.add_row("in charge", _in_charge(watched))
    run = watched.parts["lifecycle"].values.get("run", "") if "lifecycle" in watched.parts else ""
    if run and run != "none":
        table.add_row("run", Text(run))
    return table


def _in_charge(watched: Watched) -> Text:
    motion = watched.parts.get("motion", Part(0, "", {}))
    if motion.values.get("in charge") == "person":
        return Text("person", "bold blue")
    if motion.values.get("enabled") != "True":
        return Text("nobody: motion is off", "dim")
    return Text("nobody: dry run" if motion.values.get("dry run") == "True" else "policy")


def _inference(watched: Watched, now: float) -> RenderableType:
    part = watched.parts.get("inference")
    if part is None:
        return Text("")
    table = _rows()
    if part.level:
        table.add_row("problem", Text(part.message, LEVELS[part.level]))
    if watched.inferences:
        last = watched.inferences[-1]
        badge = f" {last.mode} ", f"bold white on {COLORS.get(last.mode, 'default')}"
        why = f"  {last.reason.replace('_', ' ')}, {last.kept} of {last.patches} patches kept"
        table.add_row("mode", Text.assemble(badge, why))
        table.add_row("rate", f"{watched.rate(now):.1f} inferences/s")
        table.add_row("latency", _latency(part, last.chunk))
        ages = [inference.age for inference in watched.inferences]
        chart = _chart(ages, max([last.chunk, *ages]) if math.isfinite(last.chunk) else max(ages))
        table.add_row(
            "age of observation", Text.assemble((chart, COLORS.get(last.mode, "")), f"  {last.age * 1e3:.0f} ms")
        )
    values = part.values
    misses = {name: int(values.get(name, "0")) for name in ("deadline misses", "late chunks", "errors")}
    pauses = watched.parts["motion"].values.get("pauses between chunks", "0") if "motion" in watched.parts else "0"
    misses["pauses between chunks"] = int(pauses)
    line = Text()
    for name, number in misses.items():
        line.append(f"{number} {name}   ", "yellow" if number else "dim")
    table.add_row("", line)
    return Panel(table, title="inference", title_align="left", border_style=LEVELS[part.level])


def _latency(part: Part, chunk: float) -> Text:
    """The latencies beside what there is time for: half a chunk, since its time runs from the observation."""
    p50, p99 = (_number(part.values.get(f"latency {which} ms", "nan")) for which in ("p50", "p99"))
    text = Text(f"p50 {p50:.0f}, p99 {p99:.0f} ms")
    if math.isfinite(chunk) and math.isfinite(p99):
        deadline = chunk * 1e3 / 2
        text.append("  ")
        text.append_text(_bar(p99 / deadline))
        text.append(f" of {deadline:.0f} ms, half a chunk", "dim")
    return text


def _inputs(watched: Watched) -> RenderableType:
    part = watched.parts.get("inputs")
    if part is None:
        return Text("")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan")
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    for topic in (key.removesuffix(" Hz") for key in part.values if key.endswith(" Hz")):
        rate, age, limit = (_number(part.values.get(f"{topic} {of}", "")) for of in ("Hz", "age ms", "max age ms"))
        cells = Text(f"{rate:.1f} Hz", "bold red" if rate == 0 else ""), Text("missing", "bold red"), Text()
        if math.isfinite(age):
            old = Text(f"{age:.0f} ms old", "bold red" if age > limit else "")
            cells = cells[0], old, _bar(age / limit).append(f" of {limit:.0f} ms", "dim")
        table.add_row(topic, *cells)
    if "TF" in part.values:
        known = part.values["TF"] == "known"
        rate = _number(next((value for key, value in part.values.items() if key.startswith("TF Hz")), ""))
        table.add_row("TF", f"{rate:.1f} Hz", Text(part.values["TF"], "" if known else "bold red"), "")
    shown: list[RenderableType] = [table]
    if part.level:
        shown.insert(0, Text(part.message, LEVELS[part.level]))
    return Panel(Group(*shown), title="inputs", title_align="left", border_style=LEVELS[part.level])


def _trouble(watched: Watched, now: float) -> Panel:
    """Holds with their cures, limits, and what the node said last."""
    table = _rows()
    for reason, count in _newest(watched.holds):
        cure = CURES.get(reason, "")
        text = Text(f"{count.number} {reason.replace('_', ' ')}", _style(count, now))
        text.append(f"  {cure}", "default")
        table.add_row("held", text)
    if watched.limits:
        limits = Text(", ").join(
            Text(f"{name.replace('_', ' ')} {count.number}", _style(count, now))
            for name, count in _newest(watched.limits)
        )
        table.add_row("limited by", limits.append(" control periods", "dim"))
    if not watched.holds and not watched.limits:
        table.add_row("", Text("no hold and no limit since activation", "dim"))
    table.add_row("last word", Text(watched.status or "none yet", "dim", no_wrap=True, overflow="ellipsis"))
    return Panel(table, title="holds and limits since activation", title_align="left")


def _newest(counts: dict[str, Count]) -> list[tuple[str, Count]]:
    """Those that happened last, first."""
    order = sorted(counts.items(), key=lambda item: (item[1].grew or -math.inf, item[1].number), reverse=True)
    return order[:SEVERAL]


def _style(count: Count, now: float) -> str:
    return "bold yellow" if count.grew is not None and now - count.grew < NOW else "dim"


def _rows() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", min_width=11)
    table.add_column()
    return table


def _bar(share: float) -> Text:
    """Full at 1, red beyond it."""
    filled = round(BAR * min(max(share, 0.0), 1.0))
    style = "green" if share < 0.75 else "yellow" if share <= 1 else "bold red"
    return Text.assemble(("█" * filled, style), ("░" * (BAR - filled), "dim"))


def _chart(values: list[float], top: float) -> str:
    """A character per value, up to `top`."""
    levels = np.clip(np.array(values) / max(top, 1e-9) * len(BLOCKS), 0, len(BLOCKS) - 1)
    return "".join(BLOCKS[int(level)] for level in levels)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
