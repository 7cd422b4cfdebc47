# SPDX-License-Identifier: Apache-2.0
"""The bench of the fault tests: one policy process for all tests of a module."""

import gc
import signal

import pytest


@pytest.fixture(scope="module", autouse=True)
def destroyed_nodes_leave_the_graph(request):
    """A destroyed node's entities that reference each other stay in the graph, a namesake, until they are collected."""
    yield
    if request.node.get_closest_marker("ros"):
        gc.collect()


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
