# SPDX-License-Identifier: Apache-2.0
"""How long pieces of a forward pass take on the device itself."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch

from specprune_ros.engine.cuda_graph import CudaRecorder

Key = TypeVar("Key", bound=Hashable)

ROUNDS = 15
REPEAT = 4  # calls in one graph


def device_seconds(
    calls: Mapping[Key, Callable[[], Any]], device: torch.device, rounds: int = ROUNDS, repeat: int = REPEAT
) -> dict[Key, list[float]]:
    """Seconds of every call, `rounds` times, all in turn, so that drift meets all alike.

    On a GPU a graph of `repeat` calls is timed by events: launched one by one, small operations take the host longer
    than the GPU. On a CPU it is one call by the wall clock. Raises CaptureError.
    """
    if device.type != "cuda":
        for call in calls.values():
            call()
        seconds: dict[Key, list[float]] = {key: [] for key in calls}
        for _ in range(rounds):
            for key, call in calls.items():
                begin = time.perf_counter()
                call()
                seconds[key].append(time.perf_counter() - begin)
        return seconds

    recorder = CudaRecorder(device)
    with torch.cuda.device(device):
        graphs = {key: _graph(recorder, call, repeat) for key, call in calls.items()}
        begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        seconds = {key: [] for key in calls}
        for turn in range(rounds + 1):
            for key, graph in graphs.items():
                begin_event.record()
                graph.replay()
                end_event.record()
                end_event.synchronize()
                if turn:  # the first replay uploads the graph
                    seconds[key].append(begin_event.elapsed_time(end_event) / 1000 / repeat)
    return seconds


def _graph(recorder: CudaRecorder, call: Callable[[], Any], repeat: int) -> torch.cuda.CUDAGraph:
    def run() -> None:
        for _ in range(repeat):
            call()

    recorder.warm_up(call)
    return recorder.capture(run)[0]
