# SPDX-License-Identifier: Apache-2.0
"""Inferences from CUDA graphs, acted out on a CPU: results, history, failed captures, when captures happen."""

import contextlib
import inspect

import numpy as np
import pytest
import torch
from random_model import model_config, random_checkpoint
from replayed_graphs import ReplayingRecorder
from test_method_oracle import Step, compare_episode
from test_policy import FAST, STILL, seen

from specprune_ros.engine import device_scope
from specprune_ros.engine.cuda_graph import CaptureError, CudaRecorder, Graphs
from specprune_ros.engine.engine import Engine
from specprune_ros.openvla.config import DIFFUSION
from specprune_ros.openvla.prompt import Prompt
from specprune_ros.policy import Policy
from specprune_ros.pruning.config import PruningConfig

OTHER = "up pick the black bowl"  # as many tokens as the episode's instruction


@pytest.fixture
def recorder(monkeypatch) -> ReplayingRecorder:
    """Of every policy that the test makes."""
    recorder = ReplayingRecorder()
    monkeypatch.setattr(Graphs, "of", classmethod(lambda cls, device: cls(recorder)))
    return recorder


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint(model_config(), 7)


@pytest.mark.parametrize(("selection", "failures"), [("budget", 0), ("union", 0), ("budget", 2)])
def test_episode_agrees_with_the_oracle_from_graphs_and_after_failed_captures(recorder, selection: str, failures: int):
    recorder.failures = failures
    compare_episode(
        random_checkpoint(model_config(grid=5), 60), PruningConfig(selection=selection), 1, 60, actions_within=1e-5
    )
    assert bool(recorder.graphs) == (failures < 2)


@pytest.mark.parametrize("reselect", [False, True])
def test_a_graph_holds_the_whole_sampler_and_films_modulations(recorder, reselect: bool):
    """Also those of the next instruction, in a graph that the last one captured."""
    sampler = {"head": DIFFUSION, "diffusion_steps": 2, "diffusion_steps_train": 4}
    checkpoint = random_checkpoint(model_config(film=True, **sampler), 61)
    episode = (
        Step(STILL),
        Step(STILL, "still"),
        Step(FAST),
        Step(FAST, instruction=OTHER),
        Step(FAST, instruction=OTHER),
    )
    compare_episode(checkpoint, PruningConfig(reselect=reselect), 1, 61, actions_within=1e-3, episode=episode)
    assert len(recorder.graphs) == 4  # three modes and the frames


def test_one_failed_capture_is_tried_again_and_no_problem(recorder, checkpoint):
    recorder.failures = 1
    policy = Policy(checkpoint, "paper", tile=1)
    policy.act(seen())
    assert policy.graph_problem == ""
    assert len(recorder.graphs) == 4  # three modes and the frames


def test_after_two_failed_captures_inferences_run_without_graphs_and_say_so(recorder, checkpoint):
    recorder.failures = 2
    policy = Policy(checkpoint, "paper", tile=1)
    expected = Policy(checkpoint, "paper", tile=1)
    expected._graphs = Graphs(None)
    expected.set_pruning("paper")
    for number in range(4):
        observation = seen(stamp=0.4 * number, twist=FAST if number % 2 else STILL)
        np.testing.assert_array_equal(policy.act(observation).actions, expected.act(observation).actions)
    assert "could not be captured" in policy.graph_problem and "not permitted" in policy.graph_problem
    assert not recorder.graphs


def test_every_mode_is_captured_as_soon_as_an_instruction_has_another_length(recorder, checkpoint):
    policy = Policy(checkpoint, "paper", tile=1)
    policy.act(seen())
    before = len(recorder.graphs)
    longer = "pick up the bowl and put it on the plate"
    assert policy.act(seen(instruction=longer)).pruning.mode == "dense"
    assert len(recorder.graphs) == before + 3
    assert policy.act(seen(instruction=longer, stamp=0.4, twist=FAST)).pruning.mode == "coarse"
    assert len(recorder.graphs) == before + 3


def test_a_failed_warm_up_is_repeated_before_the_next_inference_not_in_motion(recorder, checkpoint):
    policy = Policy(checkpoint, "paper", tile=1)
    recorder.broken = True
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            policy.act(seen())
    recorder.broken = False
    policy.act(seen())
    assert len(recorder.graphs) == 4


def test_pruning_that_cannot_be_warmed_leaves_the_old_one_in_force(recorder, checkpoint):
    policy = Policy(checkpoint, "paper", tile=1)
    policy.act(seen())
    recorder.broken = True
    with pytest.raises(torch.OutOfMemoryError):
        policy.set_pruning("fast")
    assert policy.act(seen(stamp=0.4)).pruning.preset == "paper"
    recorder.broken = False
    policy.set_pruning("fast")
    assert policy.act(seen(stamp=0.8)).pruning.preset == "fast"


def test_changes_of_pruning_keep_only_the_last_ones_graphs(recorder, checkpoint):
    policy = Policy(checkpoint, "paper", tile=1)
    policy.act(seen())
    for name in ("fast", "careful", "off"):
        policy.set_pruning(name)
        recorder.graphs.clear()
    assert policy.act(seen()).pruning.mode == "off"
    assert len(policy._engine._passes) == 1


# Which device


def test_all_engine_work_runs_on_the_models_device(monkeypatch, checkpoint):
    """Seen here by what runs while the scope is left, since a CPU has no other device to land on."""
    inside = []

    @contextlib.contextmanager
    def entered(device):
        inside.append(device)
        yield
        inside.pop()

    monkeypatch.setattr(device_scope, "current_device", entered)
    ran = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            ran.append(bool(inside))
            return function(*args, **kwargs or {})

    views = [np.zeros((56, 56, 3), np.uint8)] * 2
    prompt = Prompt((1, *range(300, 310), 29871), slice(3, 8))
    with Watched():
        engine = Engine(checkpoint.model, 2, True, PruningConfig(), 1)
        calls = {
            "prepare": lambda: engine.prepare(views),
            "look": lambda: engine.look(views, engine.prepare(views)),
            "run": lambda: engine.run("dense", prompt, sight.frames, sight.similarity, np.zeros(5)),
            "warm_up": lambda: engine.warm_up(prompt, runs=2),
            "reset": engine.reset,
            "infer_blank": lambda: engine.infer_blank("dense", prompt),
            "is_warm": lambda: engine.is_warm(prompt),
        }
        sight = calls["look"]()
        for name, call in calls.items():
            before = len(ran)
            call()
            assert len(ran) > before or name == "is_warm", name
            assert all(ran), name
    public = {name for name, _ in inspect.getmembers(Engine, inspect.isfunction) if not name.startswith("_")}
    assert public == set(calls)


def test_a_gpu_becomes_the_current_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: ("current", device))
    gpu = torch.device("cuda:1")
    assert device_scope.current_device(gpu) == ("current", gpu)


def test_float32_is_exact_inside_and_the_setting_is_put_back():
    switches = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "tf32"
        with device_scope.device_scope(torch.device("cpu")):
            assert [switch.fp32_precision for switch in switches] == ["ieee", "ieee"]
        assert [switch.fp32_precision for switch in switches] == ["tf32", "tf32"]
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


# How torch is used


class SideStream:
    device = torch.device("cuda:1")


class Torch:
    """torch.cuda as far as a capture needs it, with what torch 2.13 does when one fails.

    The side stream stays the current one, and the pool goes on recording, so that the cache cannot be emptied, which
    every capture begins with.
    """

    def __init__(self, monkeypatch):
        self.current, self.recording, self.pools, self.modes = "default", set(), 0, []
        self.fails = 0
        replaced = {
            "device": lambda device: contextlib.nullcontext(),
            "stream": self._stream,
            "current_stream": lambda: self.current,
            "Stream": SideStream,
            "graph_pool_handle": self._new_pool,
            "CUDAGraph": object,
            "graph": self._graph,
        }
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self._end, raising=False)

    @contextlib.contextmanager
    def _stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def _new_pool(self):
        self.pools += 1
        return (0, self.pools)

    @contextlib.contextmanager
    def _graph(self, graph, pool, stream, capture_error_mode):
        if self.recording:
            raise RuntimeError("INTERNAL ASSERT FAILED: captures_underway.empty()")
        self.current = stream
        self.recording.add(pool)
        self.modes.append(capture_error_mode)
        yield
        if self.fails:
            self.fails -= 1
            raise RuntimeError("operation failed due to a previous error during capture\nmore")
        self.recording.discard(pool)
        self.current = "default"

    def _end(self, device, pool):
        assert device == SideStream.device.index
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.discard(pool)


def test_a_failed_capture_leaves_torch_ready_for_another(monkeypatch):
    fake = Torch(monkeypatch)
    recorder = CudaRecorder(SideStream.device)
    fake.fails = 1
    with pytest.raises(CaptureError, match=r"previous error during capture$"):
        recorder.capture(lambda: 1)
    assert fake.current == "default"
    assert recorder.capture(lambda: 2)[1] == 2
    assert fake.pools == 2  # torch's host allocator still records into the first
    assert fake.modes == ["thread_local"] * 2
