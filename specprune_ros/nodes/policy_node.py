"""Node `specprune_policy`: cameras, joint states and TF in; chunks of actions out.

A lifecycle node. Threads: the executor's (callbacks, control timer, lifecycle) and the worker's (inference). Everything
between *configure* and *cleanup* belongs to a `Session`.
"""

import signal
import sys
import traceback
from typing import Any

import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from specprune_ros.errors import ConfigError, UserError
from specprune_ros.nodes.parameters.declaration import LiveParameters, declare_groups
from specprune_ros.nodes.parameters.groups import GROUPS, NodeConfig
from specprune_ros.nodes.parameters.pruning import check_preset, declare_pruning, expand_preset
from specprune_ros.nodes.reporting.diagnostics import ERROR, OK, Diagnostics, Status
from specprune_ros.nodes.session import Session
from specprune_ros.nodes.subscribing import LATCHED
from specprune_ros.pruning.config import PruningConfig

SWITCH_INTERVAL = 0.0005  # seconds; a busy Python thread then delays callbacks by 1 ms instead of 6
SIGNAL_TIME = 0.1  # seconds until a signal is noticed at the latest

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class PolicyNode(LifecycleNode):
    """Lifecycle, parameters, instruction, services. Motion is off until ~/enable."""

    def __init__(self, **kwargs: Any) -> None:
        """Raises UserError for parameters that are out of range. `kwargs` go to the node."""
        super().__init__("specprune_policy", **kwargs)
        self._answer_impossible_transitions()
        self.session: Session | None = None
        self._state = "unconfigured"
        self._failure = ""
        self._refused_instruction = ""
        self.parameters = LiveParameters(
            self,
            declare_groups(self, GROUPS) | {"pruning": declare_pruning(self)},
            validate=self._validate,
            changed=self._on_changed,
            expand=expand_preset,
        )
        self.create_subscription(String, "~/instruction", self._on_instruction, LATCHED)
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._diagnostics = Diagnostics(self, self._statuses)
        backward = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jump = self.get_clock().create_jump_callback(backward, post_callback=self._on_clock_jump)

    # Lifecycle

    def _answer_impossible_transitions(self) -> None:
        """Refuse a transition that the state does not have; rclpy raises in the service's callback instead."""
        change_state = self._service_change_state.callback

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                return change_state(request, response)
            except RuntimeError:  # RCLError
                self.get_logger().warning(f"no transition {request.transition.id} from state {self._state}")
                response.success = False
                return response

        self._service_change_state.callback = answer

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up the model. On failure: one line in the log and in /diagnostics, and all is released."""
        self.parameters.adopt()
        try:
            self.session = Session(self, self.parameters)
        except Exception as error:  # whatever it is, the node stays unconfigured and can be configured again
            expected = isinstance(error, UserError)
            self._failure = " ".join(str(error if expected else repr(error)).split())
            self.get_logger().error(f"configure failed: {self._failure}")
            if not expected:
                self.get_logger().error("".join(traceback.format_exception(error)))
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
        self._state = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self._close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop motion and free the model."""
        self._close()
        self._state = "finalized"
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an unexpected error in a transition: back to unconfigured."""
        self._close()
        self.get_logger().error("a lifecycle transition failed; the node is unconfigured and can be configured again")
        return SUCCESS

    def _close(self) -> None:
        if self.session is not None:
            self.session.stop()
            self.session.close()
            self.session = None
        self._state = "unconfigured"

    def destroy_node(self) -> None:
        self._close()
        self._jump.unregister()
        super().destroy_node()

    # Instruction, services, parameters

    def _on_instruction(self, message: String) -> None:
        result = self.set_parameters([Parameter("instruction", value=message.data)])[0]
        self._refused_instruction = "" if result.successful else result.reason
        if not result.successful:
            self.get_logger().warning(f"instruction refused: {result.reason}")

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self.session is None or self._state != "active":
            response.success = not request.data
            response.message = f"the node is {self._state}; activate it first" if request.data else "motion is off"
            return response
        if request.data and self._has_namesake():
            response.success, response.message = False, self._namesake_problem()
            return response
        answer = self.session.enable(request.data)
        response.success, response.message = answer.success, answer.message
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.session is not None:
            self.session.reset()
        response.success, response.message = True, "history and running chunk are forgotten"
        return response

    def _on_clock_jump(self, _: object) -> None:
        if self.session is not None:
            self.session.on_clock_jump()

    def _validate(self, live: LiveParameters, proposed: dict[type, Any]) -> None:
        if NodeConfig in proposed:
            node, before = proposed[NodeConfig], live.declared(NodeConfig)
            if before.instruction and not node.instruction.strip():
                raise ConfigError("instruction is empty; say in words what the arm should do")
        if PruningConfig in proposed:
            check_preset(proposed[PruningConfig])
        if self.session is not None:
            self.session.validate(proposed)

    def _on_changed(self, names: set[str]) -> None:
        if self.session is not None:
            self.session.on_parameters(names)

    def _statuses(self) -> list[Status]:
        problem = self._failure
        if self._has_namesake():
            problem = self._namesake_problem()
            if self.session is not None:
                self.session.enable(False)
        values: dict[str, object] = {"refused instruction": self._refused_instruction}
        lifecycle = Status("lifecycle", problem or self._state, ERROR if problem else OK, values)
        return [lifecycle, *(self.session.statuses() if self.session is not None else [])]

    def _has_namesake(self) -> bool:
        """Whether another node has this one's name: both would obey ~/enable and drive the same arm."""
        own = self.get_name(), self.get_namespace()
        return self.get_node_names_and_namespaces().count(own) > 1

    def _namesake_problem(self) -> str:
        return (
            f"another node is named {self.get_fully_qualified_name()}, motion is off; end one of them (one that was "
            "killed is forgotten after 20 s), or give each arm a namespace"
        )


class Interruption:
    """SIGINT and SIGTERM as a flag: an exception out of a handler could surface in C++ code and be lost there."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, number: int, _: object) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)  # a second one ends a process that hangs


def run(node: PolicyNode, interruption: Interruption) -> None:
    """Spin until interrupted. An unexpected error in a callback stops the motion and not the node."""
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    while not interruption.requested:
        try:
            executor.spin_once(timeout_sec=SIGNAL_TIME)
        except Exception as error:
            node.get_logger().error(f"unexpected error, motion is off:\n{''.join(traceback.format_exception(error))}")
            if node.session is not None:
                node.session.enable(False)


def main() -> int:
    """Run the node until it is interrupted. Returns 2 when the user's parameters are wrong."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    interruption = Interruption()
    node = None
    try:
        init_rclpy()
        node = PolicyNode()
        if node.parameters.declared(NodeConfig).autostart:
            if node.trigger_configure() != SUCCESS:
                return 2
            node.trigger_activate()
        run(node, interruption)
    except (UserError, ParameterException, NameValidationException) as error:
        print(f"specprune_policy: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def init_rclpy() -> None:
    """Raises UserError for ROS arguments that do not parse."""
    try:
        # rclpy's own handlers would invalidate the publishers before the arm is told to hold.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy has several, of no common kind
        raise UserError(f"{str(error).split(', at ')[0]}; check what follows --ros-args") from error


if __name__ == "__main__":
    sys.exit(main())
