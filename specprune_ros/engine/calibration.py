# SPDX-License-Identifier: Apache-2.0
"""Which sequence lengths suit the device: the tile whose multiples cost a decoder layer least per token.

Snapping moves a length to the nearest multiple. That pays only where a layer's time is a staircase, because a length
that fills whole steps wastes none. Where time grows evenly, or does not depend on the length at all, 1 wins.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from specprune_ros.engine.cuda_graph import CaptureError
from specprune_ros.engine.device_scope import device_scope
from specprune_ros.engine.device_time import device_seconds
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.pruning.schedule import round_half_up

TILES = (1, 16, 32, 64, 128)
CENTRES, DISTANCES = (256, 384, 512), (5, 19, 27, 37, 45, 59)
# Lengths of pruned runs, as far above multiples of every tile as below: snapping moves as many tokens up as down, so
# that all tiles are compared on the same number of tokens.
LENGTHS = tuple(centre + sign * distance for centre in CENTRES for distance in DISTANCES for sign in (-1, 1))
# A coarser tile moves the number of kept patches away from what was asked for: it must be worth it. On an H100 one of
# 128 gains 4 to 5.5 %, from start to start; nothing that is near the limit may decide which patches are kept.
LEAST_GAIN = 0.1
AS_GOOD = 0.02  # gains that differ by less are equal
DEVIATIONS = 4.0  # standard errors that a gain must exceed


@dataclass(frozen=True)
class Calibration:
    """`gains`: how much cheaper a token is with a tile than without, as a share, with its standard error.

    Empty when nothing was measured; `failure` says why that is so where there was a reason to measure.
    """

    tile: int
    gains: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    failure: str = ""

    def __str__(self) -> str:
        if self.failure:
            return f"tile {self.tile} (not measured: {self.failure})"
        if not self.gains:
            return f"tile {self.tile}"
        measured = ", ".join(f"{tile}: {gain:+.1%} ± {error:.1%}" for tile, (gain, error) in self.gains.items())
        return f"tile {self.tile} (cheaper per token than with tile 1: {measured})"


def calibrate(model: OpenVLA) -> Calibration:
    """The best tile for a model's device, measured; 1 on a CPU, whose time grows evenly with the length."""
    if model.device.type != "cuda":
        return Calibration(1)
    decoder = model.decoder
    generator = torch.Generator(model.device).manual_seed(0)
    with device_scope(model.device):

        def layer_at(length: int) -> Callable[[], object]:
            shape = length, decoder.config.hidden_size
            x = torch.randn(shape, generator=generator, dtype=model.dtype, device=model.device)
            rope = decoder.rope(length)
            return lambda: decoder.layers[0](x, rope)

        try:
            seconds = device_seconds({length: layer_at(length) for length in measured_lengths()}, model.device)
        except CaptureError as error:
            return Calibration(1, failure=str(error))
    return choose_tile(seconds)


def measured_lengths() -> list[int]:
    """All lengths that the tiles lead to."""
    return sorted({snapped(length, tile) for tile in TILES for length in LENGTHS})


def choose_tile(seconds: Mapping[int, Sequence[float]]) -> Calibration:
    """The tile, from the seconds that a layer took at each of the `measured_lengths`, round by round.

    The finest of those that are as good as the best, if that one is worth it at all. The margins lie well outside the
    noise, so that it is the same tile at every start.
    """
    rounds = {tile: _cost_per_token(seconds, tile) for tile in TILES}
    gains = {tile: _gain(rounds[1], rounds[tile]) for tile in TILES[1:]}
    most = max(gain for gain, _ in gains.values())
    good = [tile for tile, (gain, error) in gains.items() if gain > max(most - AS_GOOD, DEVIATIONS * error)]
    return Calibration(good[0] if good and most > LEAST_GAIN else 1, gains)


def snapped(length: int, tile: int) -> int:
    """The multiple of `tile` that is nearest to `length`."""
    return round_half_up(length / tile) * tile


def _cost_per_token(seconds: Mapping[int, Sequence[float]], tile: int) -> NDArray[np.float64]:
    """(rounds,) over the same wanted lengths for every tile."""
    lengths = [snapped(length, tile) for length in LENGTHS]
    result: NDArray[np.float64] = np.sum([seconds[length] for length in lengths], axis=0) / sum(lengths)
    return result


def _gain(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float]:
    """Median gain and its standard error, from the spread around the median: a hiccup in one round does not count."""
    gains = before / after - 1
    median = float(np.median(gains))
    deviation = 1.4826 * float(np.median(np.abs(gains - median)))  # of a normal distribution
    return median, 1.2533 * deviation / len(gains) ** 0.5
