# SPDX-License-Identifier: Apache-2.0
"""The choice of a tile, from acted-out times of a layer."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from random_model import model_config, random_model

from specprune_ros.engine import calibration
from specprune_ros.engine.calibration import LENGTHS, TILES, Calibration, calibrate, choose_tile, snapped
from specprune_ros.engine.cuda_graph import CaptureError
from specprune_ros.engine.device_time import ROUNDS, device_seconds
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.schedule import ModelShape, make_schedule

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"

STARTS = 200
NOISE = 0.03

TIMES: dict[str, tuple[Callable[[int], float], int]] = {
    "the same at every length": (lambda length: 300e-6, 1),
    "growing evenly": (lambda length: 50e-6 + 1e-6 * length, 1),
    "bound by the weights, then growing": (lambda length: max(250e-6, 1e-6 * length), 1),
    "steps of 16": (lambda length: 1e-6 * 16 * math.ceil(length / 16), 1),  # at most 2 %: not worth other patches
    "steps of 64": (lambda length: 1e-6 * 64 * math.ceil(length / 64), 1),  # 8 %
    "steps of 128": (lambda length: 1e-6 * 128 * math.ceil(length / 128), 128),
    "steps of 128 and a little besides": (lambda length: 50e-6 + 1e-6 * 128 * math.ceil(length / 128), 128),
    "steps of 128 and as much besides": (lambda length: 350e-6 + 1e-6 * 128 * math.ceil(length / 128), 1),  # 9 %
}


def measured(time: Callable[[int], float], random: np.random.Generator, noise: float) -> dict[int, list[float]]:
    return {
        length: list(time(length) * (1 + noise * random.standard_normal(ROUNDS)))
        for length in calibration.measured_lengths()
    }


@pytest.mark.parametrize("name", TIMES)
def test_every_start_chooses_the_same_tile(name: str):
    time, tile = TIMES[name]
    random = np.random.default_rng(0)
    assert {choose_tile(measured(time, random, NOISE)).tile for _ in range(STARTS)} == {tile}


def test_h100_gets_tile_1_at_every_start():
    """As one was measured: its gain with a tile of 128 is about 5 %."""
    measurement = json.loads((RESULTS / "gpu_h100.json").read_text())["sections"]["calibration"]["layer_ms"]
    random = np.random.default_rng(0)
    for _ in range(STARTS):
        chosen = choose_tile(measured(lambda length: measurement[str(length)], random, 0.01))
        assert chosen.tile == 1
        assert 0.03 < chosen.gains[128][0] < 0.07


def test_without_noise_a_time_that_does_not_depend_on_the_length_gains_exactly_nothing():
    chosen = choose_tile({length: [3e-4] * ROUNDS for length in calibration.measured_lengths()})
    assert chosen.tile == 1
    assert chosen.gains == dict.fromkeys(TILES[1:], (0.0, 0.0))


def test_hiccups_change_nothing():
    random = np.random.default_rng(1)
    for time, tile in TIMES.values():
        seconds = measured(time, random, 0.01)
        for values in list(seconds.values())[::7]:
            values[random.integers(ROUNDS)] *= 20
        assert choose_tile(seconds).tile == tile


@pytest.mark.parametrize("tile", TILES)
def test_all_tiles_are_compared_on_as_many_tokens(tile: int):
    assert sum(snapped(length, tile) for length in LENGTHS) == sum(LENGTHS)


def test_what_was_measured_is_told():
    text = str(choose_tile(measured(TIMES["steps of 128"][0], np.random.default_rng(2), NOISE)))
    assert text.startswith("tile 128 (") and "64: +" in text and "±" in text
    assert str(Calibration(32)) == "tile 32"


def test_cpu_is_not_measured():
    assert calibrate(random_model(model_config(), 0, torch.float32)) == Calibration(1)


def test_device_that_cannot_be_measured_gets_tile_1_and_says_so(monkeypatch):
    class OnGpu:
        device, dtype = torch.device("cuda", 0), torch.bfloat16
        decoder = random_model(model_config(), 0, torch.float32).decoder

    def fails(calls, device):
        raise CaptureError("operation not permitted")

    monkeypatch.setattr(calibration, "device_seconds", fails)
    monkeypatch.setattr(calibration, "measured_lengths", list)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.inference_mode())
    monkeypatch.setattr(torch, "Generator", lambda device: torch.default_generator)
    assert str(calibrate(OnGpu())) == "tile 1 (not measured: operation not permitted)"


def test_calls_are_timed_in_turn():
    order: list[str] = []
    seconds = device_seconds(
        {name: lambda name=name: order.append(name) for name in "ab"}, torch.device("cpu"), rounds=3
    )
    assert order == ["a", "b"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_table_of_tiles():
    """The document tells how many patches each tile keeps."""
    shape, fixed = ModelShape(32, 2, 256), 93  # a LIBERO prompt of 35 tokens
    for preset in ("careful", "paper", "fast"):
        config = PruningConfig.from_preset(preset)
        plans = [make_schedule(config, shape, fixed, "coarse", tile) for tile in (1, 16, 32, 64, 128)]
        cells = [f"{sum(plan.budgets)}, {plan.alive_per_layer()[-1]}" for plan in plans]
        assert f"| {preset} | {' | '.join(cells)} |" in DOCUMENT.read_text()
