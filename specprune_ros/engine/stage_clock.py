# SPDX-License-Identifier: Apache-2.0
"""Wall-clock time of the stages of an inference, on the device that does the work, without waiting for it."""

import time
from typing import Any

import torch

STAGES = ("preprocess", "vision", "projector", "decoder", "selection", "head")


class StageClock:
    """`mark(stage)` says that a stage starts here; the time up to the next mark is added to it.

    On CUDA a mark is an event in the current stream. Inside a graph capture it becomes part of the graph, so that every
    replay measures itself. Events are made once and used again.
    """

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._stages: list[str] = []
        self._marks: list[Any] = []  # at least as many as stages

    def start(self) -> None:
        self._stages.clear()

    def mark(self, stage: str) -> None:
        number = len(self._stages)
        if number == len(self._marks):
            self._marks.append(torch.cuda.Event(enable_timing=True, external=True) if self._cuda else 0.0)
        if self._cuda:
            self._marks[number].record()
        else:
            self._marks[number] = time.perf_counter()
        self._stages.append(stage)

    def stop(self) -> None:
        self.mark("")

    def seconds(self) -> dict[str, float]:
        """Seconds per stage since `start`. On CUDA call it after synchronising."""
        total = dict.fromkeys(STAGES, 0.0)
        marks = self._marks[: len(self._stages)]
        for stage, begin, end in zip(self._stages, marks, marks[1:], strict=False):
            total[stage] += begin.elapsed_time(end) / 1000 if self._cuda else end - begin
        return total
