# SPDX-License-Identifier: Apache-2.0
"""What tests of several files share: scenes of the simulator, sessions in process, one policy process a module."""

import gc
import signal

import pytest


@pytest.fixture(scope="module", autouse=True)
def destroyed_nodes_leave_the_graph(request):
    """A destroyed node's entities that reference each other stay in the graph, a namesake, until they are collected."""
    yield
    if request.node.get_closest_marker("ros"):
        gc.collect()


@pytest.fixture(scope="session")
def libero_spatial():
    """image_size -> the scene of task 0, without shadows, as it is at the start.

    It takes 6 s of a processor to make: tests of several files use it one after the other; see SIMULATOR in the root's
    conftest.py.
    """
    from specprune_ros.sim.libero_env import LiberoEnv

    env = LiberoEnv("libero_spatial", 0, shadows=False, anti_aliasing=False)

    def scene(image_size):
        env.image_size = image_size
        env.reset()
        return env

    yield scene
    env.close()


@pytest.fixture
def open_bench(monkeypatch):
    """(policy, **parameters) -> a session in this process, with a set clock."""
    pytest.importorskip("rclpy")
    from session_bench import SessionBench

    benches = []

    def open_bench(policy=None, **parameters):
        benches.append(SessionBench(monkeypatch, policy, **parameters))
        return benches[-1]

    yield open_bench
    for bench in benches:
        bench.close()


@pytest.fixture(scope="module")
def module_bench():
    rclpy = pytest.importorskip("rclpy")
    from fault_bench import Bench, start_faulty_policy
    from policy_client import PATIENCE, START_PATIENCE

    context = rclpy.Context()
    context.init()
    process = start_faulty_policy()
    bench = Bench(context, process)
    try:
        bench.next_chunk(timeout=START_PATIENCE)
        yield bench
        bench.good()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0
    finally:
        bench.close()
        process.kill()
        context.shutdown()


@pytest.fixture
def bench(module_bench):
    """Moving before the fault; disabled and without faults after it."""
    module_bench.good()
    assert module_bench.enable().success
    module_bench.wait_until_moving("motion before the fault")
    yield module_bench
    module_bench.good()
