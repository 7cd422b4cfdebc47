# SPDX-License-Identifier: Apache-2.0
"""The CUDA path on a GPU. On a CPU the same tests run with acted-out graphs, so that they are right when a GPU comes.

Needs torch, transformers, numpy, safetensors, Pillow and PyYAML alone: `python -m pytest -k gpu`.
"""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from random_model import model_config, random_checkpoint
from replayed_graphs import ReplayingRecorder
from test_method_oracle import compare_episode

from specprune_ros.engine.calibration import calibrate
from specprune_ros.engine.cuda_graph import CapturedPass, CudaRecorder, Graphs, tensors
from specprune_ros.engine.device_time import device_seconds
from specprune_ros.openvla.checkpoint import Checkpoint
from specprune_ros.policy import ActionChunk, Observation, Policy
from specprune_ros.pruning.config import PRESETS, PruningConfig

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TWISTS = {"coarse": np.array([1.0, 0, 0, 0, 0, 0]), "fine": np.zeros(6)}
GEOMETRY = {"cuda": {"grid": 8, "hidden": 128, "num_heads": 2, "num_layers": 12}, "cpu": {"num_layers": 6}}
DTYPE = {"cuda": torch.bfloat16, "cpu": torch.float32}  # bfloat16 takes a CPU without AMX very long


@pytest.fixture(params=[pytest.param("cuda", marks=needs_gpu), "cpu"])
def device(request, monkeypatch) -> torch.device:
    """A GPU; or a CPU whose policies replay acted-out graphs."""
    if request.param == "cpu":
        monkeypatch.setattr(Graphs, "of", classmethod(lambda cls, device: cls(ReplayingRecorder())))
    return torch.device(request.param)


def loaded(device: torch.device, dtype: torch.dtype | None = None, kind: str = "") -> Checkpoint:
    """A model for a device; `kind`: of the geometry, by default that of the device."""
    checkpoint = random_checkpoint(model_config(**GEOMETRY[kind or device.type]), 3, dtype or DTYPE[device.type])
    checkpoint.model.to(device)
    return checkpoint


def eager(checkpoint: Checkpoint, pruning: str | PruningConfig) -> Policy:
    """A policy without graphs."""
    policy = Policy(checkpoint, "off", tile=1)
    policy._graphs = Graphs(None)
    policy.set_pruning(pruning)
    return policy


def episode(size: int, length: int, instruction: str = "pick up the bowl") -> Iterator[Observation]:
    """Frames of `size` pixels of which a part changes, and all modes."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    for number in range(length):
        top = 14 * (number % 4)
        frames[:, top : top + 14, 14:28] = random.integers(0, 256, (2, 14, 14, 3), dtype=np.uint8)
        views = {"primary": frames[0].copy(), "wrist": frames[1].copy()}
        twist = TWISTS["coarse" if number % 3 else "fine"]
        yield Observation(views, random.uniform(-1, 1, 5), instruction, 0.4 * number, twist)


def run(policy: Policy, length: int, instruction: str = "pick up the bowl") -> list[ActionChunk]:
    return [policy.act(observation) for observation in episode(policy.image_size, length, instruction)]


def assert_same(first: list[ActionChunk], second: list[ActionChunk]) -> None:
    """Kept patches and modes are equal; the actions up to the rounding of bfloat16 kernels that may be chosen anew."""
    for one, other in zip(first, second, strict=True):
        assert np.isfinite(one.actions).all()
        assert one.pruning.mode == other.pruning.mode
        for kept, expected in zip(one.pruning.kept_final, other.pruning.kept_final, strict=True):
            np.testing.assert_array_equal(kept, expected)
        np.testing.assert_allclose(one.actions, other.actions, rtol=0, atol=1e-2)


@torch.inference_mode()
def poison(policy: Policy) -> None:
    """Fill what the graphs put out and what they are given, which every replay has to write anew."""
    engine = policy._engine
    for captured in [engine._look, *(held.run for held in engine._passes.values())]:
        if isinstance(captured, CapturedPass):
            for tensor in (*tensors(captured._outputs), *captured._inputs):
                tensor.fill_(float("nan") if tensor.is_floating_point() else 77)


def memory(device: torch.device) -> int:
    """Bytes that torch has taken from the GPU."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0


# Graph against eager


@pytest.mark.parametrize("pruning", ["off", *PRESETS])
def test_gpu_graphs_equal_eager_in_bfloat16_with_poisoned_buffers(device, pruning: str):
    checkpoint = loaded(device)
    plain, captured = eager(checkpoint, pruning), Policy(checkpoint, pruning, tile=1)
    pairs = []
    for observation in episode(captured.image_size, 7):
        poison(captured)
        pairs.append((captured.act(observation), plain.act(observation)))
    assert_same(*map(list, zip(*pairs, strict=True)))
    assert {chunk.pruning.mode for chunk, _ in pairs} == ({"off"} if pruning == "off" else {"dense", "coarse", "fine"})
    assert captured.graph_problem == ""
    assert len(captured._engine._passes) == len(captured._engine.modes)


@needs_gpu
@pytest.mark.parametrize("selection", ["budget", "union"])
def test_gpu_agrees_with_the_oracle(selection: str):
    checkpoint = random_checkpoint(model_config(grid=6), 60)
    checkpoint.model.cuda()
    compare_episode(checkpoint, PruningConfig(selection=selection), 16, 60, actions_within=1e-5)


def test_gpu_float32_is_exact_even_where_the_process_allows_tf32(device):
    exact = run(eager(loaded(torch.device("cpu"), torch.float64, device.type), "paper"), 6)
    switches = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "tf32"
        chunks = run(Policy(loaded(device, torch.float32), "paper", tile=1), 6)
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
    for chunk, expected in zip(chunks, exact, strict=True):
        np.testing.assert_allclose(chunk.actions, expected.actions, rtol=0, atol=1e-4)  # TF32: about 1e-2


def test_gpu_stages_are_measured_in_every_replay(device):
    policy = Policy(loaded(device), "paper", tile=1)
    chunks = run(policy, 5)
    for chunk in chunks:
        assert all(seconds > 0 for seconds in chunk.stage_seconds.values())
        assert sum(chunk.stage_seconds.values()) <= chunk.seconds
    assert chunks[-1].stage_seconds != chunks[-3].stage_seconds


# Over time


def test_gpu_memory_is_flat_over_a_thousand_inferences(device):
    policy = Policy(loaded(device), "paper", tile=1)
    run(policy, 20)
    before = memory(device)
    chunks = run(policy, 1000 if device.type == "cuda" else 20)
    assert np.isfinite([chunk.actions for chunk in chunks]).all()
    assert memory(device) == before


def test_gpu_instruction_of_another_length(device):
    checkpoint = loaded(device)
    policy, plain = Policy(checkpoint, "paper", tile=1), eager(checkpoint, "paper")
    for instruction in ("pick up the bowl", "pick up the bowl and put it on the plate", "pick up the bowl", "lift it"):
        assert_same(run(policy, 4, instruction), run(plain, 4, instruction))
    assert len(policy._engine._passes) == 9


def test_gpu_storm_of_set_pruning(device):
    checkpoint = loaded(device)
    policy = Policy(checkpoint, "paper", tile=1)
    sizes = []
    for number in range(24 if device.type == "cuda" else 3):
        name = ("fast", "careful", "paper")[number % 3]
        policy.set_pruning(name)
        assert_same(run(policy, 3), run(eager(checkpoint, name), 3))
        sizes.append(memory(device))
    if len(sizes) > 12:
        assert max(sizes[12:]) <= max(sizes[:12]), "memory grows with every change of the pruning"


@contextmanager
def busy(device: torch.device) -> Iterator[list[Exception]]:
    """Another thread that allocates, computes and synchronises on the device all the time; what it ran into.

    Its random numbers are its own: torch's common generator refuses every other thread while anything is captured.
    """
    stop, failures = threading.Event(), []
    generator = torch.Generator(device)

    def work() -> None:
        with torch.inference_mode():
            while not stop.is_set():
                try:
                    x = torch.randn(256, 256, generator=generator, device=device)
                    assert torch.isfinite((x @ x).sum()).item()
                    del x
                    if device.type == "cuda":
                        torch.cuda.mem_get_info(device)
                except Exception as error:
                    failures.append(error)
                    return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join()


def test_gpu_is_shared_with_a_busy_thread(device):
    checkpoint = loaded(device)
    with busy(device) as failures:
        policy = Policy(checkpoint, "paper", tile=1)  # captures meanwhile
        chunks = run(policy, 6)
    assert not failures
    assert policy.graph_problem == ""
    assert_same(chunks, run(eager(checkpoint, "paper"), 6))


# What goes wrong


@dataclasses.dataclass(frozen=True, eq=False)
class Numbers:
    values: torch.Tensor


def reads_back(failures: int):
    """Twice the values; the first `failures` captures of it read a number back, which no capture allows."""
    left = [failures]

    def double(inputs: Numbers) -> Numbers:
        if torch.cuda.is_current_stream_capturing() and left[0]:
            left[0] -= 1
            inputs.values.sum().item()
        return Numbers(inputs.values * 2)

    return double


@needs_gpu
@pytest.mark.parametrize("failures", [1, 2])
def test_gpu_survives_failed_captures(failures: int):
    device = torch.device("cuda")
    stream = torch.cuda.current_stream()
    graphs = Graphs.of(device)
    with torch.inference_mode():
        numbers = Numbers(torch.arange(5.0, device=device))
        double = graphs.captured(reads_back(failures), numbers)
        assert isinstance(double, CapturedPass) == (failures == 1)
        assert bool(graphs.problem) == (failures == 2)
        assert double(numbers).values.tolist() == [0, 2, 4, 6, 8]
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()  # refuses while a capture is under way
    policy = Policy(loaded(device), "paper", tile=1)
    run(policy, 3)
    assert policy.graph_problem == ""


@needs_gpu
def test_gpu_recorder_captures_again_after_a_failure():
    recorder = CudaRecorder(torch.device("cuda"))
    numbers = Numbers(torch.ones(3, device="cuda"))
    for failures in (1, 0, 1, 0):
        double = reads_back(failures)
        try:
            graph, outputs = recorder.capture(lambda double=double: double(numbers))
        except RuntimeError:
            assert failures
        else:
            graph.replay()
            assert outputs.values.tolist() == [2, 2, 2]
            assert not failures


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_gpu_with_another_number_while_the_first_is_current():
    first, second = loaded(torch.device("cuda:0")), loaded(torch.device("cuda:1"))
    with torch.cuda.device(0):
        policy = Policy(second, "paper", tile=0)
        chunks = run(policy, 6)
    assert policy.graph_problem == ""
    assert all(seconds > 0 for chunk in chunks for seconds in chunk.stage_seconds.values())
    assert_same(chunks, run(Policy(first, "paper", tile=policy.tile), 6))


# Timing


@needs_gpu
def test_gpu_calibration_is_the_same_at_every_start():
    model = loaded(torch.device("cuda")).model
    chosen = [calibrate(model) for _ in range(3)]
    assert len({calibration.tile for calibration in chosen}) == 1, [str(calibration) for calibration in chosen]
    assert all(calibration.gains for calibration in chosen)


@needs_gpu
def test_gpu_time_grows_with_the_work_and_not_with_the_launches():
    device = torch.device("cuda")
    large, small = (torch.randn(size, size, device=device) for size in (4096, 64))
    seconds = device_seconds({"large": lambda: large @ large, "small": lambda: small @ small}, device, rounds=5)
    assert min(seconds["large"]) > 5 * max(seconds["small"]) > 0
