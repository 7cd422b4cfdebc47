# SPDX-License-Identifier: Apache-2.0
"""Many replays in one process: the weights are read once, nothing is warmed up, and no page is written.

The page has tests of its own; warming up matters to latencies alone.
"""

import pytest

from specprune_ros.replay import arms, results


@pytest.fixture(scope="module", autouse=True)
def light_replay():
    load, loaded = arms.load_policy, {}

    def load_once(model, pruning):
        """A policy of its own on the same weights."""
        if repr(model) not in loaded:
            loaded[repr(model)] = load(model, pruning)
        return loaded[repr(model)].sibling("off")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "load_policy", load_once)
        patch.setattr(arms.Arms, "warm_up", lambda self, _: self.reset())
        patch.setattr(results, "write_page", lambda path, *_: path.write_text("left out"))
        yield
