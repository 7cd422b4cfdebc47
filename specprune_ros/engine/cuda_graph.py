"""A forward pass captured in a CUDA graph: copy inputs, replay, read outputs.

Rules followed (torch documentation, "CUDA semantics: CUDA graphs"): fixed shapes and addresses, warm-up on a side
stream before the capture, one memory pool for all graphs because they never run at the same time, no host
synchronisation inside. The host must not touch the outputs before the replay is synchronised.
"""

from dataclasses import fields, replace
from typing import Any

import torch

from specprune_ros.engine.forward_pass import ForwardPass, Inputs, Outputs

WARM_UP_RUNS = 3


class CapturedPass:
    """Same call as ForwardPass, from a CUDA graph."""

    def __init__(self, forward: ForwardPass, example: Inputs, pool: Any):
        self.clock = forward.clock
        self._inputs = replace(example, **{f.name: getattr(example, f.name).clone() for f in fields(example)})
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                forward(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._outputs = forward(self._inputs)

    def __call__(self, inputs: Inputs) -> Outputs:
        for field in fields(inputs):
            getattr(self._inputs, field.name).copy_(getattr(inputs, field.name), non_blocking=True)
        self._graph.replay()
        return self._outputs
