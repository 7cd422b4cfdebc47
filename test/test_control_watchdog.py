# SPDX-License-Identifier: Apache-2.0
import math

import pytest

from specprune_ros.control.watchdog import Watchdog


def test_names_what_is_missing_too_old_or_ahead():
    watchdog = Watchdog({"observation": 0.5, "tf": 0.2})
    assert watchdog.stale(1.0) == "observation: nothing received"
    watchdog.feed("observation", 1.0)
    assert watchdog.stale(1.0) == "tf: nothing received"
    watchdog.feed("tf", 1.0)
    assert watchdog.stale(1.19) is None
    assert watchdog.stale(1.3) == "tf: 0.300 s old, allowed 0.2 s"
    watchdog.feed("tf", 1.6)
    assert watchdog.stale(1.51) == "observation: 0.510 s old, allowed 0.5 s"
    watchdog.feed("observation", 99.0)
    assert "in the future" in watchdog.stale(1.6)


def test_lost_and_recovered():
    watchdog = Watchdog({"tf": 0.2})
    watchdog.feed("tf", 1.0)
    watchdog.lost("tf")
    assert watchdog.stale(1.0) == "tf: nothing received"
    watchdog.feed("tf", 1.1)
    assert watchdog.stale(1.1) is None


def test_nan_does_not_count_as_a_sample():
    watchdog = Watchdog({"tf": 0.2})
    watchdog.feed("tf", math.nan)
    assert watchdog.stale(0.0) is not None


def test_an_input_that_is_not_watched_is_a_mistake():
    with pytest.raises(KeyError):
        Watchdog({}).feed("tf", 0.0)


def test_a_clock_that_is_ahead_does_not_make_a_sample_last_longer():
    watchdog = Watchdog({"tf": 0.5})
    watchdog.feed("tf", 10.4)  # of a machine whose clock is 0.4 s ahead
    assert watchdog.stale(10.0) is None
    watchdog.feed("tf", 10.4)
    assert watchdog.stale(10.45) is None
    assert "0.550 s old" in watchdog.stale(10.55)
