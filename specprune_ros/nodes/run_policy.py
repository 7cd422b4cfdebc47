# SPDX-License-Identifier: Apache-2.0
"""Action `~/run_policy`: one task from its instruction to its end, with motion on in between and off afterwards.

Everything runs on the executor's thread and nothing waits: the control tick drives the run and ends it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.parameter import Parameter
from std_msgs.msg import Bool

from specprune_ros.action import RunPolicy
from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.run import Ending, Outcome, Run, RunConfig, RunGoal
from specprune_ros.errors import ConfigError, UserError
from specprune_ros.nodes.parameters.declaration import LiveParameters
from specprune_ros.nodes.parameters.groups import NodeConfig
from specprune_ros.nodes.parameters.pruning import PREFIX
from specprune_ros.nodes.session import Session
from specprune_ros.nodes.subscribing import VOLATILE
from specprune_ros.pose import Pose
from specprune_ros.stamps import NANOSECONDS

if TYPE_CHECKING:
    from specprune_ros.nodes.policy_node import PolicyNode

FEEDBACK_PERIOD = NANOSECONDS // 2
DENSE = "off"  # instead of a preset


class QuietActionServer(ActionServer):
    """An action server whose goals execute without a task of the executor, which would poll it without a pause.

    `handle.execute()` only says that the goal executes; the owner ends it, by `notify_execute` with what finishes it.
    """

    def notify_execute(self, goal_handle: ServerGoalHandle, execute_callback: Callable | None) -> None:
        if execute_callback is not None:
            super().notify_execute(goal_handle, execute_callback)


@dataclass
class Active:
    """The goal that runs. `replaced`: the node's parameters before and after the goal set them, by name."""

    handle: ServerGoalHandle
    run: Run
    replaced: dict[str, tuple[Parameter, Parameter]] = field(default_factory=dict)
    told: int = 0  # when feedback was sent last, nanoseconds


class RunPolicyServer:
    """Owns the action server and the goal that runs."""

    def __init__(self, node: "PolicyNode", parameters: LiveParameters, problem: Callable[[], str]) -> None:
        """`problem`: why motion cannot be switched on now; "" when it can."""
        self._node, self._parameters, self._problem = node, parameters, problem
        self._active: Active | None = None
        self._server = QuietActionServer(
            node,
            RunPolicy,
            "~/run_policy",
            execute_callback=lambda handle: RunPolicy.Result(),
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )
        node.create_subscription(Bool, "~/success", self._on_success, VOLATILE)

    def destroy(self) -> None:
        self.end(Outcome.DEACTIVATED, "the node ends")
        self._server.destroy()

    def described(self) -> str:
        """The run in a word, for /diagnostics."""
        return "none" if self._active is None else f"{self._active.run.elapsed:.2f} s"

    # What the client asks

    def _on_goal(self, request: RunPolicy.Goal) -> GoalResponse:
        problem = self._problem() or self._refusal(request)
        if problem:
            self._node.warn(f"run_policy refused: {problem}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _refusal(self, request: RunPolicy.Goal) -> str:
        if self._active is not None and self._parameters.running(RunConfig).when_busy == "refuse":
            return "another goal runs; cancel it first, or set run.when_busy to preempt"
        person = self._node.takeover.person
        if person and self._parameters.running(RunConfig).on_takeover == "end":
            return f"a person is in charge by {person}, and run.on_takeover is end"
        try:
            goal = goal_of(request, self._parameters.running(ControllerConfig))
        except UserError as error:
            return str(error)
        controller, session = self._parameters.running(ControllerConfig), self._node.session
        end_effector = session.end_effector if session is not None else None
        asks_where = controller.delta and (goal.until_rest or goal.region_distance)
        if asks_where and (end_effector is None or end_effector.newest() is None):
            return "the goal asks where the end effector is; check TF, inputs.base_frame and inputs.ee_frame"
        # One that cannot run must not end the one that does; otherwise the result says what is wrong.
        return self._parameters.refusal(self._wanted(request)) if self._active is not None else ""

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        self.end(Outcome.PREEMPTED, "a newer goal came")
        handle.execute()
        session, goal = self._session(), goal_of(handle.request, self._parameters.running(ControllerConfig))
        now = self._node.get_clock().now().nanoseconds
        run = Run(goal, self._parameters.running(RunConfig), now, session.continuous)
        self._active = Active(handle, run)
        session.enable(False)  # what was going on before is not part of the run
        problem = self._set_parameters(handle.request)
        if not problem:
            session.run_record.clear()
            answer = session.enable(True)
            problem = "" if answer.success else answer.message
        if problem:
            self.end(Outcome.REFUSED, problem)

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        if self._active is None or self._active.handle != handle:
            return CancelResponse.REJECT  # it has ended already
        self.end(Outcome.CANCELLED, "cancelled")
        return CancelResponse.ACCEPT

    def _on_success(self, message: Bool) -> None:
        if self._active is not None:
            self._active.run.success |= message.data  # one that says no longer so within a period has said so

    # What happens

    def tick(self, now: int) -> None:
        """After every control period, `now` nanoseconds."""
        active = self._active
        if active is None:
            return
        active.run.config = self._parameters.running(RunConfig)
        ending = active.run.update(self._session().run_tick(now))
        if ending is not None:
            self.end(ending.outcome, ending.message)
        elif now - active.told >= FEEDBACK_PERIOD:
            active.told = now
            active.handle.publish_feedback(self._feedback(active.run))

    def end(self, outcome: Outcome, message: str) -> None:
        """End the run, if there is one: the arm holds at once, and the node's parameters are put back."""
        active, self._active = self._active, None
        if active is None:
            return
        session = self._node.session
        result = _result(active.run, Ending(outcome, message), session)
        result.recording = self._parameters.running(NodeConfig).recording
        if session is not None:
            session.enable(False)
        self._put_back(active)
        self._node.get_logger().info(f"run_policy: {outcome.name.lower()}, {message}")
        timed_out_well = outcome == Outcome.TIMED_OUT and active.run.goal.open_ended

        def finish(handle: ServerGoalHandle) -> RunPolicy.Result:
            # Once the answer to a cancel is on its way.
            if outcome == Outcome.SUCCEEDED or timed_out_well:
                handle.succeed()
            elif handle.is_cancel_requested:
                handle.canceled()
            else:
                handle.abort()
            return result

        if self._node.executor is not None:
            self._server.notify_execute(active.handle, finish)

    def _session(self) -> Session:
        session = self._node.session
        assert session is not None  # a run ends before its session does
        return session

    # The node's parameters

    def _set_parameters(self, request: RunPolicy.Goal) -> str:
        """Set what the goal asks for; "" or why that is refused."""
        assert self._active is not None
        wanted = self._wanted(request)
        if not wanted:
            return ""
        before = self._touched(wanted)
        result = self._node.set_parameters_atomically([Parameter(name, value=value) for name, value in wanted.items()])
        if not result.successful:
            return str(result.reason)
        after = {name: self._node.get_parameter(name) for name in before}
        self._active.replaced = {
            name: (before[name], after[name]) for name in before if before[name].value != after[name].value
        }
        return ""

    def _wanted(self, request: RunPolicy.Goal) -> dict[str, Any]:
        """The parameters that the goal asks for and the node does not have, by name."""
        wanted: dict[str, Any] = {}
        node = self._parameters.declared(NodeConfig)
        if request.instruction and request.instruction != node.instruction:
            wanted["instruction"] = request.instruction
        if request.dry_run and not node.dry_run:
            wanted["dry_run"] = True
        if request.preset == DENSE:
            wanted[PREFIX + "enabled"] = False
        elif request.preset:
            wanted |= {PREFIX + "enabled": True, PREFIX + "preset": request.preset}
        return wanted

    def _touched(self, names: Iterable[str]) -> dict[str, Parameter]:
        """The parameters `names`, and every pruning parameter if there is one among them: a preset sets many."""
        every = list(names)
        if any(name.startswith(PREFIX) for name in every):
            every += [PREFIX + name for name in self._node.get_parameters_by_prefix(PREFIX[:-1])]
        return {name: self._node.get_parameter(name) for name in every}

    def _put_back(self, active: Active) -> None:
        """Undo what the goal set, unless somebody has changed it since. An instruction is never emptied."""
        changes = [
            before
            for name, (before, ours) in active.replaced.items()
            if self._node.get_parameter(name).value == ours.value and not (name == "instruction" and not before.value)
        ]
        result = self._node.set_parameters_atomically(changes) if changes else None
        if result is not None and not result.successful:
            self._node.get_logger().warning(f"run_policy: parameters could not be put back: {result.reason}")

    # Messages

    def _feedback(self, run: Run) -> RunPolicy.Feedback:
        session = self._session()
        summary = session.run_record.summary()
        return RunPolicy.Feedback(
            elapsed=run.elapsed,
            mode=summary.mode,
            latency_p50=summary.latency_p50,
            observation_age=summary.age,
            holds=list(run.holds),
            hold_counts=list(run.holds.values()),
            distance=run.path.distance,
            turned=run.path.turned,
            in_charge=session.in_charge,
            message=session.motion_message(),
        )


def goal_of(request: RunPolicy.Goal, controller: ControllerConfig) -> RunGoal:
    """Raises ConfigError for a goal that makes no sense, or not for this arm."""
    goal = RunGoal(
        time_limit=request.time_limit,
        until_success=request.until_success,
        until_rest=request.until_rest,
        region_pose=_pose(request) if request.region_distance else None,
        region_distance=request.region_distance,
        region_joints=tuple(request.region_joints),
        region_angle=request.region_angle,
    )
    if goal.region_joints and len(goal.region_joints) != len(controller.joint_names):
        raise ConfigError(
            f"the goal's region_joints has {len(goal.region_joints)} numbers for {len(controller.joint_names)} "
            "controller.joint_names"
        )
    if goal.region_joints and controller.delta:
        raise ConfigError("this policy moves the end effector; give the goal region_pose instead of region_joints")
    if goal.region_distance and not controller.delta:
        raise ConfigError("this policy moves joints; give the goal region_joints instead of region_pose")
    return goal


def _pose(request: RunPolicy.Goal) -> Pose:
    p, q = request.region_pose.position, request.region_pose.orientation
    return Pose(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))


def _result(run: Run, ending: Ending, session: Session | None) -> RunPolicy.Result:
    result = RunPolicy.Result(
        outcome=int(ending.outcome),
        message=ending.message,
        elapsed=run.elapsed,
        distance=run.path.distance,
        turned=run.path.turned,
        holds=list(run.holds),
        hold_counts=list(run.holds.values()),
        taken_over=run.taken_over,
    )
    if session is not None:
        summary = session.run_record.summary()
        result.inferences, result.deadline_misses = summary.count, summary.misses
        result.latency_p50, result.latency_p99 = summary.latency_p50, summary.latency_p99
    return result
