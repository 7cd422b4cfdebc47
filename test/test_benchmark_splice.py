# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from benchmark_modules import splice


@pytest.fixture(scope="module")
def traces():
    """A smooth path through three corners; a trace for every variant."""
    path = np.stack([0.1 * np.sin(np.arange(120) * rate) for rate in (0.05, 0.08, 0.13)], axis=1)
    return path, [splice.drive(variant, path) for variant in splice.VARIANTS]


def test_each_way_is_better_than_the_one_before(traces):
    path, (waits, first_step, by_stamps, blended, ensemble) = traces

    def error(trace):
        return np.linalg.norm(trace.positions - path, axis=1).mean()

    def roughness(trace):
        return np.linalg.norm(trace.accelerations, axis=1).mean()

    assert waits.pauses > 20 and max(trace.pauses for trace in (first_step, by_stamps, blended, ensemble)) <= 3
    assert error(waits) > error(first_step) > 1.5 * error(by_stamps)
    assert roughness(by_stamps) > roughness(blended) > roughness(ensemble)


def test_plot(traces, tmp_path):
    path, made = traces
    splice.plot({"a": made[0], "b": made[3]}, path, tmp_path / "splice.png")
    assert (tmp_path / "splice.png").stat().st_size > 10_000
