"""Wall-clock time of the stages of an inference, on the device that does the work, without waiting for it."""

import time
from typing import Any

import torch

STAGES = ("preprocess", "vision", "projector", "decoder", "selection", "head")


class StageClock:
    """`mark(stage)` says that a stage starts here; the time up to the next mark is added to it.

    On CUDA a mark is an event in the stream. Inside a graph capture it becomes part of the graph, so that every
    replay measures itself.
    """

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def start(self) -> None:
        self._marks.clear()

    def mark(self, stage: str) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True, external=True)
            event.record()
            self._marks.append((stage, event))
        else:
            self._marks.append((stage, time.perf_counter()))

    def stop(self) -> None:
        self.mark("")

    def seconds(self) -> dict[str, float]:
        """Seconds per stage since `start`. On CUDA call it after synchronising."""
        total = dict.fromkeys(STAGES, 0.0)
        for (stage, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            elapsed = begin.elapsed_time(end) / 1000 if self._cuda else end - begin
            total[stage] += elapsed
        return total
