# SPDX-License-Identifier: Apache-2.0
"""The instruction's attention and what it should look at."""

import pytest
import torch

from training.batched_model import Scores
from training.data import are_named
from training.grounding import grounding_loss, relevance_maps

NAN = float("nan")
INSTRUCTION = "pick up the black bowl on the cookie box and place it on the plate"


@pytest.mark.parametrize(
    "name, named",
    [
        ("akita_black_bowl_1", True),
        ("akita_black_bowl_2", True),
        ("cookies_1", True),
        ("plate_1", True),
        ("gripper", True),
        ("glazed_rim_porcelain_ramekin_1", False),
        ("wooden_cabinet_1", False),
    ],
)
def test_what_the_instruction_names(name, named):
    assert are_named([name], INSTRUCTION) == [named]


def test_maps_have_their_peaks_at_the_things_that_matter():
    points = torch.tensor([[[[0.3, 0.7], [0.8, 0.2], [NAN, NAN], [0.5, 0.5]], [[NAN, NAN]] * 4]])
    maps = relevance_maps(points, torch.tensor([[True, True, True, False]]), 10)
    assert maps.shape == (1, 2, 100)
    torch.testing.assert_close(maps.sum(-1), torch.tensor([[1.0, 0.0]]))
    grid = maps[0, 0].view(10, 10)
    assert float(grid[1:3, 7:9].sum()) == pytest.approx(float(grid[6:8, 2:4].sum()), rel=0.02)
    assert grid[4:6, 4:6].sum() < 0.01 < grid[6:8, 2:4].sum()


def test_the_loss_is_zero_for_the_target_and_falls_towards_it():
    maps = relevance_maps(torch.tensor([[[[0.3, 0.7]], [[NAN, NAN]]]]), torch.tensor([[True]]), 8)
    everything = torch.arange(64).expand(1, 2, -1)
    target = Scores(0.2 * maps, everything)  # shares of what the patches get count, not how much that is
    flat = Scores(torch.full((1, 2, 64), 1 / 128), everything)
    between = Scores(0.1 * maps + 1 / 256, everything)
    losses = [float(grounding_loss([scores], maps).value) for scores in (target, between, flat)]
    assert losses[0] == pytest.approx(0, abs=1e-4) and losses[0] < losses[1] < losses[2]
    assert float(grounding_loss([target, flat], maps).value) == pytest.approx(losses[2] / 2, abs=1e-4)


def test_after_dropping_only_the_patches_alive_count():
    maps = relevance_maps(torch.tensor([[[[0.3, 0.7]]]]), torch.tensor([[True]]), 8)
    alive = maps[0, 0].topk(9).indices.sort().values[None, None]
    assert float(grounding_loss([Scores(maps.gather(2, alive), alive)], maps).value) == pytest.approx(0, abs=1e-4)
    nothing = (maps[0, 0] < 1e-9).nonzero().view(1, 1, -1)
    scores = Scores(torch.rand(nothing.shape), nothing)
    assert float(grounding_loss([scores], maps).value) == 0
