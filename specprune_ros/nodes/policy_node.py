# SPDX-License-Identifier: Apache-2.0
"""Node `specprune_policy`: cameras, joint states and TF in; chunks of actions out.

A lifecycle node. Threads: the executor's (callbacks, control timer, lifecycle) and the worker's (inference). Everything
between *configure* and *cleanup* belongs to a `Session`.
"""

import sys

from specprune_ros.processes.interruption import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # in the seconds that the imports take

import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from specprune_ros.control.run import Outcome
from specprune_ros.control.takeover import InCharge, Takeover
from specprune_ros.errors import ConfigError, UserError
from specprune_ros.nodes.chunk_service import ChunkService
from specprune_ros.nodes.model import SharedModel
from specprune_ros.nodes.node_process import NodeProcess, transport_problems
from specprune_ros.nodes.parameters.declaration import LiveParameters, declare_groups
from specprune_ros.nodes.parameters.files import check_files
from specprune_ros.nodes.parameters.groups import GROUPS, NodeConfig
from specprune_ros.nodes.parameters.pruning import check_preset, declare_pruning, expand_preset
from specprune_ros.nodes.reporting.diagnostics import ERROR, OK, Diagnostics, Status
from specprune_ros.nodes.reporting.repeated_log import RepeatedLog
from specprune_ros.nodes.run_policy import RunPolicyServer
from specprune_ros.nodes.session import Session
from specprune_ros.nodes.subscribing import LATCHED, SILENT, VOLATILE, TopicPeers, clock_problem
from specprune_ros.processes.output import relay_output
from specprune_ros.pruning.config import PruningConfig

SWITCH_INTERVAL = 0.0005  # seconds; a busy Python thread then delays callbacks by 1 ms instead of 6
LAST_INFERENCE = 1.0  # seconds that the end of the node waits for a running inference

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class PolicyNode(LifecycleNode):
    """Lifecycle, parameters, instruction, services. Motion is off until ~/enable."""

    def __init__(self, model: SharedModel | None = None, **kwargs: Any) -> None:
        """`model`: shared with other arms. Raises UserError for parameters out of range. `kwargs` go to the node."""
        super().__init__("specprune_policy", **kwargs)
        check_files(kwargs.get("cli_args") or sys.argv, self.get_fully_qualified_name())
        self._answer_impossible_transitions()
        self._model = model or SharedModel()
        self.session: Session | None = None
        self.takeover = Takeover()  # a person who took over keeps the arm whatever becomes of the session
        self._state = "unconfigured"
        self._failure = ""
        self._refused_instruction = ""
        self.warn = RepeatedLog(self.get_logger().warning)  # of what others ask for
        self.while_loading: Callable[[], AbstractContextManager] = nullcontext  # around what may take minutes
        self.parameters = LiveParameters(
            self,
            declare_groups(self, GROUPS) | {"pruning": declare_pruning(self)},
            validate=self._validate,
            changed=self._on_changed,
            expand=expand_preset,
        )
        self.create_subscription(String, "~/instruction", self._on_instruction, LATCHED, event_callbacks=SILENT)
        # Most tools publish volatile, which a latched subscription does not hear; those it hears come twice.
        heard = self.create_subscription(String, "~/instruction", self._on_instruction, VOLATILE)
        self._instruction_topic, self._instruction_peers = heard.topic_name, TopicPeers(self, [heard])
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.create_service(SetBool, "~/takeover", self._on_takeover)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.runs = RunPolicyServer(self, self.parameters, self._motion_problem)
        self.chunks = ChunkService(self, self._inactive)
        self._diagnostics = Diagnostics(self, self._statuses)
        backward = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jump = self.get_clock().create_jump_callback(backward, post_callback=self._on_clock_jump)
        for problem in transport_problems():
            self.get_logger().warning(problem)

    # Lifecycle

    def _answer_impossible_transitions(self) -> None:
        """Refuse a transition that the state does not have; rclpy raises in the service's callback instead."""
        change_state = self._service_change_state.callback

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                return change_state(request, response)
            except RuntimeError:  # RCLError
                self.warn(f"no transition {request.transition.id} from state {self._state}")
                response.success = False
                return response

        self._service_change_state.callback = answer

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up the model. On failure: one line in the log and in /diagnostics, and all is released."""
        self.parameters.adopt()
        try:
            with self.while_loading():
                self.session = Session(self, self.parameters, self._model, self.takeover)
                self.session.after_tick, self.session.after_chunk = self._after_tick, self.chunks.on_chunk
        except Exception as error:  # whatever it is, the node stays unconfigured and can be configured again
            expected = isinstance(error, UserError)
            self._failure = " ".join(str(error if expected else repr(error)).split())
            self.get_logger().error(f"configure failed: {self._failure}")
            if not expected:
                self.get_logger().error("".join(traceback.format_exception(error)))
            with self.while_loading():  # waits while another arm loads
                self._model.give_back(self)
            return FAILURE
        self._state, self._failure = "inactive", ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start inference. The arm stays where it is until ~/enable."""
        result = super().on_activate(state)
        assert self.session is not None
        self.session.start()
        self._state = "active"
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop motion at once, even in the middle of an inference; keep the model."""
        assert self.session is not None
        self.session.stop()
        self.runs.end(Outcome.DEACTIVATED, "the node was deactivated")
        self.chunks.end("the node was deactivated")
        self._state = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        with self.while_loading():  # waits for a running inference
            self._close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop motion and free the model."""
        with self.while_loading():
            self._close()
        self._state = "finalized"
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an unexpected error in a transition: back to unconfigured."""
        self._close()
        self.get_logger().error("a lifecycle transition failed; the node is unconfigured and can be configured again")
        return SUCCESS

    def _close(self, patience: float | None = None) -> None:
        if self.session is not None:
            self.session.stop()
            self.runs.end(Outcome.DEACTIVATED, "the node was cleaned up or shut down")
            self.chunks.end("the node was cleaned up or shut down")
            self.session.close(patience)
            self.session = None
            self._model.give_back(self)
        self._state = "unconfigured"

    def hold(self, why: str) -> None:
        """Switch motion off, and say why in the log."""
        if self.session is not None and self.session.motion_is_on:
            self.get_logger().warning(f"motion is off: {why}")
            self.session.enable(False)
        self.runs.end(Outcome.DISABLED, why)

    def stop(self) -> None:
        """Stop the arm at once."""
        if self.session is not None:
            self.session.stop()

    def destroy_node(self) -> None:
        self._close(LAST_INFERENCE)
        self.runs.destroy()
        self.chunks.destroy()
        self._jump.unregister()
        super().destroy_node()

    def _after_tick(self, now: int) -> None:
        self.runs.tick(now)
        self.chunks.tick(now)

    # Instruction, services, parameters

    def _on_instruction(self, message: String) -> None:
        if message.data == self.parameters.declared(NodeConfig).instruction:
            self._refused_instruction = ""
            return
        result = self.set_parameters([Parameter("instruction", value=message.data)])[0]
        self._refused_instruction = "" if result.successful else result.reason
        if not result.successful:
            self.warn(f"instruction refused: {result.reason}")

    def instruction_problem(self) -> str:
        """Why what others publish on ~/instruction is not what the arm does; "" when nothing is known against it."""
        return self._refused_instruction or self._instruction_peers.mismatch(self._instruction_topic)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        problem = self._motion_problem()
        if problem and (request.data or self.session is None or self._state != "active"):
            response.success = not request.data
            response.message = problem if request.data else "motion is off"
            return response
        assert self.session is not None
        answer = self.session.enable(request.data)
        response.success, response.message = answer.success, answer.message
        if not request.data:
            self.runs.end(Outcome.DISABLED, "~/enable switched motion off")
        return response

    def _on_takeover(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """In every state of the node: an arm that a person holds must not start to move when the node comes up."""
        if request.data:
            self.takeover.take()
            response.success, response.message = True, "a person is in charge; nothing is sent to the arm"
        else:
            person = self.takeover.release()
            response.success = not person
            response.message = f"messages still arrive on {person}" if person else "released"
        if self.session is not None:
            self.session.change_hands()
            goes_on = self.session.in_charge == InCharge.POLICY
            response.message += "; the policy goes on from where the arm is" if goes_on else ""
        return response

    def _inactive(self) -> str:
        """What has to be done before there are inferences; "" when nothing has to be."""
        if self.session is None or self._state != "active":
            return f"the node is {self._state}; activate it first"
        return "" if self.get_clock().now().nanoseconds else clock_problem(self)  # without time nothing ever ends

    def _motion_problem(self) -> str:
        """Why motion cannot be switched on; "" when it can."""
        if self._inactive():
            return self._inactive()
        return self._others_problem()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.session is not None:
            self.session.reset()
        response.success, response.message = True, "history and running chunk are forgotten"
        return response

    def _on_clock_jump(self, _: object) -> None:
        if self.session is not None:
            self.session.on_clock_jump()
        self.runs.end(Outcome.CLOCK_JUMP, "the clock went back, or changed")

    def _validate(self, live: LiveParameters, proposed: dict[type, Any]) -> None:
        if NodeConfig in proposed:
            node, before = proposed[NodeConfig], live.declared(NodeConfig)
            if node.instruction != before.instruction and not node.instruction.strip():
                raise ConfigError("instruction is empty; say in words what the arm should do")
        if PruningConfig in proposed:
            check_preset(proposed[PruningConfig])
        if self.session is not None:
            self.session.validate(proposed)

    def _on_changed(self, names: set[str]) -> None:
        if self.session is not None:
            self.session.on_parameters(names)

    def _statuses(self) -> list[Status]:
        if self.session is not None:
            self.session.rivals.look()
        problem = self._others_problem()
        if problem:
            self.hold(problem)
        problem = problem or self._failure
        values: dict[str, object] = {"refused instruction": self.instruction_problem(), "run": self.runs.described()}
        lifecycle = Status("lifecycle", problem or self._state, ERROR if problem else OK, values)
        return [lifecycle, *(self.session.statuses() if self.session is not None else [])]

    def _others_problem(self) -> str:
        """Which other node drives the same arm, or would; "" for none."""
        own = self.get_name(), self.get_namespace()
        if self.get_node_names_and_namespaces().count(own) < 2:
            return self.session.rivals.problem if self.session is not None else ""
        return (  # both would obey ~/enable
            f"another node is named {self.get_fully_qualified_name()}, and both would move the arm; end one of them "
            "(one that was killed is forgotten after 20 s), or give each arm a namespace"
        )


def main() -> int:
    """Run the node until it is interrupted. Ends the process with 2 when the user's parameters are wrong."""
    relay_output()
    sys.setswitchinterval(SWITCH_INTERVAL)
    process = NodeProcess()
    try:
        node = process.start(PolicyNode)
        if node.parameters.declared(NodeConfig).autostart:
            if node.trigger_configure() != SUCCESS:
                process.end(2)
            node.trigger_activate()
        process.run(node)
    except (UserError, ParameterException, NameValidationException) as error:
        print(f"specprune_policy: {' '.join(str(error).split())}", file=sys.stderr)
        process.end(2)
    process.end(0)


if __name__ == "__main__":
    sys.exit(main())
