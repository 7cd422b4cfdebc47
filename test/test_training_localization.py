# SPDX-License-Identifier: Apache-2.0
"""The auxiliary task's maps and losses."""

import math

import torch

from training.localization import LocalizationHead, localization_error, localization_loss, target_maps

NAN = float("nan")


def test_a_target_has_its_mean_at_the_point():
    points = torch.tensor([[[[0.33, 0.71], [NAN, NAN]]]])
    maps = target_maps(points, torch.tensor([[1, 0]]), 2, 8)
    assert maps.shape == (1, 1, 2, 64) and maps[0, 0, 0].sum() == 0
    grid = maps[0, 0, 1].view(8, 8)
    centres = (torch.arange(8) + 0.5) / 8
    assert math.isclose(float(grid.sum(0) @ centres), 0.33, abs_tol=1e-6)
    assert math.isclose(float(grid.sum(1) @ centres), 0.71, abs_tol=1e-6)
    assert (grid > 0).sum() == 4


def test_two_of_a_kind_share_a_map_and_points_at_the_border_stay_inside():
    points = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])
    maps = target_maps(points, torch.tensor([[0, 0]]), 1, 4)[0, 0, 0]
    assert maps[0] == 0.5 and maps[-1] == 0.5 and maps.sum() == 1


def test_kinds_that_a_scene_lacks_are_left_out():
    maps = target_maps(torch.full((1, 1, 2, 2), 0.5), torch.tensor([[-1, 0]]), 1, 4)
    assert maps.sum() == 1


def test_the_loss_is_zero_for_the_target_itself_and_ignores_what_is_not_seen():
    maps = target_maps(torch.tensor([[[[0.3, 0.6], [NAN, NAN]]]]), torch.tensor([[0, 1]]), 2, 8)
    perfect = maps.clamp(min=1e-12).log()
    assert abs(float(localization_loss(perfect, maps).value)) < 1e-5
    assert float(localization_error(perfect, maps).value) < 1e-5
    flat = torch.full_like(maps, 1 / 64).log()
    assert float(localization_loss(flat, maps).value) > 1
    nothing = torch.zeros_like(maps)
    assert float(localization_loss(flat, nothing).value) == 0 and float(localization_error(flat, nothing).value) == 0


def test_the_head_gives_a_distribution_per_view_and_kind():
    log_maps = LocalizationHead(12, 3)(torch.randn(2, 2, 16, 12))
    assert log_maps.shape == (2, 2, 3, 16)
    torch.testing.assert_close(log_maps.exp().sum(-1), torch.ones(2, 2, 3))
