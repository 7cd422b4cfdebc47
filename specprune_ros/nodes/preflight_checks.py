# SPDX-License-Identifier: Apache-2.0
"""What preflight checks: the loaded model, the inputs of a few seconds, and what the robot offers. See preflight.py."""

import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import SingleThreadedExecutor

from specprune_ros.checks import FAIL, PASS, WARN, Check, table
from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.run import RunConfig
from specprune_ros.doctor.fit import doubts, gripper_doubt
from specprune_ros.doctor.instruction import check_instruction
from specprune_ros.errors import ObservationError, UserError
from specprune_ros.nodes.model import SharedModel, free_memory_mb, memory_mb
from specprune_ros.nodes.node_process import NodeProcess, made, transport_problems
from specprune_ros.nodes.parameters.arms import ArmArguments, read_arms
from specprune_ros.nodes.parameters.groups import NodeConfig
from specprune_ros.nodes.policy_node import PolicyNode
from specprune_ros.nodes.reporting.latency import pauses
from specprune_ros.nodes.session import Session
from specprune_ros.processes.interruption import INTERRUPTED, Interruption
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.sensing.config import TF, InputsConfig
from specprune_ros.stamps import NANOSECONDS

LISTENING = 5.0  # seconds; discovery can take 1.5
SLOWEST_CAMERA = 5.0  # Hz
LEAST_MEMORY = 512.0  # MiB


def checks(session: Session, node: PolicyNode, arms: int = 1) -> list[Check]:
    """All checks, from what was heard so far. `arms`: how many share the model."""
    inputs, controller = node.parameters.running(InputsConfig), node.parameters.running(ControllerConfig)
    return [
        _checkpoint(session),
        *session.checkup,
        _latency(session, controller, arms),
        *_units(node.parameters.running(PruningConfig), controller),
        *_clock(session),
        *_rates(session),
        _observation(session, node),
        _cameras(session),
        Check(
            "transforms",
            PASS,
            f"{', '.join(map(inputs.transform_of, inputs.cameras))}; compare ~/overlay with training",
        ),
        _velocity(session, node),
        _arm(session, node),
        _gripper(session, controller),
        _receiver(session, controller),
        _tasks(node),
        *_takeover(session, node),
        *_instruction(node),
        _memory(session.policy.device),
        *_transport(),
    ]


def _checkpoint(session: Session) -> Check:
    policy = session.policy
    crop = "centre crop" if policy.center_crop else "no crop"
    detail = (
        f"{policy.unnorm_key}: {policy.num_views} views, {policy.proprio_dim} proprio, chunks of "
        f"{policy.chunk_length} x {policy.action_dim} ({policy.action_space}), {crop}"
    )
    return Check("checkpoint", PASS, detail)


def _latency(session: Session, controller: ControllerConfig, arms: int) -> Check:
    """With several arms an inference waits for one of each other arm, at the worst."""
    chunk = session.policy.chunk_length * controller.step_duration
    slowest = max(session.warm_seconds.values())
    detail = ", ".join(f"{mode} {seconds * 1e3:.0f} ms" for mode, seconds in session.warm_seconds.items())
    detail += f", for {arms} arms in turn" if arms > 1 else ""
    detail += f"; a chunk lasts {chunk * 1e3:.0f} ms"
    if not pauses(slowest * arms, chunk):
        return Check("latency", PASS, detail)
    return Check(
        "latency",
        WARN,
        f"{detail}: the arm may pause between chunks, an inference has to take less than half of that, with some "
        "reserve; use a GPU or pruning.preset fast",
    )


def _units(pruning: PruningConfig, controller: ControllerConfig) -> list[Check]:
    """Whether pruning and controller mean the same time step and length."""
    found = [Check("units", WARN, doubt) for doubt in doubts(pruning, controller)]
    return found or [Check("units", PASS, f"steps of {controller.step_duration:g} s in pruning.* and controller.*")]


def _clock(session: Session) -> list[Check]:
    problem = session.clock_problem()
    return [Check("clock", FAIL, problem)] if problem else []


def _rates(session: Session) -> list[Check]:
    found = []
    for topic, rate in session.sensors.rates().items():
        if rate == 0:
            found.append(Check(topic, FAIL, session.sensors.silence(topic)))
        elif rate < SLOWEST_CAMERA:
            found.append(Check(topic, WARN, f"{rate:.1f} Hz is slow; check its rate, and the Fast DDS profile"))
        else:
            found.append(Check(topic, PASS, f"{rate:.1f} Hz"))
    slow = session.sensors.slow_joints()
    return [*found, Check("slowest input", WARN, slow)] if slow else found


def _observation(session: Session, node: PolicyNode) -> Check:
    """Images, joints and TF at one stamp."""
    try:
        sensed = session.sensors.assemble(node.get_clock().now().nanoseconds)
    except ObservationError as error:
        return Check("observation", FAIL, str(error))
    assert sensed is not None
    sizes = ", ".join(f"{view} {image.shape[1]}x{image.shape[0]}" for view, image in sensed.views.items())
    low, high = session.policy.proprio_range
    outside = [index for index, value in enumerate(sensed.proprio) if not low[index] <= value <= high[index]]
    moved = session.policy.moved_constants(sensed.proprio)
    if moved:
        return Check(
            "observation",
            WARN,
            f"{sizes}; proprio {moved} never changed in the training data and is another number here: the model is "
            "given 0 as in training; check joint names, their order and units",
        )
    if outside:
        return Check(
            "observation",
            WARN,
            f"{sizes}; proprio {outside} are outside the training data's range; check frames, joint names and units",
        )
    return Check("observation", PASS, f"{sizes}; proprio within the training data's range")


def _cameras(session: Session) -> Check:
    oddity = session.sensors.oddity()
    if oddity:
        return Check("cameras", WARN, oddity)
    return Check("cameras", PASS, "no frozen picture, no size that contradicts CameraInfo")


def _velocity(session: Session, node: PolicyNode) -> Check:
    if session.end_effector is None:
        return Check("velocity", WARN, "no inputs.base_frame and ee_frame: the pruning stays in fine mode")
    config = session.sensors.config
    now = node.get_clock().now().nanoseconds
    measured = session.end_effector.twist(now, int(config.max_age_of(TF) * NANOSECONDS))
    if measured.twist is None:
        return Check("velocity", WARN, measured.problem or "TF is too slow; 20 Hz or more are needed")
    return Check("velocity", PASS, f"{config.base_frame} -> {config.ee_frame} is known")


def _arm(session: Session, node: PolicyNode) -> Check:
    """Whether commands could be made from what is measured of the arm."""
    problem = session.measured_problem(node.get_clock().now().nanoseconds)
    if problem:
        return Check("arm", FAIL, problem)
    return Check("arm", PASS, "what is measured of it does not contradict itself")


def _gripper(session: Session, controller: ControllerConfig) -> Check:
    problem, doubt = session.gripper_problem(), gripper_doubt(session.policy, controller)
    if problem:
        return Check("gripper", FAIL, "; ".join(filter(None, [problem, doubt])))
    if doubt:
        return Check("gripper", WARN, doubt)
    closed, opened = controller.gripper_closed_value, controller.gripper_open_value
    detail = f"action {closed:g} closes, {opened:g} opens (OpenVLA-OFT: 0, 1)"
    usual = (closed, opened) == (0.0, 1.0)
    return Check("gripper", PASS if usual else WARN, detail)


def _receiver(session: Session, controller: ControllerConfig) -> Check:
    receivers, others = session.receivers(), session.rivals.names
    if receivers.count and others:
        detail = f"{', '.join(others)} can drive the same arm; enable one of the policies at a time"
        return Check(receivers.topic, WARN, detail)
    if receivers.count:
        detail = f"{receivers.count} subscriber(s)"
        if controller.whole_chunks:
            detail += (
                f"; whole chunks, up to {controller.trajectory_time:g} s late, stamped by the clock of this machine: "
                "the controller's has to agree (chrony, PTP)"
            )
        return Check(receivers.topic, PASS, detail)
    return Check(receivers.topic, FAIL, receivers.silence())


def _tasks(node: PolicyNode) -> Check:
    """Whether goals reach this node alone."""
    name = node.resolve_topic_name("~/run_policy")
    servers = len(node.get_publishers_info_by_topic(f"{name}/_action/feedback"))
    if servers > 1:
        return Check(name, FAIL, f"{servers} nodes offer this action; end all but one, or give each arm a namespace")
    run = node.parameters.running(RunConfig)
    recording = node.parameters.running(NodeConfig).recording
    told = f"; recorded into {recording}" if recording else ""
    return Check(
        name, PASS, f"takes goals; ends when the arm holds for {run.longest_hold:g} s; busy: {run.when_busy}{told}"
    )


def _takeover(session: Session, node: PolicyNode) -> list[Check]:
    """The device by which a person takes over."""
    if node.takeover.person:
        return [Check("takeover", WARN, f"a person is in charge by {node.takeover.person}: the arm will not move")]
    topic = node.takeover.topic
    if not topic:
        return [Check("takeover", PASS, "by ~/takeover; takeover.topic names a device")]
    problem = session.device_problem()
    if problem:
        return [Check("takeover", FAIL, problem)]
    if not node.count_publishers(topic):
        return [Check("takeover", WARN, f"nobody publishes on takeover.topic {topic}; start the device")]
    return [Check("takeover", PASS, f"by ~/takeover and {topic}")]


def _instruction(node: PolicyNode) -> list[Check]:
    instruction = node.parameters.running(NodeConfig).instruction
    if instruction:
        return check_instruction(instruction, None)
    problem = node.instruction_problem() or "publish it on ~/instruction or set the parameter instruction"
    return [Check("instruction", WARN, f"none yet; {problem}")]


def _memory(device: torch.device) -> Check:
    free = free_memory_mb(device)
    detail = ", ".join(f"{value:.0f} {name}" for name, value in {**memory_mb(device), **free}.items())
    if min(free.values()) >= LEAST_MEMORY:
        return Check("memory", PASS, detail)
    return Check("memory", WARN, f"{detail}: little is left; close other programs, or set model.dtype bfloat16")


def _transport() -> list[Check]:
    problems = [Check("DDS", WARN, problem) for problem in transport_problems()]
    return problems or [Check("DDS", PASS, "no shared memory; the kernel allows socket buffers of 4 MiB")]


def listen(nodes: list[PolicyNode], interruption: Interruption) -> None:
    """Receive inputs for a while, and look at every set of images."""
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    until = time.monotonic() + LISTENING
    seen: dict[PolicyNode, int] = {}
    while time.monotonic() < until and not interruption.requested:
        executor.spin_once(timeout_sec=0.1)
        for node in nodes:
            assert node.session is not None
            node.session.measured_problem(node.get_clock().now().nanoseconds)  # what is listened to settles
            with suppress(ObservationError):  # what lasts is told in the table
                sensed = node.session.sensors.assemble(node.get_clock().now().nanoseconds, seen.get(node))
                if sensed is not None:
                    seen[node] = sensed.stamp


def open_nodes(process: NodeProcess, arms: list[ArmArguments]) -> list[PolicyNode]:
    """One node, of this process's own arguments, or one of every arm; configured. Ends the process when one cannot be.

    Raises UserError, ParameterException or NameValidationException for the user's arguments.
    """
    model = SharedModel()
    arguments: list[list[str] | None] = [*(arm.arguments for arm in arms)] or [None]
    nodes = [process.start(lambda: PolicyNode(model, cli_args=arguments[0]))]
    nodes += [made(partial(PolicyNode, model, cli_args=own)) for own in arguments[1:]]
    for node in nodes:
        node.while_loading = nodes[0].while_loading
        node.trigger_configure()
        if node.session is None:
            process.end(2)
    return nodes


def run(arms_file: Path | None) -> NoReturn:
    """Print the table. Ends the process with 0 when nothing fails, 1 when something does, 2 for wrong parameters.

    Interrupted, it ends with 130: what it has not looked at is no pass.
    """
    process = NodeProcess(INTERRUPTED)
    try:
        nodes = open_nodes(process, read_arms(arms_file, sys.argv) if arms_file else [])
        process.heartbeat.stop()
        listen(nodes, process.interruption)
        if process.interruption.requested:
            process.end(INTERRUPTED)
        failed = False
        for node in nodes:
            assert node.session is not None
            rows = checks(node.session, node, len(nodes))
            if len(nodes) > 1:
                print(f"\n{node.get_fully_qualified_name()}")
            print(table(rows))
            failed |= any(row.verdict == FAIL for row in rows)
        process.end(1 if failed else 0)
    except (UserError, ParameterException, NameValidationException) as error:
        print(f"preflight: {' '.join(str(error).split())}", file=sys.stderr)
        process.end(2)
