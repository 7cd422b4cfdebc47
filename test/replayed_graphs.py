# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs acted out on a CPU, so that everything around them can be tested without a GPU."""

from collections.abc import Callable
from typing import Any

import torch

from specprune_ros.engine.cuda_graph import WARM_UP_RUNS, CaptureError, tensors


class ReplayedGraph:
    """Runs the captured function again, on the inputs that it was captured with, into the outputs of the capture."""

    def __init__(self, recorder: "ReplayingRecorder", run: Callable[[], Any], outputs: Any):
        self._recorder, self._run, self.outputs = recorder, run, outputs

    def replay(self) -> None:
        self._recorder.spoil_outputs()
        for held, new in zip(tensors(self.outputs), tensors(self._run()), strict=True):
            assert held.shape == new.shape, "a graph has fixed shapes"
            held.copy_(new)


class ReplayingRecorder:
    """`failures`: so many captures fail first. `broken`: the warm-up fails while it is set."""

    def __init__(self, failures: int = 0):
        self.failures = failures
        self.broken = False
        self.graphs: list[ReplayedGraph] = []

    def warm_up(self, run: Callable[[], Any]) -> None:
        if self.broken:
            raise torch.OutOfMemoryError("CUDA out of memory (as acted out)")
        for _ in range(WARM_UP_RUNS):
            run()

    def capture(self, run: Callable[[], Any]) -> tuple[ReplayedGraph, Any]:
        if self.failures:
            self.failures -= 1
            raise CaptureError("operation not permitted when stream is capturing (as acted out)")
        outputs = run()
        graph = ReplayedGraph(self, run, type(outputs)(*(tensor.clone() for tensor in tensors(outputs))))
        self.graphs.append(graph)
        return graph, graph.outputs

    def spoil_outputs(self) -> None:
        """All graphs share one memory pool: a replay may overwrite what any of them put out."""
        for graph in self.graphs:
            for tensor in tensors(graph.outputs):
                tensor.fill_(float("nan") if tensor.is_floating_point() else 99)
