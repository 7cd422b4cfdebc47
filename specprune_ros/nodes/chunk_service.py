# SPDX-License-Identifier: Apache-2.0
"""Service `~/get_action_chunk`: what the policy would do now, for planners that execute themselves.

Everything but `on_chunk` runs on the executor's thread, and nothing waits: a request is answered when a chunk comes
whose observation is newer, or when its time is over.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rclpy.parameter import Parameter
from rclpy.service import Service

from specprune_ros.msg import ActionChunk
from specprune_ros.nodes.parameters.groups import NodeConfig
from specprune_ros.srv import GetActionChunk
from specprune_ros.stamps import NANOSECONDS, from_stamp

if TYPE_CHECKING:
    from specprune_ros.nodes.policy_node import PolicyNode

PATIENCE, LONGEST = 5.0, 3600.0  # seconds that a request waits which names none, or a longer time
MOST = 100  # requests that wait; more is a client that does not wait for answers


class DeferredService:
    """A service whose answers are sent later, by `answer`.

    rclpy has no such thing but coroutines, which its executor polls without a pause.
    """

    def __init__(self, node: "PolicyNode", kind: type, name: str, on_request: Callable[[Any, Any], None]) -> None:
        """`on_request`: told the request and the header that `answer` wants."""
        self._node, self._on_request = node, on_request
        self._requests: dict[int, Any] = {}  # by the id of the response that rclpy has made for it
        self._service: Service = node.create_service(kind, name, self._remember)
        self.answer = self._service.send_response
        self._service.send_response = self._keep  # the executor calls it

    def _remember(self, request: Any, response: Any) -> Any:
        self._requests[id(response)] = request
        return response

    def _keep(self, response: Any, header: Any) -> None:
        self._on_request(self._requests.pop(id(response)), header)

    def destroy(self) -> None:
        self._node.destroy_service(self._service)


@dataclass(frozen=True)
class Waiting:
    """A request. Nanoseconds of the node's clock."""

    header: Any
    since: int  # the observation has to be newer
    until: int
    instruction: str  # that the chunk has to be of; "": whatever the node's is


class ChunkService:
    """Owns the service and the requests that wait."""

    def __init__(self, node: "PolicyNode", problem: Callable[[], str]) -> None:
        """`problem`: why there are no inferences; "" when there are."""
        self._node, self._problem = node, problem
        self._waiting: list[Waiting] = []
        self._newest: ActionChunk | None = None
        self._service = DeferredService(node, GetActionChunk, "~/get_action_chunk", self._on_request)
        self._arrived = node.create_guard_condition(self._serve)

    def on_chunk(self, message: ActionChunk) -> None:
        """A chunk was published; on the inference thread."""
        self._newest = message
        if self._waiting:
            self._arrived.trigger()

    def tick(self, now: int) -> None:
        """After every control period, `now` nanoseconds."""
        for waiting in [waiting for waiting in self._waiting if not waiting.since <= now <= waiting.until]:
            session = self._node.session
            why = session.inference_problem if session is not None else ""
            self._fail(waiting, f"no chunk came in time: {why or 'inferences take longer, or the clock jumped'}")

    def end(self, why: str) -> None:
        """Answer every request that waits: there will be no chunk."""
        for waiting in list(self._waiting):
            self._fail(waiting, why)

    def destroy(self) -> None:
        self.end("the node ends")
        self._node.destroy_guard_condition(self._arrived)
        self._service.destroy()

    def _on_request(self, request: GetActionChunk.Request, header: Any) -> None:
        problem = self._problem() or self._refusal(request)
        if problem:
            self._service.answer(GetActionChunk.Response(message=problem), header)
            return
        now = self._node.get_clock().now().nanoseconds
        patience = min(request.timeout or PATIENCE, LONGEST)
        self._waiting.append(Waiting(header, now, now + round(patience * NANOSECONDS), request.instruction))
        assert self._node.session is not None  # or there would be a problem
        self._node.session.want_inference()

    def _refusal(self, request: GetActionChunk.Request) -> str:
        """Takes over the instruction; "" or why that, or the request, is refused."""
        if not request.timeout >= 0:  # false for NaN, too
            return f"timeout = {request.timeout:g}; allowed: 0 ({PATIENCE:g} s) or more"
        if len(self._waiting) >= MOST:
            return f"{MOST} requests wait already"
        if request.instruction and request.instruction != self._node.parameters.declared(NodeConfig).instruction:
            result = self._node.set_parameters([Parameter("instruction", value=request.instruction)])[0]
            return "" if result.successful else str(result.reason)
        return ""

    def _serve(self) -> None:
        newest = self._newest
        if newest is None:
            return
        stamp = from_stamp(newest.header.stamp)
        for waiting in [waiting for waiting in self._waiting if stamp > waiting.since]:
            if waiting.instruction not in ("", newest.instruction):
                self._fail(waiting, f"the instruction was changed meanwhile, to '{newest.instruction}'")
                continue
            chunk = copy.copy(newest)
            chunk.execute = False
            self._waiting.remove(waiting)
            self._service.answer(GetActionChunk.Response(success=True, chunk=chunk), waiting.header)

    def _fail(self, waiting: Waiting, why: str) -> None:
        self._waiting.remove(waiting)
        self._service.answer(GetActionChunk.Response(message=why), waiting.header)
