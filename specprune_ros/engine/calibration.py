"""Which sequence lengths suit the device: the tile that gives most tokens per second in one decoder layer."""

import statistics

import torch

from specprune_ros.openvla.model import OpenVLA

TILES = (1, 16, 32, 64, 128)
LENGTHS = (195, 230, 259, 290, 333, 390, 601)  # around the lengths of pruned and dense runs, none on a tile
GAIN = 1.02  # a coarser tile must be this much better
RUNS = 5


@torch.inference_mode()
def best_tile(model: OpenVLA) -> int:
    """The tile for a model's device, measured; 1 on a CPU, whose time grows evenly with the length."""
    if model.device.type != "cuda":
        return 1
    rates = {tile: _tokens_per_second(model, tile) for tile in TILES}
    best = 1
    for tile in TILES[1:]:
        if rates[tile] > GAIN * rates[best]:
            best = tile
    return best


def _tokens_per_second(model: OpenVLA, tile: int) -> float:
    lengths = [max(tile, round(length / tile) * tile) for length in LENGTHS]
    return sum(lengths) / sum(_layer_seconds(model, length) for length in lengths)


def _layer_seconds(model: OpenVLA, length: int) -> float:
    """Median time of one decoder layer on the device."""
    decoder = model.decoder
    x = torch.zeros(length, decoder.config.hidden_size, dtype=model.dtype, device=model.device)
    rope = decoder.rope(length)
    times = []
    for _ in range(RUNS + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        decoder.layers[0](x, rope)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times[2:])
