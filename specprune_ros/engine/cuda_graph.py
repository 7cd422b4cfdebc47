# SPDX-License-Identifier: Apache-2.0
"""Passes captured in CUDA graphs: copy inputs, replay, read outputs.

Rules followed (torch documentation, "CUDA semantics: CUDA graphs"): fixed shapes and addresses, warm-up on the side
stream of the capture, no host synchronisation inside, one memory pool for all graphs because they never run at the same
time. Sharing the pool means that a replay may overwrite what another graph put out: outputs hold until the next replay.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from specprune_ros.engine.device_scope import current_device

WARM_UP_RUNS = 3

In = TypeVar("In")  # a dataclass of tensors
Out = TypeVar("Out")


class CaptureError(RuntimeError):
    """A graph could not be captured; the pass itself works."""


class Graph(Protocol):
    """A captured pass."""

    def replay(self) -> None: ...


class Recorder(Protocol):
    """How a device captures."""

    def warm_up(self, run: Callable[[], Any]) -> None: ...

    def capture(self, run: Callable[[], Out]) -> tuple[Graph, Out]:
        """Raises CaptureError, after which another capture may be tried."""


class Graphs:
    """The captured passes of one device. Without a recorder (a CPU) every pass runs as it is.

    `problem` says why passes are not captured although they could be ("" while all is well).
    """

    def __init__(self, recorder: Recorder | None):
        self._recorder = recorder
        self.problem = ""

    @classmethod
    def of(cls, device: torch.device) -> "Graphs":
        return cls(CudaRecorder(device) if device.type == "cuda" else None)

    @property
    def capture(self) -> bool:
        """Whether passes are captured."""
        return self._recorder is not None and not self.problem

    def captured(self, function: Callable[[In], Out], example: In) -> Callable[[In], Out]:
        """The function from a graph, for inputs shaped as the example; as it is when two captures in a row failed.

        The warm-up runs change what the function changes in place; the caller restores it.
        """
        if self._recorder is None or self.problem:
            return function
        try:
            return self._captured(self._recorder, function, example)
        except CaptureError as error:
            self.problem = f"graphs could not be captured, inferences run slower without them: {error}"
            return function

    @staticmethod
    def _captured(recorder: Recorder, function: Callable[[In], Out], example: In) -> Callable[[In], Out]:
        try:
            return CapturedPass(function, example, recorder)
        except CaptureError:  # a passing cause, such as memory that another process held: the recorder is fresh again
            return CapturedPass(function, example, recorder)


class CapturedPass(Generic[In, Out]):
    """Same call as the function that it captured. Its outputs hold until the next replay of any graph."""

    def __init__(self, function: Callable[[In], Out], example: In, recorder: Recorder):
        self._inputs = [tensor.clone() for tensor in tensors(example)]
        held = type(example)(*self._inputs)
        recorder.warm_up(lambda: function(held))
        self._graph, self._outputs = recorder.capture(lambda: function(held))

    def __call__(self, inputs: In) -> Out:
        torch._foreach_copy_(self._inputs, tensors(inputs), non_blocking=True)
        self._graph.replay()
        return self._outputs


def tensors(inputs: Any) -> list[Tensor]:
    """The fields of a dataclass of tensors."""
    return [getattr(inputs, field.name) for field in fields(inputs)]


class CudaRecorder:
    """Captures on one side stream, in one memory pool.

    One stream, because torch keeps a cuBLAS workspace for every stream that it has seen, and because a pool's free
    memory belongs to the stream that freed it. `thread_local`: other threads of the process may use the GPU meanwhile.
    """

    def __init__(self, device: torch.device):
        self._device = device
        with current_device(device):
            self._stream = torch.cuda.Stream()
            self._pool = torch.cuda.graph_pool_handle()
        self._failed: list[torch.cuda.CUDAGraph] = []

    def warm_up(self, run: Callable[[], Any]) -> None:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_RUNS):
                run()
        current.wait_stream(self._stream)

    def capture(self, run: Callable[[], Out]) -> tuple[torch.cuda.CUDAGraph, Out]:
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.stream(torch.cuda.current_stream()),  # torch leaves the side stream current when it fails
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                outputs = run()
        except RuntimeError as error:
            self._start_afresh(graph)
            raise CaptureError(str(error).splitlines()[0]) from error
        return graph, outputs

    def _start_afresh(self, graph: torch.cuda.CUDAGraph) -> None:
        """Leave the pool of a failed capture: torch goes on "recording" into it.

        While it does, no cached memory can be freed, and so nothing else captured. torch's allocators also keep a
        function that reads the graph object, hence it must live on.
        """
        self._failed.append(graph)
        with suppress(RuntimeError):  # the capture had ended, what failed came later
            torch._C._cuda_endAllocateToPool(self._stream.device.index, self._pool)
        with current_device(self._device):
            self._pool = torch.cuda.graph_pool_handle()
